r"""R3 `proxy_gsm`: the rule of proxy-tuning's GSM evaluation (Liu et al. 2024).

Commas between digits are stripped, the last signed decimal or unsigned integer is taken, and compared
exactly after lower-casing and deleting all punctuation. Known wrong verdicts, kept for parity:
"7.5" equals "75"; "18.00" differs from "18".
"""

from __future__ import annotations

import re
import string

from mmscale.evaluation.answers.base import Rule, final_gold

_COMMA = re.compile(r"(\d),(\d)")
_NUMBER = re.compile(r"[-+]?\d*\.\d+|\d+")
_CUTS = ("Answer the following question", "Question:", "Comment:")
_DELETE = str.maketrans("", "", string.punctuation)


def cut(response: str) -> str:
    """The output up to the first text at which the authors cut it."""
    for mark in _CUTS:
        response = response.split(mark)[0]
    return response


def extract(response: str, language: str) -> str:
    text = _COMMA.sub(r"\1\2", cut(response))
    numbers = _NUMBER.findall(text)
    return numbers[-1] if numbers else text.strip()


def _plain(text: str) -> str:
    return " ".join(text.lower().translate(_DELETE).split())


def equal(prediction: str, gold: str) -> bool:
    return bool(_plain(prediction)) and _plain(prediction) == _plain(gold)


def _gold(text: str) -> str:
    return _COMMA.sub(r"\1\2", final_gold(text))


RULE = Rule(extract=extract, equal=equal, gold=_gold, absent=lambda prediction: _NUMBER.search(prediction) is None)
"""The last number, compared without punctuation, as proxy-tuning scores GSM; faults included."""
