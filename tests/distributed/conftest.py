"""The run that every disturbed one is compared with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.distributed import ranks
from tests.distributed.mapping_run import command


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    ranks.run(2, command(folder))
    return folder
