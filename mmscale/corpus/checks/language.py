"""The language that question and rationale are in: by lingua, and by the share of letters of the language's script."""

from __future__ import annotations

import functools
import re
from collections import Counter
from typing import Any

from mmscale.corpus.checks.base import Check, CheckSetting, RowScore, Scorer, by_row, each, worst
from mmscale.corpus.rows import CorpusRow
from mmscale.data.filters import script_of
from mmscale.errors import UserError
from mmscale.languages import LANGUAGES, language

_USUAL = ("ar", "de", "en", "es", "fr", "hi", "id", "it", "ja", "nl", "pt", "ru", "zh")
"""Languages that a text may be in beside those of the corpus."""
_RELATIVES = (("id", "ms"), ("bs", "hr", "sr"), ("nb", "nn", "da"), ("cs", "sk"), ("xh", "zu"), ("be", "uk", "ru"))
"""Languages of which one is not taken for another."""
_LEAST_LETTERS = 30
_READ = 2000
"""Characters of a text."""
_NO_WORDS = re.compile(r"<<[^<>]*>>|\$[^$]*\$|\\[A-Za-z]+|https?://\S+|`[^`]*`|[\d\W_]+")


def words_of(text: str, original: str) -> str:
    """A text without formulas, numbers and links, and without what its original writes with a capital letter too: names."""
    names = {word for word in re.findall(r"[^\W\d_]+", original) if word[:1].isupper()}
    plain = _NO_WORDS.sub(" ", text[:_READ])
    return " ".join(word for word in plain.split() if word not in names)


def _texts(row: CorpusRow) -> list[tuple[str, str]]:
    """(what it is, its words) of question and rationale."""
    parts = [("question", row.question, row.source_question), ("rationale", row.rationale, row.source_rationale)]
    return [(name, words_of(text, original or "")) for name, text, original in parts if text]


@functools.lru_cache(maxsize=8)
def _detector(codes: frozenset[str]) -> Any:
    """lingua's, for some languages: all that it knows would take a gigabyte and a minute."""
    from lingua import IsoCode639_1, Language, LanguageDetectorBuilder  # imports slowly

    known = {one.iso_code_639_1.name.lower(): one.iso_code_639_1 for one in Language.all()}
    chosen: list[IsoCode639_1] = [known[code] for code in sorted(codes) if code in known]
    return LanguageDetectorBuilder.from_iso_codes_639_1(*chosen).build()


@functools.cache
def _judged() -> frozenset[str]:
    from lingua import Language

    return frozenset(one.iso_code_639_1.name.lower() for one in Language.all())


def _candidates(code: str, setting: CheckSetting) -> frozenset[str]:
    relatives = next((group for group in _RELATIVES if code in group), ())
    return frozenset([code, *_USUAL, *setting.languages]) - (frozenset(relatives) - {code})


def _likeness(name: str, words: str, code: str, candidates: frozenset[str]) -> RowScore | None:
    if sum(c.isalpha() for c in words) < _LEAST_LETTERS:
        return None
    likely = {
        one.language.iso_code_639_1.name.lower(): one.value
        for one in _detector(candidates).compute_language_confidence_values(words)
    }
    best = max(likely, key=lambda one: likely[one])
    named = LANGUAGES[best].name if best in LANGUAGES else best
    return RowScore(likely.get(code, 0.0) / likely[best], f"the {name} reads as {named}") if likely[best] else None


def _by_lingua(setting: CheckSetting) -> Scorer:
    try:
        import lingua  # noqa: F401
    except ImportError as error:
        raise UserError("check language needs lingua: pip install 'mmscale[corpus]', or leave it out") from error

    def score(row: CorpusRow) -> RowScore | None:
        if row.language not in _judged():
            return None
        candidates = _candidates(row.language, setting)
        return worst([_likeness(name, words, row.language, candidates) for name, words in _texts(row)], below=True)

    return each(score)


LANGUAGE = Check(ready=_by_lingua, threshold=0.1, below=True)
"""Another language is likelier than the row's own, by far."""


def _share(name: str, text: str, code: str) -> RowScore | None:
    counts = Counter(map(script_of, text))
    del counts[""]
    if counts.total() < _LEAST_LETTERS // 3:
        return None
    own = language(code).script
    most = max(counts, key=lambda script: counts[script])
    return RowScore(
        counts[own] / counts.total(),
        f"the letters of the {name} are {most}, not {own}"
        if most != own
        else f"many letters of the {name} are not {own}",
    )


def _share_of_script(row: CorpusRow) -> RowScore | None:
    """The share of letters in the script of the row's language, in the worse of question and rationale."""
    return worst([_share(name, words, row.language) for name, words in _texts(row)], below=True)


SCRIPT = by_row(_share_of_script, threshold=0.5, below=True)
"""Too few letters are of the language's script."""
