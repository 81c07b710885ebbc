"""Answering: weights, keys and values on a GPU, and the speed that memory allows, proxy-tuning and speculation included."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from mmscale.config.cluster import ClusterConfig
from mmscale.config.evaluation import TaskConfig
from mmscale.config.run import RunConfig
from mmscale.decoding.speculation import CANDIDATES, tokens_a_round
from mmscale.models.connectors import connector
from mmscale.models.counting import count, empty_language_model
from mmscale.models.loading import DTYPES
from mmscale.planning.memory import CONTEXT_BYTES, TIGHT
from mmscale.runs.run import stages_of
from mmscale.runs.stage import Stage


def key_value_width(model_config: Any) -> int:
    """Elements of a token's keys in one layer: K D."""
    heads = int(model_config.num_attention_heads)
    head = getattr(model_config, "head_dim", None) or model_config.hidden_size // heads
    return int(model_config.num_key_value_heads) * int(head)


def key_value_bytes(model_config: Any, tokens: int, width: int) -> int:
    """Keys and values of `tokens` tokens in all layers: 2 L K D elements per token."""
    return 2 * int(model_config.num_hidden_layers) * key_value_width(model_config) * tokens * width


@dataclass(frozen=True)
class _Demand:
    """The most demanding task of a run."""

    batch: int
    prompt: int
    new: int


def _demand(run: RunConfig, tasks: list[TaskConfig]) -> _Demand:
    prompt = max((stage.packing.max_prompt_tokens for r in run.recipes.values() for stage in r.values()), default=512)
    prompt += max(map(_prefix, stages_of(run)), default=0)
    batch, new = max((task.generation.batch_size, task.generation.max_new_tokens) for task in tasks)
    return _Demand(batch, prompt, new)


def _prefix(stage: Stage) -> int:
    """Rows of what an encoder reads, at most, and tokens of it that the layers keep beside them."""
    if stage.encoder is None:
        return 0
    kind, tokens = connector(stage.connector), stage.config.packing.max_encoder_tokens
    return kind.settings.prefix_length(tokens) + (tokens if kind.reads_all_layers else 0)


@dataclass(frozen=True)
class _Model:
    """One model that decodes, as a GPU holds it."""

    weights: float
    """Bytes."""
    cache: float
    """Bytes of the longest keys and values."""
    read: float
    """Bytes that a pass reads: every weight, and half of the longest keys and values."""

    @classmethod
    def of(cls, config: Any, parameters: int, width: int, demand: _Demand, parts: int) -> _Model:
        weights = parameters * width / parts
        cache, half = (
            demand.batch * key_value_bytes(config, demand.prompt + new, width) / parts
            for new in (demand.new, demand.new // 2)
        )
        return cls(weights, cache, weights + half)


def inference(
    run: RunConfig, cluster: ClusterConfig, model_config: Any, llm: int, encoder: int, quantized: int | None = None
) -> dict[str, Any]:
    """The most demanding task of the run's evaluation, as JSON; empty when it has none. `quantized` are the bytes of an LLM
    whose weights are.

    A decoding step reads every weight and the keys and values so far (half of the longest, on average) once: memory,
    not arithmetic, sets its time.
    """
    tasks = list(run.evaluation.tasks.values())
    if not tasks:
        return {}
    demand = _demand(run, tasks)
    parts = run.parallel.tensor_parallel_size
    model = _Model.of(model_config, llm, DTYPES[run.language_model.dtype].itemsize, demand, parts)
    if quantized is not None:
        model = replace(model, weights=quantized, read=model.read - model.weights + quantized)
    memory_bytes = {
        "llm_weights": round(model.weights),
        "encoder_weights": encoder * (DTYPES[run.encoder.dtype].itemsize if run.encoder else 0),
        "key_value_cache": round(model.cache),
        "context": CONTEXT_BYTES if cluster.gpus_per_node else 0,
    }
    memory_bytes["peak"] = sum(memory_bytes.values())
    answer = {
        "batch_size": demand.batch,
        "max_new_tokens": demand.new,
        "tensor_parallel_size": parts,
        "memory_bytes": memory_bytes,
        **_judged(memory_bytes["peak"], cluster),
        "tokens_per_s_per_gpu": demand.batch / parts / (model.read / (1e9 * cluster.gpu.memory_gbytes)),
    }
    return answer | ({"proxy": _proxy(run, cluster, model_config, llm, demand)} if run.proxy is not None else {})


def _judged(peak: int, cluster: ClusterConfig) -> dict[str, bool]:
    available = cluster.gpu.memory_gib * 2**30
    return {"fits": peak <= available, "tight": peak > TIGHT * available}


_ACCEPTANCES = (0.6, 0.7, 0.8, 0.9)


def _proxy(run: RunConfig, cluster: ClusterConfig, small_config: Any, small: int, demand: _Demand) -> dict[str, Any]:
    """Base, expert and anti-expert on each GPU of a tensor group; speeds are predictions by memory traffic alone."""
    assert run.proxy is not None
    parts = run.parallel.tensor_parallel_size
    empty = empty_language_model(run.proxy.base)
    base = _Model.of(empty.config, count(empty), DTYPES[run.proxy.base.dtype].itemsize, demand, parts)
    width, cuts = DTYPES[run.language_model.dtype].itemsize, parts if run.proxy.shard_small else 1
    one = _Model.of(small_config, small, width, demand, cuts)
    held = {
        "base_weights": round(base.weights),
        "small_weights": round(2 * one.weights),
        "key_value_cache": round(base.cache + 2 * one.cache),
        "context": CONTEXT_BYTES if cluster.gpus_per_node else 0,
    }
    held["peak"] = sum(held.values())
    rate = 1e9 * cluster.gpu.memory_gbytes
    plain = demand.batch / ((base.read + 2 * one.read) / rate)
    alone = demand.batch / (base.read / rate)
    rounds = {str(a): _speculative(base.read, one.read, a) * demand.batch * rate for a in _ACCEPTANCES}
    return {
        "tensor_parallel_size": parts,
        "memory_bytes": held,
        **_judged(held["peak"], cluster),
        "tokens_per_s": {"base_alone": alone, "plain": plain, "by_acceptance": rounds},
    }


def _speculative(base: float, small: float, acceptance: float) -> float:
    """Best tokens for a byte read of a sequence: k drafts of the expert, one pass of base and anti-expert each."""
    return max(tokens_a_round(acceptance, k) / (k * small + small + base) for k in CANDIDATES)
