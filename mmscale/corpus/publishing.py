"""The end of compiling: every row accounted for, the manifest, the data card, previews, and the folder in its place."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow.parquet as pq

from mmscale import __version__
from mmscale.corpus.card import card
from mmscale.corpus.checking import CHECKED, CheckAccount
from mmscale.corpus.compiling import CompileWork, Layout, cell_of, file_name
from mmscale.corpus.mixture import Cell
from mmscale.data.sources.corpus import FORMAT, MANIFEST, verified_files
from mmscale.errors import NotHereYet, UserError
from mmscale.storage.files import atomic_write, publish_directory, sync_tree, write_json
from mmscale.storage.reading import read_json_object

PREVIEW, CARD = "preview.json", "README.md"
_SHOWN = 3
"""Rows of each language in the previews."""
_LIBRARIES = ("datatrove", "pyarrow", "datasketch", "lingua-language-detector")
_REMEDY = "remove it, the next mmscale corpus compile makes it again"


def is_published(work: CompileWork) -> bool:
    """Whether the compiled folder is of this work and whole; UserError where it is something else than a compiled corpus."""
    target = work.target
    if not target.exists():
        return False
    if not target.is_dir() or (any(target.iterdir()) and not (target / MANIFEST).is_file()):
        raise UserError(f"{target} is no compiled corpus and would be replaced: choose another compile.folder")
    try:
        known = read_json_object(target / MANIFEST, _REMEDY)
        whole = all(verified_files(target, split) for split in known["splits"])
    except (UserError, NotHereYet, KeyError, TypeError):
        return False
    return whole and known.get("work") == work.work and known.get("title") == work.config.compile.title


def checked_accounts(work: CompileWork) -> dict[Cell, CheckAccount]:
    """What checks made of the rows of each source and language."""
    accounts: dict[Cell, CheckAccount] = {}
    for shard in work.shards():
        note = read_json_object(shard.path(CHECKED, ".json"), _REMEDY)
        accounts.setdefault(cell_of(shard), CheckAccount()).add(CheckAccount.from_json(note))
    return accounts


def account_of(
    checked: Mapping[Cell, CheckAccount], capped: Mapping[Cell, int], targets: Mapping[Cell, int]
) -> dict[str, dict[str, Any]]:
    """SOURCE.LANGUAGE -> what became of its rows: `rows` is the sum of `dropped`, `left_out` and `taken`."""
    accounts = {}
    for cell, of_cell in checked.items():
        taken = min(targets[cell], capped[cell])
        left_out = {"cap": of_cell.kept - capped[cell], "mixture": capped[cell] - taken}
        accounts[f"{cell[0]}.{cell[1]}"] = {
            "rows": of_cell.rows,
            "dropped": {name: count.dropped for name, count in of_cell.checks.items() if count.dropped},
            "left_out": {name: number for name, number in left_out.items() if number},
            "taken": taken,
            "written": targets[cell],
        }
    return accounts


def _require_sum(accounts: Mapping[str, Mapping[str, Any]], written: Mapping[str, int], repeats: bool) -> None:
    """AssertionError where a row went nobody knows where."""
    wanted: Counter[str] = Counter()
    for name, account in accounts.items():
        gone = sum(account["dropped"].values()) + sum(account["left_out"].values())
        if account["rows"] != gone + account["taken"]:
            raise AssertionError(f"rows of {name} do not add up: {account}")
        wanted[name.rsplit(".", 1)[1]] += account["written"]
    for code in wanted.keys() | written.keys():
        least = 0 if repeats else wanted[code]
        if not least <= written.get(code, 0) <= wanted[code]:
            raise AssertionError(
                f"{written.get(code, 0)} rows of {code} were written, of {wanted[code]} that are taken"
            )


def manifest_of(
    work: CompileWork, layout: Layout, accounts: Mapping[str, Any], checks: Mapping[str, Any]
) -> dict[str, Any]:
    """All that is to be known of a compiled corpus."""
    config = work.config
    splits: dict[str, Any] = {}
    for split, count in layout.files.items():
        names = [file_name(split, number, count) for number in range(count)]
        files = [_file_note(work, name) for name in names]
        languages: Counter[str] = Counter()
        for entry in files:
            languages.update(entry["languages"])
        splits[split] = {
            "rows": sum(entry["rows"] for entry in files),
            "languages": dict(sorted(languages.items())),
            "files": files,
        }
    return {
        "format": FORMAT,
        "form": config.compile.form,
        "title": config.compile.title,
        "work": work.work,
        "splits": {split: entry for split, entry in splits.items() if entry["rows"]},
        "sources": [
            {
                "name": one.title,
                "source": one.source,
                "language": one.language,
                "split": one.split,
                "license": one.license,
            }
            for one in config.sources
        ],
        "compile": config.compile.model_dump(mode="json", exclude={"folder", "title"}),
        "account": accounts,
        "checks": checks,
        "versions": {"mmscale": __version__, **{name: _version(name) for name in _LIBRARIES}},
    }


def _file_note(work: CompileWork, name: str) -> dict[str, Any]:
    return read_json_object(work.folder / "files" / f"{name.rsplit('/', 1)[1]}.json", _REMEDY)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _preview(work: CompileWork, manifest: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The first rows of each language."""
    shown: dict[str, list[dict[str, Any]]] = {}
    split = manifest["splits"]["train" if "train" in manifest["splits"] else "validation"]
    for entry in split["files"]:
        wanted = [code for code in entry["languages"] if len(shown.get(code, [])) < _SHOWN]
        if not wanted:
            continue
        for row in pq.ParquetFile(work.made / entry["name"]).read_row_group(0).to_pylist():
            some = shown.setdefault(row.get("lang-id") or row["language"], [])
            if len(some) < _SHOWN:
                some.append(row)
    return dict(sorted(shown.items()))


def publish(
    work: CompileWork, layout: Layout, capped: Mapping[Cell, int], targets: Mapping[Cell, int]
) -> dict[str, Any]:
    """Put manifest, card and previews beside the files, and all of it in place; returns the manifest."""
    checked = checked_accounts(work)
    accounts = account_of(checked, capped, targets)
    by_language: dict[str, CheckAccount] = {}
    for (_, code), of_cell in checked.items():
        by_language.setdefault(code, CheckAccount()).add(of_cell)
    checks = {code: one.to_json()["checks"] for code, one in by_language.items()}
    manifest = manifest_of(work, layout, accounts, checks)
    written: Counter[str] = Counter()
    for split in manifest["splits"].values():
        written.update(split["languages"])
    _require_sum(accounts, written, work.config.compile.max_repeats > 1)
    for split, count in layout.files.items():
        if split not in manifest["splits"]:  # no problem fell into it
            for number in range(count):
                (work.made / file_name(split, number, count)).unlink()
    write_json(work.made / PREVIEW, _preview(work, manifest))
    with atomic_write(work.made / CARD) as file:
        file.write(card(manifest, json.loads((work.made / PREVIEW).read_text(encoding="utf-8"))))
    write_json(work.made / MANIFEST, manifest)
    sync_tree(
        work.made, (path.relative_to(work.made).as_posix() for path in sorted(work.made.rglob("*")) if path.is_file())
    )
    publish_directory(work.made, work.target)
    shutil.rmtree(work.folder, ignore_errors=True)
    return manifest
