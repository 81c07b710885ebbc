"""Scores of prediction files, whoever wrote them: each by itself, one against another, languages against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmscale.errors import UserError
from mmscale.evaluation.alignment import aligned
from mmscale.evaluation.answers import Rule, rule
from mmscale.evaluation.consistency import consistency
from mmscale.evaluation.predictions import Prediction, decided, read, require_scorable, verdict
from mmscale.evaluation.scores import language_scores
from mmscale.evaluation.statistics import paired_bootstrap


def named_files(words: Sequence[str], need_language: bool) -> list[tuple[str, Path]]:
    """LANG=FILE or, unless a language is needed, FILE alone (language ""); UserError for a language given twice."""
    named: list[tuple[str, Path]] = []
    for word in words:
        code, separator, file = word.partition("=")
        if not separator or Path(word).is_file():
            if need_language:
                raise UserError(f"'{word}' is not LANG=FILE; for example de=predictions/de.jsonl")
            code, file = "", word
        if code and code in [known for known, _ in named]:
            raise UserError(f"language '{code}' is given twice: give each language one file")
        named.append((code, Path(file)))
    return named


def score_files(
    words: Sequence[str],
    against: Path | None,
    rule_name: str,
    language: str | None,
    normalization: str | None = None,
) -> dict[str, Any]:
    """Scores of FILE or LANG=FILE: of one its own, of several each one's and that of all rows together.

    With `against`, a file of the same problems, the gain over it with interval and p-value (paired bootstrap). A length
    `normalization` chooses anew among the options that the rows keep.
    """
    chosen, files = rule(rule_name), named_files(words, need_language=False)
    if len({file for _, file in files}) < len(files):
        raise UserError("a prediction file is given twice: give each once")
    if against is not None and len(files) > 1:
        raise UserError("--against compares one file with one other: give --predictions a single file")
    rows = {str(file): _decided(_read(file, code or language, chosen), normalization) for code, file in files}
    scored = {name: _scores(of_file, chosen) for name, of_file in rows.items()}
    if len(files) == 1:
        result = next(iter(scored.values()))
    else:
        result = {"files": scored, **_scores([row for of_file in rows.values() for row in of_file], chosen)}
    result["rule"] = rule_name
    if against is not None:
        [(name, ours)] = rows.items()
        other = _decided(_read(against, language, chosen), normalization)
        matched, by = aligned({name: ours, str(against): other}, chosen, by_question=True)
        verdicts = [[verdict(row, chosen)[1] for row in of_file] for of_file in matched.values()]
        gain = paired_bootstrap(verdicts[1], verdicts[0])
        result["gain"] = {"difference": gain.difference, "interval": gain.interval, "p_value": gain.p_value, "by": by}
    return result


def consistency_of_files(words: Sequence[str], rule_name: str) -> dict[str, Any]:
    """CC and IC of all pairs of LANG=FILE."""
    chosen, files = rule(rule_name), named_files(words, need_language=True)
    if len(files) < 2:
        raise UserError("consistency needs at least two languages: give LANG=FILE twice or more")
    matched, by = aligned({code: _read(file, code, chosen) for code, file in files}, chosen)
    verdicts = {code: [verdict(row, chosen) for row in of_file] for code, of_file in matched.items()}
    return {
        **consistency(verdicts, chosen).to_json(),
        "n": len(next(iter(matched.values()))),
        "rule": rule_name,
        "by": by,
    }


def _read(file: Path, language: str | None, chosen: Rule) -> list[Prediction]:
    rows = read(file, language)
    require_scorable(rows, chosen)
    chosen.ahead([row.response for row in rows])
    return rows


def _decided(rows: list[Prediction], normalization: str | None) -> list[Prediction]:
    """The rows as they are, or with the likeliest of their options by a normalization; UserError naming one that has none."""
    if normalization is None:
        return rows
    if not all(row.options for row in rows):
        lacking = next(row for row in rows if not row.options)
        raise UserError(
            f"{lacking.origin} keeps no log-likelihoods of options, which --length-normalization divides: answer the task "
            f"with --scoring log_likelihood"
        )
    return decided(rows, normalization)


def _scores(rows: Sequence[Prediction], chosen: Rule) -> dict[str, Any]:
    """Scores of all rows, and of each language where there are several."""
    judged = [replace(row, correct=verdict(row, chosen)[1]) for row in rows]
    languages: dict[str, list[Prediction]] = {}
    for row in judged:
        languages.setdefault(row.language, []).append(row)
    result = language_scores(judged, chosen)
    if len(languages) > 1:
        result["languages"] = {code: language_scores(of_file, chosen) for code, of_file in languages.items()}
    return result
