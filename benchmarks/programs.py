"""Published programs run in isolation, their values against the published ones: mmscale bench programs --file FILE [--json]

FILE is JSONL of either form: rows of `code` and `target` (gsm-hard), or rows whose texts hold blocks ```python and
```output (ToRA's trajectories: `messages`, or a list under `code`). A program is equal where its value is the target, to
the digits that the target has, or where it prints the published output; an error or a timeout that was published counts
as such. ToRA cuts outputs at 400 characters and says "Done" where nothing was printed. Exit code 2 where nothing can be run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from mmscale.config.execution import ExecutionConfig
from mmscale.data.sources.rows import json_rows
from mmscale.errors import BadRow, LeftOut, UserError
from mmscale.execution.outcome import Outcome
from mmscale.execution.pool import Pool
from mmscale.execution.programs import published

from .recording import record

CUT = 400
"""Characters of an output that ToRA's executor keeps."""
ROUNDING = Decimal("1e-10")
"""gsm-hard's targets are rounded to ten decimals."""
RELATIVE = Decimal("1e-12")
"""For large values: what a float's sixteen digits leave after a few operations, and the targets' own rounding."""


@dataclass(frozen=True)
class PublishedProgram:
    """A program, where it stands, and what was published of it."""

    place: str
    code: str
    target: Any = None
    """A value, of a row with `target`."""
    output: str | None = None
    """A printed text, of a trajectory."""

    def equal(self, outcome: Outcome) -> bool:
        if self.output is None:
            return outcome.value is not None and same_value(outcome.value, self.target)
        return same_output(outcome, self.output)

    def expected(self) -> str:
        return str(self.target if self.output is None else self.output)


def same_value(value: str, target: Any) -> bool:
    """Whether a program's value is the published one, as far as that was rounded."""
    try:
        ours, theirs = Decimal(value.strip()), Decimal(str(target))
        if not (ours.is_finite() and theirs.is_finite()):
            return str(ours) == str(theirs)
        return abs(ours - theirs) <= max(ROUNDING, RELATIVE * abs(theirs))
    except (InvalidOperation, ValueError):
        return value.strip() == str(target).strip()


def same_output(outcome: Outcome, output: str) -> bool:
    """Whether ToRA's executor would have written this output."""
    if outcome.failure == "timeout":
        return "timed out" in output.lower() or "timeout" in output.lower()
    failed = outcome.failure is not None and outcome.failure != "no value"
    text = outcome.message if failed else outcome.printed
    return cut(text.strip() or ("" if failed else "Done")) == cut(output)


def cut(text: str) -> str:
    return text if len(text) <= CUT else text[: CUT // 2] + "..." + text[-CUT // 2 :]


def cases(path: Path) -> Iterator[PublishedProgram]:
    """Every program of a file; UserError for a row that cannot be read, and for a file without programs."""
    found = 0
    for place, row in json_rows(path):
        if isinstance(row, LeftOut):
            continue
        if isinstance(row, BadRow):
            raise UserError(f"{place}: {row}; mend or remove the row")
        if isinstance(row.get("code"), str) and "target" in row:
            found += 1
            yield PublishedProgram(place, row["code"], target=row["target"])
            continue
        for text in texts(row):
            for code, output in published(text):
                found += 1
                yield PublishedProgram(place, code, output=output)
    if not found:
        raise UserError(
            f"{path} has no programs: rows need code and target, or texts with blocks ```python and ```output"
        )


def texts(row: dict[str, Any]) -> Iterator[str]:
    """The texts of a row that hold outputs; the messages of a conversation are one, the user's left out."""
    for key, value in row.items():
        if key == "messages" and isinstance(value, list):
            said = [one for one in value if isinstance(one, dict) and one.get("role") != "user"]
            value = "\n".join(str(one.get("content", "")) for one in said)
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and "```output" in text:
                yield text


def measure(path: Path, config: ExecutionConfig) -> dict[str, Any]:
    """Counts, failures by name, speed, and every program whose value is not the published one."""
    wanted = list(cases(path))
    with Pool(config) as pool:
        pool.run(["pass", "import sympy"] * pool.workers)  # sandboxes start
        began = time.perf_counter()
        outcomes = pool.run([case.code for case in wanted])
        seconds = time.perf_counter() - began
    equal = [case.equal(outcome) for case, outcome in zip(wanted, outcomes, strict=True)]
    failed = [one.failure for case, one in zip(wanted, outcomes, strict=True) if one.failure and not quiet(case, one)]
    return {
        "file": path.name,
        "n": len(wanted),
        "equal": sum(equal),
        "failures": dict(sorted(Counter(failed).items())),
        "programs_per_second": round(len(wanted) / seconds, 1),
        "programs_per_second_per_core": round(len(wanted) / seconds / pool.workers, 1),
        "workers": pool.workers,
        "isolation": config.isolation,
        "unequal": [
            {"at": case.place.replace(str(path), path.name), "published": case.expected()[:200], **told(outcome)}
            for case, outcome, same in zip(wanted, outcomes, equal, strict=True)
            if not same
        ],
    }


def quiet(case: PublishedProgram, outcome: Outcome) -> bool:
    """Whether a program of a trajectory was published as one that prints nothing."""
    return outcome.failure == "no value" and case.output == "Done"


def told(outcome: Outcome) -> dict[str, str]:
    return (
        {"failure": outcome.failure, "message": outcome.message}
        if outcome.failure
        else {"value": str(outcome.value)[:200]}
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, required=True, help="JSONL of programs")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--isolation", choices=("bubblewrap", "none"), default="bubblewrap")
    parser.add_argument("--seconds", type=float, default=ExecutionConfig().seconds, help="most that a program may take")
    parser.add_argument("--memory-mib", type=int, default=ExecutionConfig().memory_mib)
    parser.add_argument("--workers", type=int, help="programs at once; by default the processors of this process")
    parser.add_argument("--record", action="store_true", help="keep what was measured in a result file")
    chosen = parser.parse_args()
    try:
        config = ExecutionConfig(
            isolation=chosen.isolation, seconds=chosen.seconds, memory_mib=chosen.memory_mib, workers=chosen.workers
        )
        result = measure(chosen.file, config)
    except (UserError, ValueError) as error:
        print(f"mmscale: {error}", file=sys.stderr)
        sys.exit(2)
    if chosen.json:
        print(json.dumps(result, ensure_ascii=False, indent=2))
    else:
        for key, value in result.items():
            print(f"{key}: {json.dumps(value, ensure_ascii=False)}")
    if chosen.record:
        print(record(f"programs_{chosen.file.stem.split('.')[0]}", result), file=sys.stderr)


if __name__ == "__main__":
    main()
