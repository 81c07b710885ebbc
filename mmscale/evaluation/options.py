"""Choosing among the options of a question by how likely each is behind it, instead of reading what a model writes.

The likeliest option is the answer, its log-likelihood as it is or divided by the option's length. lm-eval calls the share of right ones
`acc` (none), `acc_norm` (characters) and `acc_bytes` (bytes).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmscale.answering.base import Answerer
from mmscale.config.evaluation import NORMALIZATIONS
from mmscale.data.records import Record
from mmscale.errors import BadRow, UserError

if TYPE_CHECKING:
    from mmscale.parallel.context import ParallelContext


@dataclass(frozen=True)
class Option:
    """A possible answer of a question, and how likely it is there."""

    answer: str
    """As the gold names it."""
    target: str
    """What a model would write, without space around it."""
    log_likelihood: float
    """In nats."""
    tokens: int

    def __post_init__(self) -> None:
        if not self.target or self.tokens < 1:
            raise ValueError(f"option '{self.answer:.60}' is no text")


_LENGTHS: dict[str, Callable[[Option], int]] = {
    "none": lambda option: 1,
    "characters": lambda option: len(option.target),
    "bytes": lambda option: len(option.target.encode("utf-8")),
    "tokens": lambda option: option.tokens,
}
assert tuple(_LENGTHS) == NORMALIZATIONS


def likeliest(options: Sequence[Option], normalization: str) -> str:
    """The answer of the option of the highest log-likelihood for its length; of the first one of equal ones."""
    length = _LENGTHS[normalization]
    return max(options, key=lambda option: option.log_likelihood / length(option)).answer


def by_normalization(rows: Sequence[Sequence[Option]], golds: Sequence[str]) -> dict[str, float]:
    """Share of the rows whose likeliest option is right, by each length normalization."""
    return {
        name: sum(likeliest(options, name) == gold for options, gold in zip(rows, golds, strict=True)) / len(rows)
        for name in NORMALIZATIONS
    }


def option_of(row: Any) -> Option:
    """An option as a prediction file has it; BadRow where it is none."""
    try:
        answer, target, value, tokens = (row[key] for key in ("answer", "target", "log_likelihood", "tokens"))
        if isinstance(answer, str) and isinstance(target, str) and type(value) in (int, float) and type(tokens) is int:
            return Option(answer, target, float(value), tokens)
    except (KeyError, TypeError, ValueError) as error:
        raise BadRow("its options are not answer, target, log_likelihood and tokens") from error
    raise BadRow("its options are not answer, target, log_likelihood and tokens")


def require_options(records: Sequence[Record], what: str) -> None:
    """UserError naming the first record that has no options to choose among, or another gold answer than they are."""
    for record in records:
        if record.gold not in [option.gold for option in record.options]:
            lacks = f"its gold answer '{record.gold:.40}' is none of its options" if record.options else "it has none"
            raise UserError(
                f"{record.origin}: {what} chooses among a question's options, and {lacks}: set scoring=generation for this task"
            )


def weighed(
    answerer: Answerer,
    records: Sequence[Record],
    batch_size: int,
    done: Container[str],
    context: ParallelContext | None,
) -> Iterator[list[tuple[Record, tuple[Option, ...]]]]:
    """This rank's share of the records with their options, a batch at a time; batches are those of all records, whatever is
    done: a log-likelihood may depend on its batch by a rounding, and so depends on nothing else."""
    batches = [records[begin : begin + batch_size] for begin in range(0, len(records), batch_size)]
    wanted = [batch for batch in batches if any(record.origin not in done for record in batch)]
    for batch in wanted if context is None else wanted[context.data_rank :: context.data_size]:
        options = [option for record in batch for option in record.options]
        values = iter(zip(options, answerer.targets(options), answerer.likelihoods(options), strict=True))
        yield [(record, tuple(_option(*next(values)) for _ in record.options)) for record in batch]


def _option(record: Record, target: str, likelihood: Any) -> Option:
    return Option(record.gold, target.strip(), likelihood.log_likelihood, likelihood.tokens)
