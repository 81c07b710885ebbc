"""What a connector is: a trained module that turns encoder states into rows of an LLM's input, and how it is kept."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmscale import registry
from mmscale.config.connector import NO_SETTINGS, ConnectorSettings, as_text, name_and_settings, read_settings
from mmscale.config.model import DEFAULT_CONNECTOR
from mmscale.errors import UserError
from mmscale.models.tensor_files import open_safetensors
from mmscale.storage.reading import existing_file, parse_json
from mmscale.storage.tensor_writing import save_tensors

_NOTES = "connector"


class Depths(NamedTuple):
    """Numbers of layers."""

    encoder: int
    llm: int


class Connected(NamedTuple):
    """What a connector makes that also gives layers of the LLM something to read."""

    rows: Tensor
    """The LLM's input [T, d_llm]."""
    states: Tensor
    """[2 L, E, d_llm]: of which each of L layers makes keys, and of which values."""
    gates: Tensor
    """[L]: factors of what they read."""


class Connector(nn.Module, ABC):
    """Between an encoder of width `encoder_width` and an LLM of width `llm_width`."""

    encoder_width: int
    llm_width: int
    depths: Depths | None = None
    """Layers of both, where it was made for so many."""
    reading_layers: Sequence[int] = ()
    """Numbers of the LLM's layers that it gives something to read."""
    settings: ConnectorSettings = NO_SETTINGS
    """What was chosen of it; they say how many rows it makes of an encoder text (`prefix_length`)."""

    @abstractmethod
    def forward(
        self,
        states_ED: Tensor,
        tokens_ND: Tensor,
        token_rows: Tensor,
        encoder_rows: Tensor,
        boundary_rows: Tensor,
        encoder_lengths: Sequence[int],
    ) -> Tensor | Connected:
        """The LLM's input [T, d_llm]: token embeddings [N, d_llm] at `token_rows`, what it makes of the encoder's states
        [E, d_enc] at `encoder_rows`, and what ends that at `boundary_rows` (int64, together every row of T once).

        A connector of a kind that reads all layers gets the states [E, S, d_enc] of all (`Encoder.states`), and makes more of them.
        `encoder_lengths` are the states of each example, which lie one after another, as their rows do. The whole row is written in here: parameters that are partitioned over ranks are whole only inside a forward.
        """

    def operations(self) -> int:
        """Multiplications for each row that it makes, forward: by most, every element meets each row once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def read_in_forward(self) -> Iterable[nn.Parameter]:
        """Parameters of submodules that `forward` reads without calling these: ZeRO-3 gathers them as well."""
        return ()


@dataclass(frozen=True)
class ConnectorKind:
    """A connector by name."""

    name: str
    make: Callable[..., Connector]
    """(encoder width, LLM width), the numbers of their layers where it reads all layers, and its settings where it has any -> a new
    one, initialised from torch's generator."""
    file: str = "connector.safetensors"
    """Its name in the folder that a stage hands on."""
    other_files: tuple[str, ...] = ()
    """Names under which others keep such weights, looked for after `file`."""
    reader: Callable[[Path], Connector] | None = None
    """Reads a file; None reads what `write` wrote."""
    other_reader: Callable[[Path], Connector] | None = None
    """Reads a file of others that is no safetensors, where `reader` does not."""
    usual: ConnectorSettings = NO_SETTINGS
    """Its settings where none are given: an instance of its own class of them."""
    given: ConnectorSettings | None = None
    """Its settings where others than the usual ones are chosen."""
    reads_all_layers: bool = False
    """Whether it reads the states of all of the encoder's layers, not the last one's alone."""

    @property
    def settings(self) -> ConnectorSettings:
        return self.given or self.usual

    @property
    def text(self) -> str:
        """What names it, settings included, in configurations and model folders."""
        return as_text(self.name, self.usual, self.settings)

    def with_settings(self, given: dict[str, Any]) -> ConnectorKind:
        """The same with these settings, others as they are usually; UserError naming one that is wrong."""
        return replace(self, given=read_settings(self.name, self.usual, given)) if given else self

    def build(self, encoder_width: int, llm_width: int, depths: Depths | None = None) -> Connector:
        """A new one, initialised from torch's generator; UserError where its settings do not fit these widths, or the `depths`
        that a kind needs which reads all layers."""
        own: tuple[Any, ...] = (self.settings,) if type(self.usual).model_fields else ()
        if self.reads_all_layers:
            assert depths is not None, f"connector {self.name} is made for numbers of layers"
            own = (depths, *own)
        made = self.make(encoder_width, llm_width, *own)
        made.settings, made.depths = self.settings, depths if self.reads_all_layers else None
        return made

    def find(self, path: Path) -> Path:
        """The weights that a path names, or that are in the folder it names; UserError where there are none."""
        if path.is_dir():
            candidates = [path / name for name in (self.file, *self.other_files)]
            path = next((file for file in candidates if file.is_file()), candidates[0])
        return existing_file(path, "mapping checkpoint")

    def read(self, path: Path) -> Connector:
        """The connector of a file or folder; UserError where a tensor is missing, left over, or not of finite numbers."""
        path = self.find(path)
        if self.other_reader is not None and path.suffix != ".safetensors":
            made = self.other_reader(path)
            if made.settings != self.settings:
                raise UserError(f"{path} holds a connector of other settings ({made.settings}): set connector to them")
            return made
        return self.reader(path) if self.reader is not None else self._read(path)

    def _read(self, path: Path) -> Connector:
        with open_safetensors(path) as file:
            said = (file.metadata() or {}).get(_NOTES, "{}")
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        sizes = self._sizes(said, path)
        with torch.device("meta"):  # nothing is made room for that the file does not hold
            wanted = {key: value.shape for key, value in self.build(*sizes).state_dict().items()}
        for key in sorted(wanted.keys() | state.keys()):
            if key not in wanted or key not in state or wanted[key] != state[key].shape:
                raise UserError(
                    f"{path}: tensor {key} is missing, left over or of another shape than its sizes {sizes} say"
                )
        made = self.build(*sizes)
        load(made, state, path)
        return made

    def _sizes(self, said: str, path: Path) -> tuple[int, int, Depths | None]:
        try:
            name, encoder_width, llm_width, *more = parse_json(said)
            held = self.with_settings(more[0] if more else {}).text if name == self.name else str(name)
            if held == self.text and min(encoder_width, llm_width, *more[1:]) > 0:
                depths = Depths(*map(int, more[1:])) if self.reads_all_layers else None
                return int(encoder_width), int(llm_width), depths
        except (ValueError, TypeError) as error:
            raise UserError(f"{path} does not say which connector it is: it was not written by mmscale") from error
        raise UserError(
            f"{path} holds the connector {held}, not {self.text}: set connector to what it was trained with"
        )

    def write(self, connector: Connector, path: Path) -> None:
        """Every tensor in float32; name, widths and settings in the metadata, where files of others do without."""
        tensors = {key: value.detach().float().cpu().contiguous() for key, value in connector.state_dict().items()}
        said = [self.name, connector.encoder_width, connector.llm_width]
        said += [settings] if (settings := self.settings.model_dump(mode="json")) else []
        said += connector.depths or ()
        save_tensors(tensors, path, metadata=None if self.reader else {_NOTES: json.dumps(said)})


def load(connector: Connector, state: dict[str, Tensor], path: Path) -> None:
    """Fill a connector with exactly the tensors it has; UserError naming the first that does not fit."""
    for key, value in state.items():
        if not value.is_floating_point() or not value.isfinite().all():
            raise UserError(f"{path}: tensor {key} ({value.dtype}) is not of finite numbers: the file is damaged")
    if not any(value.any() for value in state.values()):
        raise UserError(f"{path} holds nothing but zeros: it is damaged, or was never trained")
    _require_no_empty_rows({key: value for key, value in state.items() if value.dim() == 2}, path)
    try:
        connector.load_state_dict({key: value.float() for key, value in state.items()})
    except RuntimeError as error:
        raise UserError(f"{path}: {str(error).splitlines()[-1].strip()}") from error


def _require_no_empty_rows(matrices: dict[str, Tensor], path: Path) -> None:
    """UserError where a row is all zeros: neither initialisation nor training gives one, a lost block of the file does."""
    for key, matrix in matrices.items():
        empty = (matrix == 0).all(1).nonzero()
        if len(empty):
            raise UserError(
                f"{path}: tensor {key} has rows of nothing but zeros ({len(empty)} of {len(matrix)}), which no training "
                f"gives: the file is damaged"
            )


def kind_of(path: Path) -> ConnectorKind:
    """The connector whose weights a file holds, or the folder of one, as the file itself says; MindMerger's where it does not.

    UserError where none of that name is known here.
    """
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    for file in files:
        if file.suffix != ".safetensors" or not file.is_file():
            continue
        with open_safetensors(file) as opened:
            said = (opened.metadata() or {}).get(_NOTES)
        if said is not None:
            try:
                name, _, _, *chosen = parse_json(said)
                kind = connector(str(name)).with_settings(chosen[0] if chosen else {})
            except (ValueError, TypeError) as error:
                raise UserError(f"{file} does not say which connector it is: it was not written by mmscale") from error
            return kind
    return connector(DEFAULT_CONNECTOR)


def connector(text: str) -> ConnectorKind:
    """The connector of a name, or of JSON with its settings; UserError naming the nearest when there is none."""
    name, given = name_and_settings(text)
    kind: ConnectorKind = registry.get("connectors", name)
    return kind.with_settings(given)
