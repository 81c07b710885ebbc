"""MindMerger's mapping (arXiv 2405.17386, section 3.1): two linear layers with a ReLU, and the end boundary.

Its files are ours in safetensors, and the authors' `pytorch_model.bin` in and out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from mmscale_kernels import adapter_merge
from torch import Tensor, nn

from mmscale.errors import UserError
from mmscale.models.connectors.base import Connector, ConnectorKind, load
from mmscale.models.loading import load_tensors
from mmscale.models.tensor_files import open_safetensors, require_content
from mmscale.storage.files import atomic_write

KEYS = ("mlp.linear1.weight", "mlp.linear1.bias", "mlp.linear2.weight", "mlp.linear2.bias", "end_boundary")
_OLD_PREFIX = "linear."
"""Checkpoints from before 2024-05-31 name the keys linear.linear1.*"""


class TwoLayerPerceptron(nn.Module):
    """Linear(d_enc, 2 d_enc) -> ReLU -> Linear(2 d_enc, d_llm)."""

    def __init__(self, encoder_width: int, llm_width: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(encoder_width, 2 * encoder_width)
        self.linear2 = nn.Linear(2 * encoder_width, llm_width)

    def forward(self, states_ED: Tensor) -> Tensor:
        return self.linear2(torch.relu(self.linear1(states_ED)))


class MLPConnector(Connector):
    """Encoder states -> rows of the LLM's input, and the row that ends them; five tensors named as published.

    `forward` writes the merged row itself: parameters that are partitioned over ranks are whole only inside it.
    """

    def __init__(self, encoder_width: int, llm_width: int) -> None:
        super().__init__()
        self.encoder_width, self.llm_width = encoder_width, llm_width
        self.mlp = TwoLayerPerceptron(encoder_width, llm_width)
        self.end_boundary = nn.Parameter(torch.zeros(1, 1, llm_width))

    def read_in_forward(self) -> Iterable[nn.Parameter]:
        return self.mlp.parameters()

    def forward(
        self,
        states_ED: Tensor,
        tokens_ND: Tensor,
        token_rows: Tensor,
        encoder_rows: Tensor,
        boundary_rows: Tensor,
        encoder_lengths: Sequence[int],
    ) -> Tensor:
        """The LLM's input [T, d_llm] of states [E, d_enc] and token embeddings [N, d_llm], in the latter's dtype."""
        one, two = self.mlp.linear1, self.mlp.linear2
        rows = token_rows, encoder_rows, boundary_rows
        return adapter_merge(
            states_ED, one.weight, one.bias, two.weight, two.bias, self.end_boundary[0, 0], tokens_ND, *rows
        )


def _current_name(key: str) -> str:
    key = key.removeprefix("module.").removeprefix("mapping.")
    return "mlp." + key.removeprefix(_OLD_PREFIX) if key.startswith(_OLD_PREFIX + "linear") else key


def _from_state(state: dict[str, Tensor], path: Path) -> MLPConnector:
    """A mapping of exactly the five published tensors; anything partial is refused by name."""
    renamed = {_current_name(key): value for key, value in state.items()}
    if len(renamed) < len(state):
        raise UserError(f"{path} names a tensor twice ({', '.join(sorted(state))}): it is no mapping checkpoint")
    missing = [key for key in KEYS if key not in renamed]
    extra = sorted(set(renamed) - set(KEYS))
    if missing or extra:
        problem = f"has no tensor {missing[0]}" if missing else f"has an unknown tensor {extra[0]}"
        raise UserError(f"{path} {problem}: a mapping has exactly {', '.join(KEYS)}")
    first, second = renamed[KEYS[0]], renamed[KEYS[2]]
    if (
        first.dim() != 2
        or second.dim() != 2
        or first.shape[0] != 2 * first.shape[1]
        or second.shape[1] != first.shape[0]
    ):
        raise UserError(
            f"{path}: tensors {KEYS[0]} {tuple(first.shape)} and {KEYS[2]} {tuple(second.shape)} make no two-layer mapping d -> 2d -> D"
        )
    mapping = MLPConnector(first.shape[1], second.shape[0])
    load(mapping, renamed, path)
    return mapping


def _read(path: Path) -> MLPConnector:
    """A mapping from a file, safetensors or the authors' `pytorch_model.bin` (either generation of keys)."""
    if path.suffix == ".safetensors":
        with open_safetensors(path) as file:
            return _from_state({name: file.get_tensor(name) for name in file.keys()}, path)  # noqa: SIM118
    require_content(path)
    loaded = load_tensors(path)
    state = loaded.get("model_state_dict", loaded) if isinstance(loaded, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds no model_state_dict of tensors: it is no mapping checkpoint")
    return _from_state(state, path)


def write_authors_format(mapping: Connector, path: Path) -> None:
    """`pytorch_model.bin` as the authors' code loads it: {'model_state_dict': five tensors}, bfloat16, legacy zip-less."""
    state = {key: value.detach().to(torch.bfloat16).cpu() for key, value in mapping.state_dict().items()}
    with atomic_write(path, "wb") as handle:
        torch.save({"model_state_dict": state}, handle, _use_new_zipfile_serialization=False)


CONNECTOR = ConnectorKind("mlp", MLPConnector, "mapping.safetensors", ("pytorch_model.bin",), _read)
"""MindMerger's mapping: two linear layers with a ReLU, and an end boundary."""
