"""`exact`: the stripped output equals the gold (MindMerger on X-CSQA and XNLI)."""

from __future__ import annotations

from mmscale.evaluation.answers.base import Rule

RULE = Rule(
    extract=lambda response, language: response.strip(), equal=lambda prediction, gold: prediction == gold.strip()
)
"""The whole response without surrounding spaces equals the gold, as MindMerger scores X-CSQA and XNLI."""
