"""Trains the embedded models from scratch with the trainer of every other stage.

    mmscale tinyworld --output DIR

makes the tokenizer, `llm` (0.9M parameters), `large_llm` (the base that proxy-tuning steers) and `encoder`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from mmscale.config.data import PackingConfig, TrainingDataConfig
from mmscale.config.training import OptimizerConfig, StageConfig
from mmscale.data.packing import IGNORED, PackedRow
from mmscale.data.prompts import template
from mmscale.data.segments import ExampleTokenizer, special_tokens
from mmscale.languages import MGSM_LANGUAGES
from mmscale.models.attention import PACKED_SDPA
from mmscale.models.encoders.base import FamilyTokenizer
from mmscale.models.encoders.t5 import FAMILY as T5
from mmscale.models.language_model import LanguageModel
from mmscale.models.merge import MergedModel
from mmscale.parallel.context import ParallelContext
from mmscale.runs.stage_data import tokenize_stage
from mmscale.runs.stage_records import read_stage_records
from mmscale.tinyworld import tokenizer as tinyworld_tokenizer
from mmscale.training.engines.local import LocalEngine
from mmscale.training.objective import CausalObjective, Objective
from mmscale.training.trainer import Trainer, TrainingData
from mmscale.training.training_run import TrainingRun

SEED = 7
SHAPES: dict[str, dict[str, Any]] = {
    "llm": {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 3, "num_attention_heads": 4},
    "large_llm": {"hidden_size": 192, "intermediate_size": 528, "num_hidden_layers": 4, "num_attention_heads": 6},
}
ENCODER_SHAPE: dict[str, Any] = {
    "d_model": 96,
    "d_kv": 24,
    "num_heads": 4,
    "d_ff": 256,
    "num_layers": 2,
    "num_decoder_layers": 2,
}
STEPS = {"llm": 2500, "large_llm": 2000, "encoder": 1500}


class TranslationObjective:
    """Sequence-to-sequence cross entropy of the English sentence given the foreign one (T5's own loss)."""

    def __init__(self, model: T5ForConditionalGeneration) -> None:
        self.module: nn.Module = model
        self.in_step: Sequence[nn.Module] = [model]
        self.read_outside: Sequence[tuple[nn.Module, nn.Parameter]] = []
        self.model = model

    def loss_sum(self, row: PackedRow) -> Tensor:
        assert row.encoder is not None
        sources = row.encoder.token_ids.split(row.encoder.lengths)
        targets = [labels[labels != IGNORED] for labels in row.labels.split(row.lengths)]
        ids = nn.utils.rnn.pad_sequence(list(sources), batch_first=True)
        mask = nn.utils.rnn.pad_sequence([torch.ones_like(s) for s in sources], batch_first=True)
        labels = nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=IGNORED)
        logits = self.model(input_ids=ids, attention_mask=mask, labels=labels).logits
        return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum")


def _stage(name: str) -> StageConfig:
    options: dict[str, Any] = {"form": "translation" if name == "encoder" else "document", "seed": SEED}
    languages = MGSM_LANGUAGES if name == "encoder" else ("en",)
    limit = 8000 if name == "encoder" else 80000
    return StageConfig(
        data=(TrainingDataConfig(source="tinyworld", languages=languages, limit_per_language=limit, options=options),),
        dev_examples=256,
        packing=PackingConfig(row_tokens=8192, global_batch_size=128 if name == "encoder" else 32),
        optimizer=OptimizerConfig(
            learning_rate=2e-3 if name != "llm" else 3e-3,
            betas=(0.9, 0.98),
            weight_decay=0.01,
            schedule="cosine",
            warmup_share=0.03,
        ),
        steps=STEPS[name],
        evaluate_every_steps=500,
        save_every_steps=500,
        log_every_steps=50,
    )


def _train(name: str, folder: Path, stage: StageConfig, objective: Objective, data: TrainingData) -> None:
    context = ParallelContext(device=torch.device("cpu"))
    engine = LocalEngine(objective, stage, context)
    run = TrainingRun(
        title=f"tinyworld {name}", folder=folder / f".{name}", config=stage, seed=SEED, fingerprint=f"tinyworld-{name}"
    )
    Trainer(run, engine, data, context).run()


def _language_model(name: str, tokenizer: PreTrainedTokenizerFast) -> LanguageModel:
    torch.manual_seed(SEED)
    config = LlamaConfig(  # type: ignore[call-arg]
        **SHAPES[name],
        vocab_size=len(tokenizer),
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation=PACKED_SDPA,
    )
    return LanguageModel(LlamaForCausalLM(config), tokenizer, special_tokens(tokenizer, config))


def pretrain_language_model(name: str, folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """A LLaMA trained as a language model on English documents; saved under folder/name."""
    stage = _stage(name)
    model = _language_model(name, tokenizer)
    train, dev, _ = read_stage_records(stage, ("en",), SEED)
    tokenize = ExampleTokenizer(tokenizer, model.specials, template("document"), stage.packing)
    data = tokenize_stage(train, dev, tokenize, model.context_length)
    _train(name, folder, stage, CausalObjective(MergedModel(model)), data)
    model.causal_lm.bfloat16().save_pretrained(folder / name)
    tokenizer.save_pretrained(folder / name)


def pretrain_encoder(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """A T5 trained to translate all languages into English; saved under folder/encoder."""
    stage = _stage("encoder")
    torch.manual_seed(SEED)
    config = T5Config(  # type: ignore[call-arg]
        **ENCODER_SHAPE,
        vocab_size=len(tokenizer),
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        decoder_start_token_id=tokenizer.pad_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = T5ForConditionalGeneration(config)
    train, dev, _ = read_stage_records(stage, MGSM_LANGUAGES, SEED)
    tokenize = ExampleTokenizer(
        tokenizer, special_tokens(tokenizer), template("mapping"), stage.packing, FamilyTokenizer(tokenizer, T5)
    )
    data = tokenize_stage(train, dev, tokenize, context_length=1 << 20)
    _train("encoder", folder, stage, TranslationObjective(model), data)
    model.bfloat16().save_pretrained(folder / "encoder")
    tokenizer.save_pretrained(folder / "encoder")


def build(folder: Path, names: tuple[str, ...] = ("llm", "encoder", "large_llm")) -> None:
    """All embedded artifacts under `folder`; a killed build goes on where it was.

    One thread: sums are then split the same way on every machine, and models this small gain nothing from more.
    """
    torch.set_num_threads(1)
    trained = tinyworld_tokenizer.train()
    for name in names:
        if name == "encoder":
            pretrain_encoder(folder, tinyworld_tokenizer.encoder_tokenizer(copy.deepcopy(trained)))
        else:
            pretrain_language_model(name, folder, tinyworld_tokenizer.language_model_tokenizer(trained))
