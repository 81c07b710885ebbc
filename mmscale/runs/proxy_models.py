"""What a run's `proxy` section adds: the larger base, steered, at other strengths, and tuned itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmscale.config.evaluation import ProxyConfig
from mmscale.config.run import RunConfig
from mmscale.config.training import StageConfig
from mmscale.evaluation.predictions import Prediction
from mmscale.evaluation.statistics import gap_closed

BASE = "proxy_base"
STEERED = "proxy_tuned"
CEILING = "proxy_ceiling"
_AT_ALPHA = "proxy_alpha_"


@dataclass(frozen=True)
class Steered:
    """The names of a proxy section's models, and what they are."""

    config: ProxyConfig

    def alphas(self) -> dict[str, float]:
        """Models of the sweep -> their alpha; the section's own alpha is the steered model itself."""
        values = dict.fromkeys(self.config.sweep)
        return {f"{_AT_ALPHA}{alpha:g}": alpha for alpha in values if alpha != self.config.alpha}

    def models(self) -> list[str]:
        """In the order in which they answer."""
        return [BASE, STEERED, *self.alphas(), *([CEILING] if self.config.ceiling else [])]


def is_of_proxy(name: str) -> bool:
    return name in (BASE, STEERED, CEILING) or name.startswith(_AT_ALPHA)


def compared_with(name: str) -> str | None:
    """What a model of the section is compared with."""
    return None if name == BASE else BASE


def ceiling_run(run: RunConfig) -> RunConfig:
    """The run in whose stages the larger base is tuned itself, inside the other's folder."""
    assert run.proxy is not None
    folder, chosen, scale = str(run.directory / "larger_base"), run.proxy.expert, run.proxy.ceiling_learning_rate_scale
    stages = {name: _slower(stage, scale) for name, stage in run.recipes[chosen].items()}
    recipes = {**run.recipes, chosen: stages}
    changes = {"language_model": run.proxy.base, "output_dir": folder, "proxy": None, "recipes": recipes}
    return run.model_copy(update=changes)


def _slower(stage: StageConfig, scale: float) -> StageConfig:
    """A stage whose learning rates are so many times its own."""
    own = stage.optimizer
    table = own.embedding_learning_rate
    rates = {
        "learning_rate": own.learning_rate * scale,
        "embedding_learning_rate": None if table is None else table * scale,
    }
    return stage.model_copy(update={"optimizer": own.model_copy(update=rates)})


LanguageRows = dict[str, list[Prediction]]


def closed(base: LanguageRows, steered: LanguageRows, ceiling: LanguageRows, confidence: float) -> dict[str, Any]:
    """How much of the tuned base's gain the steered one has, a language and over all but English; `null` where there is
    no gain.
    """

    def one(codes: Sequence[str]) -> dict[str, Any] | None:
        verdicts = [[row.correct for code in codes for row in rows[code]] for rows in (base, steered, ceiling)]
        closed = gap_closed(verdicts[0], verdicts[1], verdicts[2], confidence) if verdicts[0] else None
        return None if closed is None else vars(closed)

    languages = {code: one([code]) for code in base}
    return {"languages": languages, "non_english": one([code for code in base if code != "en"])}
