"""What of a text is not translated, and how it is kept.

A text is cut into lines and sentences. Formulas, code, links, calculator marks and glossary terms are marks: in a sentence a
placeholder stands for each, and the translation has to bring every one back once. Lines without words, `#### 72`, and the line that
states the answer are not translated at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

_MARKS = (
    r"```.*?```",
    r"`[^`\n]+`",
    r"\$\$.+?\$\$",
    r"\\\[.+?\\\]",
    r"\\\(.+?\\\)",
    r"\\begin\{(\w+\*?)\}.+?\\end\{\1\}",
    r"\$(?=[^$\n]*[\\^_{}])[^\s$](?:[^$\n]*[^\s$])?\$",
    r"\\boxed\{[^{}\n]*\}",
    r"<<[^<>\n]*>>",
    r"https?://[^\s<>\"')\]]+",
    r"####",
)
"""Code, LaTeX (between dollars only where it holds a sign of it: $5 and $6 are money), calculator marks, links, GSM8K's mark."""
_STATED = re.compile(
    r"(?:^|(?<=[.!?]\s))\s*The (?:final )?answer is(?::\s*|\s+(?=[^A-Za-z\s]))(?P<answer>\S[^\n]*?)\s*$", re.IGNORECASE
)
_FINAL = re.compile(r"\s*####\s*[^A-Za-z]*")
_WORD = re.compile(r"[^\W\d_]{2}|[\u0e00-\u9fff\uac00-\ud7a3]")
"""Two letters, so that x = 5 has none; one of a script that writes words without spaces, or in syllables."""
_FIRST = 0xE000
"""First character of the private area; a text that holds some of its own begins behind them."""
_BEHIND = 0xF900


@dataclass(frozen=True)
class Mark:
    """A piece of text that stands as it is, or as the glossary says, in every language."""

    text: str
    target: str

    @property
    def is_term(self) -> bool:
        """Whether it is a word of the glossary."""
        return self.text != self.target


Part = str | Mark
"""Text to translate, or a mark in it."""


@dataclass(frozen=True)
class Passage:
    """What is translated by itself: text and marks in turn."""

    parts: tuple[Part, ...]

    @property
    def marks(self) -> tuple[Mark, ...]:
        return tuple(part for part in self.parts if isinstance(part, Mark))

    @property
    def text(self) -> str:
        """As the source has it."""
        return "".join(part if isinstance(part, str) else part.text for part in self.parts)

    def shown(self, placeholder: str) -> str:
        """As a translator reads it: a placeholder for each mark, numbered from 1."""
        numbers = iter(range(1, len(self.parts) + 1))
        return "".join(
            part if isinstance(part, str) else placeholder.replace("{n}", str(next(numbers))) for part in self.parts
        ).strip()

    def restored(self, translation: str, placeholder: str) -> str | None:
        """The translation with its marks; None where it does not hold every placeholder once."""
        marks = {placeholder.replace("{n}", str(n)): mark.target for n, mark in enumerate(self.marks, start=1)}
        if any(translation.count(one) != 1 for one in marks):
            return None
        pattern = "|".join(map(re.escape, marks))
        return re.sub(pattern, lambda match: marks[match[0]], translation) if marks else translation

    def pieces(self) -> Iterator[str]:
        """The texts between marks that have words, for a translator that lost marks."""
        return (part.strip() for part in self.parts if isinstance(part, str) and _WORD.search(part))

    def joined(self, translate: Callable[[str], str]) -> str:
        """Pieces translated by themselves, marks between them and space around them as in the source."""

        def one(part: Part) -> str:
            if isinstance(part, Mark):
                return part.target
            bare = part.strip()
            return part.replace(bare, translate(bare)) if _WORD.search(part) else part

        return "".join(map(one, self.parts))


Layout = tuple[str | Passage, ...]
"""A text cut up: what stays as it is, and what is translated."""


@dataclass(frozen=True)
class Cutter:
    """How texts of one language are cut up to be translated into another."""

    sentences: Callable[[str], Sequence[str]]
    """Cuts a text into sentences that together are the text."""
    answer_line: str
    """The target language's "The answer is: {answer}"."""
    glossary: Mapping[str, str]
    """Word of the source -> word of the target."""
    by_line: bool = True
    """Whether lines and sentences are translated by themselves, or the whole text at once."""

    def cut(self, text: str) -> Layout:
        """The layout of a text."""
        masked, marks = self._masked(text)
        lines = re.split(r"(\n+)", masked)
        pieces: list[str | Passage] = []
        for line in lines:
            pieces += self._line(line, marks)
        return tuple(_merged(pieces)) if self.by_line else whole(pieces)

    def _masked(self, text: str) -> tuple[str, dict[str, Mark]]:
        """The text with one character for each mark."""
        own = {c for c in text if _FIRST <= ord(c) < _BEHIND}
        free = (chr(i) for i in range(_FIRST, _BEHIND) if chr(i) not in own)
        marks: dict[str, Mark] = {}

        def take(match: re.Match[str]) -> str:
            character = next(free, None)
            if character is None:
                return match[0]  # more marks than the private area has characters
            marks[character] = Mark(match[0], self.glossary.get(match[0], match[0]))
            return character

        return self._pattern.sub(take, text), marks

    @property
    def _pattern(self) -> re.Pattern[str]:
        words = sorted(self.glossary, key=len, reverse=True)
        terms = [rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)"] if words else []
        return re.compile("|".join([*_MARKS, *terms]), re.DOTALL)

    def _line(self, line: str, marks: Mapping[str, Mark]) -> list[str | Passage]:
        plain = "".join(marks[c].text if c in marks else c for c in line)
        if not _WORD.search("".join(c for c in line if c not in marks)) and not any(
            marks[c].is_term for c in line if c in marks
        ):
            return [plain]
        if _FINAL.fullmatch(plain):
            return [plain]
        stated = _STATED.search(plain)
        if stated is None:
            return self._sentences(line, marks)
        answer = self.answer_line.replace("{answer}", stated["answer"])
        if stated.start() == 0:
            return [answer]
        end = _place(line, marks, stated.start())
        return [*self._sentences(line[:end], marks), answer]

    def _sentences(self, line: str, marks: Mapping[str, Mark]) -> list[str | Passage]:
        pieces: list[str | Passage] = []
        for sentence in self.sentences(line) if self.by_line else [line]:
            bare = sentence.strip()
            before, after = sentence[: sentence.find(bare)], sentence[sentence.find(bare) + len(bare) :]
            if not _WORD.search("".join(c for c in bare if c not in marks)):
                pieces.append("".join(marks[c].target if c in marks else c for c in sentence))
            else:
                pieces += [before, Passage(_parts(bare, marks)), after]
        return pieces


def _place(line: str, marks: Mapping[str, Mark], offset: int) -> int:
    """Where in a masked line an offset of its plain text is."""
    for place, character in enumerate(line):
        if offset <= 0:
            return place
        offset -= len(marks[character].text) if character in marks else 1
    return len(line)


def _parts(masked: str, marks: Mapping[str, Mark]) -> tuple[Part, ...]:
    parts: list[Part] = []
    for character in masked:
        if character in marks:
            parts.append(marks[character])
        elif parts and isinstance(parts[-1], str):
            parts[-1] += character
        else:
            parts.append(character)
    return tuple(parts)


def _merged(pieces: Sequence[str | Passage]) -> Iterator[str | Passage]:
    """Without empty texts."""
    return (piece for piece in pieces if piece != "")


def whole(pieces: Sequence[str | Passage]) -> Layout:
    """One passage of all: what stays as it is becomes a mark in it, but at both ends it stays outside."""
    kept = list(_merged(pieces))
    places = [i for i, piece in enumerate(kept) if isinstance(piece, Passage)]
    if not places:
        return tuple(kept)
    inside: list[Part] = []
    for piece in kept[places[0] : places[-1] + 1]:
        inside += piece.parts if isinstance(piece, Passage) else [piece if not piece.strip() else Mark(piece, piece)]
    return (*kept[: places[0]], Passage(tuple(_joined(inside))), *kept[places[-1] + 1 :])


def _joined(parts: Sequence[Part]) -> Iterator[Part]:
    """Neighbouring texts as one."""
    text = ""
    for part in parts:
        if isinstance(part, str):
            text += part
            continue
        if text:
            yield text
        text = ""
        yield part
    if text:
        yield text
