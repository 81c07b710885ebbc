"""What checks found, printed."""

from __future__ import annotations

import json
from pathlib import Path

from mmscale.config.corpus import CorpusConfig
from mmscale.corpus.checking import CHECKED, SUMMARY, flagged
from mmscale.data.sources.corpus import read_manifest
from mmscale.storage.reading import read_json_object


def print_checks(corpus: Path, as_json: bool) -> None:
    """Per language, rows and what each check found in them."""
    languages = read_json_object(corpus / CHECKED / SUMMARY, "mmscale corpus check writes it")["languages"]
    if as_json:
        print(json.dumps({"folder": str(corpus), "languages": languages}, ensure_ascii=False, indent=2))
        return
    for code, account in languages.items():
        print(f"{code}: {account['rows']} rows, {account['kept']} kept, {account['dropped']} dropped")
        for name, count in account["checks"].items():
            if count["flagged"]:
                out = f", {count['dropped']} dropped for it" if count["dropped"] else ""
                print(f"  {name:18} {count['flagged']:8} of {count['judged']} flagged{out}")
    print(corpus)


def print_compiled(config: CorpusConfig, as_json: bool) -> None:
    """What became of every row, and where the corpus lies."""
    folder = Path(config.compile.folder or config.folder / "compiled").expanduser()
    manifest = read_manifest(folder)
    if as_json:
        print(json.dumps({"folder": str(folder), **manifest}, ensure_ascii=False, indent=2))
        return
    for name, account in manifest["account"].items():
        gone = {**{f"check {one}": count for one, count in account["dropped"].items()}, **account["left_out"]}
        told = "".join(f", {count} left out ({reason})" for reason, count in gone.items())
        print(f"{name}: {account['rows']} rows{told}, {account['taken']} taken, {account['written']} written")
    for split, entry in manifest["splits"].items():
        print(f"{split}: {entry['rows']} rows in {len(entry['files'])} files")
    print(folder)


def print_flagged(corpus: Path, name: str, as_json: bool) -> None:
    """Every row that a check flagged, a line each."""
    for row, finding, dropped in flagged(corpus, name):
        if as_json:
            told = {"id": row.id, "origin": row.origin, "score": finding.score, "threshold": finding.threshold}
            shown = {
                "reason": finding.reason,
                "dropped": dropped,
                "question": row.question,
                "original": row.source_question,
            }
            print(json.dumps({**told, **shown}, ensure_ascii=False))
        else:
            print(f"{row.id}\t{finding.score:g}\t{finding.reason}\t{row.origin}")
