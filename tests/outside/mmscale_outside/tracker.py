"""Trackers of this package."""

import csv

from mmscale.training.metrics import Tracker
from mmscale.training.training_run import TrainingRun


class Spreadsheet(Tracker):
    """A table of (step, name, value) in metrics.csv of the stage's folder."""

    def __init__(self, run: TrainingRun, from_step: int) -> None:
        self._file = open(run.folder / "metrics.csv", "a+", newline="")
        self._file.seek(0)
        kept = [row for row in csv.reader(self._file) if int(row[0]) <= from_step]
        self._file.truncate(0)
        self._table = csv.writer(self._file)
        self._table.writerows(kept)

    def write(self, step: int, **values: float) -> None:
        self._table.writerows([step, name, value] for name, value in values.items())
        self._file.flush()

    def close(self) -> None:
        self._file.close()
