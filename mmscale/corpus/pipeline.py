"""Steps of a corpus in their order, run by datatrove on this machine.

datatrove's own marks of finished tasks are not asked: every step knows by its files what is done, whatever the number of tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import yaml
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from loguru import logger

from mmscale.config.corpus import CorpusConfig
from mmscale.corpus.layout import WORK
from mmscale.corpus.reading import SourceReader
from mmscale.storage.files import atomic_write, require_folder
from mmscale.storage.locks import alone_in

logger.disable("datatrove")  # what a user has to know, the steps say


def run_step(config: CorpusConfig, step: PipelineStep, tasks: int) -> None:
    """Run one step on this machine in `tasks` tasks, as many at a time as the configuration says."""
    logs = config.folder / WORK / "datatrove" / type(step).__name__
    require_folder(logs)
    LocalPipelineExecutor(
        [step], tasks=tasks, workers=min(tasks, config.workers), logging_dir=str(logs), skip_completed=False
    ).run()


def _read(config: CorpusConfig) -> None:
    run_step(config, SourceReader(config), len(config.sources))


STEPS: dict[str, Callable[[CorpusConfig], None]] = {"read": _read}
"""Every step of `mmscale corpus run` in its order; each takes up what the one before it left."""


def run_steps(config: CorpusConfig, names: Iterable[str]) -> None:
    """Run steps by name, alone in the output folder."""
    require_folder(config.folder)
    with alone_in(config.folder):
        with atomic_write(config.folder / "corpus.yaml") as handle:
            yaml.safe_dump(config.model_dump(mode="json"), handle, sort_keys=False, allow_unicode=True)
        for name in names:
            STEPS[name](config)
