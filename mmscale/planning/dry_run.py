"""A configuration resolved without weights: files looked for, parameters counted on the meta device, tokens counted."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from mmscale.config.run import RunConfig
from mmscale.data.loading import load_records, wanted_languages
from mmscale.data.packing import DataParallelRank, StepOrder
from mmscale.data.prompts import reads_translation, require_readable, template
from mmscale.errors import NotHereYet, UserError
from mmscale.evaluation.answers import rule
from mmscale.evaluation.solving import require_scorable
from mmscale.execution.room import set_up
from mmscale.models.connectors import Depths, connector
from mmscale.models.counting import (
    count,
    empty_encoder,
    empty_language_model,
    encoder_depth,
    encoder_table,
    encoder_width,
)
from mmscale.models.language_model import context_length, load_model_config
from mmscale.parallel.zero import deepspeed_json
from mmscale.runs.run import asked_prompts, stages_of
from mmscale.runs.stage import Stage
from mmscale.runs.stage_data import StageData
from mmscale.training.components import EncoderEmbeddingsComponent
from mmscale.translation.questions import require_languages


def _parameters(run: RunConfig) -> dict[str, Any]:
    """Numbers of parameters of the models; of each connector that a stage has under its name."""
    counts: dict[str, Any] = {}
    sizes = []
    try:
        model = empty_language_model(run.language_model)
        counts["language_model"] = count(model)
        sizes.append((int(model.config.hidden_size), int(model.config.num_hidden_layers)))
    except NotHereYet as error:
        counts["language_model"] = f"not found: {error}"
    if run.encoder is None:
        return counts
    try:
        counts["encoder"] = count(empty_encoder(run.encoder))
        sizes.append((encoder_width(run.encoder), encoder_depth(run.encoder)))
    except NotHereYet as error:
        counts["encoder"] = f"not found: {error}"
    if len(sizes) == 2:
        (llm_width, llm_depth), (width, depth) = sizes
        for name in {stage.connector for stage in stages_of(run) if stage.encoder is not None} or {run.connector}:
            with torch.device("meta"):
                made = count(connector(name).build(width, llm_width, Depths(depth, llm_depth)))
            counts["connector" if name == run.connector else f"connector {name}"] = made
    return counts


def _trainable(parameters: dict[str, Any], stage: Stage) -> dict[str, Any]:
    counts = {name: value for name, value in parameters.items() if isinstance(value, int)}
    wanted = "connector" if stage.connector == stage.run.connector else f"connector {stage.connector}"
    used = {"language_model": counts["language_model"]} if "language_model" in counts else {}
    if stage.encoder is not None:
        joined = {"connector": counts[wanted]} if wanted in counts else {}
        used |= {name: value for name, value in counts.items() if name == "encoder"} | joined
    if EncoderEmbeddingsComponent.name in stage.spec.trains and "encoder" in used:
        used[EncoderEmbeddingsComponent.name] = encoder_table(stage.encoder)
        used["encoder"] -= used[EncoderEmbeddingsComponent.name]
    trained = [used.get(name) for name in stage.spec.trains]
    return {
        "trainable": None if None in trained else sum(filter(None, trained)),
        "frozen": sum(value for name, value in used.items() if name not in stage.spec.trains),
    }


def stage_tokens(stage: Stage) -> dict[str, Any]:
    """Rows, tokens, steps and fill of a stage; needs its data files and the tokenizers, no weights."""
    data, accounts = StageData(stage).in_memory()
    result: dict[str, Any] = {
        "rows": len(data.train),
        "dev_rows": len(data.dev),
        "data": [account.summary() for account in accounts],
    }
    lengths = [example.merged_length for example in data.train]
    order = StepOrder(lengths, stage.config.packing, stage.run.seed, DataParallelRank(), data.mixture)
    steps = stage.config.steps or order.steps_in(stage.config.epochs or 0)
    if data.mixture is not None:
        result["examples_per_epoch"] = data.mixture.per_epoch(lengths)
    return result | {
        "tokens": sum(lengths),
        "target_tokens": sum(len(example.target_ids) for example in data.train),
        "encoder_tokens": sum(len(example.encoder_ids) for example in data.train),
        "longest": max(lengths),
        "truncated": sum(example.truncated for example in data.train),
        "steps": steps,
        "slots_used": round(order.fill(min(steps, 200)), 4),
    }


def dry_run(run: RunConfig) -> dict[str, Any]:
    """Everything that can be known before training. What is not here yet is named; a mistake is a UserError."""
    _require_place(run.directory)
    parameters = _parameters(run)
    stages: dict[str, Any] = {}
    for stage in stages_of(run):
        entry: dict[str, Any] = {"prompt": stage.prompt, **_trainable(parameters, stage)}
        if run.parallel.zero.stage:
            entry["deepspeed"] = deepspeed_json(run.parallel.zero, stage.config, ranks=1)
        try:
            entry |= stage_tokens(stage)
        except NotHereYet as error:
            entry["missing"] = str(error)
        stages[stage.name] = entry
    return {
        "name": run.name,
        "output_dir": str(run.directory),
        "parameters": parameters,
        "stages": stages,
        "tasks": {name: _task(run, name) for name in run.evaluation.tasks},
    }


def _require_place(folder: Path) -> None:
    """UserError where a folder can't be made, by what is there of the way to it."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UserError(f"output_dir {folder}: {there} is no folder that can be written into: choose another")


def _require_context(run: RunConfig, name: str) -> None:
    """UserError where answers alone are longer than the language model can go on."""
    longest, tokens = 0, run.evaluation.tasks[name].generation.max_new_tokens
    with contextlib.suppress(NotHereYet):
        longest = context_length(load_model_config(run.language_model))
    if longest and tokens >= longest:
        raise UserError(
            f"evaluation.tasks.{name}.generation.max_new_tokens: {tokens} new tokens exceed the context of {longest}: "
            f"lower it"
        )


def _task(run: RunConfig, name: str) -> dict[str, Any]:
    """Problems of each language of a task, or what is missing; UserError where it could not be scored or asked."""
    task = run.evaluation.tasks[name]
    if task.scoring == "generation" and run.evaluation.answerer == "local":
        _require_context(run, name)
    entry: dict[str, Any] = {"source": task.data.source}
    if (running := rule(task.rule).running) is not None:
        set_up(run.execution)
        running.ready()
    translation = task.data.translation
    if translation is not None and any(map(reads_translation, {task.prompt} if task.prompt else asked_prompts(run))):
        entry["translator"] = translation.path
        try:
            require_languages(translation, wanted_languages(task.data, run.languages))
        except NotHereYet as error:
            entry["translator"] = f"not found: {error}"
    try:
        records, accounts = load_records(task.data, run.languages)
    except NotHereYet as error:
        return entry | {"missing": str(error)}
    require_scorable(records, task.rule)
    for prompt in {task.prompt} if task.prompt else asked_prompts(run):
        require_readable(template(prompt), records)
    return entry | {"problems": dict(Counter(record.language for record in records)), "data": accounts.summary()}


def show(described: dict[str, Any]) -> None:
    """Print a dry run for a person."""
    print(f"run {described['name']} -> {described['output_dir']}")
    for name, value in described["parameters"].items():
        print(f"  {name:16} {value if isinstance(value, str) else format(value, ',') + ' parameters'}")
    for name, entry in described["stages"].items():
        trainable = "?" if entry["trainable"] is None else f"{entry['trainable']:,}"
        print(f"  {name}: prompt {entry['prompt']}, trainable {trainable}, frozen {entry['frozen']:,}")
        if "tokens" in entry:
            print(
                f"    {entry['rows']:,} rows, {entry['tokens']:,} merged tokens, longest {entry['longest']}, {entry['truncated']} truncated, "
                f"{entry['steps']:,} steps, {100 * entry['slots_used']:.1f} % of token slots used"
            )
        if "examples_per_epoch" in entry:
            print(
                f"    in an epoch {', '.join(f'{count:,}' for count in entry['examples_per_epoch'])} rows of its data sets"
            )
        if "deepspeed" in entry:
            print(
                f"    DeepSpeed, train_batch_size being the number of data-parallel ranks: {json.dumps(entry['deepspeed'])}"
            )
        if "missing" in entry:
            print(f"    missing: {entry['missing']}")
    for name, task in described["tasks"].items():
        told = ", ".join(f"{code} {count:,}" for code, count in task.get("problems", {}).items())
        print(f"  task {name} ({task['source']}): {told or 'missing: ' + task['missing']}")
        if "translator" in task:
            print(f"    translated by {task['translator']}")
