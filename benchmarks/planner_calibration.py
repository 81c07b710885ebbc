"""How far `mmscale plan`'s speeds are from published training runs on H100s: mmscale bench planner-calibration

Published: llm-foundry (MPT, sequences of 2048, FSDP, bfloat16), torchtitan (LLaMA-3.1-8B, sequences of 8192, FSDP;
without and with torch.compile). Their software is fused more than transformers' models are; one efficiency serves all.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

from mmscale.config.cluster import GpuConfig
from mmscale.planning import throughput, traffic
from mmscale.planning.memory import Trained
from mmscale.planning.parallel_plan import ParallelPlan

from .recording import record


@dataclass(frozen=True)
class PublishedRun:
    name: str
    gpus: int
    parameters: int
    width: int
    layers: int
    heads: int
    vocabulary: int
    tied: bool
    sequence: int
    rows: int
    """Sequences of a rank in a micro-step: not published; what fits."""
    checkpointing: bool
    tokens_per_s: float
    """A GPU's."""


RUNS = (
    PublishedRun("MPT-7B", 8, 6_658_859_008, 4096, 32, 32, 50368, True, 2048, 8, False, 10_643),
    PublishedRun("MPT-70B", 64, 64_862_732_288, 8192, 80, 64, 50368, True, 2048, 8, True, 1_039),
    PublishedRun("LLaMA-3.1-8B", 8, 8_030_261_248, 4096, 32, 32, 128256, False, 8192, 1, False, 5_762),
    PublishedRun("LLaMA-3.1-8B, compiled", 8, 8_030_261_248, 4096, 32, 32, 128256, False, 8192, 1, False, 6_667),
)


def predicted(run: PublishedRun, gpu: GpuConfig) -> float:
    """Tokens per second per GPU, under ZeRO-3."""
    shape = SimpleNamespace(
        hidden_size=run.width,
        num_hidden_layers=run.layers,
        num_attention_heads=run.heads,
        vocab_size=run.vocabulary,
        tie_word_embeddings=run.tied,
    )
    work = throughput.token_work(shape, run.parameters, run.sequence, 1.0, True, run.checkpointing)
    tokens = run.rows * run.sequence
    parallel_plan = ParallelPlan(run.gpus, 1, 3)
    trained = Trained(
        llm=(run.parameters,),
        encoder=(),
        connector=(),
        trains_llm=True,
        llm_dtype="float32",
        encoder_dtype="float32",
        autocast=True,
    )
    sent = traffic.traffic(
        trained, parallel_plan, traffic.Step(1, tokens * run.width * 2, run.layers, run.checkpointing)
    )
    tensor, data = traffic.seconds(sent, parallel_plan, gpu, 8)
    compute = throughput.seconds_of(tokens * work.hardware, gpu.peak_tflops)
    return tokens / throughput.step_seconds(compute, tensor, data)


def main() -> None:
    gpu = GpuConfig()
    print(f"efficiency {throughput.EFFICIENCY}, H100 SXM {gpu.peak_tflops} TFLOPS")
    print(f"{'run':24} {'GPUs':>5} {'published':>10} {'planned':>10} {'off by':>8}")
    rows = {run.name: {"published": run.tokens_per_s, "planned": predicted(run, gpu)} for run in RUNS}
    for run in RUNS:
        found = rows[run.name]["planned"]
        print(
            f"{run.name:24} {run.gpus:5} {run.tokens_per_s:10,.0f} {found:10,.0f} {100 * (found / run.tokens_per_s - 1):+7.0f} %"
        )
    print(record("planner_calibration", {"tokens_per_s_per_gpu": rows}))


if __name__ == "__main__":
    main()
