"""A byte-fallback BPE tokenizer trained on the grammar's own sentences, saved as a normal Hugging Face tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterator

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from mmscale.languages import MGSM_LANGUAGES
from mmscale.tinyworld import grammar

VOCABULARY_SIZE = 2048
BOS, EOS, PAD = "<s>", "</s>", "<pad>"
_STORIES = 1500


def _sentences() -> Iterator[str]:
    for code in MGSM_LANGUAGES:
        for story in grammar.stories(_STORIES, seed=0, split="train"):
            yield f"Q: {grammar.question(story, code)}\nA: {grammar.rationale(story, code)}"
    yield from ["Translate: a\nEnglish: b"] * 200


def train() -> Tokenizer:
    """Digits stand alone; words of spaced scripts and stretches of unspaced ones become single tokens."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[0-9]|\n|[.,:;?!¿।。、]| ?[^\s0-9.,:;?!¿।。、]+|\s"), behavior="isolated"),
        ]
    )
    byte_tokens = [f"<0x{i:02X}>" for i in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[PAD, BOS, EOS, *byte_tokens],
        show_progress=False,
        max_token_length=24,
    )
    tokenizer.train_from_iterator(_sentences(), trainer)
    return _bytes_as_ordinary_tokens(tokenizer)


def _bytes_as_ordinary_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """The trainer knows byte tokens as special; text such as "<0x0A>" must not match them."""
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if not token["content"].startswith("<0x")]
    rebuilt = Tokenizer.from_str(json.dumps(state))
    rebuilt.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return rebuilt


def language_model_tokenizer(trained: Tokenizer) -> PreTrainedTokenizerFast:
    """LLaMA-like: puts BOS before a text when asked for special tokens."""
    return _wrap(trained, f"{BOS} $A", [BOS])


def encoder_tokenizer(trained: Tokenizer) -> PreTrainedTokenizerFast:
    """T5-like: puts EOS after a text."""
    return _wrap(trained, f"$A {EOS}", [EOS])


def _wrap(trained: Tokenizer, pattern: str, specials: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer.from_str(trained.to_str())
    tokenizer.post_processor = processors.TemplateProcessing(
        single=pattern, special_tokens=[(token, tokenizer.token_to_id(token)) for token in specials]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=AddedToken(BOS, special=True),
        eos_token=AddedToken(EOS, special=True),
        pad_token=AddedToken(PAD, special=True),
        clean_up_tokenization_spaces=False,
    )
