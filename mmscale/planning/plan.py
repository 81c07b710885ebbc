"""Does a run fit a cluster, how fast is it, what does it cost: every stage of its methods, and its evaluation."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

import torch

from mmscale.config.cluster import ClusterConfig
from mmscale.config.run import RunConfig
from mmscale.config.training import StageConfig
from mmscale.errors import UserError
from mmscale.models import quantization
from mmscale.models.connectors import Connector, Depths, connector
from mmscale.models.counting import (
    count,
    empty_encoder,
    empty_language_model,
    encoder_depth,
    encoder_table,
    encoder_width,
)
from mmscale.models.encoders.base import state_shape
from mmscale.models.loading import DTYPES
from mmscale.models.varlen import HALVES
from mmscale.parallel.tensor import require_divisible
from mmscale.planning import memory, throughput, traffic
from mmscale.planning.dry_run import stage_tokens
from mmscale.planning.examples import Examples, Given, encoder_share, longest_example
from mmscale.planning.inference import key_value_width
from mmscale.planning.memory import Trained
from mmscale.planning.parallel_plan import ParallelPlan, local_parameters
from mmscale.planning.tracing import RowMemory, RowWork, connector_bytes, encoder_bytes, trace
from mmscale.runs import encoder_cache
from mmscale.runs.run import stages_of
from mmscale.runs.stage import Stage
from mmscale.training.components import ConnectorComponent, EncoderComponent


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One stage on one spread."""

    parallel_plan: ParallelPlan
    parameters: dict[str, int]
    memory_bytes: dict[str, int]
    """By component, and "peak"."""
    fits: bool
    """While it loads, trains and saves."""
    tight: bool
    """Whether less than 8 % of the memory is left."""
    rows_per_step: int
    """Packed rows of a rank."""
    row_tokens: int
    row_targets: int
    """Tokens of a row that enter the head."""
    sent_bytes: dict[str, int]
    """A rank's, in a step."""
    step_seconds: float
    tokens_per_s_per_gpu: float
    mfu: float
    steps: int | None
    checkpoint_bytes: int
    encoder_cache_bytes: int | None
    """On disk, of one pass over the data; None where the number of examples is unknown, 0 without an encoder."""

    @property
    def gpu_hours(self) -> float | None:
        return None if self.steps is None else self.steps * self.step_seconds * self.parallel_plan.ranks / 3600


class Planner:
    """Plans the stages of a run; model configurations are read and parameters counted once."""

    def __init__(self, run: RunConfig, cluster: ClusterConfig) -> None:
        self.run, self.cluster = run, cluster
        model = empty_language_model(run.language_model)
        self.config = model.config
        self.llm, self.encoder, self.encoder_width, self.encoder_depth = count(model), (), 0, 0
        self.encoder_table = 0
        self.quantized, self.dequantized = None, 0
        if run.language_model.quantization != quantization.NONE:
            width = DTYPES[run.language_model.dtype].itemsize
            self.quantized = quantization.weight_bytes(model, run.language_model.quantization, width)
            self.dequantized = quantization.largest_layer(model) * width
        self._rows: dict[RowWork, RowMemory] = {}
        if run.encoder is not None:
            self.encoder = tuple(parameter.numel() for parameter in empty_encoder(run.encoder).parameters())
            self.encoder_table = encoder_table(run.encoder)
            self.encoder_width, self.encoder_depth = encoder_width(run.encoder), encoder_depth(run.encoder)

    @property
    def _sizes(self) -> tuple[int, int, Depths]:
        """Widths of encoder and LLM, and how many layers they have."""
        depths = Depths(self.encoder_depth, int(self.config.num_hidden_layers))
        return self.encoder_width, int(self.config.hidden_size), depths

    @functools.cache  # noqa: B019
    def _connector(self, name: str) -> Connector:
        """A connector without memory."""
        with torch.device("meta"):
            return connector(name).build(*self._sizes)

    def _read_tokens(self, stage: Stage, mean: Examples, tokens: int) -> int:
        """Encoder tokens of a row of so many merged tokens that every layer reads by itself."""
        if stage.encoder is None or not connector(stage.connector).reads_all_layers:
            return 0
        return math.ceil(mean.encoder) * max(1, round(tokens / mean.tokens))

    def _connector_activations(self, stage: Stage, mean: Examples, work: RowWork) -> int:
        """Bytes that the connector keeps of one packed row."""
        if stage.encoder is None:
            return 0
        lengths = (math.ceil(mean.encoder),) * max(1, round(work.tokens / mean.tokens))
        return self._traced_connector(stage.connector, lengths, stage.config.precision == "bfloat16")

    def _encoder_activations(self, stage: Stage, mean: Examples, work: RowWork) -> int:
        """Bytes that a trained encoder keeps of one packed row."""
        if stage.encoder is None or not stage.changes_encoder:
            return 0
        lengths = (math.ceil(mean.encoder),) * max(1, round(work.tokens / mean.tokens))
        config = stage.config
        return encoder_bytes(stage.encoder, lengths, config.precision == "bfloat16", config.gradient_checkpointing)

    def _connector_operations(self, stage: Stage, trained: Trained, mean: Examples, tensor: int) -> float:
        """What it computes of each merged token, three times where it is trained, and layers that read its states make of these:
        keys and values, and gradients through them."""
        if not trained.connector:
            return 0.0
        joins = self._connector(stage.connector)
        rows = joins.settings.prefix_length(math.ceil(mean.encoder))
        own = (3 if trained.trains_connector else 1) * joins.operations() * rows
        width = int(self.config.hidden_size)
        keys = 2 * len(joins.reading_layers) * width * key_value_width(self.config) * mean.encoder / tensor
        return 2.0 * (own + (2 if trained.trains_connector else 1) * keys) / mean.tokens

    @functools.cache  # noqa: B019
    def _traced_connector(self, name: str, lengths: tuple[int, ...], autocast: bool) -> int:
        return connector_bytes(connector(name), self._sizes, lengths, autocast)

    @property
    def configured(self) -> ParallelPlan:
        """The spread that the configuration asks for on this cluster; UserError where it does not divide."""
        parallel = self.run.parallel
        ranks, degree = self.cluster.nodes * self.cluster.ranks_on_node, parallel.tensor_parallel_size
        if ranks % degree:
            raise UserError(f"parallel.tensor_parallel_size={degree} does not divide the cluster's {ranks} ranks")
        require_divisible(self.config, degree, self.run.language_model.path)
        return ParallelPlan(ranks, degree, parallel.zero.stage, parallel.sequence_parallel)

    def trained(self, stage: Stage, parallel_plan: ParallelPlan) -> Trained:
        run, merged = self.run, stage.encoder is not None
        return Trained(
            llm=tuple(local_parameters(self.config, parallel_plan.tensor)),
            encoder=self.encoder if merged else (),
            connector=tuple(p.numel() for p in self._connector(stage.connector).parameters()) if merged else (),
            trains_llm=stage.changes_language_model,
            llm_dtype=run.language_model.dtype,
            encoder_dtype=run.encoder.dtype if run.encoder else "float32",
            autocast=stage.config.precision == "bfloat16",
            llm_bytes=self.quantized,
            trains_connector=merged and ConnectorComponent.name in stage.spec.trains,
            trained_encoder=self._trained_encoder(stage),
        )

    def _trained_encoder(self, stage: Stage) -> tuple[int, ...]:
        """Elements of each parameter of the encoder that a stage trains."""
        if not stage.changes_encoder:
            return ()
        return self.encoder if EncoderComponent.name in stage.spec.trains else (self.encoder_table,)

    def examples(self, stage: Stage, given: Given) -> Examples:
        """The mean example of a stage: as given, else read where files and tokenizers are there, else as long as the limits allow."""
        settings = None if stage.encoder is None else connector(stage.connector).settings
        longest = longest_example(stage.config, settings)
        if given.example_tokens is not None:
            targets = given.target_tokens or given.example_tokens / 2
            encoder = encoder_share(longest, settings, given.example_tokens)
            return Examples(given.example_tokens, targets, encoder, given.examples, "as given")
        try:
            read = stage_tokens(stage)
        except UserError:
            return replace(longest, count=given.examples)
        size = read["rows"]
        tokens, targets, encoder = (read[key] / size for key in ("tokens", "target_tokens", "encoder_tokens"))
        return Examples(tokens, targets, encoder, size, "read from the data")

    def stage(self, stage: Stage, parallel_plan: ParallelPlan, mean: Examples) -> Planned:
        """One stage under a spread; its length is known where steps or the number of examples are."""
        trained = replace(self.trained(stage, parallel_plan), encoder_cached=self._caches_states(stage, mean))
        rows, row_tokens = _rows(stage.config, mean, parallel_plan.data)
        row_targets = math.ceil(row_tokens * mean.targets / mean.tokens)
        read_tokens = self._read_tokens(stage, mean, row_tokens)
        work = replace(self.work(stage, parallel_plan, row_tokens, row_targets), read_tokens=read_tokens)
        joining = self._connector_activations(stage, mean, work)
        encoding = self._encoder_activations(stage, mean, work)
        bytes_by_component = self._memory(
            trained, parallel_plan, work, {"connector_activations": joining, "encoder_activations": encoding}
        )
        most = max(bytes_by_component[key] for key in ("peak", "peak_loading", "peak_saving"))
        sent = self._traffic(stage.config, trained, parallel_plan, rows, work)
        joins = self._connector_operations(stage, trained, mean, parallel_plan.tensor)
        compute, model_flops = self._compute(stage.config, trained, parallel_plan, mean, rows * row_tokens, joins)
        per_gpu = self.cluster.gpu
        tensor, data = traffic.seconds(sent, parallel_plan, per_gpu, max(1, self.cluster.gpus_per_node))
        took = throughput.step_seconds(compute, tensor, data)
        tokens = rows * row_tokens / took / parallel_plan.tensor
        return Planned(
            parallel_plan=parallel_plan,
            parameters={
                "llm": self.llm,
                "encoder": sum(trained.encoder),
                "connector": sum(trained.connector),
                "trainable": self._trainable(trained),
            },
            memory_bytes=bytes_by_component,
            fits=most <= per_gpu.memory_gib * 2**30,
            tight=most > memory.TIGHT * per_gpu.memory_gib * 2**30,
            rows_per_step=rows,
            row_tokens=row_tokens,
            row_targets=row_targets,
            sent_bytes={"tensor": sent.tensor, "data": sent.data},
            step_seconds=took,
            tokens_per_s_per_gpu=tokens,
            mfu=model_flops * tokens / (per_gpu.peak_tflops * 1e12),
            steps=_steps(stage.config, mean.count),
            checkpoint_bytes=12 * self._trainable(trained),
            encoder_cache_bytes=self._encoder_cache(stage, trained, mean),
        )

    def _trainable(self, trained: Trained) -> int:
        """Elements, the whole tensor group's."""
        joins = sum(trained.connector) * trained.trains_connector
        return self.llm * trained.trains_llm + joins + sum(trained.trained_encoder)

    def _caches_states(self, stage: Stage, mean: Examples) -> bool:
        """Whether the encoder's states will come from disk; unknown room there is taken for enough."""
        if stage.encoder is None or stage.config.evaluate_task is not None:
            return False
        count = mean.count if mean.count is not None else math.inf
        return encoder_cache.wanted(stage, count, count * mean.tokens)

    def _encoder_cache(self, stage: Stage, trained: Trained, mean: Examples) -> int | None:
        if not trained.encoder or trained.trained_encoder:
            return 0
        all_layers = connector(stage.connector).reads_all_layers
        shape = state_shape(self.encoder_width, self.encoder_depth if all_layers else None)
        token = math.prod(shape) * DTYPES[trained.encoder_dtype].itemsize
        return None if mean.count is None else math.ceil(mean.count * mean.encoder) * token

    def work(self, stage: Stage, parallel_plan: ParallelPlan, tokens: int, targets: int) -> RowWork:
        """One packed row of a stage as a rank sees it."""
        config, llm = stage.config, self.run.language_model
        dtype = torch.bfloat16 if config.precision == "bfloat16" else DTYPES[llm.dtype]
        return RowWork(
            tokens=tokens,
            targets=targets,
            dtype=dtype,
            trained=stage.changes_language_model,
            checkpointing=config.gradient_checkpointing,
            flash=self.cluster.gpus_per_node > 0 and llm.attention != "packed_sdpa" and dtype in HALVES,
            tensor_size=parallel_plan.tensor,
            sequence_parallel=parallel_plan.sequence_parallel,
        )

    def _row(self, work: RowWork) -> RowMemory:
        """Traced once: memory of a row does not depend on ZeRO."""
        if work not in self._rows:
            self._rows[work] = trace(self.config, work)
        return self._rows[work]

    def _memory(
        self, trained: Trained, parallel_plan: ParallelPlan, work: RowWork, before: dict[str, int]
    ) -> dict[str, int]:
        """`before` are the bytes that what stands before the LLM keeps of a row."""
        zero = self.run.parallel.zero
        held = memory.state_bytes(trained, parallel_plan, zero)
        row = self._row(work)
        other = self._row(replace(work, checkpointing=not work.checkpointing))
        step = memory.optimizer_step_bytes(trained, parallel_plan, zero)
        states = sum(held.values())
        passing = memory.transient_bytes(trained, parallel_plan, zero)
        passing |= {name: kept for name, kept in before.items() if kept}
        if self.dequantized:
            passing["dequantized_layer"] = self.dequantized
        context = memory.CONTEXT_BYTES if self.cluster.gpus_per_node else 0
        held |= {"activations": row.forward, "logits_and_temporaries": row.peak - row.forward, **passing}
        peak = states + context + max(row.peak + sum(passing.values()), step)
        told = "without_checkpointing" if work.checkpointing else "with_checkpointing"
        return {
            **held,
            "context": context,
            "peak": peak,
            f"peak_{told}": peak - row.peak + other.peak,
            "peak_loading": context + memory.loading_bytes(trained, parallel_plan),
            "peak_saving": states + context + memory.saving_bytes(trained),
        }

    def _traffic(
        self, config: StageConfig, trained: Trained, parallel_plan: ParallelPlan, rows: int, work: RowWork
    ) -> traffic.Traffic:
        activations = work.tokens * int(self.config.hidden_size) * work.dtype.itemsize
        layers, read = int(self.config.num_hidden_layers), work.targets / work.tokens
        step = traffic.Step(rows, activations, layers, config.gradient_checkpointing, read)
        return traffic.traffic(trained, parallel_plan, step)

    def _compute(
        self,
        config: StageConfig,
        trained: Trained,
        parallel_plan: ParallelPlan,
        mean: Examples,
        tokens: int,
        joins: float,
    ) -> tuple[float, float]:
        """(seconds of each GPU of a tensor group for so many tokens, model operations per token); the encoder, where
        its states are not cached, is whole on each, and so is the connector with `joins` operations per token."""
        work = throughput.token_work(
            self.config,
            self.llm,
            mean.tokens,
            mean.targets / mean.tokens,
            trained.trains_llm,
            config.gradient_checkpointing,
        )
        # forward alone; trained also backward, for inputs and weights, and forward again where activations are recomputed
        passes = 3 + config.gradient_checkpointing if trained.trained_encoder else 1
        encoder = 0.0 if trained.encoder_cached else 2.0 * passes * sum(trained.encoder) * mean.encoder / mean.tokens
        operations = tokens * (work.hardware / parallel_plan.tensor + encoder + joins)
        return throughput.seconds_of(operations, self.cluster.gpu.peak_tflops), work.model + encoder + joins

    def fitting(self, stage: Stage, mean: Examples) -> list[Planned]:
        """Every spread of the cluster's ranks that fits, the fastest first."""
        ranks, plans = self.cluster.nodes * self.cluster.ranks_on_node, []
        if self.quantized is not None:  # whole on every rank
            only = self.stage(stage, ParallelPlan(ranks, 1, 0), mean)
            return [only] if only.fits else []
        for tensor in (n for n in range(1, self.cluster.ranks_on_node + 1) if ranks % n == 0):
            try:
                require_divisible(self.config, tensor, self.run.language_model.path)
            except UserError:
                continue
            sequence = tensor > 1 and self.run.parallel.sequence_parallel
            zero_stages = [zero for zero in range(4) if stage.keeps_updates(zero)]
            plans += [self.stage(stage, ParallelPlan(ranks, tensor, zero, sequence), mean) for zero in zero_stages]
        return sorted((p for p in plans if p.fits), key=lambda p: (p.step_seconds, p.memory_bytes["peak"]))

    def stages(self) -> list[Stage]:
        return stages_of(self.run)


def _rows(config: StageConfig, mean: Examples, data: int) -> tuple[int, int]:
    """(packed rows of a rank in a step, tokens of a row): mmscale.data.packing.balance_rows on examples of mean length."""
    packing = config.packing
    tokens = float(packing.global_batch_tokens or (packing.global_batch_size or 1) * mean.tokens)
    rows = max(1, math.ceil(math.ceil(tokens / packing.row_tokens) / data))
    return rows, min(packing.row_tokens, math.ceil(tokens / (rows * data)))


def _steps(config: StageConfig, examples: int | None) -> int | None:
    if config.steps is not None:
        return config.steps
    size = config.packing.global_batch_size
    if examples is None or size is None or config.epochs is None:
        return None
    return math.ceil(examples / size * config.epochs)
