"""Benchmarks of this package."""

from mmscale.config.data import DataConfig
from mmscale.config.evaluation import GenerationConfig, TaskConfig

TASK = TaskConfig(
    data=DataConfig(source="riddles", split="test", drop=("one_word_question",)),
    rule="last_word",
    prompt="dialogue",
    generation=GenerationConfig(max_new_tokens=4),
)
"""Riddles whose answer is one word."""
