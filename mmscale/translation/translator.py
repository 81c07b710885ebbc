"""An encoder-decoder that translates: its tokenizer and codes of languages, and the model, by transformers' own generate."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

from mmscale.config.translation import TranslationConfig
from mmscale.errors import UserError
from mmscale.languages import language
from mmscale.models.accounting import outlined, require_finite, require_whole
from mmscale.models.encoders.base import family
from mmscale.models.encoders.m2m100 import language_token, set_source
from mmscale.models.loading import DTYPES, freeze, load_model_configuration, load_pretrained
from mmscale.models.weights import checkpoint_files
from mmscale.parallel.context import ParallelContext

_WHOLE = 1 << 30
"""More tokens than any text has."""
_TAG = re.compile(r"<[^<>\s]+>")
"""A token of a prefix that names a language, as MADLAD-400's <2en>."""


@dataclass(frozen=True)
class Translated:
    """What a translator made of a text."""

    text: str
    source_cut: bool = False
    """The text was longer than what is read of it."""
    source_unknown: bool = False
    """The text held something that the tokenizer knows nothing of."""
    finished: bool = True
    """The translation ended by itself, not at its longest."""
    unknown: bool = False
    """The translation held a token that stands for no text, which is left out."""


@dataclass(frozen=True)
class SourceText:
    """A text as a translator reads it."""

    ids: list[int]
    cut: bool
    unknown: bool


class TranslatorTokenizer:
    """How a translator is told of languages, before any weights are loaded."""

    def __init__(self, config: TranslationConfig) -> None:
        """UserError where the model is no translator of a family that is known here, or lacks what its family needs."""
        self.config, self.family = config, _family(config)
        if self.family == "t5" and config.prefix is None:
            raise UserError(
                f"translation.path={config.path} is of the T5 family, which knows its task by a text before each question: set "
                f"translation.prefix to the one it was tuned with, such as 'translate {{source}} to {{target}}: '"
            )
        if self.family == "t5" and config.dtype == "float16":
            raise UserError(
                f"translation.path={config.path} is of the T5 family, whose numbers leave float16's range: set "
                f"translation.dtype=bfloat16"
            )
        if self.family == "m2m100" and config.prefix is not None:
            raise UserError(
                f"translation.path={config.path} knows languages by codes and would translate the prefix too: take "
                f"translation.prefix out"
            )
        self.tokenizer = load_pretrained(AutoTokenizer, config.checkpoint, "translator's tokenizer")

    def require(self, languages: Iterable[str]) -> None:
        """UserError naming the first language that the translator does not know."""
        for code in (*languages, self.config.target):
            self._named(lambda code=code: self._prepare(code))  # type: ignore[misc]
        _ = self.first_token

    @property
    def first_token(self) -> int | None:
        """The token that a translation begins with: the code of its language, where the family has such."""
        if self.family == "t5":
            return None
        target = self.config.target
        return self._named(lambda: language_token(self.tokenizer, target, self.config.codes.get(target))[1])

    def told(self, code: str) -> list[object]:
        """What tells the model which language it is to translate into, from this one."""
        return [self._prefix(code), self.first_token]

    def encode(self, texts: Sequence[str], languages: Sequence[str]) -> list[SourceText]:
        """Each text, in its language, as the translator reads it."""
        rows: dict[int, SourceText] = {}
        for code in sorted(set(languages)):
            self._prepare(code)
            chosen = [i for i, of in enumerate(languages) if of == code]
            shown = [self._prefix(code) + texts[i] for i in chosen]
            rows |= zip(chosen, self._ids(shown), strict=True)
        return [rows[i] for i in range(len(texts))]

    def holds_unknown(self, ids: Sequence[int]) -> bool:
        """Whether a token stands for what the tokenizer has no tokens for."""
        return self.tokenizer.unk_token_id is not None and self.tokenizer.unk_token_id in ids

    def _ids(self, texts: list[str]) -> list[SourceText]:
        longest = self.config.max_source_tokens
        rows = self._tokenized(texts, _WHOLE)
        shorter = self._tokenized([t for t, row in zip(texts, rows, strict=True) if len(row) > longest], longest)
        cut = iter(shorter)
        read = [(next(cut), True) if len(row) > longest else (row, False) for row in rows]
        return [SourceText(ids, is_cut, self.holds_unknown(ids)) for ids, is_cut in read]

    def _tokenized(self, texts: list[str], longest: int) -> list[list[int]]:
        if not texts:
            return []
        batch = self.tokenizer(
            texts, truncation=True, max_length=longest, return_attention_mask=False, return_token_type_ids=False
        )
        return [list(row) for row in batch["input_ids"]]

    def _prefix(self, code: str) -> str:
        filled = self.config.prefix or ""
        target = self.config.target
        named = {"source": language(code).name, "target": language(target).name}
        for field, value in {**named, "source_code": self._own(code), "target_code": self._own(target)}.items():
            filled = filled.replace("{" + field + "}", value)
        return filled

    def _own(self, code: str) -> str:
        return self.config.codes.get(code, code)

    def _prepare(self, code: str) -> None:
        if self.family == "m2m100":
            set_source(self.tokenizer, code, self.config.codes.get(code))
            return
        for tag in _TAG.findall(self._prefix(code)):
            if tag not in self.tokenizer.get_vocab():
                raise UserError(f"the model's tokenizer has no token {tag} of the prefix: leave language '{code}' out")

    def _named(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except UserError as error:
            raise UserError(f"translator {self.config.path}: {error}") from error


class Translator:
    """A translator in memory; decoding is greedy or by beams, as its configuration says and its checkpoint does not."""

    def __init__(self, tokenizer: TranslatorTokenizer, model: Any, device: torch.device) -> None:
        self.tokenizer, self.model, self.device = tokenizer, model, device
        self._first = tokenizer.first_token
        # M2M100's stand behind its vocabulary, and its tokenizer takes them for text when it decodes
        self._codes = frozenset(getattr(tokenizer.tokenizer, "lang_token_to_id", {}).values())
        self.special = _special_tokens(model, tokenizer.config.path)

    @torch.no_grad()
    def translate(self, texts: Sequence[str], languages: Sequence[str]) -> list[Translated]:
        """The texts, each in its language, in the translator's target language; one batch."""
        sources = self.tokenizer.encode(texts, languages)
        config, (begin, end, padding) = self.tokenizer.config, self.special
        self._require_embedded([*(i for source in sources for i in source.ids), *filter(None, [self._first])])
        longest = max(len(source.ids) for source in sources)
        ids = torch.full((len(sources), longest), padding)
        mask = torch.zeros_like(ids)
        for i, source in enumerate(sources):
            ids[i, : len(source.ids)], mask[i, : len(source.ids)] = torch.tensor(source.ids), 1
        self.model.generation_config = GenerationConfig(  # what is None here would be taken from the checkpoint's own
            decoder_start_token_id=begin,
            eos_token_id=end,
            pad_token_id=padding,
            forced_bos_token_id=self._first,
            num_beams=config.beams,
            do_sample=False,
            max_new_tokens=config.max_new_tokens + (self._first is not None),
        )
        made = self.model.generate(input_ids=ids.to(self.device), attention_mask=mask.to(self.device)).cpu()
        return [self._read(row, source) for row, source in zip(made, sources, strict=True)]

    def _require_embedded(self, ids: Sequence[int]) -> None:
        rows = self.model.get_input_embeddings().num_embeddings
        if max(ids) >= rows:
            raise UserError(
                f"{self.tokenizer.config.path}: the tokenizer counts to {max(ids)} and the model has {rows} tokens: they do not "
                f"belong together, copy both again"
            )

    def _read(self, row: Tensor, source: SourceText) -> Translated:
        """A translation as text; what it begins with, its end and what pads it are no text."""
        ids: list[int] = row.tolist()[1 if self._first is None else 2 :]
        end = self.special[1]
        finished = end in ids
        ids = [i for i in (ids[: ids.index(end)] if finished else ids) if i not in self._codes]
        text = str(self.tokenizer.tokenizer.decode(ids, skip_special_tokens=True)).strip()
        return Translated(text, source.cut, source.unknown, finished, self.tokenizer.holds_unknown(ids))


def _model_config(config: TranslationConfig) -> Any:
    return load_model_configuration(config.checkpoint, "translator's configuration")


def _family(config: TranslationConfig) -> str:
    """m2m100 (NLLB too) or t5, by the checkpoint's model type."""
    model_type = _model_config(config).model_type
    for name in ("m2m100", "t5"):
        if model_type in family(name).model_types:
            return name
    raise UserError(
        f"translation.path={config.path} has model type '{model_type}', which is no translator that is known here: name one of "
        f"NLLB, M2M100, T5, mT5 or umT5"
    )


def _special_tokens(model: Any, origin: str) -> tuple[int, int, int]:
    """(what decoding begins with, end, padding) of a checkpoint; UserError where it does not say so."""
    own, values = model.generation_config, []
    for name in ("decoder_start_token_id", "eos_token_id", "pad_token_id"):
        value = getattr(own, name, None)
        value = getattr(model.config, name, None) if value is None else value
        value = value[0] if isinstance(value, list) and len(value) == 1 else value
        if not isinstance(value, int):
            raise UserError(f"{origin}: neither generation_config.json nor config.json says one {name}: set it there")
        values.append(value)
    return values[0], values[1], values[2]


def load_translator(config: TranslationConfig, device: torch.device) -> Translator:
    """The translator of a configuration, every tensor accounted for; UserError where its files are none."""
    tokenizer, checkpoint = TranslatorTokenizer(config), config.checkpoint
    model_config, files = _model_config(config), checkpoint_files(checkpoint)
    _require_positions(config, model_config)
    empty = outlined(lambda: AutoModelForSeq2SeqLM.from_config(model_config), files, config.path)
    require_whole(empty, files, config.path)
    arguments = {"config": model_config, "dtype": DTYPES[config.dtype]}
    model = load_pretrained(AutoModelForSeq2SeqLM, checkpoint, "translator", **arguments)
    require_finite(model, files, config.path, ParallelContext(device=device))
    freeze(model)
    return Translator(tokenizer, model.to(device), device)


def _require_positions(config: TranslationConfig, model_config: Any) -> None:
    """UserError where a text may be longer than those that the model was trained on."""
    most = getattr(model_config, "max_position_embeddings", None)
    for name in ("max_source_tokens", "max_new_tokens"):
        if most is not None and getattr(config, name) > most:
            raise UserError(
                f"translation.{name}={getattr(config, name)} exceeds the {most} positions of {config.path}: lower it"
            )
