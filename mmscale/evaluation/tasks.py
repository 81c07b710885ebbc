"""Benchmarks by name: the settings that a task of a configuration begins with, where it says `task: NAME`.

A new one is an attribute here, with a sentence about it, and its name in mmscale/registry.py.
"""

from __future__ import annotations

from mmscale.config.data import DataConfig
from mmscale.config.evaluation import GenerationConfig, TaskConfig

MGSM = TaskConfig(data=DataConfig(source="mgsm", split="test"))
"""MGSM's test split: 250 word problems in each of eleven languages."""
MSVAMP = TaskConfig(data=DataConfig(source="msvamp", split="test"))
"""MSVAMP's test split: 1000 word problems in each of ten languages."""
XCSQA = TaskConfig(
    data=DataConfig(source="xcsqa", split="dev"),  # its test split hides the answers
    rule="exact",
    prompt="xcsqa",
    generation=GenerationConfig(max_new_tokens=8),
)
"""X-CSQA's dev split: commonsense questions with five options, in the form of MindMerger."""
XNLI = TaskConfig(
    data=DataConfig(source="xnli", split="test"),
    rule="exact",
    prompt="xnli",
    generation=GenerationConfig(max_new_tokens=8),
)
"""XNLI's test split: entailment, neutral or contradiction, in the form of MindMerger."""
XCOPA = TaskConfig(
    data=DataConfig(source="xcopa", split="test"),
    rule="exact",
    prompt="xcopa",
    generation=GenerationConfig(max_new_tokens=8),
)
"""XCOPA's test split: the likelier cause or result of two, in eleven languages."""
TINYWORLD = TaskConfig(
    data=DataConfig(source="tinyworld", split="test", limit_per_language=200),
    prompt="tinyworld_math",
    generation=GenerationConfig(max_new_tokens=80),
)
"""Word problems of the embedded grammar that share no question with training."""
