"""Encoder tokenizers as checkpoints in the field bring them."""

from __future__ import annotations

import json

import pytest
import sentencepiece
from transformers import M2M100Tokenizer

from mmscale.config.model import EncoderConfig
from mmscale.errors import UserError
from mmscale.models.encoders import load_encoder_tokenizer


@pytest.fixture
def m2m100(tmp_path):
    """As the original checkpoint and older transformers leave it: vocab.json without the codes of languages."""
    text = tmp_path / "text"
    text.write_text("mbili na moja ni tatu\nein und zwei sind drei\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(tmp_path / "sentencepiece.bpe"), vocab_size=24, minloglevel=2
    )
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "sentencepiece.bpe.model"))
    names = ["<s>", "<pad>", "</s>", "<unk>", *(pieces.id_to_piece(i) for i in range(3, 24))]
    (tmp_path / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
    settings = {"tokenizer_class": "M2M100Tokenizer", "language_codes": "m2m100", "num_madeup_words": 8}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "m2m_100"}))
    return tmp_path


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
