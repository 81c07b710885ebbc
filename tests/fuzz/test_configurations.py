"""Whatever is written into a configuration: it works, or one sentence says what is wrong; never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given

from mmscale.cli.main import main
from mmscale.config.run import RunConfig, load_run
from mmscale.errors import UserError
from tests.fuzz.mutations import YAML_VALUES, bounded, damaged

TINY = (Path(__file__).parent / "tiny.yaml").read_text(encoding="utf-8")


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
        assert str(error) and "\n" not in str(error).strip()


@bounded(40)
@given(raw=damaged(TINY, YAML_VALUES))
def test_a_dry_run_of_a_damaged_configuration_ends_in_a_sentence(file, raw):
    file.write_bytes(raw)
    assert main(["run", str(file), "--dry-run"]) in (0, 2)
