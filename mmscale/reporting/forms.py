"""What the files of a run hold that a report reads: a file that is JSON, but not this, is named with the key at fault."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter, ValidationError, model_validator

from mmscale.errors import UserError
from mmscale.storage.reading import read_json

AGAIN = "run the same command again, it is made anew"
_Count = Annotated[int, Field(ge=0)]
_Share = Annotated[float, Field(ge=0, le=1)]


class _Cell(BaseModel):
    n: _Count
    correct: _Count
    accuracy: _Share
    interval: tuple[_Share, _Share]
    failures: dict[str, _Count] | None = None
    """Where a rule runs programs: name -> answers that gave no value."""

    @model_validator(mode="after")
    def _counted(self) -> _Cell:
        if abs(self.accuracy * self.n - self.correct) > 1e-6 * max(1, self.n):
            raise ValueError(f"accuracy {self.accuracy} is not {self.correct} of {self.n}")
        return self


class _TaskScores(BaseModel):
    rule: str
    languages: dict[str, _Cell]
    non_english: _Cell
    cc: dict[str, dict[str, _Share]] = {}
    ic: dict[str, dict[str, _Share | None]] = {}
    wrong: dict[str, _Count] = {}


class _ModelScores(BaseModel):
    title: str
    compared_with: str | None
    tasks: dict[str, _TaskScores]
    alpha: float | None = None


class _Rows(BaseModel):
    count: _Count


class _Account(BaseModel):
    source: str
    read: dict[str, _Count]
    bad: _Rows
    left_out: dict[str, _Count] = {}
    dropped: _Count
    flagged: dict[str, _Rows]


SCORES: TypeAdapter[Any] = TypeAdapter(dict[str, _ModelScores])
ACCOUNTS: TypeAdapter[Any] = TypeAdapter(list[_Account])
ENVIRONMENT: TypeAdapter[Any] = TypeAdapter(dict[str, Any])


def read_form(path: Path, form: TypeAdapter[Any], default: Any) -> Any:
    """The JSON of a file, unchanged, or `default` where there is none; UserError naming file and key where it is no such form."""
    if not path.is_file():
        return default
    value = read_json(path, AGAIN)
    try:
        form.validate_python(value, strict=False)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the whole"
        raise UserError(f"{path} is not as a run writes it ({key}: {first['msg'].lower()}): {AGAIN}") from error
    return value
