"""What a row of somebody's prediction file says: question, response, gold answer. docs/formats.md lists the forms."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mmscale.data.sources.rows import optional_text, plain_text
from mmscale.errors import BadRow
from mmscale.languages import LANGUAGES, code_of_name, find_code

RESPONSE_KEYS = ("response", "model_output", "output", "output_str", "generation", "completion")
"""ours and mCoT, proxy-tuning, MindMerger, MathOctopus and QAlign, then names seen elsewhere"""
ID_KEYS = ("id", "idx", "identifier", "index", "question_id", "example_id", "doc_id")
"""Keys that identify the problem; index is MathOctopus' and QAlign's, doc_id lm-eval's"""
GOLD_KEYS = ("answer", "gold", "ground_truth", "label", "target")
_TASK_ROWS = ("gsm8k_data", "svamp_data")
"""MathOctopus and QAlign: the row of the benchmark itself."""
_BENCHMARKS = r"(?:mgsm|msvamp|gsm8k|xcopa|x-?csqa|xnli)"


def _text(row: dict[str, Any], keys: tuple[str, ...], what: str) -> str:
    for key in keys:
        value = row.get(key)
        while isinstance(value, list) and value:
            value = value[0]
        if value is not None and not isinstance(value, (dict, list)):
            return str(value) if isinstance(value, bool) else plain_text(value, key)
    raise BadRow(f"the row has no {what} (looked for {', '.join(keys)}; it has {', '.join(row)})")


def parts_of(row: dict[str, Any]) -> tuple[str, str, str]:
    """(question, response, gold answer); BadRow when one of the last two is missing."""
    inner = next((row[key] for key in _TASK_ROWS if isinstance(row.get(key), dict)), None)
    if inner is not None:  # {index, gsm8k_data: {query, response}, input_str, output_str}
        return (
            optional_text(inner, "m_query", "query"),
            _text(row, ("output_str",), "response"),
            _gold(inner, ("response",)),
        )
    if isinstance(row.get("doc"), dict) and "resps" in row:  # lm-eval --log_samples
        return optional_text(row["doc"], "question"), _text(row, ("resps",), "response"), _gold(row, ("target",))
    if "truth" in row and "logit_0" in row:  # the lm-eval of LangBridge, --write_out
        gold = _gold(row, ("truth",)).strip().removesuffix("[END]")
        return optional_text(row, "prompt_0"), _text(row, ("logit_0",), "response"), gold
    classified = "prompt" in row and not any(
        key in row for key in RESPONSE_KEYS
    )  # MindMerger: {prompt, prediction, answer}
    response = _text(row, ("prediction",) if classified else RESPONSE_KEYS, "response")
    return optional_text(row, "question", "query", "prompt"), response, _gold(row, GOLD_KEYS)


def identifier(row: dict[str, Any]) -> str:
    """What the row calls its problem; empty where it has no name for it."""
    return str(next((row[key] for key in ID_KEYS if isinstance(row.get(key), (str, int))), ""))


def _gold(row: dict[str, Any], keys: tuple[str, ...]) -> str:
    gold = _text(row, keys, "gold answer")
    if not gold.strip():
        raise BadRow("its gold answer is empty")
    return gold


def language_of_name(path: Path) -> str | None:
    """The language a prediction file is named after, or None: gen_Swahili_datas.jsonl, Swahili.json, mcot_ft_mgsm_sw.json,
    samples_mgsm_direct_sw_2025-01-31.jsonl, sw.jsonl."""
    names = code_of_name() | {known.name.lower(): code for code, known in LANGUAGES.items()}
    spoken = [names[word] for word in re.split(r"[^a-z]+", path.stem.lower()) if word in names]
    code = re.search(rf"(?:^|{_BENCHMARKS}(?:_[a-z]+)*?[_-])([a-z]{{2}})(?:_write_out_info|_\d.*)?$", path.stem)
    codes = spoken or ([code[1]] if code and find_code(code[1]) else [])
    return codes[0] if len(set(codes)) == 1 else None
