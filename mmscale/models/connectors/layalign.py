"""LayAlign's connector (Ruan et al. 2025, arXiv 2502.11405, section 3): MindMerger's mapping of the last states into the LLM's input,
and, for every LLM layer, a learned mix of the states of all encoder layers, which that layer reads by gated cross-attention.

With x_s the states of one encoder token, s = 0 the embeddings, layer l's keys are made of W2 relu(sum_s a_ls x_s + b_l) + c, its values
of the same with weights of their own, and `gates` are zero at first: a new one is MindMerger's. The authors mix as many states as
there are layers, from the embeddings on; the last ones come through the mapping alone.

Legend: E encoder tokens, S states of each, L reading layers, D width.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from mmscale.config.connector_settings import LayAlignSettings
from mmscale.errors import UserError
from mmscale.models.connectors.base import Connected, Connector, ConnectorKind, Depths, load
from mmscale.models.connectors.mlp import MLPConnector
from mmscale.models.loading import load_tensors
from mmscale.models.tensor_files import require_content


class LayerMixer(nn.Module):
    """States [E, S, d_enc] -> [2 L, E, d_llm]: what L layers make keys and values of."""

    def __init__(self, states: int, layers: int, encoder_width: int, llm_width: int, deep: bool) -> None:
        super().__init__()
        self.mix = nn.Linear(states, 2 * layers)
        self.projection = nn.Linear(encoder_width, llm_width)
        self.second_projection = nn.Linear(llm_width, llm_width) if deep else None

    def forward(self, states_ESD: Tensor) -> Tensor:
        mixed = torch.relu(self.mix(states_ESD.transpose(1, 2))).permute(2, 0, 1)
        projected: Tensor = self.projection(mixed)
        return projected if self.second_projection is None else self.second_projection(torch.relu(projected))


class LayAlignConnector(Connector):
    """MindMerger's mapping, and what the LLM's layers read."""

    def __init__(self, encoder_width: int, llm_width: int, depths: Depths, settings: LayAlignSettings) -> None:
        super().__init__()
        self.encoder_width, self.llm_width = encoder_width, llm_width
        self.mixed_states = _chosen("encoder_layers", settings.encoder_layers, depths.encoder, depths.encoder + 1)
        self.reading_layers = _chosen("language_layers", settings.language_layers, depths.llm, depths.llm)
        self._all_but_last = self.mixed_states == tuple(range(depths.encoder))
        self.mapping = MLPConnector(encoder_width, llm_width)
        counts = len(self.mixed_states), len(self.reading_layers)
        self.mixer = LayerMixer(*counts, encoder_width, llm_width, settings.projection == "mlp")
        self.gates = nn.Parameter(torch.zeros(len(self.reading_layers)))

    def operations(self) -> int:
        sets = self.mixer.mix.weight.shape[0]
        of_each = sum(part.numel() for name, part in self.mixer.named_parameters() if not name.startswith("mix."))
        return self.mapping.operations() + sets * (len(self.mixed_states) * self.encoder_width + of_each)

    def read_in_forward(self) -> Iterable[nn.Parameter]:
        return self.mapping.read_in_forward()

    def forward(
        self,
        states_ED: Tensor,
        tokens_ND: Tensor,
        token_rows: Tensor,
        encoder_rows: Tensor,
        boundary_rows: Tensor,
        encoder_lengths: Sequence[int],
    ) -> Connected:
        """What LLM and layers read, from states [E, S, d_enc] of all encoder layers and token embeddings [N, d_llm], in the latter's dtype."""
        rows = token_rows, encoder_rows, boundary_rows
        merged = self.mapping(states_ED[:, -1].contiguous(), tokens_ND, *rows, encoder_lengths)
        mixed = states_ED[:, :-1] if self._all_but_last else states_ED[:, list(self.mixed_states)]
        if not torch.is_autocast_enabled(mixed.device.type):
            mixed = mixed.to(self.gates.dtype)
        # gates by a copy: partitioned ones are whole inside of this forward alone
        return Connected(merged, self.mixer(mixed).to(tokens_ND.dtype), self.gates.clone())


def _chosen(key: str, given: tuple[int, ...] | None, usual: int, count: int) -> tuple[int, ...]:
    """The numbers that a setting names, of `count`; UserError for one that is not there or comes twice."""
    numbers = tuple(range(usual)) if given is None else given
    wrong = next((n for i, n in enumerate(numbers) if not 0 <= n < count or n in numbers[:i]), None)
    if wrong is not None:
        raise UserError(
            f"connector.{key}: {wrong} comes twice or is not from 0 to {count - 1}, which these models have: correct it"
        )
    return numbers


_PREFIXES = {
    "encoder_aligner.projector.fc1.": "mixer.mix.",
    "encoder_aligner.projector.fc2.": "mixer.projection.",
    "encoder_aligner.projector.fc3.": "mixer.second_projection.",
    "mapping.": "mapping.",
}
"""The authors' names -> ours."""
_LLM_LAYER = re.compile(r"model_llm\..*?\blayers\.(\d+)\.self_attn\.(adaption_gate$)?")
_ENCODER_LAYER = re.compile(r"encoder_mt\..*?\b(?:block|layers?)\.(\d+)\.")


def _read_theirs(path: Path) -> LayAlignConnector:
    """The connector of the authors' `pytorch_model.bin`, which holds the whole model: the rest of it is frozen."""
    require_content(path)
    held = load_tensors(path)
    if not isinstance(held, dict) or not all(isinstance(value, Tensor) for value in held.values()):
        raise UserError(f"{path} holds no tensors by name: it is no checkpoint of LayAlign")
    gates = {int(m[1]): held[key] for key in held if (m := _LLM_LAYER.match(key)) and m[2]}
    state = {
        ours + key[len(theirs) :]: held[key]
        for key in held
        for theirs, ours in _PREFIXES.items()
        if key.startswith(theirs)
    }
    wanted = ("mixer.mix.weight", "mixer.projection.weight")
    if not gates or any(state.get(key, torch.empty(0)).dim() != 2 for key in wanted):
        raise UserError(
            f"{path} has no encoder_aligner and adaption_gate of LayAlign: name its authors' pytorch_model.bin"
        )
    numbers = [{int(m[1]) for key in held if (m := pattern.match(key))} for pattern in (_ENCODER_LAYER, _LLM_LAYER)]
    depths = Depths(*(max(layers, default=-1) + 1 for layers in numbers))
    mixed = state["mixer.mix.weight"].shape[1]
    if mixed != depths.encoder:
        raise UserError(
            f"{path} mixes {mixed} states of an encoder of {depths.encoder} layers, and does not say which: it cannot be read"
        )
    layers = tuple(sorted(gates))
    settings = LayAlignSettings(
        projection="mlp" if "mixer.second_projection.weight" in state else "linear",
        language_layers=None if layers == tuple(range(depths.llm)) else layers,
    )
    llm_width, encoder_width = state["mixer.projection.weight"].shape
    made = LayAlignConnector(encoder_width, llm_width, depths, settings)
    made.settings, made.depths = settings, depths
    state["gates"] = torch.cat([gates[layer].flatten() for layer in layers])
    load(made, state, path)
    return made


CONNECTOR = ConnectorKind(
    "layalign",
    LayAlignConnector,
    other_files=("pytorch_model.bin",),
    other_reader=_read_theirs,
    usual=LayAlignSettings(),
    reads_all_layers=True,
)
"""LayAlign's: MindMerger's mapping, and gated cross-attention of every LLM layer to a learned mix of all encoder layers."""
