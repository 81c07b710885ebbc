"""The last word of a response, whatever its case."""

from mmscale.evaluation.answers.base import Rule


def _last_word(response: str, language: str) -> str:
    return next(iter(reversed(response.split())), "").strip(".!?")


RULE = Rule(extract=_last_word, equal=lambda prediction, gold: prediction.casefold() == gold.casefold())
