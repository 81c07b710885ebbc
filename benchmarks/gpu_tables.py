"""Tables of the documents, made of what one GPU measured: mmscale bench gpu-tables

Reads benchmarks/results/h200/*.json and writes each table, and the sentence over it, anew between its marks in docs/*.md; a
test holds the pages against the files. What the tables mean is written by hand.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "h200"
PAGES = [ROOT / "docs" / name for name in ("performance.md", "scaling.md")]
MARKED = re.compile(r"<!-- measured: ([\w-]+) -->.*?<!-- end -->", re.DOTALL)
GIB = 2**30
Document = dict[str, Any]


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; numbers stand to the right."""
    numbers = [all(re.fullmatch(r"(< )?[\d.,]*( %)?( \(\d+\))?", row[i]) for row in rows) for i in range(len(heads))]
    marks = ["---:" if number else "---" for number in numbers]
    return "".join(f"| {' | '.join(row)} |\n" for row in (heads, marks, *rows))


def shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def percent(part: float | None, whole: float | None, form: str = ".0f") -> str:
    if part is None or not whole:
        return ""
    return f"{100 * part / whole:{form}} %" if 100 * part / whole >= 0.5 else "< 1 %"


def made_by(files: dict[str, Document]) -> str:
    rows = []
    for name, document in files.items():
        made = document["made_with"]
        if name == "gpu_tests":
            counts = Counter(test["outcome"] for test in document["tests"])
            said = "`pytest tests/gpu`: " + ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
        else:
            _, script, *words = made["command"]
            said = f"`{' '.join(['mmscale bench', Path(script).stem.replace('_', '-'), *words])}`"
        rows.append((f"`{name}.json`", said, made["commit"]))
    return markdown(("file", "made by", "commit"), rows)


def train_step(files: dict[str, Document]) -> str:
    document = files["train_step_7b"]
    other = next(way["seconds"] for way in document["ways"] if way["way"].endswith("micro-batch 8"))
    rows = []
    for way in document["ways"]:
        took, peak = way["seconds"], way["peak_bytes"]
        rows.append(
            (
                way["way"],
                way["failure"] or shown(took, ".3f"),
                shown(way["times_as_fast"], ".2f"),
                shown(other / took if took and other else None, ".2f"),
                shown(peak and peak / GIB, ".1f"),
                percent(way["share_of_peak"], 1.0),
                shown(peak and (peak + way["weights_bytes"]) / GIB, ".1f"),
                percent(way["mfu"], 1.0, ".1f"),
            )
        )
    first, losses = document["first_batch"], [way["loss"] for way in document["ways"] if way["loss"] is not None]
    steps = {way["steps"] for way in document["ways"] if way["steps"]}
    said = (
        f"Steps of {document['batch']} examples ({first['tokens']:,} merged tokens, {first['targets']:,} of them targets, in the first); "
        f"timed per way: {' or '.join(map(str, sorted(steps)))}; rows of at most {document['row_tokens']:,} tokens; losses of the first from "
        f"{min(losses):.4f} to {max(losses):.4f}; peak for MFU {document['peak_tflops']} TFLOP/s.\n\n"
    )
    heads = "way, s per step, times micro-batch 2, times micro-batch 8, GiB beyond weights, of micro-batch 2's, GiB with weights, MFU"
    return said + markdown(heads.split(", "), rows)


def kernels(files: dict[str, Document]) -> str:
    document, rows = files["kernels"], []
    for op in document["ops"]:
        if not op["ours"]:
            rows.append((op["title"], "out of memory", "", "", "", ""))
            continue
        took, peaks, ours = op["seconds"], op["peak_bytes"], op["ours"]
        read = op.get("bytes_read")
        floor = read / document["roofs"]["copy_bytes_per_s"] if read else took.get("floor")
        alone = op.get("graph_seconds")
        shown = f"{1e3 * took[ours]:.3f}" + (f" ({1e3 * alone:.3f} in a graph)" if alone else "")
        first = (op["title"], shown, percent(floor, alone or took[ours]))
        for other in op["others"]:
            if other in op["out_of_memory"]:
                rows.append((*first, other, "out of memory", ""))
            else:
                rows.append((*first, other, f"{took[other] / took[ours]:.2f}", percent(peaks[ours], peaks[other])))
    roofs, apart = document["roofs"], [far for op in document["ops"] for far in op.get("wrong", {}).values()]
    wrong = (
        f"{len(apart)} results are farther from ours than the bench allows, by at most {max(apart):.1e}."
        if apart
        else "All results are those of ours but for rounding."
    )
    said = (
        f"In the same run a copy moved {roofs['copy_bytes_per_s'] / 1e12:.2f} TB/s, read and written, and a large product "
        f"reached {roofs['operations_per_s'] / 1e12:.0f} TFLOP/s. {wrong}\n\n"
    )
    return said + markdown(("op", "ms", "floor over ours", "against", "times as fast", "of its memory"), rows)


def adapter_choice(files: dict[str, Document]) -> str:
    rows = []
    for choice in files["adapter_choice"]["choices"]:
        sizes = " x ".join(f"{choice['shape'][key]:,}" for key in ("states", "encoder_width", "llm_width"))
        took = [choice["milliseconds"][way] for way in ("library", "triton")]
        times = [f"{own[way]:.3f}" for way in ("forward", "backward") for own in took]
        rows.append((sizes, *times))
    heads = (f"{way}: {product}, ms" for way in ("forward", "backward") for product in ("cuBLASLt", "Triton"))
    return markdown(("states x encoder x LLM", *heads), rows)


def proxy_decode(files: dict[str, Document]) -> str:
    document, rows = files["proxy_decode_7b"], []
    for one in document["batches"]:
        for way, speed in one["tokens_per_s"].items():
            times = (one[key].get(way) for key in ("times_published", "times_base_alone"))
            said = one["failed"].get(way) or shown(speed, ".1f")
            rows.append((str(one["batch"]), way, said, *(shown(value, ".2f") for value in times)))
    base, small, _ = (count / 1e9 for count in document["parameters"])
    off = [error["relative"] for one in document["batches"] for error in one["logit_errors"].values()]
    alike = [found for one in document["batches"] for found in one["answers"].values()]
    same, ties, different = (sum(one[key] for one in alike) for key in ("same", "near_ties", "different"))
    said = (
        f"A base of {base:.1f}B, expert and anti-expert of {small:.1f}B. Logits are off from float64's, relative to their norm, by "
        f"{document['published_logit_errors']['relative']:.3f} in the published way and by at most {max(off, default=math.nan):.3f} in ours. Of "
        f"{same + ties + different} answers of ours {same} are the published ones, {ties} part from them at a near-tie and "
        f"{different} elsewhere.\n\n"
    )
    return said + markdown(("batch", "way", "tokens/s", "times the published loop", "times the base alone"), rows)


def acceptance(files: dict[str, Document]) -> str:
    rows: list[tuple[str, ...]] = []
    heads: list[str] = []
    for one in files["proxy_decode_7b"]["batches"]:
        for key, how in (("by_acceptance", "yes"), ("by_acceptance, no graphs", "no")):
            if found := one.get(key):
                heads = [f"{each['acceptance']:.2f}" for each in found]
                cells = (f"{each['times_base_alone']:.2f} ({each['tokens']})" for each in found)
                rows.append((str(one["batch"]), how, *cells))
    return markdown(("batch", "graphs", *heads), rows)


def pair(files: dict[str, Document]) -> str:
    found = files["proxy_decode_7b"].get("pair", "not measured")
    if isinstance(found, str):  # why not
        return f"{found}\n"
    rows = [(str(one["rows"]), *(f"{1e3 * took:.3f}" for took in one["seconds"].values())) for one in found]
    return markdown(("rows", *(f"{way}, ms" for way in found[0]["seconds"])), rows)


def plan_check(files: dict[str, Document]) -> str:
    cases, rows = files["plan_check"]["cases"], []
    for case in cases:
        plan, real = case["planned"], case["measured"]
        if real is None:
            rows.append((case["case"], case["failure"], *[""] * 8))
            continue
        rows.append(
            (
                f"{case['case']}, {case['precision']}",
                f"{plan['allocated_bytes'] / GIB:.2f}",
                f"{real['allocated_bytes'] / GIB:.2f}",
                f"{case['memory_ratio']:.3f}",
                f"{real['reserved_bytes'] / GIB:.2f}",
                f"{plan['step_seconds']:.2f}",
                f"{real['step_seconds']:.2f}",
                f"{case['time_ratio']:.2f}",
                percent(plan["mfu"], 1.0, ".1f"),
                percent(real["mfu"], 1.0, ".1f"),
            )
        )
    contexts = [case["measured"]["context_bytes"] / GIB for case in cases if case["measured"]]
    said = f"The CUDA context, which is in none of these, took {max(contexts, default=math.nan):.2f} GiB.\n\n"
    heads = "case, GiB planned, measured, measured / planned, reserved, s per step planned, measured, measured / planned, MFU planned, measured"
    return said + markdown(heads.split(", "), rows)


TABLES: dict[str, Callable[[dict[str, Document]], str]] = {
    "made-by": made_by,
    "train-step": train_step,
    "kernels": kernels,
    "adapter-choice": adapter_choice,
    "proxy-decode": proxy_decode,
    "acceptance": acceptance,
    "pair": pair,
    "plan-check": plan_check,
}


def pages() -> Iterator[tuple[Path, str]]:
    """Each page, and its text with every table as the result files have it; KeyError for a mark that is not in TABLES."""
    files = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(RESULTS.glob("*.json"))}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        yield (
            page,
            MARKED.sub(lambda mark: f"<!-- measured: {mark[1]} -->\n\n{TABLES[mark[1]](files)}\n<!-- end -->", text),
        )


def main() -> None:
    if missing := [page for page in PAGES if not page.is_file()]:
        sys.exit(f"there is no {missing[0]}: the documents are written in a checkout")
    for page, text in pages():
        page.write_text(text, encoding="utf-8")
        print(page)


if __name__ == "__main__":
    main()
