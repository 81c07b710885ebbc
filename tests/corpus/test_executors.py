"""Waiting for Slurm's jobs where the controller does not always answer."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from mmscale.config.cluster import ClusterConfig
from mmscale.corpus.executors import _FORGOTTEN, OnSlurm, Tasks
from mmscale.parallel import slurm


@pytest.mark.parametrize(
    ("states", "asked"),
    [
        (["RUNNING", "UNKNOWN", "UNKNOWN", "RUNNING", "COMPLETED"], 5),
        (["RUNNING", *["UNKNOWN"] * 100], 2 + _FORGOTTEN),
    ],
)
def test_a_controller_that_does_not_answer_for_a_moment_has_not_ended_a_job(monkeypatch, states, asked):
    left = iter(states)
    told: list[str] = []
    monkeypatch.setattr(slurm, "state", lambda job: told.append(job) or next(left))
    executor = SimpleNamespace(job_name="job", get_incomplete_ranks=lambda skip_completed: [0])
    tasks = Tasks(step=None, count=1, logs=Path("."), work="")
    OnSlurm(ClusterConfig(nodes=1, gpus_per_node=0), every_seconds=0)._wait(executor, tasks, "7")
    assert len(told) == asked
