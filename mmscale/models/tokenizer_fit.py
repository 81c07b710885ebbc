"""Whether a tokenizer can be a model's own: its ids are held against what the model's files say of them.

Another model's tokenizer with ids that fit is not always known; where a file of the model contradicts it, it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from tokenizers import Tokenizer

from mmscale.config.model import LanguageModelConfig
from mmscale.errors import UserError
from mmscale.models.loading import found_file
from mmscale.progress import say

_MARK = re.compile(r"<(?!0x[0-9A-F]{2}>).+>|\[.+\]")
"""How control tokens are written where no file calls them special; bytes are no control tokens."""
_TOKENIZER = "tokenizer.json"
_PROBES = (
    "Anna has 12 apples.\nShe buys  5.",
    " Wie viele?",
    "Ana mapera 1234",
    "十二个苹果",
    "\u0e21\u0e35\u0e01\u0e35\u0e48",
)
"""Words, spaces, lines, figures and scripts that tokenizers differ in."""
_FEW = 0.75
"""Share of a model's rows that a tokenizer uses at least: padding makes up a few per cent of them."""


def require_fitting(config: LanguageModelConfig, tokenizer: Any, model_config: Any, stops: Iterable[Any]) -> None:
    """UserError where an ordinary token has no row, or a token that ends text (`stops`) or begins it is an ordinary word.

    A padding token that was added to the tokenizer alone is never used.
    """
    rows = int(model_config.vocab_size)
    special = set(tokenizer.all_special_ids)
    for name, index in tokenizer.get_vocab().items():
        if index >= rows and (index not in special or not _MARK.fullmatch(name)):
            raise UserError(
                f"{config.path}: the tokenizer has the id {index} for {name!r:.60} but the model embeds {rows}: use the "
                f"tokenizer that belongs to it"
            )
    for index in stops:
        _require_end(config.path, "generation_config.json", tokenizer, index, rows)
    if config.eos_token is None:
        for index in _listed(getattr(model_config, "eos_token_id", None)):
            _require_end(config.path, "config.json", tokenizer, index, rows)
    if config.bos_token is None and tokenizer.bos_token_id is None:
        for index in _listed(getattr(model_config, "bos_token_id", None)):
            _require_mark(config.path, "config.json begins text with", tokenizer, index)


def doubts(config: LanguageModelConfig, tokenizer: Any, model_config: Any, stops: Iterable[Any]) -> list[str]:
    """What speaks against a tokenizer and may yet be right: a sentence each."""
    path = config.path
    sentences = [*_other_end(config, tokenizer, model_config, stops), *_cut_otherwise(config, tokenizer)]
    own, said = tokenizer.bos_token_id, _listed(getattr(model_config, "bos_token_id", None))
    if own is not None and said and own not in said:
        sentences.append(
            f"{path}: config.json begins text with {_name(tokenizer, said[0])}, its tokenizer with "
            f"{_name(tokenizer, own)}, which is taken: set language_model.bos_token if it is the other"
        )
    rows, used = int(model_config.vocab_size), max(tokenizer.get_vocab().values()) + 1
    if used < _FEW * rows:
        sentences.append(
            f"{path}: its tokenizer knows {used} of the model's {rows} tokens: make sure that it belongs to this model"
        )
    return sentences


def _other_end(config: LanguageModelConfig, tokenizer: Any, model_config: Any, stops: Iterable[Any]) -> Iterator[str]:
    own, said = tokenizer.eos_token_id, [*_listed(getattr(model_config, "eos_token_id", None)), *stops]
    if config.eos_token is None and own is not None and said and own not in said:
        yield (
            f"{config.path}: its tokenizer ends text with {_name(tokenizer, own)}, which is taken, the model's own files with "
            f"{_name(tokenizer, said[0])}: set language_model.eos_token if it is the other"
        )


def _cut_otherwise(config: LanguageModelConfig, tokenizer: Any) -> Iterator[str]:
    """Whether transformers, told by tokenizer_config.json of another class, makes of tokenizer.json what it does not say."""
    file = found_file(config, _TOKENIZER)
    if file is None or getattr(tokenizer, "backend_tokenizer", None) is None:
        return
    as_written = Tokenizer.from_file(str(file))
    as_written.no_truncation()
    as_written.no_padding()
    for text in _PROBES:
        if (
            as_written.encode(text, add_special_tokens=False).ids
            != tokenizer(text, add_special_tokens=False)["input_ids"]
        ):
            yield (
                f"{config.path}: tokenizer_config.json ({type(tokenizer).__name__}) cuts {text!r} otherwise than {_TOKENIZER} "
                f"does: make sure that its tokenizer_class is the one that the model was trained with"
            )
            return


def say_doubts(config: LanguageModelConfig, tokenizer: Any, model_config: Any, stops: Iterable[Any]) -> None:
    for doubt in doubts(config, tokenizer, model_config, stops):
        say(f"warning: {doubt}")


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]


def _require_end(path: str, file: str, tokenizer: Any, index: Any, rows: int) -> None:
    """UserError where generation would wait for a token that the model never writes, or end at a word."""
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < rows:
        raise UserError(
            f"{path}: {file} names the end token {index!r:.40}, which is no id below {rows}: mend its eos_token_id"
        )
    _require_mark(path, f"{file} ends text with", tokenizer, index)


def _require_mark(path: str, said: str, tokenizer: Any, index: int) -> None:
    name = _name(tokenizer, index)
    known = index in tokenizer.all_special_ids or index in tokenizer.added_tokens_decoder
    unknown = index == tokenizer.unk_token_id != tokenizer.eos_token_id
    if not unknown and (known or (name is not None and _MARK.fullmatch(name))):
        return
    what = "which is its unknown token" if unknown else "which it does not have" if name is None else "an ordinary one"
    raise UserError(
        f"{path}: {said} token {index}, in its tokenizer {name!r}, {what}: use the tokenizer that belongs to the "
        f"model, or mend the id"
    )


def _name(tokenizer: Any, index: int) -> str | None:
    try:
        token = tokenizer.convert_ids_to_tokens(index)
    except (IndexError, OverflowError, TypeError):  # sentencepiece counts its pieces
        return None
    return None if token is None else str(token)
