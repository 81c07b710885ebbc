"""`mmscale tinyworld` makes models that load like anyone's."""

from __future__ import annotations

from mmscale.cli.main import main
from mmscale.tinyworld import pretraining


def test_the_command_makes_models_that_work(tmp_path, monkeypatch, capsys):
    original = pretraining._stage

    def small(name):
        stage = original(name)
        data = stage.data[0].model_copy(update={"limit_per_language": 60})
        return stage.model_copy(update={"steps": 2, "data": (data,), "dev_examples": 10})

    monkeypatch.setattr(pretraining, "_stage", small)
    assert main(["tinyworld", "--output", str(tmp_path), "llm", "encoder"]) == 0
    assert (
        main(
            [
                "generate",
                str(tmp_path / "llm"),
                "Anna has 12 apples.",
                "--prompt",
                "tinyworld_math",
                "--max-new-tokens",
                "3",
            ]
        )
        == 0
    )
    overrides = [
        f"language_model.path={tmp_path / 'llm'}",
        f"encoder.path={tmp_path / 'encoder'}",
        "methods=[mindmerger]",
    ]
    limits = [f"recipes.mindmerger.{stage}.data.0.limit_per_language=5" for stage in ("mapping", "augmentation")]
    assert main(["run", "configs/quickstart.yaml", "--dry-run", *overrides, *limits]) == 0
    assert "865,152 parameters" in capsys.readouterr().out
