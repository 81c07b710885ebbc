"""The loop that trains every stage of every method."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmscale.config.parallel import InterruptionConfig
from mmscale.config.training import StageConfig
from mmscale.data.mixing import Mixture
from mmscale.data.packing import DataParallelRank, PackedRow, StepOrder, balance_rows, pack, without_targets
from mmscale.data.segments import SpecialTokens, TokenizedExample
from mmscale.data.token_store import merged_lengths
from mmscale.errors import Interrupted, UserError
from mmscale.parallel.context import ParallelContext
from mmscale.parallel.interruption import Interruption
from mmscale.progress import Bar, bar, say
from mmscale.storage.files import write_json
from mmscale.training import checkpoint
from mmscale.training.checkpoint import TrainingState
from mmscale.training.engines.base import Engine, NonFiniteLoss, StepResult
from mmscale.training.metrics import Tracker, Trackers
from mmscale.training.schedule import learning_rate
from mmscale.training.step_lines import StepLines
from mmscale.training.training_run import TrainingRun


@dataclass(frozen=True)
class TrainingData:
    """Tokenised examples of a stage and the ids that frame them."""

    train: Sequence[TokenizedExample]
    dev: Sequence[TokenizedExample]
    specials: SpecialTokens
    mixture: Mixture | None = None
    """Shares of the data sets in `train`; None where each is gone over as it is."""


class Trainer:
    """Runs one stage to its end, from wherever its folder says it stands."""

    def __init__(
        self,
        run: TrainingRun,
        engine: Engine,
        data: TrainingData,
        context: ParallelContext,
        interruption: InterruptionConfig | None = None,
        task_accuracy: Callable[[], float] | None = None,
    ) -> None:
        self.training, self.engine, self.data, self.context = run, engine, data, context
        self.ranks = DataParallelRank(context.data_rank, context.data_size)
        self.order = StepOrder(merged_lengths(data.train), self.config.packing, run.seed, self.ranks, data.mixture)
        self.total_steps = self.config.steps or self.order.steps_in(self.config.epochs or 0)
        if self.total_steps < 1:
            raise UserError(
                f"{self.title}: epochs={self.config.epochs} of {len(data.train)} examples is no whole step: raise epochs"
            )
        self.state = TrainingState(step=0, fingerprint=run.fingerprint)
        self.interruption = Interruption(interruption or InterruptionConfig(), context)
        self.task_accuracy = task_accuracy
        self._saved_step = 0
        if data.mixture is not None:
            counts = zip(data.mixture.per_epoch(self.order.lengths), data.mixture.sizes, strict=True)
            say(
                f"{self.title}: in an epoch {', '.join(f'{n:,} of {size:,}' for n, size in counts)} rows of its data sets"
            )
        self._lines = StepLines(self.title, self.total_steps, context.device)

    @property
    def title(self) -> str:
        return self.training.title

    @property
    def config(self) -> StageConfig:
        return self.training.config

    @property
    def checkpoints(self) -> Path:
        return self.training.folder / "checkpoints"

    def run(self) -> Path:
        """Train to the end; the checkpoint to hand on (the last, or the best by dev loss).

        Raises Interrupted when a signal or a time limit ends it early.
        """
        saved = checkpoint.latest(self.checkpoints, self.context)
        if saved is not None:
            self.state = checkpoint.load(saved, self.engine, self.state.fingerprint, self.context)
            say(f"{self.title}: going on after step {self.state.step} of {self.total_steps}")
        trackers = Trackers(self.training, self.state.step, self.context)
        try:
            with bar(self.title, self.total_steps, self.state.step, lines=False) as progress, self.interruption:
                while self.state.step < self.total_steps:
                    self.interruption.watch()
                    self._step(trackers, progress)
                    self._stop_if_asked()
        finally:
            trackers.close()
        chosen = self.state.step
        if self.config.keep == "best" and self.state.best_step is not None:
            chosen = self.state.best_step
        return checkpoint.step_directory(self.checkpoints, chosen)

    def _rows(self, step: int) -> list[PackedRow]:
        return self._packed(self.order.step(step)[2], self.data.train)

    def _packed(self, rows: Sequence[Sequence[int]], examples: Sequence[TokenizedExample]) -> list[PackedRow]:
        """Rows of example numbers as tensors; a rank left without examples takes part with one that has no loss."""
        specials = self.data.specials
        return [
            pack([examples[i] for i in row], specials) if row else without_targets(pack(examples[:1], specials))
            for row in rows
        ]

    def _step(self, trackers: Tracker, progress: Bar) -> None:
        started = time.monotonic()
        rate = learning_rate(self.config.optimizer, self.state.step, self.total_steps)
        rows = self._rows(self.state.step)
        try:
            result = self.engine.train_step(rows, rate)
        except NonFiniteLoss as error:
            raise self._stopped_by(error, rows) from error
        seconds = time.monotonic() - started
        self.state = replace(self.state, step=self.state.step + 1, seconds=self.state.seconds + seconds)
        tokens = self.context.sum([sum(sum(row.lengths) for row in rows)])[0]
        self._lines.add(tokens, seconds)
        self._log(trackers, progress, result, rate, tokens / seconds)
        last = self.state.step == self.total_steps
        self._evaluate(trackers, last)
        if last or (self.config.save_every_steps and self.state.step % self.config.save_every_steps == 0):
            self._save()

    def _save(self) -> None:
        self.interruption.watch()
        checkpoint.save(self.checkpoints, self.engine, self.state, self.context)
        self._saved_step = self.state.step

    def _stop_if_asked(self) -> None:
        """Raises Interrupted, on all ranks after the same step, with everything saved."""
        reason = self.interruption.reason()
        if reason is None or self.state.step == self.total_steps:
            return
        if self._saved_step != self.state.step:
            self._save()
        say(f"{self.title}: stopped after step {self.state.step} by {reason}; the same command goes on from there")
        raise Interrupted(reason, self.interruption.signal)

    def _log(self, trackers: Tracker, progress: Bar, result: StepResult, rate: float, tokens_per_s: float) -> None:
        step, last = self.state.step, self.state.step == self.total_steps
        progress.advance(note=f"loss {result.loss:.3f}  {tokens_per_s:,.0f} tokens/s")
        if step == 1 or last or step % self.config.log_every_steps == 0:
            trackers.write(
                step,
                loss=result.loss,
                gradient_norm=result.gradient_norm,
                learning_rate=rate,
                tokens_per_s=tokens_per_s,
                target_tokens=result.target_tokens,
            )
            self._lines.tell(step, result.loss, rate)
        if last:
            mean = self.state.seconds / step
            say(
                f"{self.title}: {step} steps, last loss {result.loss:.3f}, {mean:.2f} s per step, {self.state.seconds:.0f} s in all"
            )

    def _evaluate(self, trackers: Tracker, last: bool) -> None:
        every = self.config.evaluate_every_steps
        if not (last or (every and self.state.step % every == 0)):
            return
        values: dict[str, float] = {}
        if self.data.dev:
            values["dev_loss"] = self.dev_loss()
        if self.task_accuracy is not None:
            values["accuracy"] = self.task_accuracy()
        if not values:
            return
        trackers.write(self.state.step, **values)
        value = -values["accuracy"] if self.config.best_by == "accuracy" else values.get("dev_loss")
        if value is not None and (self.state.best_value is None or value < self.state.best_value):
            self.state = replace(self.state, best_value=value, best_step=self.state.step)
            if self.config.keep == "best":
                self._save()

    def dev_loss(self) -> float:
        """Mean loss over all dev target tokens."""
        lengths = merged_lengths(self.data.dev).tolist()
        capacity = max(self.config.packing.row_tokens, max(lengths))
        rows = balance_rows(lengths, range(len(lengths)), capacity, self.ranks.size)
        mine = rows[self.ranks.rank :: self.ranks.size]
        total, tokens = self.engine.loss(self._packed(mine, self.data.dev))
        return total / tokens

    def _stopped_by(self, error: NonFiniteLoss, rows: list[PackedRow]) -> UserError:
        """Save the offending batch and the last good state, and say so in one sentence."""
        step = self.state.step
        suffix = f"-rank-{self.context.rank}" if self.context.size > 1 else ""
        path = self.training.folder / f"non-finite-step-{step}{suffix}.json"
        write_json(
            path, [{"origins": r.origins, "token_ids": r.token_ids.tolist(), "labels": r.labels.tolist()} for r in rows]
        )
        self._save()
        return UserError(
            f"{self.title}: step {step + 1} gave {error}; nothing was updated, the batch is in {path}: "
            f"look at it, lower optimizer.learning_rate, or use precision=float32"
        )
