"""mmscale: give an LLM that reasons in English the same ability in other languages.

The Python interface is what `__all__` names (mmscale/api.py); it is imported when one of its names is first used, so that
`import mmscale` brings no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmscale.api import (
        DataConfig,
        GenerationConfig,
        Model,
        Prediction,
        Problem,
        Record,
        Score,
        TokenizedExample,
        UserError,
        answer,
        load_model,
        load_records,
        log_likelihood,
        read_predictions,
        score,
        tokenize,
        train_stage,
    )

__version__ = "0.1.0"

__all__ = [
    "DataConfig",
    "GenerationConfig",
    "Model",
    "Prediction",
    "Problem",
    "Record",
    "Score",
    "TokenizedExample",
    "UserError",
    "__version__",
    "answer",
    "load_model",
    "load_records",
    "log_likelihood",
    "read_predictions",
    "score",
    "tokenize",
    "train_stage",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'mmscale' has no attribute {name!r}")
    return getattr(importlib.import_module("mmscale.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
