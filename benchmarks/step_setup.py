"""Models and examples of `mmscale bench train-step`: tinyworld's, or random weights of a published shape."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import T5Config, T5EncoderModel

from mmscale.config.parallel import InterruptionConfig
from mmscale.config.run import load_run
from mmscale.data.packing import encoder_row
from mmscale.data.segments import SpecialTokens, TokenizedExample
from mmscale.models.assembly import ModelParts, assemble
from mmscale.models.connectors import mlp
from mmscale.models.encoders import Encoder
from mmscale.models.language_model import LanguageModel
from mmscale.models.merge import MergedModel
from mmscale.parallel.context import ParallelContext
from mmscale.parallel.interruption import Interruption
from mmscale.runs.run import stages_up_to
from mmscale.runs.stage_data import StageData
from mmscale.training.encoder_cache import CacheFolder, with_states

from .shapes import ANSWER, ENCODED, LLAMA, MT5_XL, PROMPT, TEMPLATE, Lengths, random_llama

STAGE = "mindmerger.augmentation"


@dataclass
class StepSetup:
    """One model, and the batches that every way sees: as they are, and with their encoder states."""

    model: MergedModel
    specials: SpecialTokens
    plain: list[list[TokenizedExample]]
    states: list[list[TokenizedExample]]

    @property
    def connector(self) -> mlp.MLPConnector:
        assert isinstance(self.model.connector, mlp.MLPConnector)
        return self.model.connector

    @property
    def dtype(self) -> torch.dtype:
        """The frozen LLM's."""
        dtype: torch.dtype = next(self.model.language_model.parameters()).dtype
        return dtype


def tinyworld(device: torch.device, batch: int, batches: int, folder: Path) -> StepSetup:
    limit = -(-batch * batches // 11)
    recipe = f"recipes.{STAGE}"
    settings = [f"output_dir={folder}", f"{recipe}.data.0.limit_per_language={limit}"]
    stage = stages_up_to(load_run("configs/quickstart.yaml", settings), STAGE)[-1]
    context = ParallelContext(device=device)
    data = StageData(stage).tokens(context)
    model, _ = assemble(ModelParts(language_model=stage.run.language_model, encoder=stage.encoder), context)
    assert model.encoder is not None
    cache = CacheFolder(folder / "states", True, "benchmark")
    store: Any = data.train
    interruption = Interruption(InterruptionConfig(), context)
    known = with_states(model.encoder, {"train": store}, cache, context, interruption)["train"]
    cuts = [slice(i * batch, (i + 1) * batch) for i in range(batches)]
    return StepSetup(model, data.specials, [list(store[cut]) for cut in cuts], [list(known[cut]) for cut in cuts])


SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "7b": (LLAMA["7b"], MT5_XL),
    "small": (
        LLAMA["tiny"],
        {**MT5_XL, "vocab_size": 2000, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4},
    ),
}
"""LLaMA-2-7B behind mT5-xl, from their config.json, and the same in small for a machine without a GPU."""


def random_weights(shape: str, device: torch.device, dtype: torch.dtype, batch: int, batches: int) -> StepSetup:
    """Weights are drawn on the device; ids, which are few, by the host."""
    torch.manual_seed(0)
    llm, encoder = SHAPES[shape]
    causal = random_llama(llm, device, dtype)
    with torch.device(device):
        states = T5EncoderModel._from_config(T5Config(**encoder), dtype=dtype).eval()
        between = mlp.MLPConnector(encoder["d_model"], llm["hidden_size"])
        # as large as a token's row: a norm's derivative at a row of zeros would drown every other gradient
        torch.nn.init.normal_(between.end_boundary, std=causal.config.initializer_range)
    specials = SpecialTokens(1, 2)
    model = MergedModel(LanguageModel(causal, None, specials), Encoder(states, encoder["d_model"]), between)
    generator = torch.Generator().manual_seed(0)

    def ids(lengths: Lengths, vocabulary: int, more: int = 0) -> tuple[int, ...]:
        length = lengths.draw(generator) + more
        return tuple(torch.randint(3, vocabulary, (length,), generator=generator).tolist())

    def example(number: int) -> TokenizedExample:
        prompt, answer = ids(PROMPT, llm["vocab_size"], TEMPLATE), ids(ANSWER, llm["vocab_size"])
        return TokenizedExample(
            prompt_ids=prompt,
            target_ids=answer,
            encoder_ids=ids(ENCODED, encoder["vocab_size"]),
            language="sw",
            origin=f"random {number}",
        )

    plain = [[example(i) for i in range(batch)] for _ in range(batches)]
    return StepSetup(model, specials, plain, [_encoded(model, examples, device) for examples in plain])


@torch.no_grad()
def _encoded(model: MergedModel, examples: list[TokenizedExample], device: torch.device) -> list[TokenizedExample]:
    assert model.encoder is not None
    row = encoder_row(examples).to(device)
    states = model.encoder.states(row).cpu().split(row.lengths)
    return [replace(one, encoder_states=own.clone()) for one, own in zip(examples, states, strict=True)]
