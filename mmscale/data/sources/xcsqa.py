"""X-CSQA (Lin et al. 2021) and English CommonsenseQA: question {stem, choices} with choices as a list or a dict of lists.

X-CODAH has the same form with an empty stem. Only dev of X-CSQA carries answers; the MindMerger authors train on
translated CommonsenseQA, query_translation/x-csqa/train_{l}.jsonl.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mmscale.data.records import MultipleChoice, Record
from mmscale.data.sources.base import Rows, Source, SourceRequest
from mmscale.data.sources.rows import file_rows, of_language, optional_text, plain_text
from mmscale.errors import BadRow

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
    return of_language(lambda: file_rows(file), request, request.shares(*layouts))


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


SOURCE = Source(_rows, _parse, LANGUAGES)
