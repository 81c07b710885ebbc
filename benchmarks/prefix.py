"""Few-shot prompts and options whose common beginning is computed once, against each computed whole: mmscale bench prefix

Random weights, random ids in the lengths of MGSM in LLaMA-2's vocabulary: eight Swahili exemplars (1,216 tokens) before each question. Measured are
the answers, the first token alone (what prefill costs), and the log-likelihoods of five options of four questions, each as seconds of all prompts
(of the processor, without a GPU), medians of runs that take turns. Both ways have to give the same tokens, and log-likelihoods that differ by roundings alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from mmscale.config.evaluation import GenerationConfig
from mmscale.data.packing import pack
from mmscale.data.segments import SpecialTokens, TokenizedExample
from mmscale.decoding.ensemble import Ensemble, ModelStepper
from mmscale.decoding.generate import PromptDecoder
from mmscale.decoding.graphs import recorder
from mmscale.decoding.scoring import score_targets
from mmscale.decoding.stop_criteria import StopCriteria
from mmscale.models.language_model import LanguageModel
from mmscale.models.merge import MergedModel
from mmscale.models.packed_linear import pack_linears

from .recording import record
from .shapes import LLAMA, PROMPT, random_llama

EXEMPLARS = 1216
"""Tokens of MGSM's eight native Swahili exemplars in LLaMA-2's vocabulary; English 826, German 980, Chinese 1,378, Bengali 3,119."""
OPTION_QUESTIONS, OPTIONS, OPTION_TOKENS = 4, 5, 3


def prompts(count: int, shared: int, vocabulary: int) -> list[TokenizedExample]:
    generator = torch.Generator().manual_seed(0)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, vocabulary, (length,), generator=generator).tolist())

    beginning = ids(shared - 1)  # the beginning of text stands before it
    return [
        TokenizedExample(prompt_ids=beginning + ids(PROMPT.draw(generator)), target_ids=(), origin=f"random {i}")
        for i in range(count)
    ]


def generated(
    ensemble: Ensemble, asked: Sequence[TokenizedExample], new_tokens: int, share: bool
) -> list[tuple[list[int], list[float]]]:
    end = StopCriteria(frozenset(), (), lambda ids: "")  # every answer takes all its tokens
    decoder = PromptDecoder(ensemble, end, 4096, share=share)
    config = GenerationConfig(max_new_tokens=new_tokens, batch_size=len(asked))
    answers = [one for batch in decoder.in_batches([asked], config) for one in batch]
    return [(one.token_ids, one.log_probabilities) for one in sorted(answers, key=lambda one: one.prompt)]


def whole_rows(ensemble: Ensemble, options: Sequence[TokenizedExample]) -> list[list[float]]:
    """Log-probabilities of each option's tokens, its whole row computed for it, as lm-eval does."""
    model, scored = ensemble.base, []
    specials = model.model.language_model.specials
    with torch.inference_mode():
        for one in options:
            row = pack([replace(one, target_ids=(*one.target_ids, specials.eos))], specials).to(ensemble.device)
            hidden = model.model.hidden(row)[-len(one.target_ids) - 1 : -1]
            rows = ensemble.combined(ensemble.side_by_side([model.logits_of(hidden)])).log_softmax(-1)
            scored.append(rows[range(len(one.target_ids)), list(one.target_ids)].tolist())
    return scored


def timed(ways: Mapping[str, Callable[[], Any]], runs: int, device: torch.device) -> dict[str, tuple[float, Any]]:
    """name -> (median seconds, result), in turns; of the processor without a GPU, so that other work on it counts for neither."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    results: dict[str, Any] = {}
    for _ in range(runs):
        for name, way in ways.items():
            begun = clock()
            results[name] = way()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds[name].append(clock() - begun)
    return {name: (statistics.median(values), results[name]) for name, values in seconds.items()}


def compared(whole: tuple[float, Any], shared: tuple[float, Any], tokens: bool) -> dict[str, Any]:
    pairs = list(zip(whole[1], shared[1], strict=True))
    same = sum(a[0] == b[0] for a, b in pairs) if tokens else len(pairs)
    numbers = [(a[1], b[1]) if tokens else (a, b) for a, b in pairs if not tokens or a[0] == b[0]]
    error = max((abs(x - y) for a, b in numbers for x, y in zip(a, b, strict=True)), default=0.0)
    entry = {"whole_s": whole[0], "shared_s": shared[0], "times": whole[0] / shared[0], "largest_difference": error}
    return {**entry, "same": same, "of": len(pairs)}


def measure(shape: str, chosen: argparse.Namespace) -> dict[str, Any]:
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = random_llama(LLAMA[shape], device)
    pack_linears(model)
    language_model = LanguageModel(model, None, SpecialTokens(1, 2))
    ensemble = Ensemble(ModelStepper(MergedModel(language_model), recorder=recorder(device)))
    asked = prompts(chosen.prompts, chosen.shared_tokens, LLAMA[shape]["vocab_size"])
    values: dict[str, Any] = {"parameters": sum(one.numel() for one in model.parameters())}
    for name, new_tokens in (("first token", 1), ("answers", chosen.new_tokens)):
        ways = {
            str(share): lambda share=share, new_tokens=new_tokens: generated(ensemble, asked, new_tokens, share)
            for share in (False, True)
        }
        taken = timed(ways, chosen.runs, device)
        values[name] = {"new_tokens": new_tokens, **compared(taken["False"], taken["True"], tokens=True)}
    options = [
        replace(one, target_ids=tuple(range(3 + i, 3 + i + OPTION_TOKENS)))
        for one in asked[:OPTION_QUESTIONS]
        for i in range(OPTIONS)
    ]
    taken = timed(
        {"whole": lambda: whole_rows(ensemble, options), "shared": lambda: score_targets(ensemble, [options])},
        chosen.runs,
        device,
    )
    values["options"] = compared(taken["whole"], taken["shared"], tokens=False)
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=sorted(LLAMA), default=["little", "medium"])
    parser.add_argument("--prompts", type=int, default=8, help="questions, answered at once")
    parser.add_argument("--shared-tokens", type=int, default=EXEMPLARS, help="tokens that all prompts begin with")
    parser.add_argument("--new-tokens", type=int, default=32, help="tokens of each answer")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print the values")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    values: dict[str, Any] = {"prompts": chosen.prompts, "shared_tokens": chosen.shared_tokens}
    values["shapes"] = {shape: measure(shape, chosen) for shape in chosen.shapes}
    file = record("prefix", values)
    if chosen.json:
        print(json.dumps(values, indent=2))
        return
    table = Table("model", "what", "whole, s", "shared, s", "times", "same tokens", "largest difference")
    for shape, measured in values["shapes"].items():
        for name in ("first token", "answers", "options"):
            row = measured[name]
            numbers = (f"{row['whole_s']:.2f}", f"{row['shared_s']:.2f}", f"{row['times']:.1f}")
            table.add_row(shape, name, *numbers, f"{row['same']} of {row['of']}", f"{row['largest_difference']:.1e}")
    Console(width=110).print(table)
    print(f"kept in {file}")


if __name__ == "__main__":
    main()
