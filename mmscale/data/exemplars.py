"""MGSM's exemplars (Shi et al. 2022): eight worked problems in each language, from a copy of the authors' mgsm/exemplars.py.

The file is read as literals and never run: MGSM_EXEMPLARS = {language: {"1": {"q": "Question: …", "a": "Step-by-Step Answer: …"}, …}}.
"""

from __future__ import annotations

import ast
import functools
from dataclasses import dataclass
from pathlib import Path

from mmscale.errors import UserError
from mmscale.storage.reading import existing_file, read_text

NAME = "MGSM_EXEMPLARS"
_COLONS = ":："
Exemplar = tuple[str, str]
"""(question, chain of thought with the answer), each behind its label."""


@dataclass(frozen=True)
class Exemplars:
    """Those of one language."""

    worked: tuple[Exemplar, ...]
    question_label: str
    """Such as "Frage: ", what stands behind its colon included."""
    answer_label: str


def read_exemplars(path: str) -> dict[str, Exemplars]:
    """language -> its exemplars; UserError where the file does not hold them."""
    file = existing_file(Path(path).expanduser(), "exemplars of MGSM")
    return _parsed(file, read_text(file))


@functools.lru_cache(maxsize=8)
def _parsed(file: Path, text: str) -> dict[str, Exemplars]:
    try:
        tree = ast.parse(text)
        values = [ast.literal_eval(value) for value in map(_assigned, tree.body) if isinstance(value, ast.Dict)]
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(
            f"{file} is not the authors' exemplars.py ({error}): take mgsm/exemplars.py of google-research/url-nlp"
        ) from error
    if len(values) != 1:
        raise UserError(
            f"{file} assigns {NAME} {len(values)} times: take mgsm/exemplars.py of google-research/url-nlp, which does once"
        )
    return {str(code): _of_language(f"{file}: {NAME}['{code}']", worked) for code, worked in values[0].items()}


def _assigned(node: ast.stmt) -> ast.expr | None:
    """What a statement assigns to MGSM_EXEMPLARS, None where it assigns something else."""
    if not isinstance(node, (ast.Assign, ast.AnnAssign)):
        return None
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return node.value if any(isinstance(target, ast.Name) and target.id == NAME for target in targets) else None


def _of_language(where: str, worked: object) -> Exemplars:
    if not isinstance(worked, dict) or not worked or not all(map(_is_exemplar, worked.values())):
        raise UserError(f'{where} is no mapping of exemplars {{"q": …, "a": …}}: take the authors\' file as it is')
    pairs = tuple((one["q"].strip(), one["a"].strip()) for one in worked.values())
    labels = [_label([pair[side] for pair in pairs]) for side in (0, 1)]
    if not all(labels):
        raise UserError(f"{where}: its texts begin with no label that a colon ends: take the authors' file as it is")
    return Exemplars(pairs, *labels)


def _is_exemplar(one: object) -> bool:
    return isinstance(one, dict) and all(isinstance(one.get(key), str) and one[key].strip() for key in ("q", "a"))


def _label(texts: list[str]) -> str:
    """What all begin with up to a colon and the space behind it; "" where there is none."""
    least, most = min(texts), max(texts)  # differ the earliest
    same = least[: next((i for i, (a, b) in enumerate(zip(least, most)) if a != b), len(least))]
    colon = next((i for i, letter in enumerate(same) if letter in _COLONS), None)
    if colon is None:
        return ""
    behind = colon + 1
    while behind < len(same) and same[behind].isspace():
        behind += 1
    return same[:behind]


FORMS = ("native", "english_cot", "english")
"""The exemplars are in the question's language; their questions are, and they reason in English; all of them is English."""


def few_shot(path: str, code: str, form: str, shots: int) -> tuple[str, str, bool]:
    """(text before a question, text behind it, whether a space follows) of some exemplars for questions in a language.

    UserError where the file has none of that language, or fewer.
    """
    languages = read_exemplars(path)
    asked, reasons = {"native": (code, code), "english_cot": (code, "en"), "english": ("en", "en")}[form]
    for one in (asked, reasons):
        if one not in languages:
            raise UserError(f"{path} has no exemplars of language '{one}': it has {', '.join(languages)}")
        if len(languages[one].worked) < shots:
            raise UserError(f"{path} has {len(languages[one].worked)} exemplars of '{one}', fewer than shots={shots}")
    questions, answers = languages[asked], languages[reasons]
    worked = zip(questions.worked[:shots], answers.worked[:shots], strict=True)
    head = "".join(f"{question}\n{answer}\n\n" for (question, _), (_, answer) in worked)
    label = answers.answer_label
    return head + questions.question_label, f"\n{label.rstrip()}", label != label.rstrip()


def question_labels(path: str) -> list[str]:
    """How a question begins in each language: where a model writes one, it has gone on to the next problem."""
    return list(dict.fromkeys(one.question_label.strip() for one in read_exemplars(path).values()))
