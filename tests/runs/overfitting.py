"""A run of two stages that learns ten examples by heart, and answers from what it hands on."""

from __future__ import annotations

from pathlib import Path

from mmscale.cli.main import main
from mmscale.data.prompts import template
from mmscale.runs.stage import Stage
from mmscale.runs.stage_data import StageData

TEN = "[{source: tinyworld, limit_per_language: 10, options: {form: %s}}]"


def settings(folder: Path, method: str, first: str, second: str, steps: int) -> list[str]:
    """Two steps of the first stage, and as many of the second as it takes."""
    first, second = f"recipes.{method}.{first}", f"recipes.{method}.{second}"
    return [
        f"output_dir={folder}",
        f"methods=[{method}]",
        "languages=[sw]",
        f"{first}.data={TEN % 'translation'}",
        f"{first}.packing.global_batch_size=10",
        f"{first}.steps=2",
        f"{second}.data={TEN % 'problem, rationale_language: en'}",
        f"{second}.packing.global_batch_size=10",
        f"{second}.steps={steps}",
        f"{second}.prompt=replacement",  # what is asked comes through the encoder alone
        "evaluation.tasks.tinyworld.data.limit_per_language=3",
        "evaluation.tasks.tinyworld.generation={max_new_tokens: 8, batch_size: 3}",
    ]


def answers(stage: Stage, mapping: Path, folder: Path, capsys) -> tuple[list[str], str]:
    """(answers to the first example of a stage's model: by its folder, by one of it whole, by its parts; what it was taught)."""
    whole = folder / "whole"
    assert main(["convert", str(stage.model), str(whole), "--whole"]) == 0
    by_hand = ["tinyworld:llm", "--encoder", "tinyworld:encoder", "--mapping", str(mapping), "--prompt", "replacement"]
    record, said = StageData(stage).records()[0].records[0], []
    for model in ([str(stage.model)], [str(whole)], by_hand):
        capsys.readouterr()
        assert main(["generate", *model, record.text, "--language", "sw", "--max-new-tokens", "90"]) == 0
        said.append(capsys.readouterr().out.strip())
    return said, template("replacement").target(record).strip()
