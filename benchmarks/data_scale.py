"""Memory and seconds of each process from rows to the first steps: mmscale bench data-scale [--rows 10000 100000 1000000]

Makes a corpus of question and chain of thought in eleven languages, as one JSONL file that all languages share or as one parquet
file per language, then tokenises it by one process and by two, and has each open the tokens and pack its first steps. Reported
per process: seconds to the tokens, seconds from there to the first packed step, and the peak of resident memory (VmHWM), of
which pages of mapped files belong to the page cache.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from mmscale.config.data import DataConfig
from mmscale.config.run import load_run
from mmscale.data.loading import load_records
from mmscale.data.packing import DataParallelRank, StepOrder, pack
from mmscale.data.records import Problem
from mmscale.data.token_store import merged_lengths
from mmscale.languages import MGSM_LANGUAGES
from mmscale.parallel.context import ParallelContext
from mmscale.parallel.world import World
from mmscale.runs.run import stages_of
from mmscale.runs.stage_data import StageData

from .recording import record

STEPS = 20
LAYOUTS = {"one file": "rows.jsonl", "parquet": "{language}.parquet"}
MIB = 2**20
_PATTERNS = 200
"""Different problems of a language; the rows that come of one differ in a number."""


def rows(count: int) -> Iterator[dict[str, str]]:
    """Rows in mCoT-MATH's form, one language after another and again."""
    data = DataConfig(
        source="tinyworld",
        languages=MGSM_LANGUAGES,
        limit_per_language=_PATTERNS,
        options={"form": "problem", "rationale_language": "same"},
    )
    patterns = [record for record in load_records(data, ())[0] if isinstance(record, Problem)]
    for i in range(count):
        record = patterns[i % len(MGSM_LANGUAGES) * _PATTERNS + i // len(MGSM_LANGUAGES) % _PATTERNS]
        asked = f"{record.question} {record.question} {i}"
        yield {"lang-id": record.language, "question": asked, "answer": f"{record.rationale}\n{record.rationale}"}


def write(folder: Path, count: int, layout: str) -> str:
    """A corpus of so many rows; its path in a configuration."""
    path = str(folder / LAYOUTS[layout])
    if layout == "one file":
        with open(path, "w", encoding="utf-8") as handle:
            handle.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(count))
        return path
    import pyarrow
    import pyarrow.parquet

    whole = pyarrow.Table.from_pylist(list(rows(count)))
    for code in MGSM_LANGUAGES:
        chosen = whole.filter(pyarrow.compute.equal(whole["lang-id"], code))
        pyarrow.parquet.write_table(chosen, path.replace("{language}", code), row_group_size=10_000)
    return path


def configuration(folder: Path, path: str, drop: list[str]) -> list[str]:
    """Overrides of configs/quickstart.yaml that read the corpus."""
    data = {"source": "mcot_math", "path": path, "drop": drop}
    tuning = "recipes.multilingual_cot.tuning"
    packing = {"row_tokens": 8192, "global_batch_tokens": 32768, "max_prompt_tokens": 256, "max_target_tokens": 256}
    return [
        f"output_dir={folder}/run",
        "methods=[multilingual_cot]",
        f"{tuning}.data=[{json.dumps(data)}]",
        f"{tuning}.packing={json.dumps(packing)}",
    ]


def peak_bytes() -> int:
    """The largest resident memory of this process so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise OSError("this system does not report VmHWM")


def process(config: str, overrides: list[str], rank: int, size: int) -> dict[str, float]:
    """One process: tokenise its share, wait for the others, open the tokens, pack the first steps."""
    stage = stages_of(load_run(config, overrides))[0]
    started, before = time.monotonic(), time.process_time()
    StageData(stage).prepare(World(rank=rank, size=size))
    tokens, busy, tokenised = time.monotonic() - started, time.process_time() - before, peak_bytes()
    started = time.monotonic()
    data = StageData(stage).tokens(ParallelContext(device=torch.device("cpu")))
    order = StepOrder(merged_lengths(data.train), stage.config.packing, stage.run.seed, DataParallelRank(rank, size))
    for number in range(STEPS):
        for row in order.step(number)[2]:
            pack([data.train[i] for i in row], data.specials)
    return {
        "examples": len(data.train),
        "tokens_s": round(tokens, 2),
        "cpu_s": round(busy, 2),
        "peak_mib_tokens": round(tokenised / MIB),
        "first_steps_s": round(time.monotonic() - started, 2),
        "peak_mib": round(peak_bytes() / MIB),
    }


def measure(count: int, layout: str, size: int, drop: list[str], config: str) -> list[dict[str, Any]]:
    """What each process of `size` reports."""
    with tempfile.TemporaryDirectory() as name:
        settings = configuration(Path(name), write(Path(name), count, layout), drop)
        command = [sys.executable, "-m", "mmscale.benchmarks.data_scale", "--process", config, *settings]
        started = [
            subprocess.Popen([*command, str(rank), str(size)], stdout=subprocess.PIPE, text=True)
            for rank in range(size)
        ]
        outputs = [one.communicate()[0] for one in started]
        if any(one.returncode for one in started):
            sys.exit("a process failed: its message is above")
        return [json.loads(output.strip().splitlines()[-1]) for output in outputs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--drop", nargs="*", default=[], help="filters whose rows are left out")
    parser.add_argument("--config", default="configs/quickstart.yaml")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--process", nargs=argparse.REMAINDER, help="be one: CONFIG OVERRIDES RANK SIZE")
    arguments = parser.parse_args()
    if arguments.process:
        config, *overrides, rank, size = arguments.process
        print(json.dumps(process(config, overrides, int(rank), int(size))))
        return
    found = [
        {"layout": layout, "rows": count, "processes": size, "each": measured}
        for layout in arguments.layouts
        for count in arguments.rows
        for size in arguments.processes
        if (measured := measure(count, layout, size, arguments.drop, arguments.config))
    ]
    record("data_scale", {"drop": arguments.drop, "measured": found})
    print(json.dumps(found, indent=2) if arguments.json else table(found))


def table(found: list[dict[str, Any]]) -> str:
    """The measurements as lines of Markdown; of several processes the slowest and the largest."""
    head = "| layout | rows | processes | seconds to tokens | of the CPU | then to the first steps | peak MiB per process |"
    lines = [head, "|---|---|---|---|---|---|---|"]
    for one in found:
        most = {key: max(each[key] for each in one["each"]) for key in one["each"][0]}
        lines.append(
            f"| {one['layout']} | {one['rows']:,} | {one['processes']} | {most['tokens_s']:.1f} | {most['cpu_s']:.1f} "
            f"| {most['first_steps_s']:.1f} | {most['peak_mib']:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
