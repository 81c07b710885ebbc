"""Where a stage stands: in which run, of which method, in which folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mmscale.config.model import EncoderConfig, LanguageModelConfig
from mmscale.config.run import RunConfig
from mmscale.config.training import StageConfig
from mmscale.data.prompts import reads_translation, untranslated
from mmscale.errors import UserError
from mmscale.methods.base import Method, StageSpec
from mmscale.models import quantization
from mmscale.models.assembly import ModelParts, read_parts
from mmscale.models.connectors import Depths, connector
from mmscale.models.counting import empty_language_model, encoder_depth, encoder_width
from mmscale.models.language_model import load_model_config
from mmscale.models.layer_fusion import require_fusable
from mmscale.models.places import resolve_path
from mmscale.models.seal import is_sealed
from mmscale.training.components import Component, ConnectorComponent, components


@dataclass(frozen=True)
class Stage:
    """One stage of one run and its folder."""

    run: RunConfig
    method: Method
    spec: StageSpec

    @property
    def name(self) -> str:
        """METHOD.STAGE"""
        return f"{self.method.name}.{self.spec.name}"

    @property
    def config(self) -> StageConfig:
        return self.run.recipes[self.method.name][self.spec.name]

    @property
    def folder(self) -> Path:
        return self.run.directory / "stages" / self.name

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def title(self) -> str:
        return f"{self.method.title}: {self.spec.name}"

    @property
    def prompt(self) -> str:
        return self.config.prompt or self.spec.prompt

    @property
    def encoder(self) -> EncoderConfig | None:
        """The encoder in front of the LLM; UserError when the stage needs one and there is none."""
        reads = self.method.reads_encoder(self.spec)
        if reads and self.run.encoder is None:
            raise UserError(
                f"{self.method.name} needs an encoder: add an encoder section with a path to the configuration"
            )
        return self.run.encoder if reads else None

    @property
    def connector(self) -> str:
        """Name of what joins encoder and LLM, where there is an encoder."""
        return self.method.connector or self.run.connector

    @property
    def begins_with(self) -> ModelParts | None:
        """The model that `start` names, held as the run holds its own; None where that is what the stage before made.

        UserError where an encoder stands in front of it that this stage does not read, another one, or another connector.
        """
        if self.config.start is None:
            return None
        named = read_parts(self.config.start)
        if named.encoder is not None and (self.encoder is None or named.connector != self.connector):
            reads = f"joins them by {self.connector}" if self.encoder else "reads none"
            raise UserError(
                f"{self.name}: start={self.config.start} has an encoder joined by {named.connector}, and this stage {reads}: "
                f"name the language model's own folder, or change the stage"
            )
        if named.encoder is not None and self.encoder is not None and not _is_same(named.encoder, self.encoder):
            raise UserError(
                f"{self.name}: start={self.config.start} reads the encoder {named.encoder.path}, and this run's is "
                f"{self.encoder.path}: set encoder.path to the former, whose tokens and states it was trained on"
            )
        held = {"path": named.language_model.path, "revision": named.language_model.revision}
        return replace(named, language_model=self.run.language_model.model_copy(update=held))

    @property
    def language_model(self) -> LanguageModelConfig:
        """The language model whose tokenizer and context the stage has: the last one named by a `start`, or the run's."""
        for spec in reversed(self.method.stages[: self.method.stages.index(self.spec) + 1]):
            named = Stage(self.run, self.method, spec).begins_with
            if named is not None:
                return named.language_model
        return self.run.language_model

    @property
    def components(self) -> list[Component]:
        """What it trains."""
        return components(self.spec.trains)

    @property
    def changes_language_model(self) -> bool:
        return any(one.changes_language_model for one in self.components)

    @property
    def changes_encoder(self) -> bool:
        return any(one.changes_encoder for one in self.components)

    def require_trainable(self) -> None:
        """UserError where this stage cannot train what it trains, as the run holds it."""
        self._require_quantization_fits()
        self._require_master_weights()
        self._require_mapping_fits()
        self._require_connector_fits()
        self._require_translations()
        self._require_encoder_fits()

    def _require_quantization_fits(self) -> None:
        """UserError where a quantised language model would be trained, cut or partitioned."""
        chosen, parallel = self.run.language_model.quantization, self.run.parallel
        if chosen == quantization.NONE:
            return
        if self.changes_language_model:
            raise UserError(
                f"{self.name} trains the language model, and language_model.quantization={chosen} is for frozen ones: set it to none"
            )
        if parallel.tensor_parallel_size > 1 or parallel.zero.stage > 0:
            raise UserError(
                f"language_model.quantization={chosen} keeps the language model whole on every rank: set "
                f"parallel.tensor_parallel_size=1 and parallel.zero.stage=0, or quantization=none"
            )

    def _trained_dtypes(self) -> dict[str, str]:
        """How the models that it trains are held, by the section of the configuration that says so."""
        encoder = self.encoder
        return {
            **({"language_model": self.run.language_model.dtype} if self.changes_language_model else {}),
            **({"encoder": encoder.dtype} if self.changes_encoder and encoder is not None else {}),
        }

    def keeps_updates(self, zero_stage: int) -> bool:
        """Whether what is trained keeps small updates: stage 0 moves the weights themselves, DeepSpeed moves float32
        copies. float16 would also need its loss scaled, which nothing here does.
        """
        return all(_keeps(held, zero_stage) for held in self._trained_dtypes().values())

    def _require_master_weights(self) -> None:
        """UserError where a model would be trained in a dtype that loses its updates."""
        for section, held in self._trained_dtypes().items():
            if _keeps(held, self.run.parallel.zero.stage):
                continue
            what = section.replace("_", " ")
            remedy = f"set {section}.dtype=float32; precision: bfloat16 still computes in bfloat16"
            if held == "float16":
                raise UserError(f"{self.name} trains the {what}, and float16 loses small gradients: {remedy}")
            raise UserError(
                f"{self.name} trains the {what}, and bfloat16 weights without float32 copies lose small updates: {remedy}; "
                f"or set parallel.zero.stage to 1, 2 or 3, which keep such copies"
            )

    def _require_mapping_fits(self) -> None:
        """UserError where a mapping is named to begin a stage with that trains none, or nothing has trained it yet."""
        before = self.method.stages[: self.method.stages.index(self.spec) + 1]
        if self.method.reads_encoder(self.spec) and not any(ConnectorComponent.name in one.trains for one in before):
            raise UserError(
                f"{self.name} reads an encoder through a connector that no stage has trained: let an earlier one train it"
            )
        if self.config.initial_mapping is not None and ConnectorComponent.name not in self.spec.trains:
            raise UserError(f"{self.name} trains no mapping: initial_mapping is for stages that train a mapping")

    def _require_connector_fits(self) -> None:
        """UserError where the connector cannot be made between these models; nothing where one is no folder here: the hub is
        not asked before anything is wanted of it."""
        language_model = self.run.language_model
        if self.encoder is None or not all(
            Path(resolve_path(one.path)).is_dir() for one in (self.encoder, language_model)
        ):
            return
        read = load_model_config(language_model)
        depths = Depths(encoder_depth(self.encoder), int(read.num_hidden_layers))
        with torch.device("meta"):
            joins = connector(self.connector).build(encoder_width(self.encoder), int(read.hidden_size), depths)
        if joins.reading_layers:
            require_fusable(empty_language_model(language_model))

    def _require_translations(self) -> None:
        """UserError where a data set's prompt shows translations and nothing makes any."""
        for data in (*self.config.data, *self.config.dev_data):
            prompt = data.prompt or self.prompt
            if reads_translation(prompt) and not data.has_translations:
                raise untranslated(f"{self.name}: data set {data.source} {data.path}".rstrip(), prompt)

    def _require_encoder_fits(self) -> None:
        """UserError where the encoder would be trained on states from before, or a rate is for one that is not trained."""
        kept, config = self.run.encoder_cache, self.config
        before = self.method.stages[: self.method.stages.index(self.spec) + 1]
        if self.encoder is not None and self.encoder.added_tokens:
            if not any(one.changes_encoder for spec in before for one in components(spec.trains)):
                raise UserError(
                    f"{self.name} reads encoder.added_tokens, whose rows nothing has trained: add encoder_embeddings to its "
                    f"trains, or take them out"
                )
        if not self.changes_encoder:
            if config.optimizer.encoder_learning_rate is not None:
                raise UserError(
                    f"{self.name} does not train the encoder: leave optimizer.encoder_learning_rate out, or add encoder to trains"
                )
            return
        if kept not in ("auto", "off"):
            raise UserError(
                f"{self.name} trains the encoder, and encoder_cache={kept} keeps the states of one that stays as it is: set "
                f"encoder_cache to auto or off"
            )
        if connector(self.connector).reads_all_layers:
            raise UserError(
                f"{self.name} trains the encoder, and connector {self.connector} reads all of its layers, which is not "
                f"supported together: train the connector alone, or take another one"
            )
        encoder = self.encoder
        if encoder is not None and self.run.parallel.zero.stage > 0 and encoder.dtype not in ("float32", "bfloat16"):
            raise UserError(f"{self.name} trains the encoder under DeepSpeed: set encoder.dtype to float32 or bfloat16")
        if encoder is not None and encoder.dtype == "bfloat16" and config.precision != "bfloat16":
            raise UserError(
                f"{self.name} trains the encoder, which is held in bfloat16: set precision=bfloat16, or encoder.dtype=float32"
            )

    @property
    def finished(self) -> bool:
        return is_sealed(self.model)


def _keeps(held: str, zero_stage: int) -> bool:
    """Whether weights held in a dtype keep small updates."""
    return held in ("float32", "float64") or (held == "bfloat16" and zero_stage > 0)


def _is_same(one: EncoderConfig, other: EncoderConfig) -> bool:
    """Whether two name the same encoder: a hub id of one revision, or one folder."""
    folders = [Path(each.path).expanduser() for each in (one, other)]
    if all(folder.is_dir() for folder in folders):
        return folders[0].samefile(folders[1])
    return one.path == other.path and (one.revision == other.revision or None in (one.revision, other.revision))
