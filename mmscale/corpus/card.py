"""The data card of a compiled corpus, as the hub reads it: YAML front matter, then tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from mmscale.languages import language

_SIZES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"),
    (10**9, "100M<n<1B"),
)
_CUT = 300
"""Characters of a text in the previews."""


def card(manifest: Mapping[str, Any], previews: Mapping[str, Any]) -> str:
    """The text of README.md."""
    front = yaml.safe_dump(_front(manifest), sort_keys=False, allow_unicode=True)
    parts = [
        _about(manifest),
        _languages(manifest),
        _rows(manifest),
        _checks(manifest),
        _sources(manifest),
        _previews(previews),
    ]
    return f"---\n{front}---\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def _codes(manifest: Mapping[str, Any]) -> list[str]:
    return sorted({code for split in manifest["splits"].values() for code in split["languages"]})


def _front(manifest: Mapping[str, Any]) -> dict[str, Any]:
    rows = sum(split["rows"] for split in manifest["splits"].values())
    licenses = {source["license"] for source in manifest["sources"]}
    one = licenses.pop() if len(licenses) == 1 else ""
    files = [{"split": split, "path": f"data/{split}-*.parquet"} for split in manifest["splits"]]
    return {
        "language": _codes(manifest),
        "license": one or "other",
        "pretty_name": manifest["title"],
        "task_categories": ["text-generation"],
        "tags": ["multilingual", "chain-of-thought", "mmscale"],
        "size_categories": [next((name for limit, name in _SIZES if rows < limit), "1B<n<10B")],
        "configs": [{"config_name": "default", "data_files": files}],
    }


def _table(head: list[str], rows: list[list[Any]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(
        [
            *lines,
            *(
                "| " + " | ".join(f"{one:,}" if isinstance(one, int) else str(one) for one in row) + " |"
                for row in rows
            ),
        ]
    )


def _about(manifest: Mapping[str, Any]) -> str:
    settings, version = manifest["compile"], manifest["versions"]["mmscale"]
    mixture = f"temperature {settings['temperature']:g}, seed {settings['seed']}"
    return (
        f"# {manifest['title']}\n\n"
        f"Made by mmscale {version} (`mmscale corpus compile`): {mixture}. A problem and all its translations are in one split. "
        f"`manifest.json` has the hash of every file and what became of every row."
    )


def _languages(manifest: Mapping[str, Any]) -> str:
    splits = manifest["splits"]
    rows = [
        [code, language(code).name, *(split["languages"].get(code, 0) for split in splits.values())]
        for code in _codes(manifest)
    ]
    total: list[list[Any]] = [["", "all", *(split["rows"] for split in splits.values())]]
    return "## Languages\n\n" + _table(["code", "language", *splits], [*rows, *total])


def _rows(manifest: Mapping[str, Any]) -> str:
    rows = []
    for name, account in manifest["account"].items():
        gone = {**{f"check {key}": value for key, value in account["dropped"].items()}, **account["left_out"]}
        told = ", ".join(f"{reason}: {number:,}" for reason, number in gone.items())
        rows.append([name, account["rows"], told, account["taken"], account["written"]])
    return "## What became of every row\n\n" + _table(
        ["source and language", "rows", "left out", "taken", "written"], rows
    )


def _checks(manifest: Mapping[str, Any]) -> str:
    total: dict[str, dict[str, int]] = {}
    for checks in manifest["checks"].values():
        for name, count in checks.items():
            mine = total.setdefault(name, {"judged": 0, "flagged": 0, "dropped": 0})
            for key in mine:
                mine[key] += count[key]
    rows: list[list[Any]] = [
        [name, count["judged"], count["flagged"], count["dropped"]] for name, count in total.items()
    ]
    return "## Checks\n\n" + _table(["check", "seen", "flagged", "dropped"], rows) if rows else ""


def _sources(manifest: Mapping[str, Any]) -> str:
    rows = [
        [one["name"], one["source"], one["language"], one["license"] or "not stated"] for one in manifest["sources"]
    ]
    return "## Sources\n\n" + _table(["name", "data set", "language", "licence"], rows)


def _previews(previews: Mapping[str, Any]) -> str:
    blocks = []
    for code, rows in previews.items():
        first = rows[0]
        told = first["rationale"] if "rationale" in first else first["answer"]
        blocks.append(f"**{code}**\n\n```text\n{_cut(first['question'])}\n\n{_cut(told or '')}\n```")
    return "## Previews\n\n" + "\n\n".join(blocks) if blocks else ""


def _cut(text: str) -> str:
    plain = text.replace("```", "'''")
    return plain if len(plain) <= _CUT else plain[:_CUT] + " …"
