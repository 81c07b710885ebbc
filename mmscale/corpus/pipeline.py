"""Steps of a corpus in their order, run by datatrove on this machine, a Slurm cluster or Ray.

datatrove's own marks of finished tasks are not asked: every step knows by its files what is done, whatever the number of tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import yaml
from datatrove.pipeline.base import PipelineStep
from loguru import logger

from mmscale.config.corpus import CorpusConfig
from mmscale.corpus import checking, compiling, mixture, publishing, translate
from mmscale.corpus.executors import Executor, Here, Tasks
from mmscale.corpus.layout import WORK
from mmscale.corpus.reading import SourceReader
from mmscale.storage.files import atomic_write, digest, require_folder
from mmscale.storage.locks import alone_in

logger.disable("datatrove")  # what a user has to know, the steps say


@dataclass(frozen=True)
class CorpusRun:
    """A corpus at work: its configuration, and where tasks run."""

    config: CorpusConfig
    executor: Executor

    def step(self, step: PipelineStep, tasks: int, gpu: bool = False) -> None:
        """Run one step in `tasks` tasks; UserError where one fails."""
        name = type(step).__name__
        settings = self.config.model_dump(mode="json", exclude={"workers", "output_dir"})
        logs = self.config.folder.resolve() / WORK / "datatrove" / name
        self.executor.run(Tasks(step=step, count=tasks, logs=logs, work=digest([name, settings]), gpu=gpu))


def _read(run: CorpusRun) -> None:
    run.step(SourceReader(run.config), len(run.config.sources))


def _translate(run: CorpusRun) -> None:
    translate.begin(run.config)
    here = run.config.translate is not None and run.config.translate.backend != "openai"
    run.step(translate.CorpusTranslation(run.config), run.config.tasks, gpu=here)
    translate.tell(run.config)


def _check(run: CorpusRun) -> None:
    config = run.config
    checks = checking.chosen(config)
    needs_all, near = any(check.of_all_rows for check in checks.values()), "near_duplicate" in checks
    every = checking.shards_of(config.folder)
    tasks = min(config.tasks, len(every))
    seen = None
    if needs_all:
        run.step(checking.LookAtShards(config, near), tasks)
        seen = checking.bring_together(config, near)
    work = checking.work_of(config, every, needs_all)
    run.step(checking.JudgeShards(config, seen, work), tasks)
    checking.summarise(config, work)


def _compile(run: CorpusRun) -> None:
    work = compiling.begun(run.config)
    with alone_in(work.target.with_name(f".{work.target.name}.lock")):
        if publishing.is_published(work):
            return
        tasks = min(run.config.tasks, len(work.shards()))
        run.step(compiling.RankShards(work), tasks)
        ranks = compiling.ranks_of_cells(work)
        capped, targets = mixture.targets({cell: len(own) for cell, own in ranks.items()}, run.config.compile)
        layout = compiling.layout_of(work, ranks, targets)
        run.step(compiling.SpillShards(work, layout), tasks)
        run.step(compiling.WriteFiles(work, layout), min(run.config.tasks, sum(layout.files.values())))
        publishing.publish(work, layout, capped, targets)


STEPS: dict[str, Callable[[CorpusRun], None]] = {
    "read": _read,
    "translate": _translate,
    "check": _check,
    "compile": _compile,
}
"""Every step of `mmscale corpus run` in its order; each takes up what the one before it left."""


def run_steps(config: CorpusConfig, names: Iterable[str], executor: Executor | None = None) -> None:
    """Run steps by name, alone in the output folder; on this machine, unless an executor says where."""
    require_folder(config.folder)
    with alone_in(config.folder):
        with atomic_write(config.folder / "corpus.yaml") as handle:
            yaml.safe_dump(config.model_dump(mode="json"), handle, sort_keys=False, allow_unicode=True)
        for name in names:
            STEPS[name](CorpusRun(config, executor or Here(config.workers)))
