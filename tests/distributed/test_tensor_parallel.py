"""Layers cut over ranks compute what whole ones do: loss, every gradient, logits, for each architecture."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from mmscale.cli.main import main
from mmscale.config.model import LanguageModelConfig
from mmscale.errors import UserError
from mmscale.models.language_model import load_model_config
from mmscale.models.places import resolve_path
from mmscale.parallel.tensor import require_divisible
from tests.distributed import ranks

pytest.importorskip("megatron.core", reason="extra tensor-parallel")
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.1,
}
ARCHITECTURES = {
    "llama-tied-odd-vocabulary": (LlamaConfig, {"tie_word_embeddings": True, "odd": True}),
    "llama-untied-biases-checkpointing": (LlamaConfig, {"attention_bias": True, "mlp_bias": True}),
    "mistral-sliding-window": (MistralConfig, {"sliding_window": 4}),
    "qwen2-biases": (Qwen2Config, {"odd": True}),
    "gemma-scaled-embedding": (GemmaConfig, {"head_dim": 16, "tie_word_embeddings": True, "odd": True}),
    "granite-scaled-logits": (GraniteConfig, {"logits_scaling": 8.0, "embedding_multiplier": 3.0, "odd": True}),
    "qwen3-head-norms": (Qwen3Config, {"head_dim": 16, "tie_word_embeddings": True}),
}


NOT_READING = ("llama-untied-biases", "qwen3")
"""Beginnings of those whose layers can read no encoder states beside their own input."""


def save(folder: Path, name: str) -> None:
    """A random model with the embedded tokenizer; a padded vocabulary where it is odd."""
    torch.manual_seed(0)
    source = Path(resolve_path("tinyworld:llm"))
    made, settings = ARCHITECTURES[name]
    values = {"tie_word_embeddings": False, **settings}
    entries = load_model_config(LanguageModelConfig(path=str(source))).vocab_size
    entries += (entries + 1) % 2 if values.pop("odd", False) else entries % 2
    config = made(**SHAPE, **values, vocab_size=entries, bos_token_id=1, eos_token_id=2)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():  # biases and norms begin at 0 and 1, which would hide mistakes
        torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder / name, max_shard_size="100KB")
    for file in source.glob("*token*"):
        shutil.copy(file, folder / name)


def test_two_ranks_compute_what_one_does(tmp_path):
    for name in ARCHITECTURES:
        save(tmp_path, name)
    said = ranks.output(2, ["tests/distributed/tensor_worker.py", str(tmp_path)])
    results = json.loads(said.strip().splitlines()[-1])
    for name in [name + kind for name in ARCHITECTURES for kind in ("", " sequence-parallel")]:
        held = sum(found[name].pop("held") for found in results)
        assert 1.0 < held < 1.02, "norms and row biases alone are on both ranks"
        reads = not name.startswith(NOT_READING)
        for found in results:
            assert reads == ("read beside: gates" in found[name]), name
            assert max(found[name].values()) < 2e-5, (name, found[name])


@pytest.mark.parametrize(("degree", "key"), [(4, "num_key_value_heads=2"), (3, "num_key_value_heads=2")])
def test_a_degree_that_does_not_divide_the_heads_is_refused(degree, key):
    with pytest.raises(UserError, match=f"tensor_parallel_size={degree} does not divide {key} of M: use one of 1, 2$"):
        require_divisible(LlamaConfig(**SHAPE), degree, "M")


def test_a_degree_that_does_not_divide_the_ranks_is_refused(capsys):
    assert main(["train", "configs/quickstart.yaml", "mindmerger.mapping", "parallel.tensor_parallel_size=2"]) == 2
    assert "tensor_parallel_size=2 does not divide 1 ranks" in capsys.readouterr().err.replace("\n", " ")
