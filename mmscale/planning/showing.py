"""A plan as one JSON object, and as tables for a person."""

from __future__ import annotations

import json
from typing import Any

from rich.table import Table

from mmscale.errors import UserError
from mmscale.planning.inference import inference
from mmscale.planning.plan import Given, Planned, Planner
from mmscale.progress import console

_GIB = 2**30


def describe(planner: Planner, given: Given, search: bool) -> dict[str, Any]:
    """Everything `mmscale plan` says. The top level repeats the stage that needs most memory."""
    parallel_plan = planner.configured
    stages: dict[str, Any] = {}
    for stage in planner.stages():
        examples = planner.examples(stage, given)
        planned = planner.stage(stage, parallel_plan, examples)
        entry = {**_entry(planned), "assumed": examples.source}
        if search or not planned.fits:
            entry["fitting"] = [_entry(other) for other in planner.fitting(stage, examples)]
        stages[stage.name] = entry
    if not stages:
        raise UserError("the configuration names no method to plan: add methods=[mindmerger], for example")
    answers = inference(
        planner.run, planner.cluster, planner.config, planner.llm, sum(planner.encoder), planner.quantized
    )
    parts = [*stages.values(), *_answering(answers).values()]
    worst = max(stages.values(), key=lambda entry: entry["memory_bytes"]["peak"])
    hours = [entry["gpu_hours"] for entry in stages.values()]
    return {
        "name": planner.run.name,
        **{key: worst[key] for key in ("parameters", "memory_bytes", "tokens_per_s_per_gpu", "mfu", "layout")},
        "gpu_memory_bytes": int(planner.cluster.gpu.memory_gib * _GIB),
        "fits": all(part["fits"] for part in parts),
        "tight": any(part["tight"] for part in parts),
        "gpu_hours": None if None in hours else sum(hours),
        "stages": stages,
        "inference": answers,
    }


def _answering(answers: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What answers tasks, by name: the run's own models, and those of proxy-tuning together."""
    answering = {"evaluation": answers} if answers else {}
    return answering | ({"proxy-tuning": answers["proxy"]} if "proxy" in answers else {})


def _verdict(part: dict[str, Any]) -> str:
    if not part["fits"]:
        return "does not fit"
    return "fits, but tight" if part["tight"] else "fits"


def _entry(planned: Planned) -> dict[str, Any]:
    return {
        "layout": {
            "ranks": planned.parallel_plan.ranks,
            "tensor_parallel_size": planned.parallel_plan.tensor,
            "data_parallel_size": planned.parallel_plan.data,
            "zero_stage": planned.parallel_plan.stage,
            "sequence_parallel": planned.parallel_plan.sequence_parallel,
        },
        "parameters": planned.parameters,
        "memory_bytes": planned.memory_bytes,
        "fits": planned.fits,
        "tight": planned.tight,
        "rows_per_step": planned.rows_per_step,
        "row_tokens": planned.row_tokens,
        "sent_bytes_per_step": planned.sent_bytes,
        "step_seconds": planned.step_seconds,
        "tokens_per_s_per_gpu": planned.tokens_per_s_per_gpu,
        "mfu": planned.mfu,
        "steps": planned.steps,
        "gpu_hours": planned.gpu_hours,
        "checkpoint_bytes": planned.checkpoint_bytes,
        "encoder_cache_bytes": planned.encoder_cache_bytes,
    }


def show_json(described: dict[str, Any]) -> None:
    print(json.dumps(described, indent=2))


def show(described: dict[str, Any]) -> None:
    """Tables on standard output, as wide as they need to be."""
    for name, entry in described["stages"].items():
        print(f"{described['name']} {name}: {_layout(entry['layout'])}; examples: {entry['assumed']}")
        _print(_memory(entry, described["gpu_memory_bytes"]))
        _print(_speed(entry))
        if entry.get("fitting"):
            print("layouts that fit, the fastest first:")
            _print(_fitting(entry["fitting"]))
    if described["inference"]:
        answer = described["inference"]
        print(
            f"evaluation, batch {answer['batch_size']} on {answer['tensor_parallel_size']} GPUs: "
            f"{answer['memory_bytes']['peak'] / _GIB:.1f} GiB each ({_verdict(answer)}), "
            f"{answer['tokens_per_s_per_gpu']:,.0f} tokens/s per GPU at most"
        )
        if "proxy" in answer:
            _show_proxy(answer["proxy"])


def _show_proxy(proxy: dict[str, Any]) -> None:
    speeds = proxy["tokens_per_s"]
    drafted = ", ".join(f"{speed:,.0f} at {share}" for share, speed in speeds["by_acceptance"].items())
    print(
        f"proxy-tuning on {proxy['tensor_parallel_size']} GPUs: {proxy['memory_bytes']['peak'] / _GIB:.1f} GiB each "
        f"({_verdict(proxy)}); tokens/s by memory traffic alone, a prediction: base alone "
        f"{speeds['base_alone']:,.0f}, proxy-tuned {speeds['plain']:,.0f}, with drafts {drafted} accepted"
    )


def _print(table: Table) -> None:
    from rich.console import Console

    Console(width=None if console.is_terminal else 120).print(table)


def _layout(layout: dict[str, int]) -> str:
    zero = f"ZeRO-{layout['zero_stage']}" if layout["zero_stage"] else "replicated"
    tensor = (
        f"tensor {layout['tensor_parallel_size']}{' with sequence parallelism' if layout['sequence_parallel'] else ''}"
    )
    return f"{layout['ranks']} GPUs = {tensor} x data {layout['data_parallel_size']}, {zero}"


def _memory(entry: dict[str, Any], available: int) -> Table:
    table = Table("memory per GPU", "GiB")
    table.columns[1].justify = "right"
    for name, value in entry["memory_bytes"].items():
        if not name.startswith("peak") and value:
            table.add_row(name.replace("_", " "), f"{value / _GIB:.2f}")
    table.add_section()
    for name, value in entry["memory_bytes"].items():
        if name.startswith("peak"):
            table.add_row(name.replace("_", " "), f"{value / _GIB:.2f}")
    table.add_row(f"of {available / _GIB:.1f}", _verdict(entry))
    return table


def _speed(entry: dict[str, Any]) -> Table:
    table = Table(
        "step",
        "tokens/s per GPU",
        "MFU",
        "sent per step (tensor, data)",
        "steps",
        "GPU hours",
        "checkpoint",
        "encoder cache",
    )
    sent = entry["sent_bytes_per_step"]
    table.add_row(
        f"{entry['step_seconds']:.2f} s, {entry['rows_per_step']} x {entry['row_tokens']} tokens per rank",
        f"{entry['tokens_per_s_per_gpu']:,.0f}",
        f"{100 * entry['mfu']:.1f} %",
        f"{sent['tensor'] / 1e9:.1f}, {sent['data'] / 1e9:.1f} GB",
        "?" if entry["steps"] is None else f"{entry['steps']:,}",
        "?" if entry["gpu_hours"] is None else f"{entry['gpu_hours']:,.1f}",
        f"{entry['checkpoint_bytes'] / 1e9:.2f} GB",
        "?" if entry["encoder_cache_bytes"] is None else f"{entry['encoder_cache_bytes'] / 1e9:.1f} GB",
    )
    return table


def _fitting(entries: list[dict[str, Any]]) -> Table:
    table = Table("layout", "peak GiB", "s per step", "tokens/s per GPU", "MFU")
    for entry in entries:
        table.add_row(
            _layout(entry["layout"]),
            f"{entry['memory_bytes']['peak'] / _GIB:.1f}",
            f"{entry['step_seconds']:.2f}",
            f"{entry['tokens_per_s_per_gpu']:,.0f}",
            f"{100 * entry['mfu']:.1f} %",
        )
    return table


def does_not_fit(described: dict[str, Any]) -> UserError:
    """One sentence: what needs how much, and the nearest layout or setting that fits."""
    have = described["gpu_memory_bytes"] / _GIB
    for name, entry in described["stages"].items():
        if not entry["fits"]:
            needs = max(value for key, value in entry["memory_bytes"].items() if key in _PEAKS) / _GIB
            return UserError(f"{name} needs {needs:.1f} GiB on each GPU, which has {have:.1f}: {_layout_remedy(entry)}")
    name, part = next((name, part) for name, part in _answering(described["inference"]).items() if not part["fits"])
    peak = part["memory_bytes"]["peak"] / _GIB
    return UserError(
        f"{name} needs {peak:.1f} GiB on each GPU, which has {have:.1f}: raise parallel.tensor_parallel_size, hold the model "
        f"with dtype=bfloat16, or lower generation.batch_size"
    )


_PEAKS = ("peak", "peak_loading", "peak_saving")


def _layout_remedy(entry: dict[str, Any]) -> str:
    if not entry["fitting"]:
        return "none of this cluster's layouts does: use more nodes, or smaller packing.row_tokens"
    best = entry["fitting"][0]["layout"]
    return (
        f"the fastest layout that fits is parallel.tensor_parallel_size={best['tensor_parallel_size']} "
        f"parallel.zero.stage={best['zero_stage']}"
    )
