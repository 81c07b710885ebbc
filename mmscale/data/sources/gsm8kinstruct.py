r"""GSM8KInstruct (MathOctopus, Chen et al. 2023), question and answer in one language.

Forms: {language}/train.txt, JSONL of question and answer (QAlign); MGSM8KInstruct_Parallel.json, JSONL {prompt, chosen} of
all languages, in which the prompt is MathOctopus' whole one and says "Please answer in Swahili.".
"""

from __future__ import annotations

import re
from typing import Any

from mmscale.data.records import Record
from mmscale.data.sources.base import Rows, Source, SourceRequest
from mmscale.data.sources.problems import solved
from mmscale.data.sources.rows import file_rows, of_language, plain_text, text_field
from mmscale.errors import BadRow

LANGUAGES = ("bn", "de", "en", "es", "fr", "ja", "ru", "sw", "th", "zh")
_LAYOUTS = (
    "{language}/train.txt",
    "train_{language}.jsonl",
    "{language}.jsonl",
    "MGSM8KInstruct_Parallel.json",
    "GSM8KInstruct_Parallel.json",
)
_PROMPT = re.compile(r"answer in (\w+)\.\s*### Instruction:\n(.*)\n\n### Response:", re.DOTALL)


def _rows(request: SourceRequest) -> Rows:
    file = request.file(*_LAYOUTS, of_many=True)
    return of_language(file_rows(file).mapped(_unpacked), request, request.shares(*_LAYOUTS))


def _unpacked(origin: str, row: Any) -> Any:
    """A row of MathOctopus' form as {lang, question, answer}."""
    if not isinstance(row, dict) or "chosen" not in row:
        return row
    try:
        match = _PROMPT.search(plain_text(row.get("prompt"), "prompt"))
        if match is None:
            raise BadRow('its prompt does not say "Please answer in …" and "### Instruction:"')
        return {"lang": match[1], "question": match[2], "answer": row["chosen"]}
    except BadRow as error:
        return error


def _parse(raw: Any, request: SourceRequest, origin: str) -> Record:
    return solved(text_field(raw, "question", "query"), text_field(raw, "answer", "response"), request.language, origin)


SOURCE = Source(_rows, _parse, LANGUAGES)
