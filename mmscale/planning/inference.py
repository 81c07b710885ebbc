"""Answering on one GPU: weights, keys and values, and the speed that memory allows."""

from __future__ import annotations

from typing import Any

from mmscale.config.cluster import ClusterConfig
from mmscale.config.run import RunConfig
from mmscale.models.loading import DTYPES
from mmscale.planning.memory import CONTEXT_BYTES


def key_value_bytes(model_config: Any, tokens: int, width: int) -> int:
    """Keys and values of `tokens` tokens in all layers: 2 L K D elements a token."""
    heads = int(model_config.num_attention_heads)
    head = getattr(model_config, "head_dim", None) or model_config.hidden_size // heads
    return 2 * int(model_config.num_hidden_layers) * int(model_config.num_key_value_heads) * head * tokens * width


def inference(run: RunConfig, cluster: ClusterConfig, model_config: Any, llm: int, encoder: int) -> dict[str, Any]:
    """The most demanding task of the run's evaluation, as JSON; empty when it has none.

    A decoding step reads every weight and the keys and values so far (half of the longest, on average) once: memory,
    not arithmetic, sets its time.
    """
    tasks = run.evaluation.tasks.values()
    if not tasks:
        return {}
    width = DTYPES[run.language_model.dtype].itemsize
    prompt = max((stage.packing.max_prompt_tokens for r in run.recipes.values() for stage in r.values()), default=512)
    batch, new = max((task.generation.batch_size, task.generation.max_new_tokens) for task in tasks)
    cache = batch * key_value_bytes(model_config, prompt + new, width)
    found = {
        "llm_weights": llm * width,
        "encoder_weights": encoder * (DTYPES[run.encoder.dtype].itemsize if run.encoder else 0),
        "key_value_cache": cache,
        "context": CONTEXT_BYTES if cluster.gpus_per_node else 0,
    }
    found["peak"] = sum(found.values())
    read = llm * width + batch * key_value_bytes(model_config, prompt + new // 2, width)
    return {
        "batch_size": batch,
        "max_new_tokens": new,
        "memory_bytes": found,
        "fits": found["peak"] <= cluster.gpu.memory_gib * 2**30,
        "tokens_per_s_per_gpu": batch / (read / (1e9 * cluster.gpu.memory_gbytes)),
    }
