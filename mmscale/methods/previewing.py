"""Examples of a stage as its model would see them, through the very code that trains."""

from __future__ import annotations

import random

from mmscale.config.run import RunConfig
from mmscale.data.packing import pack
from mmscale.data.preview import Segment, segments
from mmscale.data.prompts import template
from mmscale.data.segments import ExampleTokenizer, special_tokens
from mmscale.errors import unknown_name
from mmscale.methods.recipe import check
from mmscale.methods.stages import StagePlace
from mmscale.models.encoders import load_encoder_tokenizer
from mmscale.models.language_model import load_model_config, load_tokenizer
from mmscale.training.stage_data import read_stage_records


def preview_stage(run: RunConfig, stage: str, count: int) -> list[list[Segment]]:
    """Segments of `count` examples drawn over the whole stage; needs tokenizers, no weights."""
    places = {f"{m.name}.{spec.name}": StagePlace(run, m, spec) for m in check(run) for spec in m.stages}
    if stage not in places:
        raise unknown_name("stage", stage, places)
    place = places[stage]
    tokenizer = load_tokenizer(run.language_model)
    own = run.language_model
    specials = special_tokens(tokenizer, load_model_config(own), own.bos_token, own.eos_token)
    encoder = load_encoder_tokenizer(run.encoder) if place.spec.trains == "mapping" and run.encoder else None
    train, _, _ = read_stage_records(place.config, run.languages, run.seed)
    chosen = random.Random(run.seed).sample(train, min(count, len(train)))
    tokenize = ExampleTokenizer(tokenizer, specials, template(place.prompt), place.config.packing, encoder)
    return segments(pack(tokenize(chosen), specials), tokenizer, encoder.tokenizer if encoder else None)
