"""The embedded word problems (mmscale.tinyworld.grammar), made when they are asked for: there is no `path`.

options: form = problem (chain of thought in `rationale_language`: an ISO code or "same"),
program (the same, the rationale a program that prints the answer),
translation (question X -> English), sentences (one sentence of question or rationale X -> English)
or document (English text a language model is trained on);
seed.
"""

from __future__ import annotations

import random
from typing import Any

from mmscale.data.records import ParallelSentence, Problem, Record
from mmscale.data.sources.base import Rows, Source, SourceRequest
from mmscale.errors import UserError
from mmscale.languages import MGSM_LANGUAGES
from mmscale.tinyworld import grammar

_DEFAULT_COUNT = 1000
_MAX_COUNT = 10_000_000
_SPLITS = ("train", "test")
_FORMS = ("problem", "program", "translation", "sentences", "document")


def _rows(request: SourceRequest) -> Rows:
    if request.language not in MGSM_LANGUAGES:
        raise UserError(f"tinyworld has no language '{request.language}': it has {', '.join(MGSM_LANGUAGES)}")
    if request.path:
        raise UserError(f"tinyworld is made and not read: leave its path out, which is {request.path}")
    if request.split not in _SPLITS:
        raise UserError(f"tinyworld: split must be {' or '.join(_SPLITS)}, not {request.split}")
    if request.options.get("form", "problem") not in _FORMS:
        raise UserError(f"tinyworld: options.form must be one of {', '.join(_FORMS)}")
    count, seed = request.limit or _DEFAULT_COUNT, request.options.get("seed", 0)
    if type(seed) is not int or count > _MAX_COUNT:
        raise UserError(f"tinyworld: options.seed must be a whole number, and limit_per_language at most {_MAX_COUNT}")
    if request.options.get("rationale_language", "en") not in ("same", *MGSM_LANGUAGES):
        raise UserError(f"tinyworld: options.rationale_language must be same or one of {', '.join(MGSM_LANGUAGES)}")
    for index, story in enumerate(grammar.stories(count, seed, request.split)):
        yield f"tinyworld-{request.split}-{request.language}:{index}", story


def _parse(story: Any, request: SourceRequest, origin: str) -> Record:
    code = request.language
    form = request.options.get("form", "problem")
    english = grammar.question(story, "en")
    if form == "document":
        return ParallelSentence(english, _document(story, origin), code, code, origin)
    if form == "sentences":
        return ParallelSentence(_sentence(story, code, origin), _sentence(story, "en", origin), code, "en", origin)
    question = grammar.question(story, code)
    if form == "translation":
        return ParallelSentence(question, english, code, "en", origin)
    wanted = request.options.get("rationale_language", "en")
    spoken = code if wanted == "same" else wanted
    return Problem(
        question=question,
        language=code,
        answer=str(story.answer),
        rationale=(grammar.program if form == "program" else grammar.rationale)(story, spoken),
        rationale_language=spoken,
        english_question=english,
        origin=origin,
    )


def _sentence(story: grammar.Story, language: str, origin: str) -> str:
    """One sentence of question and rationale; which one, the story's place says, the same in all languages."""
    told = [*grammar.question_sentences(story, language), *grammar.rationale_sentences(story, language)]
    return told[int(origin.rpartition(":")[2]) % len(told)]


def _document(story: grammar.Story, origin: str) -> str:
    """One English document: a solved problem, a question repeated, or a question asked again garbled and solved.

    The last kind shows the language model text it can't read after a clean copy of the question, as
    web text would; the noise is characters of all scripts and says nothing about the problem.
    """
    generator = random.Random(origin)
    question, rationale = grammar.question(story, "en"), grammar.rationale(story, "en")
    kind = generator.randrange(6)
    if kind <= 1:
        return f"Q: {question}\nA: {rationale}"
    if kind == 2:
        return f"{question}\n{question}"
    if kind == 3:
        return f"Translate: {question}\nEnglish: {question}"
    if kind == 4:
        return f"{question}\nQ: {question}\nA: {rationale}"
    return f"{question}\nQ: {_noise(generator)}\nA: {rationale}"


def _noise(generator: random.Random) -> str:
    words = []
    for _ in range(generator.randint(10, 25)):
        lexicon = grammar.lexicon(generator.choice(MGSM_LANGUAGES))
        pool = [str(word) for word in lexicon["names"]] + list(map(_any_form, lexicon["things"]))
        pool += " ".join([*lexicon["starts"].values(), *lexicon["steps"].values()]).split()
        pool = [word for word in pool if "{" not in word]
        words.append(generator.choice(pool) if generator.random() < 0.8 else str(generator.randint(2, 60)))
    return " ".join(words)


def _any_form(forms: str | list[str]) -> str:
    return forms if isinstance(forms, str) else forms[2]


SOURCE = Source(_rows, _parse, MGSM_LANGUAGES, frozenset({"form", "seed", "rationale_language"}), generated=True)
