"""Encoder tokenizers as checkpoints in the field bring them."""

from __future__ import annotations

import pytest
from transformers import M2M100Tokenizer

from mmscale.config.model import EncoderConfig
from mmscale.errors import UserError
from mmscale.models.encoders import load_encoder_tokenizer
from tests.translation.tiny import m2m100_tokenizer


@pytest.fixture
def m2m100(tmp_path):
    return m2m100_tokenizer(tmp_path)


def test_m2m100_whose_vocabulary_lacks_the_codes_of_languages(m2m100):
    tokenizer = load_encoder_tokenizer(EncoderConfig(path=str(m2m100)))
    reference = M2M100Tokenizer.from_pretrained(m2m100)
    assert "__sw__" not in reference.get_vocab()
    for code, text in (("sw", "mbili na moja"), ("de", "ein und zwei")):
        reference.src_lang = code
        (ids,) = tokenizer.encode([text], [code], 20)
        assert ids == reference(text)["input_ids"] and ids[0] == reference.get_lang_id(code)
    with pytest.raises(UserError, match="no code for language 'te'"):
        tokenizer.encode(["x"], ["te"], 20)
