"""Proxy-tuned decoding, ours against the published way: python benchmarks/proxy_decode.py

    (a) the published way: three sequential transformers forwards a token, growing caches, concatenated ids, left padding
    (b) the base alone, by our engine
    (c) base, expert and anti-expert by our engine, a token a round
    (d) the same, the expert drafting, as many tokens a round as measured acceptance and costs make fastest

Tokens a second at several batch sizes, medians of runs that take turns; (a), (c) and (d) have to give the same answers. The
models are tinyworld's, expert and anti-expert trained and untuned, widened by zeros to a ratio of about 10 to 1, so that
arithmetic and not Python sets their time, and what they answer, and so acceptance, stays that of the trained ones. From the
measured costs the speed is also predicted for other acceptances.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recording import record
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from widening import widened

from mmscale.config.data import DataConfig
from mmscale.config.evaluation import GenerationConfig
from mmscale.config.run import load_run
from mmscale.data.loading import load_records
from mmscale.data.segments import TokenizedExample
from mmscale.decoding.ending import Ending
from mmscale.decoding.ensemble import Ensemble
from mmscale.decoding.generate import stream
from mmscale.decoding.pace import CANDIDATES, Pace, tokens_a_round
from mmscale.evaluation.solving import Solver
from mmscale.methods import method
from mmscale.methods.recipe import train_method
from mmscale.methods.solvers import Steering, proxy_solver
from mmscale.models.assembly import read_parts
from mmscale.models.loading import resolve_path
from mmscale.parallel.layout import Layout

Answers = list[list[int]]
Way = Callable[[Sequence[list[TokenizedExample]], int], Answers]
"""(each model's prompts, batch size) -> new tokens of every prompt, in order."""
WAYS = ("published", "base alone", "ours, plain", "ours, speculative")


class Published:
    """As the authors' code decodes: every model in turn, its cache grown by concatenation."""

    def __init__(self, folders: Sequence[str], alpha: float, end: Ending, bos: int, new_tokens: int) -> None:
        self.models = [AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval() for folder in folders]
        self.alpha, self.end, self.bos, self.new_tokens = alpha, end, bos, new_tokens

    @torch.inference_mode()
    def __call__(self, prompts: Sequence[list[TokenizedExample]], batch: int) -> Answers:
        found: Answers = []
        for begin in range(0, len(prompts[0]), batch):
            found += self._batch([own[begin : begin + batch] for own in prompts])
        return found

    def _batch(self, prompts: Sequence[list[TokenizedExample]]) -> Answers:
        rows = [[(self.bos, *example.prompt_ids) for example in own] for own in prompts]
        ids, masks = zip(*(self._padded(own) for own in rows), strict=True)
        feeds, masks, caches = list(ids), list(masks), [None] * len(self.models)
        answers: Answers = [[] for _ in rows[0]]
        unfinished = [True] * len(answers)
        for _ in range(self.new_tokens):
            logits = []
            for m, model in enumerate(self.models):
                places = (masks[m].cumsum(1) - 1).clamp(min=0)[:, -feeds[m].shape[1] :]
                out = model(
                    feeds[m], attention_mask=masks[m], position_ids=places, past_key_values=caches[m], use_cache=True
                )
                caches[m] = out.past_key_values
                logits.append(out.logits[:, -1])
            base, expert, antiexpert = logits
            tokens = (base + self.alpha * (expert - antiexpert)).argmax(-1)
            for row, token in enumerate(tokens.tolist()):
                if unfinished[row]:
                    answers[row].append(token)
                    unfinished[row] = not self.end.reached(answers[row])
            if not any(unfinished):
                break
            feeds = [tokens[:, None]] * len(self.models)
            masks = [torch.cat([mask, mask.new_ones(len(answers), 1)], 1) for mask in masks]
        return answers

    @staticmethod
    def _padded(rows: list[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
        longest = max(map(len, rows))
        ids = torch.tensor([[0] * (longest - len(row)) + list(row) for row in rows])
        return ids, torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])


def engine_way(
    solver: Solver, ensemble: Ensemble, config: GenerationConfig, paces: list[Pace], fixed: int | None
) -> Way:
    """Our engine over some of the solver's models."""

    def run(prompts: Sequence[list[TokenizedExample]], batch: int) -> Answers:
        pace = Pace(ensemble.device, fixed)
        paces.append(pace)
        chosen = config.model_copy(update={"batch_size": batch})
        used = prompts[: len(ensemble.models)]
        found = stream(ensemble, used, chosen, solver.end, solver.context_length, pace)
        return [one.token_ids for one in sorted(found, key=lambda one: one.prompt)]

    return run


def small_models(run: Path, expert: str | None) -> tuple[str, str, str | None]:
    """(expert, anti-expert, prompt): a model folder, or question alignment's of a quickstart run, trained there if it is
    not yet.
    """
    if expert is not None:
        return expert, "tinyworld:llm", read_parts(expert).prompt
    config = load_run("configs/quickstart.yaml", [f"output_dir={run}"])
    trained = train_method(config, method("question_alignment"), Layout(torch.device("cpu")))
    return trained.language_model.path, config.language_model.path, trained.prompt


def wide_copies(folder: Path, widths: tuple[int, int], expert: str, antiexpert: str) -> list[str]:
    """Folders of base, expert and anti-expert at the widths of the benchmark."""
    found = []
    for name, path, width in (
        ("base", "tinyworld:large_llm", widths[1]),
        ("expert", expert, widths[0]),
        ("antiexpert", antiexpert, widths[0]),
    ):
        source = resolve_path(path)
        widened(AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32), width).save_pretrained(folder / name)
        AutoTokenizer.from_pretrained(source).save_pretrained(folder / name)
        found.append(str(folder / name))
    return found


def rates(ways: dict[str, Way], prompts: Sequence[list[TokenizedExample]], batch: int, runs: int) -> dict[str, Any]:
    """Tokens a second of every way; SystemExit when the proxy-tuned ones do not answer alike."""
    took: dict[str, list[float]] = {name: [] for name in ways}
    answers: dict[str, Answers] = {}
    for number in range(runs + 1):
        for name, way in ways.items():
            begin = time.perf_counter()
            answers[name] = way(prompts, batch)
            if number:  # the first one warms up
                made = sum(len(ids) for ids in answers[name])
                took[name].append(made / (time.perf_counter() - begin))
    first = answers[WAYS[0]]
    for name in WAYS[2:]:
        same = sum(a == b for a, b in zip(answers[name], first, strict=True)) / len(first)
        if same < 0.97:  # float32: a near-tie may fall to either side
            sys.exit(f"batch {batch}: {name} gives another answer than the published way in {100 * (1 - same):.0f} %")
    return {name: statistics.median(values) for name, values in took.items()}


def predicted(pace: Pace, base: float, acceptances: Sequence[float]) -> list[dict[str, float]]:
    """Best tokens a round and speed against the base alone (`base` seconds a token), by the costs that a run measured: see
    docs/proxy-tuning.md. Verifying is interpolated between the numbers of tokens that were tried.
    """
    tried = sorted(pace.verifying)
    verifying = [pace.verifying[k].value for k in tried]

    def speed(acceptance: float, tokens: int) -> float:
        seconds = tokens * pace.drafting.value + float(np.interp(tokens, tried, verifying))
        return tokens_a_round(acceptance, tokens) / seconds

    found = []
    for acceptance in acceptances:
        best = max(range(1, CANDIDATES[-1] + 1), key=lambda k: speed(acceptance, k))
        found.append({"acceptance": acceptance, "tokens": best, "times_base_alone": base * speed(acceptance, best)})
    return found


def measure(folder: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    expert, antiexpert, prompt = small_models(chosen.run, chosen.expert)
    folders = wide_copies(folder, (chosen.small_width, chosen.base_width), expert, antiexpert)
    base, *small = (replace(read_parts(path), prompt=prompt) for path in folders)
    solver = proxy_solver("proxy", base, Steering(small[0], small[1]), Layout(torch.device("cpu"))).loaded
    data = DataConfig(
        source="tinyworld", split="test", languages=tuple(chosen.languages), limit_per_language=chosen.problems
    )
    records, _ = load_records(data, tuple(chosen.languages))
    prompts = [tokenize(records, with_target=False) for tokenize in solver.tokenizers]
    config = GenerationConfig(max_new_tokens=chosen.new_tokens)
    alone = Ensemble(solver.ensemble.base)
    paces: dict[str, list[Pace]] = {name: [] for name in WAYS}
    lm = solver.ensemble.base.model.language_model
    ways: dict[str, Way] = {
        WAYS[0]: Published(folders, 1.0, solver.end, lm.specials.bos, chosen.new_tokens),
        WAYS[1]: engine_way(solver, alone, config, paces[WAYS[1]], 1),
        WAYS[2]: engine_way(solver, solver.ensemble, config, paces[WAYS[2]], 1),
        WAYS[3]: engine_way(solver, solver.ensemble, config, paces[WAYS[3]], None),
    }
    sizes = [sum(p.numel() for p in m.model.parameters()) for m in solver.ensemble.models]
    found = []
    for batch in chosen.batches:
        # a few prompts do at a batch of one
        count = min(len(records), max(batch, 4))
        speeds = rates(ways, [own[:: max(1, len(own) // count)] for own in prompts], batch, chosen.runs)
        pace = paces[WAYS[3]][-1]
        found.append(
            {
                "batch": batch,
                "tokens_per_s": speeds,
                "times_published": {name: speed / speeds[WAYS[0]] for name, speed in speeds.items()},
                "times_base_alone": {name: speed / speeds[WAYS[1]] for name, speed in speeds.items()},
                **pace.report(),
                "by_acceptance": predicted(pace, batch / speeds[WAYS[1]], (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)),
            }
        )
    return {"device": "cpu", "gpu": "not measured", "parameters": sizes, "ratio": sizes[0] / sizes[1], "batches": found}


def show(values: dict[str, Any]) -> None:
    table = Table("batch", "way", "tokens/s", "times the published way", "times the base alone")
    for row in values["batches"]:
        for name in WAYS:
            numbers = (row["tokens_per_s"][name], row["times_published"][name], row["times_base_alone"][name])
            table.add_row(str(row["batch"]), name, *(f"{number:.2f}" for number in numbers))
    Console(width=110).print(table)
    for row in values["batches"]:
        print(
            f"batch {row['batch']}: {100 * row['acceptance']:.0f} % of drafts accepted, "
            f"{row['tokens_per_round']:.2f} tokens a round"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/quickstart"), help="quickstart run with the expert")
    parser.add_argument("--expert", help="folder of another tuned small model")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--languages", nargs="+", default=["en", "de", "es", "sw"])
    parser.add_argument("--problems", type=int, default=8, help="of a language")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--small-width", type=int, default=768)
    parser.add_argument("--base-width", type=int, default=2304)
    parser.add_argument("--json", action="store_true", help="one object on standard output instead of a table")
    chosen = parser.parse_args()
    if not torch.cuda.is_available():
        os.environ.setdefault(
            "DS_ACCELERATOR", "cpu"
        )  # DeepSpeed, which saving a model imports, would say so on standard output
    with tempfile.TemporaryDirectory() as name:
        values = measure(Path(name), chosen)
    path = record("proxy_decode", values)
    if chosen.json:
        print(json.dumps(values, indent=2))
        return
    show(values)
    print(path)


if __name__ == "__main__":
    main()
