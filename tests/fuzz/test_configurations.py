"""Whatever is written into a configuration: it works, or one sentence says what is wrong; never a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mmscale.cli.main import main
from mmscale.config.run import RunConfig, load_run
from mmscale.errors import UserError
from tests.fuzz.mutations import YAML_VALUES, bounded, damaged

TINY = (Path(__file__).parent / "tiny.yaml").read_text(encoding="utf-8")


def keys(value: Any, before: tuple[str, ...] = ()) -> Iterator[str]:
    """Every key of a configuration, a.b.0.c, sections too."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in inside:
        yield ".".join((*before, str(key)))
        yield from keys(below, (*before, str(key)))


MORE_KEYS = (
    "encoder_cache", "deterministic", "proxy", "proxy.base.path", "evaluation.base", "evaluation.confidence",
    "recipes.mindmerger.mapping.packing.max_joined_tokens", "recipes.mindmerger.mapping.log_every_steps",
    "recipes.mindmerger.mapping.optimizer.eps", "parallel.timeout_minutes", "language_model.revision",
    "language_model.bos_token", "language_model.quantization", "encoder.family",
    "recipes.mindmerger.mapping.evaluate_task", "recipes.mindmerger.mapping.data.0.max_bad_share",
    "recipes.mindmerger.mapping.data.0.path",
)  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "config.yaml"


@bounded(400)
@given(raw=damaged(TINY, YAML_VALUES))
def test_a_damaged_configuration_is_read_or_refused_in_a_sentence(file, raw):
    file.write_bytes(raw)
    try:
        assert isinstance(load_run(str(file)), RunConfig)
    except UserError as error:
        told = str(error).splitlines()  # one sentence for each mistake
        assert told and all(line.strip() for line in told) and len(told) <= 21


@bounded(40)
@given(raw=damaged(TINY, YAML_VALUES))
def test_a_dry_run_of_a_damaged_configuration_ends_in_a_sentence(file, raw):
    file.write_bytes(raw)
    assert main(["run", str(file), "--dry-run"]) in (0, 2)


@bounded(80)
@given(key=st.sampled_from([*keys(yaml.safe_load(TINY)), *MORE_KEYS]), value=st.sampled_from(YAML_VALUES))
def test_a_dry_run_with_any_value_under_any_key_ends_in_a_sentence(file, key, value):
    file.write_text(TINY, encoding="utf-8")
    assert main(["run", str(file), f"{key}={value}", "--dry-run"]) in (0, 2)
