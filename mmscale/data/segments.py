"""Text to tokens: one example's segments with BOS and EOS placed by us, never by the tokenizer.

    [BOS] [encoder states …, boundary] [prompt …] [target … EOS]

The bracket in the middle is there for encoder-merged models only; fine-tuning is the case without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from mmscale.config.connector import one_row_each
from mmscale.config.data import PackingConfig
from mmscale.data.chat import in_own_format
from mmscale.data.prompts import Prompt, Template, require_readable, require_translated
from mmscale.data.records import Record
from mmscale.errors import UserError


class EncoderTokenizer(Protocol):
    """What a multilingual encoder family offers for text."""

    tokenizer: Any

    def encode(self, texts: Sequence[str], languages: Sequence[str], max_tokens: int) -> list[list[int]]:
        """Token ids of each text with the family's own special tokens and language code."""
        ...


@dataclass(frozen=True)
class SpecialTokens:
    """Ids that begin and end a sequence of one language model, and those that it knows."""

    bos: int
    eos: int
    rows: int | None = None
    """Ids below it have an embedding; None where that is not known."""


def special_tokens(
    tokenizer: Any, model_config: Any = None, bos_token: str | None = None, eos_token: str | None = None
) -> SpecialTokens:
    """BOS and EOS of a model: named in our configuration, else by its tokenizer, else by its model config.

    Qwen tokenizers name no BOS; their model config does (`<|endoftext|>`). Raises UserError when a
    token is named nowhere or is not in the vocabulary.
    """
    bos, eos = _special(tokenizer, "bos", bos_token, model_config), _special(tokenizer, "eos", eos_token, model_config)
    return SpecialTokens(bos, eos, getattr(model_config, "vocab_size", None))


def _special(tokenizer: Any, role: str, named: str | None, model_config: Any) -> int:
    if named is not None:
        index = tokenizer.convert_tokens_to_ids(named)
        if index is None or index == tokenizer.unk_token_id:
            raise UserError(f"language_model.{role}_token: '{named}' is not in the tokenizer's vocabulary")
        return int(index)
    index = getattr(tokenizer, f"{role}_token_id", None)
    if index is None:
        index = getattr(model_config, f"{role}_token_id", None)
    if isinstance(index, (list, tuple)):
        index = index[0] if index else None
    if index is None:
        raise UserError(
            f"neither tokenizer nor model config names a {role.upper()} token: set language_model.{role}_token"
        )
    return int(index)


@dataclass(frozen=True, kw_only=True)
class TokenizedExample:
    """One example as ids; `target_ids` ends in EOS unless it was cut."""

    prompt_ids: tuple[int, ...]
    target_ids: tuple[int, ...]
    encoder_ids: tuple[int, ...] = ()
    language: str = ""
    origin: str = ""
    truncated: bool = False
    encoder_states: Tensor | None = field(default=None, compare=False, repr=False)
    """What the encoder makes of `encoder_ids` [len, d_enc], where that is known already."""
    prefix_length: int = field(default=None)  # type: ignore[assignment]
    """Rows that the connector makes of the encoder's text for the LLM's input, boundary included; if not given, one for each
    of its tokens and the boundary."""

    def __post_init__(self) -> None:
        if self.prefix_length is None:
            object.__setattr__(self, "prefix_length", one_row_each(len(self.encoder_ids)) if self.encoder_ids else 0)

    @property
    def merged_length(self) -> int:
        """Rows this example takes in the LLM's input, BOS and boundary included; the last target token enters no input."""
        return 1 + self.prefix_length + len(self.prompt_ids) + max(len(self.target_ids) - 1, 0)


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []


def _batch_ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """`_ids` of many texts; an empty text has no ids whatever the tokenizer makes of it."""
    if not texts:
        return []
    batch = tokenizer(
        [text or " " for text in texts],
        add_special_tokens=False,
        return_attention_mask=False,
        return_token_type_ids=False,
    )["input_ids"]
    return [list(ids) if text else [] for text, ids in zip(texts, batch, strict=True)]


def fit_prompt(tokenizer: Any, prompt: Prompt, max_tokens: int, origin: str = "") -> tuple[str, list[int], bool]:
    """(text, ids, cut?) of a prompt of at most `max_tokens`, shortened inside its body only.

    The longest body prefix that fits is found by bisection on characters, so that the kept text
    tokenises exactly as it would by itself. Raises UserError when even an empty body does not fit.
    """
    ids = _ids(tokenizer, prompt.text)
    if len(ids) <= max_tokens:
        return prompt.text, ids, False
    low, high = 0, len(prompt.body)
    while low < high:
        middle = (low + high + 1) // 2
        if len(_ids(tokenizer, prompt.before + prompt.body[:middle] + prompt.after)) <= max_tokens:
            low = middle
        else:
            high = middle - 1
    text = prompt.before + prompt.body[:low] + prompt.after
    ids = _ids(tokenizer, text)
    if len(ids) > max_tokens:
        raise UserError(
            f"{origin}: the prompt's fixed text alone has {len(ids)} tokens: raise max_prompt_tokens above that"
        )
    return text, ids, True


def _cut_together(prompt: list[int], target: list[int], room: int) -> tuple[list[int], list[int], bool]:
    """(prompt, target, cut?) of at most `room` tokens, the last ones gone."""
    return prompt[:room], target[: max(0, room - len(prompt))], len(prompt) + len(target) > room


class ExampleTokenizer:
    """Records to TokenizedExamples for one model, template and set of limits."""

    def __init__(
        self,
        tokenizer: Any,
        specials: SpecialTokens,
        template: Template,
        limits: PackingConfig,
        encoder_tokenizer: EncoderTokenizer | None = None,
        dress: Callable[[Template], Template] = lambda plain: plain,
        prefix_length: Callable[[int], int] = one_row_each,
    ) -> None:
        """`dress` is what this model makes of every template, such as a chat format around it; `prefix_length` says how many
        rows its connector makes of an encoder text of so many tokens.
        """
        self.tokenizer, self.specials, self.plain, self.dress = tokenizer, specials, template, dress
        self.template = in_own_format(dress(template), tokenizer)
        self.limits, self.encoder_tokenizer, self.prefix_length = limits, encoder_tokenizer, prefix_length

    def asking_by(self, template: Template) -> ExampleTokenizer:
        """The same for another template."""
        return ExampleTokenizer(
            self.tokenizer,
            self.specials,
            template,
            self.limits,
            self.encoder_tokenizer,
            self.dress,
            self.prefix_length,
        )

    def __call__(self, records: Sequence[Record], with_target: bool = True) -> list[TokenizedExample]:
        """UserError where a record is not of the kind that the template reads, or has no translation where it shows one."""
        require_readable(self.plain, records)
        require_translated(self.plain, records)
        joined = self.limits.max_joined_tokens if with_target else None
        prompts = [self.template.prompt(record) for record in records]
        fitted = self._whole(prompts) if joined else self._fit(prompts, records)
        targets = [[] for _ in records] if not with_target else self._targets(fitted, records)
        encoder_ids = self._encoder_ids(records)
        examples = []
        for i, record in enumerate(records):
            prompt_ids, target_ids, cut = fitted[i][1], targets[i], fitted[i][2]
            if joined:
                prompt_ids, target_ids, cut = _cut_together(prompt_ids, [*target_ids, self.specials.eos], joined - 1)
            elif len(target_ids) > self.limits.max_target_tokens:
                target_ids, cut = target_ids[: self.limits.max_target_tokens], True
            elif with_target:
                target_ids = [*target_ids, self.specials.eos]
            self._require_embedded(prompt_ids, record)
            self._require_embedded(target_ids, record)
            examples.append(
                TokenizedExample(
                    prompt_ids=tuple(prompt_ids),
                    target_ids=tuple(target_ids),
                    encoder_ids=tuple(encoder_ids[i]),
                    language=record.language,
                    origin=record.origin,
                    truncated=cut,
                    prefix_length=self.prefix_length(len(encoder_ids[i])) if encoder_ids[i] else 0,
                )
            )
        return examples

    def _require_embedded(self, ids: Sequence[int], record: Record) -> None:
        """UserError where a text spells a token that the model has no row for, such as a padding token added to its tokenizer."""
        rows = self.specials.rows
        if rows is not None and ids and max(ids) >= rows:
            token = self.tokenizer.convert_ids_to_tokens(max(ids))
            raise UserError(
                f"{record.origin}: the text holds {token!r}, a token that the model has no embedding for: write it otherwise"
            )

    def _whole(self, prompts: list[Prompt]) -> list[tuple[str, list[int], bool]]:
        texts = [prompt.text for prompt in prompts]
        return [(text, ids, False) for text, ids in zip(texts, _batch_ids(self.tokenizer, texts), strict=True)]

    def _fit(self, prompts: list[Prompt], records: Sequence[Record]) -> list[tuple[str, list[int], bool]]:
        limit = self.limits.max_prompt_tokens
        batch = _batch_ids(self.tokenizer, [prompt.text for prompt in prompts])
        return [
            (prompt.text, ids, False) if len(ids) <= limit else fit_prompt(self.tokenizer, prompt, limit, record.origin)
            for prompt, ids, record in zip(prompts, batch, records, strict=True)
        ]

    def _targets(self, fitted: Sequence[tuple[str, list[int], bool]], records: Sequence[Record]) -> list[list[int]]:
        texts, prompt_ids = [text for text, _, _ in fitted], [ids for _, ids, _ in fitted]
        targets = [self.template.target(record) for record in records]
        for record, target in zip(records, targets, strict=True):
            if not target.strip():
                raise UserError(f"{record.origin}: the target is empty; give the row an answer or leave it out")
        if not self.template.joined:
            return _batch_ids(self.tokenizer, targets)
        whole = _batch_ids(self.tokenizer, [text + target for text, target in zip(texts, targets, strict=True)])
        return [
            ids[len(prompt) :] if ids[: len(prompt)] == prompt else _ids(self.tokenizer, target)
            for ids, prompt, target in zip(whole, prompt_ids, targets, strict=True)
        ]  # where a token would span both, the prompt keeps the ids it has when answers are generated

    def _encoder_ids(self, records: Sequence[Record]) -> list[list[int]]:
        if self.encoder_tokenizer is None:
            return [[] for _ in records]
        return self.encoder_tokenizer.encode(
            [self.template.encoder_text(record) for record in records],
            [self.template.encoder_language(record) for record in records],
            self.limits.max_encoder_tokens,
        )
