"""What a rule is: a response's answer, and whether it equals the gold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """Named extraction and comparison."""

    extract: Callable[[str, str], str]
    """(response, language) -> prediction; empty when the response has none."""
    equal: Callable[[str, str], bool]
    """(prediction, gold, or two predictions) -> same answer?"""
    gold: Callable[[str], str] = lambda text: text
    """The gold field as the rule compares it."""

    def correct(self, response: str, gold: str, language: str) -> tuple[str, bool]:
        """(prediction, is it right?) of one response."""
        prediction = self.extract(response, language)
        return prediction, self.equal(prediction, self.gold(gold))


def final_gold(text: str) -> str:
    """A gold field that is a whole solution ("… #### 18") reduced to what follows its last mark."""
    return text.split("####")[-1].strip()
