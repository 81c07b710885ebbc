"""X-CSQA (Lin et al. 2021) and English CommonsenseQA: question {stem, choices} with choices as a list or a dict of lists.

X-CODAH has the same form with an empty stem. Only dev of X-CSQA carries answers.
"""

from __future__ import annotations

from typing import Any

from mmscale.data.records import MultipleChoice, Record
from mmscale.data.sources.base import Request, Rows, Source, json_rows
from mmscale.errors import BadRow

_FILE_CODES = {"ja": "jap"}
"""X-CSR names Japanese "jap"."""


def _rows(request: Request) -> Rows:
    code = _FILE_CODES.get(request.language, request.language)
    layouts = [f"X-CSQA_{c}_sample/{{split}}.jsonl" for c in (request.language,)]
    for c in dict.fromkeys((request.language, code)):
        layouts += [f"{c}/{{split}}.jsonl", f"X-CSQA-{c}/{{split}}.jsonl", f"{c}_{{split}}.jsonl"]
    if request.language == "en":
        layouts += ["{split}_rand_split.jsonl", "{split}_rand_split_no_answers.jsonl"]
    return json_rows(request.file(*layouts, "{split}.jsonl"))


def choices_of(value: Any) -> tuple[tuple[str, str], ...]:
    if isinstance(value, dict):
        labels, texts = value.get("label"), value.get("text")
        if not isinstance(labels, list) or not isinstance(texts, list) or len(labels) != len(texts):
            raise BadRow("choices need lists 'label' and 'text' of one length")
        return tuple((str(label), str(text).strip()) for label, text in zip(labels, texts, strict=True))
    if isinstance(value, list):
        try:
            return tuple((str(choice["label"]), str(choice["text"]).strip()) for choice in value)
        except (KeyError, TypeError) as error:
            raise BadRow("every choice needs 'label' and 'text'") from error
    raise BadRow("has no choices")


def _parse(raw: Any, request: Request, origin: str) -> Record:
    question = raw.get("question")
    if not isinstance(question, dict) or "stem" not in question:
        raise BadRow("has no question.stem")
    choices = choices_of(question.get("choices"))
    answer = str(raw.get("answerKey") or "")
    if answer and answer not in [label for label, _ in choices]:
        raise BadRow(f"answerKey '{answer}' is none of its labels")
    return MultipleChoice(
        str(question["stem"]).strip(),
        choices,
        request.language,
        answer,
        identifier=str(raw.get("id", "")),
        origin=origin,
    )


SOURCE = Source(_rows, _parse)
