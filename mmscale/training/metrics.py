"""metrics.jsonl and (where it is installed) TensorBoard of one stage; a resumed stage goes on as if it had not stopped."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from mmscale.storage.files import atomic_write, cannot_write
from mmscale.storage.reading import parse_json
from mmscale.storage.row_log import whole_rows


class Metrics:
    """Rows {"step": n, name: value …} in metrics.jsonl of the stage's folder; a resumed stage drops those after `from_step`.

    Only one of several ranks writes.
    """

    def __init__(self, folder: Path, from_step: int, writes: bool = True) -> None:
        self.path = folder / "metrics.jsonl"
        self._file: Any = None
        self._board: TensorBoard | None = None
        if not writes:
            return
        kept = [row for row in read_metrics(self.path) if row["step"] <= from_step]
        with atomic_write(self.path) as handle:
            handle.writelines(json.dumps(row) + "\n" for row in kept)
        self._file = open(self.path, "a", encoding="utf-8")
        if importlib.util.find_spec("tensorboard") is not None:  # extra `tracking`
            self._board = TensorBoard(folder, from_step)

    def write(self, step: int, **values: float) -> None:
        if self._file is None:
            return
        try:
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
        except OSError as error:
            raise cannot_write(self.path, error) from error
        if self._board is not None:
            self._board.write(step, **values)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()


class TensorBoard:
    """TensorBoard's event files in the stage's folder, where it is installed (extra `tracking`)."""

    def __init__(self, folder: Path, from_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # imports slowly; only a run needs it

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=from_step + 1)

    def write(self, step: int, **values: float) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Rows of a metrics file, damaged ones left out."""
    return list(whole_rows(path, _row, "left out"))


def _row(line: bytes, _: str) -> dict[str, float] | None:
    try:
        row = parse_json(line.decode())
    except ValueError:  # neither UTF-8 nor JSON
        return None
    numbers = isinstance(row, dict) and all(type(value) in (int, float) for value in row.values())
    return row if numbers and type(row.get("step")) is int else None
