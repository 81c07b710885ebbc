"""Word problems that are exact translations of each other in eleven languages, by construction.

A problem is a story of two or three steps about one person and one kind of thing. `lexicon/*.yaml`
says it in each language; nothing here knows a language. Arithmetic stays in 0..99, so that a model of
under a million parameters can reason with it.
"""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

NUMBER_OF_NAMES = 8
NUMBER_OF_THINGS = 8
GAIN_VERBS = ("buys", "finds", "brings")
LOSS_VERBS = ("sells", "loses", "takes")
STARTS = ("has", "boxes", "double")
TEST_SHARE = 0.1
"""Share of all problems that only the test split may draw."""


@dataclass(frozen=True, kw_only=True)
class Story:
    """A problem without words: `start` in STARTS with its two numbers, then (verb, amount) steps."""

    name: int
    thing: int
    start: str
    first: int
    second: int
    steps: tuple[tuple[str, int], ...]

    def equations(self) -> list[tuple[int, str, int, int]]:
        """(left, operator, right, result) of every step of the chain of thought."""
        total = self.first
        rows: list[tuple[int, str, int, int]] = []
        if self.start != "has":
            factor = self.second if self.start == "boxes" else 2
            rows.append((self.first, "*", factor, total := self.first * factor))
        for verb, amount in self.steps:
            sign = "+" if verb in GAIN_VERBS else "-"
            result = total + amount if sign == "+" else total - amount
            rows.append((total, sign, amount, result))
            total = result
        return rows

    @property
    def answer(self) -> int:
        return self.equations()[-1][3]

    def is_held_out(self) -> bool:
        """Whether this story belongs to the test split: a pure function of its content."""
        digest = hashlib.sha256(repr(self).encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64 < TEST_SHARE


def draw_story(generator: random.Random) -> Story:
    """One story with two or three steps and all intermediate results in 1..99."""
    while True:
        start = generator.choice(STARTS)
        first, second = {
            "has": lambda: (generator.randint(10, 60), 0),
            "boxes": lambda: (generator.randint(2, 9), generator.randint(2, 9)),
            "double": lambda: (generator.randint(5, 40), 2),
        }[start]()
        count = generator.choice((2, 3)) - (start != "has")
        steps = tuple((generator.choice(GAIN_VERBS + LOSS_VERBS), generator.randint(2, 9)) for _ in range(count))
        story = Story(
            name=generator.randrange(NUMBER_OF_NAMES),
            thing=generator.randrange(NUMBER_OF_THINGS),
            start=start,
            first=first,
            second=second,
            steps=steps,
        )
        if all(1 <= row[3] <= 99 for row in story.equations()):
            return story


def stories(count: int, seed: int, split: str) -> Iterator[Story]:
    """`count` different stories of a split; train and test share none, whatever the seeds."""
    generator = random.Random(f"tinyworld-{split}-{seed}")
    seen: set[Story] = set()
    while len(seen) < count:
        story = draw_story(generator)
        if story.is_held_out() == (split == "test") and story not in seen:
            seen.add(story)
            yield story


@functools.cache
def lexicon(language: str) -> dict[str, Any]:
    """The words of one language."""
    with open(Path(__file__).parent / "lexicon" / f"{language}.yaml", encoding="utf-8") as handle:
        return yaml.safe_load(handle)


def counted(words: dict[str, Any], thing: int, amount: int) -> str:
    """`amount` things as the language counts them: one form, or [one, few, many] (CLDR rules of Russian)."""
    forms = words["things"][thing]
    if isinstance(forms, str):
        return words.get("counted", "{n} {thing}").format(
            n=amount, thing=forms, unit=words.get("units", [""] * 8)[thing]
        )
    if amount % 10 == 1 and amount % 100 != 11:
        form = forms[0]
    elif amount % 10 in (2, 3, 4) and amount % 100 not in (12, 13, 14):
        form = forms[1]
    else:
        form = forms[2]
    return f"{amount} {form}"


def plural(words: dict[str, Any], thing: int) -> str:
    forms = words["things"][thing]
    return forms if isinstance(forms, str) else forms[2]


def sentences(story: Story, language: str) -> list[str]:
    """What the problem tells, a sentence for the start and one for each step."""
    words = lexicon(language)
    name = words["names"][story.name]
    start = words["starts"][story.start].format(
        name=name,
        first=story.first,
        second=story.second,
        thing=plural(words, story.thing),
        counted=counted(words, story.thing, story.first),
        counted_second=counted(words, story.thing, story.second),
    )
    steps = [
        words["steps"][verb].format(name=name, counted=counted(words, story.thing, amount))
        for verb, amount in story.steps
    ]
    return [start, *steps]


def question_sentences(story: Story, language: str) -> list[str]:
    """The problem in a language: one sentence per step, and the question last."""
    words = lexicon(language)
    ask = words["ask"].format(name=words["names"][story.name], thing=plural(words, story.thing))
    return [*sentences(story, language), ask]


def rationale_sentences(story: Story, language: str) -> list[str]:
    """The chain of thought in a language: every sentence told again with what follows from it, then the answer."""
    words = lexicon(language)
    stop = words.get("full_stop", ".")
    equations = [*([None] if story.start == "has" else []), *story.equations()]
    parts = []
    for sentence, equation in zip(sentences(story, language), equations, strict=True):
        if equation is not None:
            left, sign, right, result = equation
            sentence = f"{sentence.removesuffix(stop)}: {left}{sign}{right}={result}{stop}"
        parts.append(sentence)
    return [*parts, words["answer"].format(answer=story.answer)]


def question(story: Story, language: str) -> str:
    """`question_sentences` as one text."""
    return _joined(question_sentences(story, language), language)


def rationale(story: Story, language: str) -> str:
    """`rationale_sentences` as one text."""
    return _joined(rationale_sentences(story, language), language)


def _joined(parts: list[str], language: str) -> str:
    return lexicon(language).get("sentence_join", " ").join(parts)


def program(story: Story, language: str) -> str:
    """The problem as a program that prints its answer: every sentence told again in a comment, above what it does."""
    start = {"has": f"x={story.first}", "boxes": f"x={story.first}*{story.second}", "double": f"x={story.first}*2"}
    steps = [f"x=x{'+' if verb in GAIN_VERBS else '-'}{amount}" for verb, amount in story.steps]
    lines = zip(sentences(story, language), [start[story.start], *steps], strict=True)
    return "".join(f"# {sentence}\n{statement}\n" for sentence, statement in lines) + "print(x)"
