"""X-CSQA (Lin et al. 2021) and English CommonsenseQA: question {stem, choices} with choices as a list or a dict of lists.

X-CODAH has the same form with an empty stem. Only dev of X-CSQA carries answers; the MindMerger authors train on
translated CommonsenseQA, query_translation/x-csqa/train_{l}.jsonl. options: form = choice, or translation: the question beside that
of the English file's row of the same id, as sentence pairs (options stand in another order in each language).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mmscale.data.records import MultipleChoice, ParallelSentence, Record
from mmscale.data.sources.base import Rows, Source, SourceRequest
from mmscale.data.sources.rows import file_rows, of_language, optional_text, plain_text
from mmscale.errors import BadRow, UserError

_FILE_CODES = {"ja": "jap"}
"""X-CSR names Japanese "jap"."""
_NAMED = (
    "{}/{{split}}.jsonl",
    "X-CSQA-{}/{{split}}.jsonl",
    "{}_{{split}}.jsonl",
    "{{split}}_{}.jsonl",
    "x-csqa/{{split}}_{}.jsonl",
    "x-csqa/{}/{{split}}.jsonl",
    "X-CSQA-{}/{{split}}-00000-of-00001.parquet",
)
_VALIDATION = tuple(f"X-CSQA-{name}/validation-00000-of-00001.parquet" for name in ("{language}", "{code}"))
"""What the hub calls dev."""
LANGUAGES = ("ar", "de", "en", "es", "fr", "hi", "it", "ja", "nl", "pl", "pt", "ru", "sw", "ur", "vi", "zh")
_LAYOUTS = (
    "X-CSQA_{language}_sample/{split}.jsonl",
    *(name.format(code) for code in ("{language}", "{code}") for name in _NAMED),
)
_ENGLISH = ("{split}_rand_split.jsonl", "{split}_rand_split_no_answers.jsonl")
"""CommonsenseQA"""


def _rows(request: SourceRequest) -> Rows:
    request = replace(request, codes=_FILE_CODES)
    hub = _VALIDATION if request.split == "dev" else ()
    layouts = (*_LAYOUTS, *hub, *(_ENGLISH if request.language == "en" else ()), "{split}.jsonl")
    file = request.file(*layouts, of_many=True)
    rows = of_language(file_rows(file), request, request.shares(*layouts))
    return rows if _form(request) == "choice" else _beside_english(rows, request)


def _form(request: SourceRequest) -> str:
    form = str(request.options.get("form", "choice"))
    if form not in ("choice", "translation"):
        raise UserError(f"xcsqa: options.form must be choice or translation, not {form}")
    return form


def _beside_english(rows: Rows, request: SourceRequest) -> Rows:
    """Rows with the English question of their id."""
    options = {key: value for key, value in request.options.items() if key != "form"}
    asked = _rows(replace(request, language="en", options=options))
    english = {row.get("id"): row.get("question") for _, row in asked if isinstance(row, dict) and row.get("id")}
    for origin, row in rows:
        if isinstance(row, dict):
            pair = {**row, "english": english.get(row.get("id"))}
            yield origin, pair if pair["english"] else BadRow("has no row of this id in the English file")
        else:
            yield origin, row


def choices_of(value: Any) -> tuple[tuple[str, str], ...]:
    """(label, text) of every option; BadRow when they are none, or two have one label."""
    if isinstance(value, dict):
        labels, texts = value.get("label"), value.get("text")
        if not isinstance(labels, list) or not isinstance(texts, list) or len(labels) != len(texts):
            raise BadRow("choices need lists 'label' and 'text' of one length")
        pairs = list(zip(labels, texts, strict=True))
    elif isinstance(value, list):
        if not all(isinstance(choice, dict) and {"label", "text"} <= set(choice) for choice in value):
            raise BadRow("every choice needs 'label' and 'text'")
        pairs = [(choice["label"], choice["text"]) for choice in value]
    else:
        raise BadRow("has no choices")
    choices = tuple((plain_text(label, "label"), plain_text(text, "text").strip()) for label, text in pairs)
    if len({label for label, _ in choices}) < max(len(choices), 1):
        raise BadRow("its choices need labels, each its own")
    return choices


def _parse(raw: Any, request: SourceRequest, origin: str) -> Record:
    question = raw.get("question")
    if not isinstance(question, dict) or question.get("stem") is None:
        raise BadRow("has no question.stem")
    if _form(request) == "translation":
        english = raw["english"].get("stem") if isinstance(raw["english"], dict) else None
        texts = [plain_text(text, "question.stem").strip() for text in (question["stem"], english or "")]
        if not all(texts):
            raise BadRow("one of its two questions is empty")
        return ParallelSentence(texts[0], texts[1], request.language, "en", origin)
    choices = choices_of(question.get("choices"))
    answer = optional_text(raw, "answerKey")
    if answer and answer not in [label for label, _ in choices]:
        raise BadRow(f"answerKey '{answer:.60}' is none of its labels")
    return MultipleChoice(
        question=plain_text(question["stem"], "question.stem").strip(),
        choices=choices,
        language=request.language,
        answer=answer,
        identifier=optional_text(raw, "id"),
        origin=origin,
    )


SOURCE = Source(_rows, _parse, LANGUAGES, frozenset({"form"}))
