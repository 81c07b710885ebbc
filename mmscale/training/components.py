"""Parts of a model that a stage can train: what is made trainable, and how what was trained is handed on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mmscale.errors import unknown_name
from mmscale.storage.files import cannot_write, sync_tree

if TYPE_CHECKING:  # a configuration asks what a component needs: torch is imported where one is trained
    from torch import Tensor

    from mmscale.models.assembly import ModelParts
    from mmscale.models.connectors import Connector, ConnectorKind
    from mmscale.models.merge import MergedModel
    from mmscale.parallel.context import ParallelContext
    from mmscale.training.fragments import SavedState

CONNECTOR_PREFIX = "connector."
"""What stands before a connector's parameter names inside a MergedModel."""


@dataclass(frozen=True)
class HandedOn:
    """What of a finished stage lies in its folder."""

    files: tuple[str, ...]
    parts: ModelParts
    """Names those files, relative to the folder."""


class Component(ABC):
    """One part of a model that a stage can train; a stage names those that it trains (`StageSpec.trains`)."""

    name: str
    needs_encoder = False
    changes_encoder = False
    """Whether the encoder's own weights change: its states are those of one step alone."""
    changes_language_model = False
    """Whether the LLM's own weights change: they have to be there in full precision."""

    @abstractmethod
    def make_trainable(self, model: MergedModel) -> None:
        """Let gradients in, of a model that is frozen and in evaluation mode."""

    @abstractmethod
    def hand_on(
        self, model: MergedModel, parts: ModelParts, trained: SavedState, folder: Path, context: ParallelContext
    ) -> HandedOn:
        """Write what was trained, from a checkpoint, in the format that others load. All ranks call it."""


class LanguageModelComponent(Component):
    """The whole language model: full fine-tuning, handed on as a Hugging Face folder."""

    name = "language_model"
    changes_language_model = True

    def make_trainable(self, model: MergedModel) -> None:
        from mmscale.models.assembly import make_trainable

        make_trainable(model.language_model, gradient_checkpointing=False, frozen=False)

    def hand_on(
        self, model: MergedModel, parts: ModelParts, trained: SavedState, folder: Path, context: ParallelContext
    ) -> HandedOn:
        from mmscale.models.export import TRUNK_PREFIX, export

        files = export(model.language_model, lambda name: trained.parameter(TRUNK_PREFIX + name), folder, context)
        own = parts.language_model.model_copy(update={"path": ".", "revision": None})
        # the folder's own hashes name this LLM from here on
        others = {part: digest_of for part, digest_of in parts.trained_with.items() if part != self.name}
        return HandedOn(tuple(files), replace(parts, language_model=own, trained_with=others))


class EncoderComponent(Component):
    """The whole multilingual encoder: handed on as a Hugging Face folder beside the rest, with its tokenizer."""

    name = "encoder"
    needs_encoder = True
    changes_encoder = True

    def make_trainable(self, model: MergedModel) -> None:
        assert model.encoder is not None
        model.encoder.requires_grad_(True)

    def hand_on(
        self, model: MergedModel, parts: ModelParts, trained: SavedState, folder: Path, context: ParallelContext
    ) -> HandedOn:
        from mmscale.models.assembly import FOLDER
        from mmscale.models.encoders.export import ENCODER_FOLDER, ENCODER_PREFIX, export_encoder

        assert parts.encoder is not None
        came_from = parts.encoder

        def value(name: str) -> Tensor | None:
            key = ENCODER_PREFIX + name
            return trained.parameter(key) if key in trained.shapes else None

        files = context.from_first(lambda: export_encoder(came_from, value, folder / ENCODER_FOLDER))
        there = {"path": f"{FOLDER}/{ENCODER_FOLDER}", "revision": None, "added_tokens": ()}
        own = came_from.model_copy(update=there)
        # the folder's own hashes name this encoder from here on
        others = {part: digest_of for part, digest_of in parts.trained_with.items() if part != EncoderComponent.name}
        names = tuple(f"{ENCODER_FOLDER}/{file}" for file in files)
        return HandedOn(names, replace(parts, encoder=own, trained_with=others))


class EncoderEmbeddingsComponent(EncoderComponent):
    """The encoder's embedding table alone, as LangBridge trains it for new tokens."""

    name = "encoder_embeddings"

    def make_trainable(self, model: MergedModel) -> None:
        assert model.encoder is not None
        model.encoder.model.get_input_embeddings().requires_grad_(True)


class ConnectorComponent(Component):
    """What joins an encoder to the LLM, MindMerger's mapping for one: handed on as a file of its own."""

    name = "connector"
    needs_encoder = True

    def make_trainable(self, model: MergedModel) -> None:
        assert model.connector is not None
        model.connector.requires_grad_(True).train()

    def hand_on(
        self, model: MergedModel, parts: ModelParts, trained: SavedState, folder: Path, context: ParallelContext
    ) -> HandedOn:
        from mmscale.models.connectors import connector

        assert model.connector is not None
        kind, held = connector(parts.connector), model.connector
        context.on_first(lambda: _write(kind, held, trained, folder))
        return HandedOn((kind.file,), replace(parts, mapping=kind.file))


def carry_on_connector(parts: ModelParts, folder: Path, context: ParallelContext) -> HandedOn:
    """The connector of a stage that trained none, copied beside what it did train, so that the folder is whole."""
    from mmscale.models.connectors import connector

    kind = connector(parts.connector)
    context.on_first(lambda: _save(kind, kind.read(Path(parts.mapping or "")), folder))
    return HandedOn((kind.file,), replace(parts, mapping=kind.file))


def _write(kind: ConnectorKind, held: Connector, trained: SavedState, folder: Path) -> None:
    made = kind.build(held.encoder_width, held.llm_width, held.depths)
    made.load_state_dict({key: trained.parameter(CONNECTOR_PREFIX + key) for key in made.state_dict()})
    _save(kind, made, folder)


def _save(kind: ConnectorKind, made: Connector, folder: Path) -> None:
    try:
        kind.write(made, folder / kind.file)
        sync_tree(folder, [kind.file])
    except OSError as error:
        raise cannot_write(folder / kind.file, error) from error


COMPONENTS: dict[str, Component] = {
    one.name: one
    for one in (LanguageModelComponent(), ConnectorComponent(), EncoderComponent(), EncoderEmbeddingsComponent())
}


def components(names: Sequence[str]) -> list[Component]:
    """The components of those names; UserError naming the nearest when there is none."""
    for name in names:
        if name not in COMPONENTS:
            raise unknown_name("component that a stage trains", name, COMPONENTS)
    return [COMPONENTS[name] for name in names]
