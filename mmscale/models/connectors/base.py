"""What a connector is: a trained module that turns encoder states into rows of an LLM's input, and how it is kept."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mmscale import registry
from mmscale.config.model import DEFAULT_CONNECTOR
from mmscale.errors import UserError
from mmscale.models.tensor_files import open_safetensors
from mmscale.storage.reading import existing_file, parse_json
from mmscale.storage.tensor_writing import save_tensors

_NOTES = "connector"


class Connector(nn.Module, ABC):
    """Between an encoder of width `encoder_width` and an LLM of width `llm_width`."""

    encoder_width: int
    llm_width: int

    @abstractmethod
    def forward(
        self, states_ED: Tensor, tokens_ND: Tensor, token_rows: Tensor, encoder_rows: Tensor, boundary_rows: Tensor
    ) -> Tensor:
        """The LLM's input [T, d_llm]: token embeddings [N, d_llm] at `token_rows`, the connected states of the encoder
        [E, d_enc] at `encoder_rows`, and what ends them at `boundary_rows` (int64, together every row of T once).

        The whole row is written in here: parameters that are partitioned over ranks are whole only inside a forward.
        """

    def read_in_forward(self) -> Iterable[nn.Parameter]:
        """Parameters of submodules that `forward` reads without calling these: ZeRO-3 gathers them as well."""
        return ()


@dataclass(frozen=True)
class ConnectorKind:
    """A connector by name."""

    name: str
    build: Callable[[int, int], Connector]
    """(encoder width, LLM width) -> a new one, initialised from torch's generator."""
    file: str = "connector.safetensors"
    """Its name in the folder that a stage hands on."""
    other_files: tuple[str, ...] = ()
    """Names under which others keep such weights, looked for after `file`."""
    reader: Callable[[Path], Connector] | None = None
    """Reads a file; None reads what `write` wrote."""

    def find(self, path: Path) -> Path:
        """The weights that a path names, or that are in the folder it names; UserError where there are none."""
        if path.is_dir():
            candidates = [path / name for name in (self.file, *self.other_files)]
            path = next((file for file in candidates if file.is_file()), candidates[0])
        return existing_file(path, "mapping checkpoint")

    def read(self, path: Path) -> Connector:
        """The connector of a file or folder; UserError where a tensor is missing, left over, or not of finite numbers."""
        path = self.find(path)
        return self.reader(path) if self.reader is not None else self._read(path)

    def _read(self, path: Path) -> Connector:
        with open_safetensors(path) as file:
            said = (file.metadata() or {}).get(_NOTES, "{}")
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        widths = self._widths(said, path)
        with torch.device("meta"):  # nothing is made room for that the file does not hold
            wanted = {key: value.shape for key, value in self.build(*widths).state_dict().items()}
        for key in sorted(wanted.keys() | state.keys()):
            if key not in wanted or key not in state or wanted[key] != state[key].shape:
                raise UserError(
                    f"{path}: tensor {key} is missing, left over or of another shape than its widths {widths} say"
                )
        made = self.build(*widths)
        load(made, state, path)
        return made

    def _widths(self, said: str, path: Path) -> tuple[int, int]:
        try:
            name, encoder_width, llm_width = parse_json(said)
            if name == self.name and min(encoder_width, llm_width) > 0:
                return int(encoder_width), int(llm_width)
        except (ValueError, TypeError) as error:
            raise UserError(f"{path} does not say which connector it is: it was not written by mmscale") from error
        raise UserError(
            f"{path} holds the connector {name}, not {self.name}: set connector to what it was trained with"
        )

    def write(self, connector: Connector, path: Path) -> None:
        """Every tensor in float32; name and widths in the metadata, where files of others do without."""
        tensors = {key: value.detach().float().cpu().contiguous() for key, value in connector.state_dict().items()}
        said = json.dumps([self.name, connector.encoder_width, connector.llm_width])
        save_tensors(tensors, path, metadata=None if self.reader else {_NOTES: said})


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
                name = parse_json(said)[0]
            except (ValueError, TypeError, LookupError) as error:
                raise UserError(f"{file} does not say which connector it is: it was not written by mmscale") from error
            return connector(str(name))
    return connector(DEFAULT_CONNECTOR)


def connector(name: str) -> ConnectorKind:
    """The connector of a name; UserError naming the nearest when there is none."""
    kind: ConnectorKind = registry.get("connectors", name)
    return kind
