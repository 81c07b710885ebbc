"""Which architectures run here as they do in transformers: each is tried, whole and cut into two parts.

mmscale bench architectures writes docs/architectures.md; a test holds that page against what it finds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from mmscale.errors import UserError
from mmscale.models.language_model import bare
from mmscale.models.self_check import require_known_right
from mmscale.parallel.context import ParallelContext, process_groups
from mmscale.parallel.tensor import require_divisible
from mmscale.parallel.world import discover, leave

PAGE = Path(__file__).resolve().parents[1] / "docs" / "architectures.md"
_PLAIN = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "vocab_size": 128,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GROUPED = {**_PLAIN, "num_key_value_heads": 2}
_HEADS = {**_GROUPED, "head_dim": 16}
_LLAMA_3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_GPT_2 = {"n_embd": 64, "n_layer": 4, "n_head": 4, "vocab_size": 128, "n_positions": 256}
_SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "LLaMA": ("LlamaConfig", _GROUPED),
    "LLaMA 3 (scaled rotations)": (
        "LlamaConfig",
        {**_GROUPED, "rope_scaling": {**_LLAMA_3, "original_max_position_embeddings": 64}},
    ),
    "LLaMA, tied, with biases": (
        "LlamaConfig",
        {**_GROUPED, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    ),
    "Mistral (window)": ("MistralConfig", {**_GROUPED, "sliding_window": 32}),
    "Mixtral": ("MixtralConfig", {**_GROUPED, "num_local_experts": 4}),
    "Qwen 2": ("Qwen2Config", _GROUPED),
    "Qwen 2 (window)": (
        "Qwen2Config",
        {**_GROUPED, "use_sliding_window": True, "sliding_window": 32, "max_window_layers": 1},
    ),
    "Qwen 2 MoE": (
        "Qwen2MoeConfig",
        {
            **_GROUPED,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 32,
        },
    ),
    "Qwen 3": ("Qwen3Config", _HEADS),
    "Qwen 3 MoE": (
        "Qwen3MoeConfig",
        {**_HEADS, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    ),
    "Gemma": ("GemmaConfig", _HEADS),
    "Gemma 2": ("Gemma2Config", {**_HEADS, "query_pre_attn_scalar": 16, "sliding_window": 32}),
    "Gemma 3": ("Gemma3TextConfig", {**_HEADS, "query_pre_attn_scalar": 16, "sliding_window": 32}),
    "Gemma 3 (capped logits)": (
        "Gemma3TextConfig",
        {**_HEADS, "query_pre_attn_scalar": 16, "sliding_window": 32, "final_logit_softcapping": 3.0},
    ),
    "Phi 1, 2": ("PhiConfig", _PLAIN),
    "Phi 3, 4": ("Phi3Config", _GROUPED),
    "GPT-NeoX, Pythia": ("GPTNeoXConfig", _PLAIN),
    "OLMo": ("OlmoConfig", _GROUPED),
    "OLMo 2": ("Olmo2Config", _GROUPED),
    "Granite": (
        "GraniteConfig",
        {
            **_GROUPED,
            "logits_scaling": 8.0,
            "embedding_multiplier": 12.0,
            "residual_multiplier": 0.22,
            "attention_multiplier": 0.0625,
        },
    ),
    "Cohere": ("CohereConfig", {**_GROUPED, "logit_scale": 0.0625}),
    "Cohere 2": ("Cohere2Config", {**_GROUPED, "logit_scale": 0.25, "sliding_window": 32}),
    "StarCoder 2": ("Starcoder2Config", _GROUPED),
    "SmolLM 3": ("SmolLM3Config", _GROUPED),
    "GLM 4": ("Glm4Config", _HEADS),
    "EXAONE 4": ("Exaone4Config", {**_GROUPED, "sliding_window": 32}),
    "ERNIE 4.5": ("Ernie4_5Config", _GROUPED),
    "HunYuan": ("HunYuanDenseV1Config", _HEADS),
    "Arcee": ("ArceeConfig", _GROUPED),
    "Persimmon": ("PersimmonConfig", _PLAIN),
    "DeepSeek V3": (
        "DeepseekV3Config",
        {
            **_PLAIN,
            "num_key_value_heads": 4,
            "moe_intermediate_size": 32,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 1,
            "topk_group": 1,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 16,
            "first_k_dense_replace": 1,
        },
    ),
    "GPT-2": ("GPT2Config", {**_GPT_2, "bos_token_id": 1, "eos_token_id": 2}),
    "OPT": (
        "OPTConfig",
        {
            "hidden_size": 64,
            "ffn_dim": 96,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "vocab_size": 128,
            "max_position_embeddings": 256,
            "word_embed_proj_dim": 64,
            **_SPECIAL,
        },
    ),
    "StableLM": ("StableLmConfig", _GROUPED),
    "Nemotron": ("NemotronConfig", _GROUPED),
    "Llama 4 (text)": (
        "Llama4TextConfig",
        {
            **_HEADS,
            "intermediate_size_mlp": 96,
            "num_local_experts": 4,
            "num_experts_per_tok": 1,
            "attention_chunk_size": 32,
        },
    ),
    "gpt-oss": (
        "GptOssConfig",
        {**_HEADS, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 32},
    ),
    "Falcon": (
        "FalconConfig",
        {
            **_PLAIN,
            "multi_query": True,
            "parallel_attn": True,
            "new_decoder_architecture": False,
            "alibi": False,
        },
    ),
    "BLOOM": ("BloomConfig", {"hidden_size": 64, "n_layer": 4, "n_head": 4, "vocab_size": 128, **_SPECIAL}),
    "MPT": ("MptConfig", {"d_model": 64, "n_layers": 4, "n_heads": 4, "vocab_size": 128, "max_seq_len": 256}),
    "XGLM": (
        "XGLMConfig",
        {"vocab_size": 128, "d_model": 64, "ffn_dim": 96, "num_layers": 4, "attention_heads": 4, **_SPECIAL},
    ),
    "GPT-J": ("GPTJConfig", {**_GPT_2, "rotary_dim": 8, "bos_token_id": 1, "eos_token_id": 2}),
}
"""Name -> configuration class of transformers, its settings."""


def configuration(name: str) -> Any:
    kind, settings = FAMILIES[name]
    return getattr(transformers, kind)(**settings)


def tried(name: str, context: ParallelContext) -> str:
    """What is said of a family; empty where it is right."""
    config = configuration(name)
    try:
        if context.tensor_size > 1:
            require_divisible(config, context.tensor_size, "model")
        require_known_right(config, "model", context, bare, trust_remote_code=False)
    except UserError as error:
        return str(error).split("is not supported: ")[-1].split("; docs/")[0]
    return ""


def page(whole: dict[str, str], cut: dict[str, str]) -> str:
    rows = [
        f"| {name} | `{FAMILIES[name][0].removesuffix('Config')}` | {_mark(whole[name])} | {_mark(cut[name])} | {whole[name] or cut[name]} |"
        for name in sorted(whole, key=lambda name: (bool(whole[name]), bool(cut[name])))
    ]
    return "\n".join([HEAD.strip(), *rows, ""])


def _mark(problem: str) -> str:
    return "–" if problem else "yes"


HEAD = """
# Architectures

The first time an architecture is loaded, under a version of transformers, a cut and settings, a small random model of it runs
here and in transformers: packed rows, their loss, every gradient, and tokens one at a time. It is equal, or refused in one
sentence; that it is equal is kept in `MMSCALE_CACHE` (by default `~/.cache/mmscale`). So a family that is missing here is tried,
too. This page was written by `mmscale bench architectures`: "whole" is one rank or any ZeRO stage, "cut" tensor parallelism.

| family | classes of transformers | whole | cut | what is wrong |
|---|---|---|---|---|
"""


def _ranks(names: Sequence[str]) -> dict[str, str]:
    """Every family cut over two ranks, on both of which this runs; the first one's findings."""
    with process_groups(discover(), torch.device("cpu"), 5, tensor_size=2) as context:
        return {name: tried(name, context) for name in names}


def find(names: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """(whole, cut into two) by name."""
    whole = {name: tried(name, ParallelContext(device=torch.device("cpu"))) for name in names}
    with tempfile.NamedTemporaryFile("r") as file:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        subprocess.run([*launcher, "-m", "mmscale.benchmarks.architectures", "--cut", file.name, *names], check=True)
        cut: dict[str, str] = json.loads(file.read())
    return whole, cut


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="families; by default all, and the page is written")
    parser.add_argument("--cut", help="file for what one of two ranks finds")
    options = parser.parse_args()
    names = options.names or list(FAMILIES)
    if options.cut:
        found = _ranks(names)
        if discover().rank == 0:
            Path(options.cut).write_text(json.dumps(found), encoding="utf-8")
        leave(0)
    whole, cut = find(names)
    if options.names:
        print(page(whole, cut))
    else:
        PAGE.write_text(page(whole, cut), encoding="utf-8")


if __name__ == "__main__":
    main()
