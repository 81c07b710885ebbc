"""Floating-point operations that a MindMerger step needs for its real tokens, and the peak of the device that does them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mmscale.config.cluster import GpuConfig
from mmscale.data.segments import TokenizedExample
from mmscale.planning.throughput import token_work

from .step_setup import StepSetup


def merged_length(example: TokenizedExample) -> int:
    """Tokens of [BOS | encoder | boundary | prompt | target]; the last target token enters no input."""
    return 1 + len(example.encoder_ids) + 1 + len(example.prompt_ids) + len(example.target_ids) - 1


@dataclass(frozen=True)
class StepWork:
    """A multiplication and an addition are two operations; padding and what is computed twice are not counted."""

    tokens: int
    """Merged tokens of the LLM."""
    targets: int
    llm: float
    """Forward and gradients of the inputs, causal attention, head on rows with a label alone."""
    connector: float
    """Forward and gradients of its weights, and of the second layer's input."""
    encoder: float
    """Forward, in the ways that run it; in none of the sums by which ways are compared."""

    @property
    def needed(self) -> float:
        """What every way has to do."""
        return self.llm + self.connector


def step_work(setup: StepSetup, examples: Sequence[TokenizedExample]) -> StepWork:
    """The frozen LLM: 2 operations an element of its matrices forward and 2 backward (planning.throughput, which counts a
    token of a sequence of even length: here each sees as many others as it does on average). The connector d -> 2 d -> D:
    2 an element and token forward, 2 for the weights' gradients, and 2 more for the gradient of the second layer's input.
    The encoder: 2 an element but those of its embedding.
    """
    model, connector = setup.model, setup.connector
    lengths = [merged_length(one) for one in examples]
    tokens, targets = sum(lengths), sum(len(one.target_ids) for one in examples)
    sequence = sum(length**2 for length in lengths) / tokens
    count = sum(parameter.numel() for parameter in model.language_model.parameters())
    of_token = token_work(model.language_model.config, count, sequence, targets / tokens, False, False)
    encoded = sum(len(one.encoder_ids) for one in examples)
    one, two = connector.mlp.linear1.weight.numel(), connector.mlp.linear2.weight.numel()
    encoder = 0
    if model.encoder is not None:
        table = model.encoder.model.get_input_embeddings().weight.numel()
        encoder = sum(parameter.numel() for parameter in model.encoder.parameters()) - table
    return StepWork(
        tokens, targets, tokens * of_token.hardware, encoded * (4.0 * one + 6.0 * two), encoded * 2.0 * encoder
    )


def peak_tflops(device: torch.device) -> float | None:
    """Peak of dense bfloat16 products of a GPU whose datasheet is known, an H100's or H200's; else None."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return GpuConfig().peak_tflops if "H100" in name or "H200" in name else None
