"""Prompts of this package."""

from mmscale.data.prompts import Prompt, Template
from mmscale.data.records import Problem, Record


def _prompt(record: Record) -> Prompt:
    return Prompt("User: ", record.text, "\nAssistant:")


def _target(record: Record) -> str:
    assert isinstance(record, Problem)
    return f" {record.rationale}"


TEMPLATE = Template(prompt=_prompt, target=_target, stop=("User:",), reads=Problem)
"""A dialogue of two turns."""
