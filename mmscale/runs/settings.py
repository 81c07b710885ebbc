"""What decides a stage's result, kept beside it, so that a change can be told by its key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmscale.errors import UserError
from mmscale.models.assembly import ModelParts, provenance, require_trained_with, wherever_it_lies
from mmscale.runs.stage import Stage
from mmscale.storage.files import sha256, write_json
from mmscale.storage.reading import parse_json

_FILE = "settings.json"
_LAY = "trained_with"
"""Key of what lay at the paths of a mapping's models."""
_TOLD = 3
"""Changed keys that a sentence names."""


def fingerprint(stage: Stage, start: ModelParts) -> str:
    """A digest of the stage's configuration, where it starts, languages and seed."""
    content = [*_settings(stage, start).values(), stage.spec.name]
    if stage.config.initial_mapping is not None and start.mapping is not None:
        content.append(sha256(Path(start.mapping)))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _settings(stage: Stage, start: ModelParts) -> dict[str, Any]:
    """What is null is left out: a stage stays what it is when a later version has one more key that may be null."""
    placeless = wherever_it_lies(start)
    return {
        f"recipes.{stage.name}": stage.config.model_dump(mode="json", exclude_none=True),
        "language_model": placeless.language_model.model_dump(mode="json", exclude_none=True),
        "encoder": placeless.encoder.model_dump(mode="json", exclude_none=True) if placeless.encoder else None,
        "the model it starts from": provenance(start),
        "languages": list(stage.run.languages),
        "seed": stage.run.seed,
        **({"connector": start.connector} if start.encoder else {}),
    }


def keep(stage: Stage, start: ModelParts) -> None:
    """Write them into the stage's folder. Where a checkpoint there was made by those that it holds, UserError unless the
    models that it was made with still lie where they lay.
    """
    file = stage.folder / _FILE
    if not any((stage.folder / "checkpoints").glob("step-*")):
        write_json(file, _settings(stage, start) | {_LAY: start.trained_with})
        return
    kept = _kept(file)
    before = kept.get(_LAY) if isinstance(kept, dict) else None
    if isinstance(before, dict):
        require_trained_with(replace(start, trained_with=before))


def refusal(what: Path, stage: Stage, start: ModelParts) -> UserError:
    """That `what` was made by other settings, naming those that changed where they were kept."""
    changes = list(_changes(_kept(stage.folder / _FILE), _settings(stage, start), ""))
    told = "; ".join(changes[:_TOLD]) + (f" and {len(changes) - _TOLD} more" if len(changes) > _TOLD else "")
    return UserError(
        f"{what} was made by another configuration of this stage{f' ({told})' if told else ''}: choose another output_dir, or "
        f"remove {stage.folder} to train again"
    )


def _kept(file: Path) -> Any:
    try:
        return parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # only what the sentence can say depends on it
        return None


def _changes(before: Any, now: Any, key: str) -> Iterator[str]:
    if before is None and not key:
        return
    if isinstance(before, dict) and not key:
        before = {name: value for name, value in before.items() if name != _LAY}
    if isinstance(before, dict) and isinstance(now, dict):
        for name in dict.fromkeys([*before, *now]):
            yield from _changes(before.get(name), now.get(name), f"{key}.{name}" if key else name)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now) and key:
        for place, (one, other) in enumerate(zip(before, now, strict=True)):
            yield from _changes(one, other, f"{key}.{place}")
    elif before != now and key == "the model it starts from":
        yield f"{key} is another one"
    elif before != now:
        yield f"{key} was {_short(before)}, now {_short(now)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
