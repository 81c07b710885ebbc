"""A configuration resolved without weights: files looked for, parameters counted on the meta device, tokens counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from mmscale.config.model import EncoderConfig, LanguageModelConfig
from mmscale.config.run import RunConfig
from mmscale.data.packing import DataParallelRank, StepOrder
from mmscale.data.prompts import template
from mmscale.data.segments import ExampleTokenizer, special_tokens
from mmscale.errors import UserError
from mmscale.methods.recipe import check
from mmscale.methods.stages import StagePlace
from mmscale.models.encoders import load_encoder_tokenizer
from mmscale.models.encoders.base import family, family_of, load_encoder_config
from mmscale.models.language_model import load_model_config, load_tokenizer
from mmscale.models.mapping import Mapping
from mmscale.training.stage_data import read_stage_records, tokenize_stage


def _count(module: torch.nn.Module) -> int:
    return sum({id(p): p.numel() for p in module.parameters()}.values())


def count_language_model(config: LanguageModelConfig) -> tuple[int, int]:
    """(parameters, width) of a language model, tied weights once, from its config.json alone."""
    model_config = load_model_config(config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config)
    return _count(model), int(model_config.hidden_size)


def count_encoder(config: EncoderConfig) -> tuple[int, int]:
    """(parameters, width) of the encoder half that is loaded."""
    model_config = load_encoder_config(config)
    chosen = family(family_of(config))
    with torch.device("meta"):
        model = chosen.build(model_config)
    return _count(model), chosen.width(model_config)


def _parameters(run: RunConfig) -> dict[str, Any]:
    found: dict[str, Any] = {}
    widths = {}
    sides: list[tuple[str, Any, Callable[[Any], tuple[int, int]]]] = [
        ("language_model", run.language_model, count_language_model),
        ("encoder", run.encoder, count_encoder),
    ]
    for name, config, count in sides:
        if config is None:
            continue
        try:
            found[name], widths[name] = count(config)
        except UserError as error:
            found[name] = f"not found: {error}"
    if len(widths) == 2:
        found["mapping"] = sum(p.numel() for p in Mapping(widths["encoder"], widths["language_model"]).parameters())
    return found


def _trainable(parameters: dict[str, Any], trains: str) -> dict[str, Any]:
    counts = {name: value for name, value in parameters.items() if isinstance(value, int)}
    used = counts if trains == "mapping" else {k: v for k, v in counts.items() if k == "language_model"}
    return {"trainable": used.get(trains), "frozen": sum(v for k, v in used.items() if k != trains)}


def _stage_tokens(place: StagePlace) -> dict[str, Any]:
    """Rows, tokens, steps and fill of a stage; needs its data files and the tokenizers, no weights."""
    run, own = place.run, place.run.language_model
    train, dev, accounts = read_stage_records(place.config, run.languages, run.seed)
    result: dict[str, Any] = {
        "rows": len(train),
        "dev_rows": len(dev),
        "data": [account.summary() for account in accounts],
    }
    tokenizer, model_config = load_tokenizer(own), load_model_config(own)
    specials = special_tokens(tokenizer, model_config, own.bos_token, own.eos_token)
    encoder = load_encoder_tokenizer(run.encoder) if place.spec.trains == "mapping" and run.encoder else None
    tokenize = ExampleTokenizer(tokenizer, specials, template(place.prompt), place.config.packing, encoder)
    context = int(getattr(model_config, "max_position_embeddings", 1 << 30))
    data = tokenize_stage(train, dev, tokenize, context)
    lengths = [example.merged_length for example in data.train]
    order = StepOrder(lengths, place.config.packing, run.seed, DataParallelRank())
    steps = place.config.steps or order.steps_in(place.config.epochs or 0)
    return result | {
        "tokens": sum(lengths),
        "longest": max(lengths),
        "truncated": sum(example.truncated for example in data.train),
        "steps": steps,
        "slots_used": round(order.fill(min(steps, 200)), 4),
    }


def dry_run(run: RunConfig) -> dict[str, Any]:
    """Everything that can be known before training; what is missing is named, not fatal."""
    parameters = _parameters(run)
    stages: dict[str, Any] = {}
    for chosen in check(run):
        for spec in chosen.stages:
            place = StagePlace(run, chosen, spec)
            entry: dict[str, Any] = {"prompt": place.prompt, **_trainable(parameters, spec.trains)}
            try:
                entry |= _stage_tokens(place)
            except UserError as error:
                entry["missing"] = str(error)
            stages[f"{chosen.name}.{spec.name}"] = entry
    return {
        "name": run.name,
        "output_dir": str(run.directory),
        "parameters": parameters,
        "stages": stages,
        "tasks": {name: task.data.source for name, task in run.evaluation.tasks.items()},
    }


def show(found: dict[str, Any], as_json: bool) -> None:
    """Print a dry run for a program or for a person."""
    if as_json:
        print(json.dumps(found, ensure_ascii=False, indent=2))
        return
    print(f"run {found['name']} -> {found['output_dir']}")
    for name, value in found["parameters"].items():
        print(f"  {name:16} {value if isinstance(value, str) else format(value, ',') + ' parameters'}")
    for name, entry in found["stages"].items():
        trainable = "?" if entry["trainable"] is None else f"{entry['trainable']:,}"
        print(f"  {name}: prompt {entry['prompt']}, trainable {trainable}, frozen {entry['frozen']:,}")
        if "tokens" in entry:
            print(
                f"    {entry['rows']:,} rows, {entry['tokens']:,} merged tokens, longest {entry['longest']}, {entry['truncated']} truncated, "
                f"{entry['steps']:,} steps, {100 * entry['slots_used']:.1f} % of token slots used"
            )
        if "missing" in entry:
            print(f"    missing: {entry['missing']}")
    print(f"  tasks: {', '.join(f'{k} ({v})' for k, v in found['tasks'].items()) or 'none'}")
