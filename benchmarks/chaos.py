"""Kills a training run at random and starts it again, until it is done: mmscale bench chaos [--kills 20]

Ranks of MindMerger's mapping stage on the embedded models are killed (one or all, SIGKILL) or signalled (one, SIGUSR1
or SIGTERM) after a random number of steps, some of them while they save. The verdict: the final weights and every
logged loss are those of a run that nobody disturbed, bit for bit. Exit code 1 when they are not.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from mmscale.parallel.world import free_port
from mmscale.training import checkpoint
from mmscale.training.fragments import SavedState
from mmscale.training.metrics import read_metrics

from .recording import record

STEPS_A_KILL = 12
"""A run gets so many steps for every kill, and saves every SAVE_EVERY."""
SAVE_EVERY = 5
TARGET = "mindmerger.mapping"
KINDS = ("one rank killed", "all ranks killed", "SIGUSR1 to one rank", "SIGTERM to one rank")


@dataclass(frozen=True)
class ChaosRun:
    """One training run in a folder."""

    folder: Path
    ranks: int
    steps: int

    @property
    def stage(self) -> Path:
        return self.folder / "stages" / TARGET

    @property
    def step(self) -> int:
        return max((int(row["step"]) for row in read_metrics(self.stage / "metrics.jsonl")), default=0)

    @property
    def done(self) -> bool:
        return (self.stage / "model").is_dir()

    def start(self) -> list[subprocess.Popen[str]]:
        recipe = f"recipes.{TARGET}"
        settings = {
            "output_dir": self.folder,
            "languages": "[sw]",
            "threads": 1,
            f"{recipe}.steps": self.steps,
            f"{recipe}.log_every_steps": 1,
            f"{recipe}.save_every_steps": SAVE_EVERY,
            f"{recipe}.packing.global_batch_size": 6,
            f"{recipe}.data.0.limit_per_language": 100,
        }
        command = ["-m", "mmscale", "train", "configs/quickstart.yaml", TARGET]
        command += [f"{key}={value}" for key, value in settings.items()]
        world = {"WORLD_SIZE": str(self.ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        quiet = {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
        return [
            subprocess.Popen(
                [sys.executable, *command],
                env={**os.environ, **quiet, **world, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(self.ranks)
        ]

    def result(self) -> tuple[dict[str, torch.Tensor], list[tuple[int, float]]]:
        """(final weights, losses by step)."""
        saved = SavedState(checkpoint.step_directory(self.stage / "checkpoints", self.steps))
        rows = [row for row in read_metrics(self.stage / "metrics.jsonl") if "loss" in row]
        return {name: saved.parameter(name) for name in saved.shapes}, [(int(row["step"]), row["loss"]) for row in rows]


def wait(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    return [(process.returncode, err) for process in processes for _, err in [process.communicate()]]


def disturb(processes: list[subprocess.Popen[str]], kind: str, chance: random.Random) -> None:
    chosen = chance.choice(processes)
    if kind == "all ranks killed":
        for process in processes:
            process.kill()
    else:
        number = {"one": signal.SIGKILL, "SIGUSR1": signal.SIGUSR1, "SIGTERM": signal.SIGTERM}[kind.split()[0]]
        chosen.send_signal(number)


def torment(run: ChaosRun, kills: int, chance: random.Random) -> Counter[str]:
    """Disturb a run so many times, then let it end; what was done to it. Stops at a fault that is not ours."""
    done: Counter[str] = Counter()
    while not run.done:
        processes = run.start()
        if sum(done.values()) < kills:
            before = run.step
            until = before + chance.randint(1, 2 * SAVE_EVERY)
            while run.step < until and all(process.poll() is None for process in processes):
                time.sleep(0.01)
            time.sleep(chance.random() * 0.1)
            kind = chance.choice(KINDS)
            if all(process.poll() is None for process in processes):
                disturb(processes, kind, chance)
                done[kind] += 1
                print(f"{sum(done.values()):3}  {kind:20} after step {run.step}", flush=True)
        faults = [err for code, err in wait(processes) if code not in (0, 2, -signal.SIGKILL)]
        if faults:
            sys.exit(f"a rank ended otherwise than it should:\n{faults[0][-2000:]}")
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        steps = STEPS_A_KILL * arguments.kills
        quiet, loud = (ChaosRun(Path(name) / kind, arguments.ranks, steps) for kind in ("undisturbed", "disturbed"))
        print(f"{steps} steps on {arguments.ranks} ranks, undisturbed", flush=True)
        torment(quiet, 0, random.Random())
        done = torment(loud, arguments.kills, random.Random(arguments.seed))
        (expected, losses), (found, others) = quiet.result(), loud.result()
    equal = all(torch.equal(expected[name], found[name]) for name in expected) and losses == others
    print(", ".join(f"{count} x {kind}" for kind, count in sorted(done.items())))
    verdict = "final weights and all losses as undisturbed, bit for bit" if equal else "THE RESULT DIFFERS"
    print(f"{sum(done.values())} kills, {steps} steps: {verdict}")
    print(record("chaos", {"kills": dict(done), "steps": steps, "ranks": arguments.ranks, "equal": equal}))
    sys.exit(0 if equal else 1)


if __name__ == "__main__":
    main()
