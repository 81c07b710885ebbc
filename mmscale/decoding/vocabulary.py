"""Proxy-tuning needs one vocabulary: checked token by token, or a map from one to the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmscale.errors import UserError
from mmscale.storage.reading import existing_file, read_json_object


def _tokens(tokenizer: Any) -> dict[int, str]:
    return {index: token for token, index in tokenizer.get_vocab().items()}


def require_same_vocabulary(base: Any, other: Any, what: str) -> None:
    """UserError naming the first id at which two tokenizers differ.

    Extra rows of `other` beyond the base vocabulary are allowed: they are cut from its logits.
    """
    base_tokens, other_tokens = _tokens(base), _tokens(other)
    for index in range(max(base_tokens, default=-1) + 1):
        if base_tokens.get(index) != other_tokens.get(index):
            raise UserError(
                f"the vocabularies of base and {what} differ at id {index}: {base_tokens.get(index)!r} and "
                f"{other_tokens.get(index)!r}; proxy-tuning adds their logits, so use models of one tokenizer, or give a "
                f"--vocabulary-map"
            )


def read_vocabulary_map(path: Path, base: Any, other: Any, rows: int, what: str) -> Tensor:
    """int64 [rows]: the other model's id of each of the base's ids.

    The file is a JSON object, token of the base -> token of the other; tokens that both have under one name may be left
    out, ids that the base's tokenizer does not use go to token 0. Two tokens may not share one. UserError names the first
    token that leads nowhere.
    """
    existing_file(path, "vocabulary map")
    named = read_json_object(path, f"write an object, token of the base -> token of the {what}")
    ids, mapped = other.get_vocab(), torch.zeros(rows, dtype=torch.int64)
    seen: dict[str, str] = {}
    for index, token in sorted(_tokens(base).items()):
        wanted = named.get(token, token)
        if not isinstance(wanted, str) or wanted not in ids:
            raise UserError(
                f"{path}: {token!r} of the base leads to {wanted!r}, which the {what} does not have: map it"
            )
        if wanted in seen:
            raise UserError(
                f"{path}: {seen[wanted]!r} and {token!r} both lead to {wanted!r}: map each to one of its own"
            )
        seen[wanted] = token
        mapped[index] = ids[wanted]
    return mapped
