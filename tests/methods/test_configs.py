"""Every shipped configuration loads, is complete, and holds the published hyper-parameters; dry runs count exactly."""

from __future__ import annotations

import json
import shutil
from importlib import resources
from pathlib import Path

import pytest

from mmscale import registry
from mmscale.cli.main import main
from mmscale.config.cluster import load_cluster
from mmscale.config.run import dump_run, load_run
from mmscale.data.sources import source
from mmscale.runs.run import check

CONFIGS = Path(str(resources.files("mmscale.configs")))
CLUSTERS = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.glob("cluster/*.yaml"))
NAMES = sorted(
    {str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml") if path.parent.name not in ("tasks", "corpus")}
    - set(CLUSTERS)
)


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_configuration_is_complete(name):
    run = load_run(name)
    assert [method.name for method in check(run)] == list(run.methods)
    for stages in run.recipes.values():
        for stage in stages.values():
            assert all(source(part.source) for part in stage.data)


@pytest.mark.parametrize("name", CLUSTERS)
def test_every_shipped_cluster_makes_a_batch_script(name, capsys):
    assert main(["launch", "configs/quickstart.yaml", "mindmerger", "--cluster", f"configs/{name}"]) == 0
    shown = capsys.readouterr().out
    cluster = load_cluster(name)
    assert shown.count(f"#SBATCH --nodes={cluster.nodes}\n") == 2, "one job a stage"
    assert shown.count(f"#SBATCH --ntasks-per-node={cluster.ranks_on_node}\n") == 2


def test_a_resolved_configuration_reads_back_the_same(tmp_path):
    run = load_run("configs/quickstart.yaml", ["seed=5", "recipes.mindmerger.mapping.steps=7"])
    (tmp_path / "run.yaml").write_text(dump_run(run), encoding="utf-8")
    assert load_run(str(tmp_path / "run.yaml")) == run
    assert run.seed == 5 and run.recipes["mindmerger"]["mapping"].steps == 7


def test_mindmerger_has_the_published_hyper_parameters():
    stages = load_run("configs/mindmerger/metamath-7b-mt5-xl.yaml").recipes["mindmerger"]
    for stage in stages.values():
        settings = stage.optimizer
        assert (settings.learning_rate, settings.betas, settings.eps, settings.weight_decay) == (
            2e-5,
            (0.8, 0.999),
            1e-8,
            3e-7,
        )
        assert (settings.schedule, settings.max_gradient_norm, stage.packing.global_batch_size) == (
            "constant",
            1.0,
            128,
        )
        assert (stage.epochs, stage.dev_examples, stage.keep, stage.precision) == (3, 3000, "best", "bfloat16")
    assert (stages["mapping"].packing.max_encoder_tokens, stages["augmentation"].packing.max_encoder_tokens) == (
        200,
        512,
    )


def test_question_alignment_has_the_published_hyper_parameters():
    for stage in load_run("configs/question_alignment/llama2-13b.yaml").recipes["question_alignment"].values():
        settings = stage.optimizer
        assert (settings.learning_rate, settings.schedule, settings.warmup_share, settings.weight_decay) == (
            2e-5,
            "cosine",
            0.03,
            0.0,
        )
        assert (stage.packing.global_batch_size, stage.epochs, stage.packing.max_prompt_tokens) == (128, 3, 512)


@pytest.fixture
def config_folders(public_data, tmp_path):
    """Folders that hold a config.json and nothing else."""

    def folder(name: str) -> str:
        (tmp_path / name).mkdir()
        shutil.copy(public_data / "configs" / f"{name}.config.json", tmp_path / name / "config.json")
        return str(tmp_path / name)

    return folder


@pytest.mark.parametrize(
    "language_model,parameters,mapping",
    [
        ("llama-2-7b", 6_738_415_616, 25_178_112),
        ("llama-2-13b", 13_015_864_320, None),
        ("llama-2-70b", 68_976_648_192, None),
    ],
)
def test_dry_run_counts_parameters_exactly_without_weights(config_folders, capsys, language_model, parameters, mapping):
    encoder = config_folders("mt5-xl.UNVERIFIED")
    command = [
        "run",
        "configs/mindmerger/llama2-7b-mt5-xl.yaml",
        f"language_model.path={config_folders(language_model)}",
        f"encoder.path={encoder}",
    ]
    assert main([*command, "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"]["language_model"] == parameters
    stage = found["stages"]["mindmerger.mapping"]
    assert stage["trainable"] == found["parameters"]["connector"]
    assert stage["frozen"] == parameters + found["parameters"]["encoder"]
    assert "data not found" in stage["missing"]
    if mapping:
        assert found["parameters"]["connector"] == mapping, "the published size for mT5-xl and LLaMA-2-7B"


def test_dry_run_counts_tokens_where_data_is_there(capsys):
    assert (
        main(
            [
                "run",
                "configs/quickstart.yaml",
                "--dry-run",
                "--json",
                "recipes.mindmerger.mapping.data.0.limit_per_language=50",
            ]
        )
        == 0
    )
    stage = json.loads(capsys.readouterr().out)["stages"]["mindmerger.mapping"]
    assert stage["rows"] == 550 and stage["tokens"] > 10_000 and stage["truncated"] == 0 and stage["slots_used"] >= 0.97


def test_methods_are_found_by_their_file_name():
    folder = Path(str(resources.files("mmscale.methods")))
    assert all((folder / f"{name}.py").is_file() for name in registry.names("methods"))


def test_dry_run_shows_what_deepspeed_is_given(capsys):
    command = ["run", "configs/quickstart.yaml", "methods=[mindmerger]", "parallel.zero.stage=3", "--dry-run"]
    assert main([*command, "parallel.zero.extra={zero_optimization: {stage3_prefetch_bucket_size: 7}}", "--json"]) == 0
    given = json.loads(capsys.readouterr().out)["stages"]["mindmerger.mapping"]["deepspeed"]
    assert given["zero_optimization"]["stage"] == 3
    assert given["zero_optimization"]["stage3_prefetch_bucket_size"] == 7, "keys that are not modelled pass through"
    assert main(command) == 0
    assert '"zero_optimization": {"stage": 3' in capsys.readouterr().out


@pytest.mark.parametrize("task,languages", [("x-csqa", 16), ("xnli", 15)])
def test_mindmerger_on_choice_tasks_has_the_published_lengths_and_languages(task, languages):
    run = load_run(f"configs/mindmerger/llamax-7b-{task}-mt5-xl.yaml")
    stages, name = run.recipes["mindmerger"], task.replace("-", "")
    assert len(run.languages) == languages and len(stages["mapping"].data[0].languages) == languages - 1
    for stage in stages.values():
        packing = stage.packing
        assert {packing.max_encoder_tokens, packing.max_prompt_tokens, packing.max_target_tokens} == {200}
        assert (stage.epochs, packing.global_batch_size, stage.optimizer.betas) == (3, 128, (0.8, 0.999))
    assert stages["augmentation"].prompt == name and stages["augmentation"].data[0].limit_per_language is None
    assert list(run.evaluation.tasks) == [name] and run.evaluation.tasks[name].rule == "exact"
