"""Proxy-tuned decoding, ours against the published loop: mmscale bench proxy-decode

    published          the published loop, written again for today's transformers: three sequential transformers forwards per token,
                       growing caches, concatenated ids, left padding
    base alone         the base alone, by our engine
    ours, plain        base, expert and anti-expert by our engine, a token a round
    ours, speculative  the same, the expert drafting, as many tokens per round as measured acceptance and costs make fastest

Tokens per second at several batch sizes, medians of runs that take turns on a CPU; on a GPU each way has the memory for itself, runs
with its steps recorded as CUDA graphs and without, and what does not fit is told instead of a number. Logits of ours are held
against float64 beside the published ones, behind the same tokens, and answers may part where that rounding decides. The
models are tinyworld's, expert and anti-expert trained and untuned, widened by zeros to a ratio of about 10 to 1, so that
arithmetic and not Python sets their time, and what they answer, and so acceptance, stays that of the trained ones. From the
measured costs the speed is also predicted for other acceptances. With `--shape 7b` (for a GPU) the weights are random: acceptance
means nothing then, and that prediction from costs is what there is of speculation; the products of expert and anti-expert are also
tried as one batched product and on two streams. What is measured is in the result file at once.
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
from mmscale.decoding.speculation import CANDIDATES
from mmscale.decoding.stop_criteria import StopCriteria
from mmscale.methods import method
from mmscale.models.assembly import read_parts
from mmscale.models.language_model import LanguageModel
from mmscale.models.merge import MergedModel
from mmscale.models.packed_linear import pack_linears
from mmscale.models.places import resolve_path
from mmscale.parallel.context import ParallelContext
from mmscale.runs.run import train_method

from .memory import release
from .proxy_costs import most_tokens
from .proxy_pair import measure_pair
from .proxy_ways import NO_MEMORY, TRIED, ProxySetup, measure
from .recording import record
from .shapes import LLAMA, PROMPT, TEMPLATE, as_transformers_runs_it, cached_numbers, parameters, random_llama
from .widening import widened

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
OTHERS = 2e9
"""Bytes of a GPU that kernels, libraries and recordings take."""
ROOM = 1.1
"""Room for keys and values, over their size: growing ones, which are copied to grow, leave holes."""


def small_models(run: Path, expert: str | None) -> tuple[str, str, str | None]:
    """(expert, anti-expert, prompt): a model folder, or question alignment's of a quickstart run, trained there if it is
    not yet.
    """
    if expert is not None:
        return expert, "tinyworld:llm", read_parts(expert).prompt
    config = load_run("configs/quickstart.yaml", [f"output_dir={run}"])
    trained = train_method(config, method("question_alignment"), ParallelContext(device=DEVICE))
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


def trained(folder: Path, chosen: argparse.Namespace) -> ProxySetup:
    """tinyworld's models, made wider."""
    expert, antiexpert, prompt = small_models(chosen.run, chosen.expert)
    folders = wide_copies(folder, (chosen.small_width, chosen.base_width), expert, antiexpert)
    base, *small = (replace(read_parts(path), prompt=prompt) for path in folders)
    solver = proxy_answerer(
        "proxy", base, Steering(expert=small[0], antiexpert=small[1]), ParallelContext(device=DEVICE)
    ).loaded
    data = DataConfig(
        source="tinyworld", split="test", languages=tuple(chosen.languages), limit_per_language=chosen.problems
    )
    records, _ = load_records(data, tuple(chosen.languages))
    prompts = [tokenize(records, with_target=False) for tokenize in solver.tokenizers]
    read: list[Any] = [AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for path in folders]
    published = [model.to(DEVICE).eval() for model in read]
    return ProxySetup(
        solver.ensemble,
        published,
        prompts,
        solver.end,
        solver.context_length,
        chosen.new_tokens,
        trained=True,
        alone=DEVICE.type == "cuda",
    )


def random_weights(names: tuple[str, str] | None, chosen: argparse.Namespace) -> ProxySetup:
    """Random weights of published shapes, (base, small) of shapes.LLAMA, prompts as long as MGSM's; None for the largest base
    that the memory of a GPU holds beside two small models of 7B.
    """
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    lengths = [PROMPT.draw(generator) + TEMPLATE for _ in range(max(*chosen.batches, 4))]
    base_name, small_name = names or (largest_base(max(lengths), chosen), "7b")
    shapes = [LLAMA[base_name], LLAMA[small_name], LLAMA[small_name]]
    ours = [random_llama(shape, DEVICE) for shape in shapes]
    published = [as_transformers_runs_it(model, "sdpa") for model in ours]
    specials = SpecialTokens(1, 2)
    for model in ours:
        pack_linears(model)
    base, expert, antiexpert = (
        ModelStepper(MergedModel(LanguageModel(model, None, specials)), recorder=recorder(DEVICE)) for model in ours
    )
    ids = [torch.randint(3, shapes[0]["vocab_size"], (length,), generator=generator).tolist() for length in lengths]
    prompts = [
        TokenizedExample(prompt_ids=tuple(own), target_ids=(), encoder_ids=(), language="en", origin=f"random {i}")
        for i, own in enumerate(ids)
    ]
    end = StopCriteria(frozenset(), (), lambda ids: "")  # every answer takes all its tokens
    context, ensemble = int(shapes[0]["max_position_embeddings"]), Ensemble(base, (expert, antiexpert))
    least, alone = (1, True) if DEVICE.type == "cuda" else (4, False)
    return ProxySetup(ensemble, published, [prompts] * 3, end, context, chosen.new_tokens, False, least, alone)


def needed_bytes(names: tuple[str, str], longest: int, batch: int, new_tokens: int) -> float:
    """Memory of a GPU that base and two small models take in bfloat16: their weights, keys and values of one way at a time,
    what a padded prefill makes, or else a layer in float64."""
    base, small = (LLAMA[name] for name in names)
    weights = 2 * (parameters(base)["all"] + 2 * parameters(small)["all"])
    tokens = batch * (longest + 1 + max(new_tokens, most_tokens(TRIED)) + CANDIDATES[-1])
    caches = 2 * tokens * (cached_numbers(base) + 2 * cached_numbers(small))
    prefill = 2 * tokens * (base["vocab_size"] + 3 * base["intermediate_size"] + 4 * base["hidden_size"])
    in_float64 = 8 * max(parameters(base)["layer"], parameters(base)["head"])
    return weights + max(ROOM * caches + prefill, in_float64) + OTHERS


def largest_base(longest: int, chosen: argparse.Namespace) -> str:
    """The largest base that leaves a GPU room for two models of 7B and all keys and values; 7b where none does."""
    free = torch.cuda.mem_get_info()[0] if DEVICE.type == "cuda" else 0
    fits = (
        name
        for name in ("34b", "13b")
        if needed_bytes((name, "7b"), longest, max(chosen.batches), chosen.new_tokens) <= free
    )
    return next(fits, "7b")


def show(values: dict[str, Any]) -> None:
    table = Table("batch", "way", "tokens/s", "times the published loop", "times the base alone", "recorded")
    for row in values["batches"]:
        for name in row["tokens_per_s"]:
            numbers = (row["tokens_per_s"][name], row["times_published"][name], row["times_base_alone"][name])
            words = [row["failed"].get(name, "-") if number is None else f"{number:.2f}" for number in numbers]
            table.add_row(str(row["batch"]), name, *words, str(row["recordings"].get(name, "")))
    Console(width=120).print(table)
    for row in values["batches"]:
        for name, why in row["failed"].items():
            print(f"batch {row['batch']}: {name}: {why}")
        if row.get("acceptance") is not None:
            print(
                f"batch {row['batch']}: {100 * row['acceptance']:.0f} % of drafts accepted, "
                f"{row['tokens_per_round']:.2f} tokens per round"
            )
        for key in [key for key in row if key.startswith("by_acceptance")]:
            speeds = ", ".join(f"{one['acceptance']:.2f}: {one['times_base_alone']:.2f}" for one in row[key])
            print(f"batch {row['batch']}: times the base alone {key.replace('_', ' ')}, from measured costs: {speeds}")
    for one in values.get("pair") or []:
        print(f"{one['rows']} rows of a layer of expert and anti-expert, seconds: {one['seconds']}")


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
    values: dict[str, Any] = {"shape": chosen.shape}
    name = "proxy_decode" if chosen.shape == "tinyworld" else f"proxy_decode_{chosen.shape}"

    def keep(found: dict[str, Any]) -> Path:
        values.update(found)
        return record(name, values)

    with tempfile.TemporaryDirectory() as folder:
        try:
            if chosen.shape == "tinyworld":
                setup = trained(Path(folder), chosen)
            else:
                setup = random_weights(None if chosen.shape == "7b" else ("little", "tiny"), chosen)
            measure(setup, chosen.batches, chosen.runs, keep)
        except torch.OutOfMemoryError:
            sys.exit("three models do not fit this device: choose fewer, or one with more memory")
    if chosen.shape != "tinyworld":
        values["pair"] = pair(chosen)
    path = record(name, values)
    if chosen.json:
        print(json.dumps(values, indent=2))
    else:
        show(values)
        print(path)
    if values["faults"]:
        sys.exit("\n".join(values["faults"]))


def pair(chosen: argparse.Namespace) -> list[dict[str, Any]] | str:
    release()
    try:
        return measure_pair(LLAMA["7b" if chosen.shape == "7b" else "tiny"], DEVICE, chosen.batches)
    except torch.OutOfMemoryError:
        return NO_MEMORY


if __name__ == "__main__":
    main()
