"""Runs on a device that is not the CPU, in a process of its own: torch knows at most one such device, and for good.

worker.py FOLDER: everything there; leaves FOLDER/found.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mmscale.cli import devices
from mmscale.cli.main import main
from mmscale.config.evaluation import GenerationConfig
from mmscale.data.packing import pack
from mmscale.decoding.generate import PromptDecoder
from mmscale.decoding.speculation import DraftLengthController
from mmscale.training.objective import CausalObjective
from mmscale.transfer import tensor_on
from tests.conftest import random_merged
from tests.decoding.test_generate import END, SAMPLED, alone, perturbed, prompts, proxy
from tests.elsewhere.device import ELSEWHERE, elsewhere
from tests.models.test_packed_rows import SPECIALS, examples

HERE = torch.device("cpu")
DECODING = {
    "greedy": GenerationConfig(max_new_tokens=12, batch_size=4),
    "top-p": SAMPLED.model_copy(update={"max_new_tokens": 12}),
    "repetition penalty": GenerationConfig(max_new_tokens=12, batch_size=4, temperature=0.9, repetition_penalty=1.3),
}
MODELS = [
    *((family, None) for family in ("llama", "mistral", "qwen2")),
    *(("llama", encoder) for encoder in ("t5", "m2m100", "xlm_roberta", "decoder")),
]


def both(work: Callable[[torch.device], Any]) -> dict[str, Any]:
    """The same work here and there, and how often there was waited for there."""
    with elsewhere() as waits:
        there = work(ELSEWHERE)
        return {"here": work(HERE), "there": there, "waits": dict(waits)}


def counted() -> dict[str, Any]:
    """How often each of these waits, and what is said of operands on two devices."""
    values, chosen = torch.arange(4.0), torch.tensor([True, False, True, False])
    with elsewhere() as waits:
        there, mask = values.to(ELSEWHERE), chosen.to(ELSEWHERE)
        work: dict[str, Callable[[], Any]] = {
            "boolean index": lambda: there[mask],
            "read": lambda: float(there.sum()),
            "numbers": lambda: torch.tensor([1, 2], device=ELSEWHERE),
            "page-locked numbers": lambda: tensor_on(ELSEWHERE, [1, 2]),
            "index": lambda: there.index_select(0, mask.long()),
        }
        found: dict[str, Any] = {}
        for name, one in work.items():
            waits.clear()
            one()
            found[name] = waits.total()
        try:
            there + values
        except RuntimeError as error:
            found["mixed"] = str(error)
        return found


def decoded(config: GenerationConfig, tokens: int | None) -> Callable[[torch.device], Any]:
    """Three models by speculation or without: answers, rounds, admissions."""

    def work(device: torch.device) -> Any:
        ensemble, draft_length = (
            proxy([perturbed(seed).to(device) for seed in (1, 2, 3)], 1.0),
            DraftLengthController(device, tokens),
        )
        batches = list(PromptDecoder(ensemble, END, 256, draft_length).in_batches([prompts(False)] * 3, config))
        if tokens is None:
            assert draft_length.drafting.seen and draft_length.drafting.value > 0
        return [one.token_ids for batch in batches for one in batch], draft_length.rounds, len(batches)

    return work


def answered(family: str, encoder: str | None) -> Callable[[torch.device], Any]:
    def work(device: torch.device) -> Any:
        model, asked = random_merged(family, encoder).to(device), prompts(encoder is not None)
        return [
            one.token_ids
            for batch in PromptDecoder(alone(model), END, 256).in_batches([asked], DECODING["top-p"])
            for one in batch
        ]

    return work


def learnt(family: str, encoder: str | None) -> Callable[[torch.device], Any]:
    """Loss and sums of all gradients."""

    def work(device: torch.device) -> Any:
        model = random_merged(family, encoder).to(device)
        model.requires_grad_(False)
        (model.connector or model.language_model).requires_grad_(True)
        loss = CausalObjective(model).loss_sum(pack(examples(encoder is not None), SPECIALS).to(device))
        loss.backward()
        gradients = [p.grad for p in model.parameters() if p.requires_grad]
        return [float(loss.detach()), *(float(gradient.cpu().abs().sum()) for gradient in gradients)]

    return work


def whole_run(folder: Path, command: list[str]) -> dict[str, int]:
    devices.default_device = lambda *_: ELSEWHERE
    with elsewhere() as waits:
        assert main(command) == 0
        return dict(waits)


if __name__ == "__main__":
    folder, *command = sys.argv[1:]
    found = {
        "device": counted(),
        "decoding": {
            f"{name} {k}": both(decoded(config, k)) for name, config in DECODING.items() for k in (None, 1, 4)
        },
        "answers": {f"{family} {encoder}": both(answered(family, encoder)) for family, encoder in MODELS},
        "learning": {f"{family} {encoder}": both(learnt(family, encoder)) for family, encoder in MODELS},
        "run": whole_run(Path(folder), command),
    }
    Path(folder, "found.json").write_text(json.dumps(found))
