"""What a corpus would be made of, and what is missing for it; nothing is read whole, no weights are loaded."""

from __future__ import annotations

from collections.abc import Iterator

from mmscale.config.corpus import CorpusConfig, CorpusSourceConfig
from mmscale.corpus.reading import ReadAccount, records
from mmscale.corpus.translate import Pair, pairs, require_translatable, translator_of
from mmscale.errors import UserError
from mmscale.languages import language


def dry_run(config: CorpusConfig) -> Iterator[str]:
    """Lines for people: each source and each translation, ready or with what it lacks."""
    yield f"corpus in {config.folder}"
    for source in config.sources:
        yield f"source {source.title} ({language(source.language).name}): {_state_of_source(source)}"
    alike: dict[tuple[str, str], list[str]] = {}
    for pair in pairs(config):
        alike.setdefault((pair.source.title, _state_of_pair(config, pair)), []).append(language(pair.target).name)
    for (title, state), names in alike.items():
        yield f"{title} into {', '.join(names)}: {state}"


def _state_of_source(source: CorpusSourceConfig) -> str:
    try:
        account = ReadAccount()
        first = next(records(source, account), None)
    except UserError as error:
        return f"missing: {error}"
    return f"missing: {account.rows} rows, none of them a problem" if first is None else f"ready, begins {first.origin}"


def _state_of_pair(config: CorpusConfig, pair: Pair) -> str:
    if config.translate is None:
        return "missing: nothing translates: set translate: {backend: …, model: …}"
    try:
        require_translatable(config.translate, pair)
        _ = translator_of(config.translate, pair).identity
    except UserError as error:
        return f"missing: {error}"
    return f"ready, by {config.translate.backend} with {config.translate.model}"
