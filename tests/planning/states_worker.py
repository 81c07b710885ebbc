"""Runs on every rank: what each engine really holds after a step, beside what the planner says; JSON on rank 0."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from mmscale.cli.devices import joined
from mmscale.config.model import LanguageModelConfig
from mmscale.config.parallel import ParallelConfig, ZeroConfig
from mmscale.config.training import StageConfig
from mmscale.data.packing import PackedRow
from mmscale.models.assembly import make_trainable
from mmscale.models.language_model import load_language_model
from mmscale.models.merge import MergedModel
from mmscale.models.places import resolve_path
from mmscale.parallel.context import ParallelContext
from mmscale.parallel.world import leave
from mmscale.parallel.zero import partitioned_loading
from mmscale.planning.memory import Trained, state_bytes
from mmscale.planning.parallel_plan import ParallelPlan, local_parameters
from mmscale.planning.rehearsal import Collectives
from mmscale.planning.traffic import REUSED_ELEMENTS, Step, traffic
from mmscale.training.engines import make_engine
from mmscale.training.engines.local import LocalEngine
from mmscale.training.objective import CausalObjective

COMBINATIONS = [(0, "float32"), (1, "float32"), (2, "float32"), (3, "float32")]
COMBINATIONS += [(1, "bfloat16"), (2, "bfloat16"), (3, "bfloat16")]
TOKENS = 32
AS_A_LARGE_MODEL = {
    "zero_optimization": {
        "stage3_max_live_parameters": 0,
        "stage3_max_reuse_distance": 0,
        "stage3_prefetch_bucket_size": 0,
    }
}
"""Nothing gathered stays until it is needed again."""


def held(engine: object, model: MergedModel, stage: int) -> dict[str, int]:
    """Bytes of the tensors that an engine and a model hold."""

    def size(tensors: object) -> int:
        return sum(t.numel() * t.element_size() for t in tensors)  # type: ignore[attr-defined]

    if isinstance(engine, LocalEngine):
        moments = [
            engine.optimizer.state[p][kind] for p in engine._named.values() for kind in ("exp_avg", "exp_avg_sq")
        ]
        gradients = [p.grad for p in engine._named.values()]
        return {"llm_weights": size(model.parameters()), "gradients": size(gradients), "optimizer": size(moments)}
    optimizer = engine.engine.optimizer  # type: ignore[attr-defined]
    flats = engine._flat_partitions()  # type: ignore[attr-defined]
    states = [optimizer.optimizer.state[flat][kind] for flat in flats for kind in ("exp_avg", "exp_avg_sq")]
    if stage < 3:
        weights = size(model.parameters())
    else:
        weights = size(p.ds_tensor for p in model.parameters()) + size(p for p in model.parameters() if p.ds_persist)  # type: ignore[attr-defined]
    return {"llm_weights": weights, "optimizer": size(flats) + size(states)}


def compare(folder: Path, zero: ZeroConfig, precision: str, context: ParallelContext) -> dict[str, object]:
    stage = StageConfig(steps=1, precision=precision)  # type: ignore[arg-type]
    config = LanguageModelConfig(path=str(folder))
    torch.use_deterministic_algorithms(
        True
    )  # fresh memory is NaN: the padding of the last rank's parts, which nobody reads
    with partitioned_loading(zero, stage, context):
        model = MergedModel(load_language_model(config, context))
    torch.use_deterministic_algorithms(False)
    make_trainable(model.language_model, False, frozen=False)
    engine = make_engine(CausalObjective(model), stage, zero, context)
    places = torch.arange(TOKENS)
    row = PackedRow(token_ids=places + 3, token_rows=places, position_ids=places, labels=places + 4, lengths=[TOKENS])
    engine.train_step([row], 1e-3)
    with Collectives() as seen:
        engine.train_step([row, row], 1e-3)
    parallel_plan = ParallelPlan(context.size, 1, zero.stage)
    sizes = tuple(local_parameters(LlamaConfig.from_pretrained(folder), 1))
    trained = Trained(
        llm=sizes,
        encoder=(),
        connector=(),
        trains_llm=True,
        llm_dtype="float32",
        encoder_dtype="float32",
        autocast=precision == "bfloat16",
    )
    found = held(engine, model, zero.stage)
    planned = state_bytes(trained, parallel_plan, zero)
    sent = traffic(trained, parallel_plan, Step(2, 0, 2, False), reused=0 if zero.extra else REUSED_ELEMENTS).data
    return {"held": [found, {key: planned[key] for key in found}], "sent": [seen.by_size[context.size].bytes, sent]}


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    results = {}
    with joined(ParallelConfig(zero=ZeroConfig(stage=1))) as context:
        if context.is_first:
            shape = {"hidden_size": 56, "intermediate_size": 100, "num_hidden_layers": 2, "num_attention_heads": 4}
            made = AutoModelForCausalLM.from_config(LlamaConfig(**shape, vocab_size=2048))  # type: ignore[arg-type]
            made.save_pretrained(folder)
            for file in Path(resolve_path("tinyworld:llm")).glob("*token*"):
                (folder / file.name).write_bytes(file.read_bytes())
        context.barrier()
        for stage, precision in COMBINATIONS:
            zero = ZeroConfig(stage=stage, persistence_threshold=100)  # type: ignore[arg-type]
            results[f"{stage}-{precision}"] = compare(folder, zero, precision, context)
        large = ZeroConfig(stage=3, persistence_threshold=100, extra=AS_A_LARGE_MODEL)
        results["3-large"] = compare(folder, large, "bfloat16", context)
    if context.is_first:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
    leave(0)
