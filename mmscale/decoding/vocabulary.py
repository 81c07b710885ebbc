"""Proxy-tuning needs one vocabulary: checked token by token, refused with the first difference named."""

from __future__ import annotations

from typing import Any

from mmscale.errors import UserError


def require_same_vocabulary(base: Any, other: Any, what: str) -> None:
    """UserError naming the first id at which two tokenizers differ.

    Extra rows of `other` beyond the base vocabulary are allowed: they are cut from its logits.
    """
    base_tokens = {index: token for token, index in base.get_vocab().items()}
    other_tokens = {index: token for token, index in other.get_vocab().items()}
    for index in range(max(base_tokens, default=-1) + 1):
        if base_tokens.get(index) != other_tokens.get(index):
            raise UserError(
                f"the vocabularies of base and {what} differ at id {index}: {base_tokens.get(index)!r} and "
                f"{other_tokens.get(index)!r}; proxy-tuning adds their logits, so use models of one tokenizer"
            )
