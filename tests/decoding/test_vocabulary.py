"""Proxy-tuning refuses two vocabularies, naming the first difference."""

from __future__ import annotations

import pytest

from mmscale.decoding.vocabulary import require_same_vocabulary
from mmscale.errors import UserError


class Tokens:
    def __init__(self, *tokens: str) -> None:
        self.tokens = tokens

    def get_vocab(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self.tokens)}


def test_the_first_difference_is_named():
    with pytest.raises(UserError, match=r"base and expert differ at id 2: 'c' and 'x'"):
        require_same_vocabulary(Tokens("a", "b", "c", "d"), Tokens("a", "b", "x", "y"), "expert")


def test_a_missing_token_is_a_difference_and_an_extra_one_is_not():
    require_same_vocabulary(Tokens("a", "b"), Tokens("a", "b", "<pad>"), "expert")
    with pytest.raises(UserError, match="differ at id 1: 'b' and None"):
        require_same_vocabulary(Tokens("a", "b"), Tokens("a"), "expert")


def test_real_vocabularies_are_told_apart(public_tokenizer):
    llama, mistral = public_tokenizer("llama2")[0], public_tokenizer("mistral")[0]
    require_same_vocabulary(llama, llama, "expert")
    with pytest.raises(UserError, match="differ at id"):
        require_same_vocabulary(llama, mistral, "expert")
