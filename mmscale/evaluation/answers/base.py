"""What a rule is: a response's answer, and whether it equals the gold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mmscale.execution.room import Ranks

_NOTHING = frozenset(["", "nan", "inf", "+inf", "-inf", "infinity", "+infinity", "-infinity"])


def says_something(gold: str) -> bool:
    """Whether a gold field holds an answer at all: some text other than not-a-number and infinity."""
    return final_gold(gold).lower() not in _NOTHING


@dataclass(frozen=True, kw_only=True)
class Running:
    """What a rule needs beside `extract` that runs the programs of answers."""

    ready: Callable[[], None]
    """UserError where programs cannot be run in this process."""
    ahead: Callable[[Sequence[str], Ranks | None], None]
    """Run those of many responses at once, which `extract` and `failure` then know; ranks that call it together, with the
    same responses, share them."""
    failure: Callable[[str], str | None]
    """The name of why a response has no value; None where it has one."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Named extraction and comparison."""

    extract: Callable[[str, str], str]
    """(response, language) -> prediction; empty when the response has none."""
    equal: Callable[[str, str], bool]
    """(prediction, gold, or two predictions) -> same answer?"""
    gold: Callable[[str], str] = lambda text: text
    """The gold field as the rule compares it."""
    readings: Callable[[str, str], list[str]] | None = None
    """(response, language) -> everything the answer may mean, `extract`'s first; None where it is never in doubt."""
    scorable: Callable[[str], bool] = says_something
    """Whether the rule can compare anything with a gold field."""
    absent: Callable[[str], bool] = lambda prediction: not prediction.strip()
    """Whether a prediction says that the response had no answer."""
    running: Running | None = None
    """What a rule has that runs programs."""

    def ahead(self, responses: Sequence[str], ranks: Ranks | None = None) -> None:
        """Do what can be done for many responses at once, before each is judged."""
        if self.running is not None:
            self.running.ahead(responses, ranks)

    def correct(self, response: str, gold: str, language: str) -> tuple[str, bool]:
        """(prediction, is it right?) of one response."""
        wanted = self.gold(gold)
        candidates = self.readings(response, language) if self.readings else [self.extract(response, language)]
        right = [one for one in candidates if self.equal(one, wanted)]
        return next(iter([*right, *candidates]), ""), bool(right)

    def same_answer(self, a: str, b: str) -> bool:
        """Whether two predictions are the same answer; no answer is nobody's equal."""
        return not self.absent(a) and not self.absent(b) and self.equal(a, b)


def final_gold(text: str) -> str:
    """A gold field that is a whole solution ("… #### 18") reduced to what follows its last mark."""
    return text.split("####")[-1].strip()
