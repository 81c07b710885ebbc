"""A model card (Mitchell et al. 2019) of a run, in Markdown."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import jinja2

from mmscale.errors import UserError
from mmscale.reporting.forms import SCORES, read_form
from mmscale.reporting.html import as_written
from mmscale.storage.files import atomic_write
from mmscale.storage.reading import read_yaml


def write_model_card(run: Path, output: Path) -> Path:
    """MODEL_CARD.md of a finished run; UserError when the folder has no scores."""
    scores = read_form(run / "scores.json", SCORES, None)
    if scores is None:
        raise UserError(f"{run} has no scores.json: it is not a run directory, or nothing was evaluated yet")
    config_file = run / "run.yaml"
    if not config_file.is_file():
        raise UserError(f"{run} has no run.yaml: it is not a run directory")
    config = read_yaml(config_file)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(str(resources.files("mmscale.reporting") / "templates")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    with as_written(config_file):
        text = environment.get_template("model_card.md.j2").render(config=config, scores=scores)
    with atomic_write(output) as handle:
        handle.write(text)
    return output
