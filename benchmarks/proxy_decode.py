"""Proxy-tuned decoding, ours against the published loop: mmscale bench proxy-decode

    (a) the published loop, written again for today's transformers: three sequential transformers forwards per token, growing caches, concatenated ids, left padding
    (b) the base alone, by our engine
    (c) base, expert and anti-expert by our engine, a token a round
    (d) the same, the expert drafting, as many tokens per round as measured acceptance and costs make fastest

Tokens per second at several batch sizes, medians of runs that take turns; (a), (c) and (d) have to give the same answers. The
models are tinyworld's, expert and anti-expert trained and untuned, widened by zeros to a ratio of about 10 to 1, so that
arithmetic and not Python sets their time, and what they answer, and so acceptance, stays that of the trained ones. From the
measured costs the speed is also predicted for other acceptances. With `--shape 7b` (for a GPU) the weights are random: acceptance
means nothing then, (d) is left out, and that prediction from costs is what there is.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer

from mmscale.answering.local import Steering, proxy_answerer
from mmscale.config.data import DataConfig
from mmscale.config.run import load_run
from mmscale.data.loading import load_records
from mmscale.data.segments import SpecialTokens, TokenizedExample
from mmscale.decoding.ensemble import Ensemble, ModelStepper
from mmscale.decoding.graphs import recorder
from mmscale.decoding.stop_criteria import StopCriteria
from mmscale.methods import method
from mmscale.models.assembly import read_parts
from mmscale.models.language_model import LanguageModel
from mmscale.models.loading import resolve_path
from mmscale.models.merge import MergedModel
from mmscale.models.packed_linear import pack_linears
from mmscale.parallel.context import ParallelContext
from mmscale.runs.run import train_method

from .proxy_ways import Setup, measure
from .recording import record
from .shapes import LLAMA, PROMPT, TEMPLATE, as_transformers_runs_it, random_llama
from .widening import widened


def small_models(run: Path, expert: str | None) -> tuple[str, str, str | None]:
    """(expert, anti-expert, prompt): a model folder, or question alignment's of a quickstart run, trained there if it is
    not yet.
    """
    if expert is not None:
        return expert, "tinyworld:llm", read_parts(expert).prompt
    config = load_run("configs/quickstart.yaml", [f"output_dir={run}"])
    trained = train_method(config, method("question_alignment"), ParallelContext(device=torch.device("cpu")))
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


def trained(folder: Path, chosen: argparse.Namespace) -> Setup:
    """tinyworld's models, made wider."""
    expert, antiexpert, prompt = small_models(chosen.run, chosen.expert)
    folders = wide_copies(folder, (chosen.small_width, chosen.base_width), expert, antiexpert)
    base, *small = (replace(read_parts(path), prompt=prompt) for path in folders)
    solver = proxy_answerer(
        "proxy", base, Steering(expert=small[0], antiexpert=small[1]), ParallelContext(device=torch.device("cpu"))
    ).loaded
    data = DataConfig(
        source="tinyworld", split="test", languages=tuple(chosen.languages), limit_per_language=chosen.problems
    )
    records, _ = load_records(data, tuple(chosen.languages))
    prompts = [tokenize(records, with_target=False) for tokenize in solver.tokenizers]
    published = [AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval() for path in folders]
    return Setup(solver.ensemble, published, prompts, solver.end, solver.context_length, chosen.new_tokens, True)


def random_weights(names: tuple[str, str], chosen: argparse.Namespace) -> Setup:
    """Random weights of published shapes, (base, small) of shapes.LLAMA, prompts as long as MGSM's."""
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shapes = [LLAMA[names[0]], LLAMA[names[1]], LLAMA[names[1]]]
    ours = [random_llama(shape, device) for shape in shapes]
    published = [as_transformers_runs_it(model, "sdpa") for model in ours]
    specials = SpecialTokens(1, 2)
    for model in ours:
        pack_linears(model)
    base, expert, antiexpert = (
        ModelStepper(MergedModel(LanguageModel(model, None, specials)), recorder=recorder(device)) for model in ours
    )
    generator = torch.Generator().manual_seed(0)
    lengths = [PROMPT.draw(generator) + TEMPLATE for _ in range(max(*chosen.batches, 4))]
    ids = [torch.randint(3, shapes[0]["vocab_size"], (length,), generator=generator).tolist() for length in lengths]
    prompts = [
        TokenizedExample(prompt_ids=tuple(own), target_ids=(), encoder_ids=(), language="en", origin=f"random {i}")
        for i, own in enumerate(ids)
    ]
    end = StopCriteria(frozenset(), (), lambda ids: "")  # every answer takes all its tokens
    context = int(shapes[0]["max_position_embeddings"])
    return Setup(Ensemble(base, (expert, antiexpert)), published, [prompts] * 3, end, context, chosen.new_tokens, False)


def largest_base() -> str:
    """The largest base that leaves a GPU room for two models of 7B, caches and a fifth of the memory."""
    free = torch.cuda.mem_get_info()[1] if torch.cuda.is_available() else 0
    sizes = {"34b": 68e9, "13b": 26e9}  # bytes in bfloat16
    return next((name for name, size in sizes.items() if size + 27e9 < 0.8 * free), "7b")


def show(values: dict[str, Any]) -> None:
    table = Table("batch", "way", "tokens/s", "times the published loop", "times the base alone")
    for row in values["batches"]:
        for name in row["tokens_per_s"]:
            numbers = (row["tokens_per_s"][name], row["times_published"][name], row["times_base_alone"][name])
            table.add_row(str(row["batch"]), name, *(f"{number:.2f}" for number in numbers))
    Console(width=110).print(table)
    for row in values["batches"]:
        if "acceptance" in row:
            print(
                f"batch {row['batch']}: {100 * row['acceptance']:.0f} % of drafts accepted, "
                f"{row['tokens_per_round']:.2f} tokens per round"
            )
        speeds = ", ".join(f"{one['acceptance']:.2f}: {one['times_base_alone']:.2f}" for one in row["by_acceptance"])
        print(f"batch {row['batch']}: times the base alone by acceptance, from measured costs: {speeds}")


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
    parser.add_argument(
        "--shape",
        default="tinyworld",
        choices=["tinyworld", "7b", "small"],
        help="7b: random weights, two small models of 7B and the largest base that fits the GPU; small: the same for a CPU",
    )
    parser.add_argument("--json", action="store_true", help="one object on standard output instead of a table")
    chosen = parser.parse_args()
    if not torch.cuda.is_available():
        os.environ.setdefault(
            "DS_ACCELERATOR", "cpu"
        )  # DeepSpeed, which saving a model imports, would say so on standard output
    with tempfile.TemporaryDirectory() as name:
        if chosen.shape == "tinyworld":
            setup = trained(Path(name), chosen)
        else:
            setup = random_weights((largest_base(), "7b") if chosen.shape == "7b" else ("little", "tiny"), chosen)
        values = {"shape": chosen.shape, **measure(setup, chosen.batches, chosen.runs)}
    path = record("proxy_decode" if chosen.shape == "tinyworld" else f"proxy_decode_{chosen.shape}", values)
    if chosen.json:
        print(json.dumps(values, indent=2))
    else:
        show(values)
        print(path)
    wrong = {name for row in values["batches"] for name, told in row["answers"].items() if told["different"]}
    if wrong:
        sys.exit(f"{', '.join(sorted(wrong))}: other answers than the published way, and no near-tie explains them")


if __name__ == "__main__":
    main()
