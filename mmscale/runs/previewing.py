"""Examples of a stage as its model would see them, through the very code that trains."""

from __future__ import annotations

import random

from mmscale.config.run import RunConfig
from mmscale.data.packing import pack
from mmscale.data.preview import Segment, segments
from mmscale.runs.run import stages_up_to
from mmscale.runs.stage_data import read_stage_records
from mmscale.runs.tokenizing import stage_tokenizer


def preview_stage(run: RunConfig, target: str, count: int) -> list[list[Segment]]:
    """Segments of `count` examples drawn over the whole stage; needs tokenizers, no weights."""
    stage = stages_up_to(run, target)[-1]
    tokenize, _ = stage_tokenizer(stage)
    train, _, _ = read_stage_records(stage.config, run.languages, run.seed)
    chosen = random.Random(run.seed).sample(train, min(count, len(train)))
    encoder = tokenize.encoder_tokenizer
    row = pack(tokenize(chosen), tokenize.specials)
    return segments(row, tokenize.tokenizer, encoder.tokenizer if encoder else None)
