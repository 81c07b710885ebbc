"""Stages by choice: left out, repeated, of several methods, begun from a given model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor

from mmscale.api import train_stage
from mmscale.cli.main import main
from mmscale.config.model import EncoderConfig, LanguageModelConfig
from mmscale.config.run import dump_run, load_run, parse_run
from mmscale.errors import UserError
from mmscale.methods import recipe
from mmscale.models.assembly import ModelParts, read_parts, write_parts
from mmscale.runs.run import asked_prompts, stages_of
from mmscale.storage.reading import parse_yaml

SMALL = "limit_per_language=6"
SETTINGS = [
    "languages=[en]",
    "methods=[mapped_mcot]",
    "proxy=null",
    "evaluation.tasks={}",
    "encoder_cache=off",
    "variants.mapped_mcot={stages: [multilingual_cot.tuning, mindmerger.mapping, {again: mindmerger.mapping}]}",
    *(
        f"recipes.{stage}.{key}"
        for stage in ("multilingual_cot.tuning", "mindmerger.mapping")
        for key in ("steps=2", "save_every_steps=null", f"data.0.{SMALL}", "packing.global_batch_size=4")
    ),
    "recipes.multilingual_cot.tuning.data.0.languages=[en]",
    "recipes.mindmerger.mapping.data.0.languages=[en]",
]


def settings(folder: Path, *more: str) -> list[str]:
    return [f"output_dir={folder}", *SETTINGS, *more]


def mapping(folder: Path, stage: str) -> dict[str, Tensor]:
    return load_file(folder / "stages" / stage / "model" / "mapping.safetensors")


def test_stages_of_several_methods_run_in_the_order_asked_and_one_may_begin_from_any_model(tmp_path):
    """The stage that begins with what another run made is, bit for bit, the one that comes after it there."""
    train_stage("configs/quickstart.yaml", "mapped_mcot.again", settings(tmp_path / "whole"))
    stages = tmp_path / "whole" / "stages"
    assert sorted(p.name for p in stages.iterdir()) == [
        "mapped_mcot.again",
        "mapped_mcot.mapping",
        "mapped_mcot.tuning",
    ]
    tuned = stages / "mapped_mcot.tuning" / "model"
    parts = read_parts(str(stages / "mapped_mcot.again" / "model"))
    assert parts.encoder is not None and Path(parts.language_model.path).samefile(tuned), (
        "the mapping reads the tuned LLM"
    )
    assert read_parts(str(tuned)).encoder is None

    alone = ["variants.mapped_mcot={stages: [{again: mindmerger.mapping}]}"]
    start = f"recipes.mapped_mcot.again.start={stages / 'mapped_mcot.mapping' / 'model'}"
    train_stage("configs/quickstart.yaml", "mapped_mcot.again", settings(tmp_path / "alone", *alone, start))
    again, wanted = mapping(tmp_path / "alone", "mapped_mcot.again"), mapping(tmp_path / "whole", "mapped_mcot.again")
    assert all(again[name].equal(wanted[name]) for name in wanted)
    before = mapping(tmp_path / "whole", "mapped_mcot.mapping")
    assert not all(before[name].equal(wanted[name]) for name in wanted)

    translation = f"recipes.question_alignment.translation.start={stages / 'mapped_mcot.mapping' / 'model'}"
    run = load_run("configs/quickstart.yaml", settings(tmp_path / "x", "methods=[question_alignment]", translation))
    with pytest.raises(
        UserError, match="translation: start=.* has an encoder joined by mlp, and this stage reads none"
    ):
        _ = stages_of(run)[0].language_model


def test_a_model_to_begin_with_whose_encoder_is_another_is_refused(tmp_path):
    """Its states would be made of another encoder's tokens."""
    parts = ModelParts(
        language_model=LanguageModelConfig(path="tinyworld:llm"),
        encoder=EncoderConfig(path="org/other-encoder"),
        mapping="mapping.safetensors",
    )
    write_parts(tmp_path, parts)
    begun = ["methods=[mindmerger]", f"recipes.mindmerger.mapping.start={tmp_path}"]
    stage = stages_of(load_run("configs/quickstart.yaml", begun))[0]
    with pytest.raises(UserError, match="reads the encoder org/other-encoder, and this run's is tinyworld:encoder"):
        _ = stage.begins_with
    assert stages_of(load_run("configs/quickstart.yaml", [*begun, "encoder.path=org/other-encoder"]))[0].begins_with


def test_where_a_variants_values_come_from_is_shown(capsys):
    assert main(["config", "show", "papers/mindmerger-tinyworld.yaml", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert "quickstart.yaml:" in shown["recipes.no_mapping.augmentation.steps"]["from"]
    assert "mindmerger-tinyworld.yaml:" in shown["variants.no_mapping.stages.augmentation"]["from"]
    assert "mindmerger-tinyworld.yaml:" in shown["recipes.replacement.augmentation.prompt"]["from"]


def test_what_a_variant_does_not_write_is_that_of_its_methods():
    run = load_run(
        "configs/quickstart.yaml",
        [
            "methods=[response_alone, question_alignment]",
            "variants.response_alone={method: question_alignment, stages: [response], title: Response alone}",
            "recipes.response_alone.response.steps=7",
        ],
    )
    own, of_method = run.recipes["response_alone"]["response"], run.recipes["question_alignment"]["response"]
    assert own.steps == 7 and own.model_copy(update={"steps": of_method.steps}) == of_method
    chosen = recipe(run, "response_alone")
    assert chosen.title == "Response alone" and [stage.name for stage in chosen.stages] == ["response"]
    assert chosen.paper == recipe(run, "question_alignment").paper
    assert parse_run(parse_yaml(dump_run(run), ""), "run.yaml") == run, "a run directory's own configuration reads back"


def test_the_ablations_of_a_paper_are_one_run():
    run = load_run("papers/mindmerger-tinyworld.yaml")
    shown = [(stage.name, stage.connector, stage.prompt) for stage in stages_of(run)]
    assert shown == [
        ("mindmerger.mapping", "mlp", "mapping"),
        ("mindmerger.augmentation", "mlp", "tinyworld_math"),
        ("no_mapping.augmentation", "mlp", "tinyworld_math"),
        ("no_augmentation.mapping", "mlp", "mapping"),
        ("replacement.mapping", "mlp", "mapping"),
        ("replacement.augmentation", "mlp", "replacement"),
        ("linear.mapping", "linear", "mapping"),
        ("linear.augmentation", "linear", "tinyworld_math"),
        ("mlp3.mapping", "mlp3", "mapping"),
        ("mlp3.augmentation", "mlp3", "tinyworld_math"),
        ("qformer.mapping", '{"heads": 4, "kind": "qformer", "queries": 16}', "mapping"),
        ("qformer.augmentation", '{"heads": 4, "kind": "qformer", "queries": 16}', "tinyworld_math"),
        ("encoder_trained.mapping", "mlp", "mapping"),
        ("encoder_trained.augmentation", "mlp", "tinyworld_math"),
        ("everything_trained.mapping", "mlp", "mapping"),
        ("everything_trained.augmentation", "mlp", "tinyworld_math"),
    ]
    everything = stages_of(run)[-1]
    assert everything.spec.trains == ("connector", "encoder", "language_model")
    assert asked_prompts(run) == {"tinyworld_math", "replacement"}, (
        "no one is asked by the mapping stage's empty prompt"
    )


def test_a_variant_is_joined_by_the_connector_of_its_methods(capsys):
    run = load_run("papers/layalign-tinyworld.yaml")
    shown = {stage.name: stage.connector for stage in stages_of(run)}
    assert shown["no_translation.task"] == shown["layalign.task"] == "layalign"
    assert shown["mapping_alone.translation"] == "mlp"
    both = "variants.x={stages: [mindmerger.mapping, layalign.task]}"
    assert main(["run", "papers/layalign-tinyworld.yaml", "--dry-run", "methods=[x]", both]) == 2
    said = "variants.x has stages of methods that are joined by layalign and the run's connector: set its connector"
    assert said in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("variant", "said"),
    [
        ("{method: mindmerger, stages: [mappin]}", "unknown stage of mindmerger 'mappin': did you mean 'mapping'?"),
        ("{method: mindmerge}", "unknown method 'mindmerge': did you mean 'mindmerger'?"),
        ("{stages: [mapping]}", "stage mapping is of no method: write METHOD.mapping, or set method"),
        ("{}", "name the method whose stages these are"),
        (
            "{method: mindmerger, stages: [mapping, mapping]}",
            "give the second a name of its own, {mapping_again: mapping}",
        ),
        ("{method: mindmerger, stages: [{a/b: mapping}]}", "'a/b' is no name for a folder"),
        ("{method: mindmerger, connector: mpl}", "unknown connector 'mpl': did you mean 'mlp'?"),
        ("{method: llama_cot}", "unknown method 'llama_cot'"),
    ],
)
def test_a_variant_that_makes_no_sense_is_refused(variant, said, capsys):
    assert main(["run", "configs/quickstart.yaml", "--dry-run", "methods=[x]", f"variants.x={variant}"]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_names_that_are_taken_or_unknown_are_refused(capsys):
    for override in ("variants.mindmerger={method: mindmerger}", "variants.proxy_x={method: mindmerger}"):
        assert main(["run", "configs/quickstart.yaml", "--dry-run", override]) == 2
        assert "is the name of something else" in " ".join(capsys.readouterr().err.split())
    assert main(["run", "configs/quickstart.yaml", "--dry-run", "methods=[mindmerge]"]) == 2
    assert "unknown method 'mindmerge': did you mean 'mindmerger'?" in " ".join(capsys.readouterr().err.split())
