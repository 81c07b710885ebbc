"""Predictions that authors published, scored as they scored them and by ours: mmscale bench published-predictions FOLDER ... [--json]

FOLDER is a checkout of the authors' repository, or any folder with their prediction files. `published` is the share that the
rows themselves say is right, or that metrics.json beside them says; `by their rule` is ours with the rule that is named, and
`differ` counts rows whose verdict is another. Exit code 2 where a folder has no prediction file.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmscale.data.sources.rows import json_rows
from mmscale.errors import BadRow, LeftOut, UserError
from mmscale.evaluation.answers import rule
from mmscale.evaluation.prediction_forms import parts_of
from mmscale.evaluation.predictions import read, require_scorable, score, verdict
from mmscale.storage.reading import read_json_object

from .recording import record

THEIR_RULES = {"result": "mcot", "is_correct": "last_number", "model_output": "proxy_gsm", "output": "last_number"}
"""Key of a row -> the rule of the program that writes it, the first that is there."""
VERDICTS = ("result", "is_correct")
"""Keys of the published verdict."""


def files(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Prediction files anywhere under a folder, each with its first row: a response of a known form, and a gold answer."""
    for path in sorted(folder.rglob("*.json*")):
        if not path.is_file() or path.suffix not in (".json", ".jsonl"):
            continue
        try:
            row = next(one for _, one in json_rows(path) if not isinstance(one, (BadRow, LeftOut)))
            parts_of(row)
        except (StopIteration, BadRow, UserError):  # it is something else
            continue
        if any(key in row for key in THEIR_RULES):
            yield path, row


def published(path: Path, rows: Sequence[Mapping[str, Any]]) -> tuple[float | None, list[bool]]:
    """(share that was published as right, verdict per row where the rows say it)."""
    key = next((key for key in VERDICTS if key in rows[0]), None)
    if key is not None:
        verdicts = [bool(row[key]) for row in rows]
        return sum(verdicts) / len(verdicts), verdicts
    metrics = path.with_name("metrics.json")
    said = (
        read_json_object(metrics, "it came with the predictions: take it from there again") if metrics.is_file() else {}
    )
    return said.get("exact_match"), []


def scored(path: Path, first: Mapping[str, Any]) -> dict[str, Any]:
    """What was published of a file, beside what the authors' rule and the default make of it."""
    theirs = next(name for key, name in THEIR_RULES.items() if key in first)
    rows = read(path)
    said, verdicts = published(path, [row for _, row in json_rows(path) if isinstance(row, dict)])
    given = {}
    for name in (theirs, "default"):
        require_scorable(rows, rule(name))
        given[name] = [verdict(row, rule(name))[1] for row in rows]
    return {
        "n": len(rows),
        "rule": theirs,
        "published": said,
        "by_their_rule": score(given[theirs]).accuracy,
        "differ": sum(a != b for a, b in zip(verdicts, given[theirs], strict=True)) if verdicts else None,
        "by_default": score(given["default"]).to_json(),
        "right_by_default_alone": sum(b > a for a, b in zip(given[theirs], given["default"], strict=True)),
        "right_by_their_rule_alone": sum(a > b for a, b in zip(given[theirs], given["default"], strict=True)),
    }


def measure(folders: Sequence[Path]) -> dict[str, Any]:
    """File, by its place in its folder -> its scores."""
    tables: dict[str, Any] = {}
    for folder in folders:
        here = {str(path.relative_to(folder)): scored(path, first) for path, first in files(folder)}
        if not here:
            raise UserError(
                f"{folder} has no prediction file: rows need a response and a gold answer (docs/formats.md)"
            )
        if both := sorted(here.keys() & tables.keys()):
            raise UserError(f"{folder} has {both[0]} as another folder has: score them one after the other")
        tables |= here
    return tables


def table(results: Mapping[str, Any]) -> str:
    """In Markdown."""
    lines = [
        "| file | rows | rule | published | by their rule | rows that differ | `default` | 95 % interval | right by one alone: default, theirs |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, one in results.items():
        ours, said = one["by_default"], one["published"]
        low, high = ours["interval"]
        cells = [
            f"{name}",
            f"{one['n']:,}",
            f"`{one['rule']}`",
            "" if said is None else f"{100 * said:.1f}",
            f"{100 * one['by_their_rule']:.1f}",
            "" if one["differ"] is None else str(one["differ"]),
            f"{100 * ours['accuracy']:.1f}",
            f"{100 * low:.1f} to {100 * high:.1f}",
            f"{one['right_by_default_alone']}, {one['right_by_their_rule_alone']}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--record", action="store_true", help="keep what was found in a result file")
    chosen = parser.parse_args()
    try:
        results = measure(chosen.folders)
    except UserError as error:
        print(f"mmscale: {error}", file=sys.stderr)
        sys.exit(2)
    print(json.dumps(results, ensure_ascii=False, indent=2) if chosen.json else table(results))
    if chosen.record:
        print(record("published_predictions", {"files": results}), file=sys.stderr)


if __name__ == "__main__":
    main()
