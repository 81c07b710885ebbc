"""Translators of random weights, as folders: NLLB with NLLB's own tokenizer, and T5."""

from __future__ import annotations

import json
from pathlib import Path

import sentencepiece
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    M2M100Config,
    M2M100ForConditionalGeneration,
    NllbTokenizer,
    T5Config,
    T5ForConditionalGeneration,
)

TEXTS = (
    "Anna ana maembe 12. Anna ananunua maembe 5. Anna ana maembe mangapi sasa?",
    "Tom ana vitabu 3.",
    "Anna hat 12 Mangos. Sie kauft 5 Mangos. Wie viele Mangos hat Anna jetzt?",
    "mbili na moja ni tatu",
    "How many mangos does Anna have now? Tom has 3 books and 7 eggs.",
)
END = 2.5
"""Times the embedding of </s> that an untrained model hardly ever says."""
LANGUAGES = ("sw", "sw", "de", "sw", "en")


def nllb(folder: Path, *codes: str, seed: int = 1) -> Path:
    """An NLLB whose tokenizer knows these FLORES codes, by default Swahili's, German's and English's."""
    learner = Tokenizer(models.BPE(unk_token="<unk>"))
    learner.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    learner.train_from_iterator(
        TEXTS * 10, trainers.BpeTrainer(vocab_size=110, special_tokens=special, show_progress=False)
    )
    learned = json.loads(learner.to_str())["model"]
    own = list(codes or ("swh_Latn", "deu_Latn", "eng_Latn"))
    merges = [tuple(pair) for pair in learned["merges"]]
    tokenizer = NllbTokenizer(vocab=learned["vocab"], merges=merges, extra_special_tokens=own)
    tokenizer.save_pretrained(folder)
    m2m100(folder, len(tokenizer), seed)
    return folder


def m2m100(folder: Path, vocabulary: int, seed: int = 1) -> None:
    """The weights and the configuration of either."""
    torch.manual_seed(seed)
    layers = {f"{half}_{what}": 2 for half in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    config = M2M100Config(
        vocab_size=vocabulary,
        d_model=32,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=64,
        decoder_start_token_id=2,
        init_std=0.4,
        scale_embedding=False,
        **layers,
    )
    model = M2M100ForConditionalGeneration(config)
    with torch.no_grad():
        model.lm_head.weight[2] *= END
    model.save_pretrained(folder)


def m2m100_tokenizer(folder: Path) -> Path:
    """M2M100's as the original checkpoint and older transformers leave it: vocab.json without the codes of languages."""
    text = folder / "text"
    text.write_text("mbili na moja ni tatu\nein und zwei sind drei\n" * 20)
    prefix = str(folder / "sentencepiece.bpe")
    sentencepiece.SentencePieceTrainer.train(input=str(text), model_prefix=prefix, vocab_size=24, minloglevel=2)
    pieces = sentencepiece.SentencePieceProcessor(model_file=f"{prefix}.model")
    names = ["<s>", "<pad>", "</s>", "<unk>", *(pieces.id_to_piece(i) for i in range(3, 24))]
    (folder / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
    settings = {"tokenizer_class": "M2M100Tokenizer", "language_codes": "m2m100", "num_madeup_words": 8}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps({"model_type": "m2m_100"}))
    return folder


def t5(folder: Path, tokenizer) -> Path:
    """A T5 around a tokenizer that has `</s>` and padding."""
    tokenizer.save_pretrained(folder)
    torch.manual_seed(1)
    ids = {"decoder_start_token_id": 0, "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = T5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=8, num_heads=4, d_ff=48, num_layers=2, initializer_factor=3.0, **ids
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder
