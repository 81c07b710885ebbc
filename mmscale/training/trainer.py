"""The loop that trains every stage of every method."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmscale.config.training import StageConfig
from mmscale.data.packing import ONE_RANK, DataParallelRank, PackedRow, StepOrder, balance_rows, pack
from mmscale.data.segments import SpecialTokens, TokenizedExample
from mmscale.errors import UserError
from mmscale.files import write_json
from mmscale.progress import Bar, bar, say
from mmscale.training import checkpoint
from mmscale.training.checkpoint import TrainingState
from mmscale.training.engine import Engine, NonFiniteLoss, StepResult
from mmscale.training.metrics import Metrics
from mmscale.training.schedule import learning_rate


@dataclass(frozen=True)
class TrainingData:
    """Tokenised examples of a stage and the ids that frame them."""

    train: Sequence[TokenizedExample]
    dev: Sequence[TokenizedExample]
    specials: SpecialTokens


class Trainer:
    """Runs one stage to its end, from wherever its folder says it stands."""

    def __init__(
        self,
        title: str,
        folder: Path,
        config: StageConfig,
        engine: Engine,
        data: TrainingData,
        seed: int,
        fingerprint: str,
        ranks: DataParallelRank = ONE_RANK,
        task_accuracy: Callable[[], float] | None = None,
    ) -> None:
        self.title, self.folder, self.config, self.engine, self.data = title, folder, config, engine, data
        self.order = StepOrder([e.merged_length for e in data.train], config.packing, seed, ranks)
        self.total_steps = config.steps or self.order.steps_in(config.epochs or 0)
        if self.total_steps < 1:
            raise UserError(
                f"{title}: epochs={config.epochs} of {len(data.train)} examples is no whole step: raise epochs"
            )
        self.state = TrainingState(step=0, fingerprint=fingerprint)
        self.task_accuracy = task_accuracy

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def run(self) -> Path:
        """Train to the end; the checkpoint to hand on (the last, or the best by dev loss)."""
        found = checkpoint.latest(self.checkpoints)
        if found is not None:
            self.state = checkpoint.load(found, self.engine, self.state.fingerprint)
            say(f"{self.title}: going on after step {self.state.step} of {self.total_steps}")
        metrics = Metrics(self.folder, self.state.step)
        try:
            with bar(self.title, self.total_steps, self.state.step) as progress:
                while self.state.step < self.total_steps:
                    self._step(metrics, progress)
        finally:
            metrics.close()
        chosen = self.state.step
        if self.config.keep == "best" and self.state.best_step is not None:
            chosen = self.state.best_step
        return checkpoint.step_directory(self.checkpoints, chosen)

    def _rows(self, step: int) -> list[PackedRow]:
        rows = self.order.step(step)[2]
        return [pack([self.data.train[i] for i in row], self.data.specials) for row in rows if row]

    def _step(self, metrics: Metrics, progress: Bar) -> None:
        started = time.monotonic()
        rate = learning_rate(self.config.optimizer, self.state.step, self.total_steps)
        rows = self._rows(self.state.step)
        try:
            result = self.engine.train_step(rows, rate)
        except NonFiniteLoss as error:
            raise self._stopped_by(error, rows) from error
        seconds = time.monotonic() - started
        self.state = replace(self.state, step=self.state.step + 1, seconds=self.state.seconds + seconds)
        tokens = sum(sum(row.lengths) for row in rows)
        self._log(metrics, progress, result, rate, tokens / seconds)
        last = self.state.step == self.total_steps
        self._evaluate(metrics, last)
        if last or (self.config.save_every_steps and self.state.step % self.config.save_every_steps == 0):
            checkpoint.save(self.checkpoints, self.engine, self.state)

    def _log(self, metrics: Metrics, progress: Bar, result: StepResult, rate: float, tokens_per_s: float) -> None:
        step, last = self.state.step, self.state.step == self.total_steps
        progress.advance(note=f"loss {result.loss:.3f}  {tokens_per_s:,.0f} tokens/s")
        if step == 1 or last or step % self.config.log_every_steps == 0:
            metrics.write(
                step,
                loss=result.loss,
                gradient_norm=result.gradient_norm,
                learning_rate=rate,
                tokens_per_s=tokens_per_s,
                target_tokens=result.target_tokens,
            )
        if last:
            mean = self.state.seconds / step
            say(
                f"{self.title}: {step} steps, last loss {result.loss:.3f}, {mean:.2f} s a step, {self.state.seconds:.0f} s in all"
            )

    def _evaluate(self, metrics: Metrics, last: bool) -> None:
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
        metrics.write(self.state.step, **values)
        value = -values["accuracy"] if self.config.best_by == "accuracy" else values.get("dev_loss")
        if value is not None and (self.state.best_value is None or value < self.state.best_value):
            self.state = replace(self.state, best_value=value, best_step=self.state.step)
            if self.config.keep == "best":
                checkpoint.save(self.checkpoints, self.engine, self.state)

    def dev_loss(self) -> float:
        """Mean loss over all dev target tokens."""
        lengths = [example.merged_length for example in self.data.dev]
        rows = balance_rows(lengths, range(len(lengths)), max(self.config.packing.row_tokens, max(lengths)))
        total, tokens = self.engine.loss(
            [pack([self.data.dev[i] for i in row], self.data.specials) for row in rows if row]
        )
        return total / tokens

    def _stopped_by(self, error: NonFiniteLoss, rows: list[PackedRow]) -> UserError:
        """Save the offending batch and the last good state, and say so in one sentence."""
        step = self.state.step
        path = self.folder / f"non-finite-step-{step}.json"
        write_json(
            path, [{"origins": r.origins, "token_ids": r.token_ids.tolist(), "labels": r.labels.tolist()} for r in rows]
        )
        checkpoint.save(self.checkpoints, self.engine, self.state)
        return UserError(
            f"{self.title}: step {step + 1} gave {error}; nothing was updated, the batch is in {path}: "
            f"look at it, lower optimizer.learning_rate, or use precision=float32"
        )
