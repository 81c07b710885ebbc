"""Linear layers of a model that answers on a CPU, their weights laid out once as oneDNN multiplies fastest.

Decoding multiplies few rows by large matrices: what it takes is reading the weights, and a general matrix product reads
them badly (of two to sixteen rows in float32 about twice as long as of one). oneDNN's own layout is read once for any
number of rows up to about sixteen, which is what verifying drafts and small batches need.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn

from mmscale.models.head import LossHead
from mmscale.parallel.logit_rules import PLAIN

LEAST = 1 << 18
"""Elements of a weight that is worth it: a call of oneDNN's takes about 12 microseconds more than one of torch's, which
smaller ones do not save (measured from 64 x 64 to 1024 x 1024, one to 64 rows, an AMD EPYC with one and two threads).
"""


class PackedLinear(nn.Linear):
    """x W' + b with W [out, in] in oneDNN's layout; for inference only."""

    def forward(self, input: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, "none", [], "")
        return out


def can_pack(weight: Tensor) -> bool:
    """Whether oneDNN has a layout and products for a weight on this machine."""
    if not torch.backends.mkldnn.is_available() or weight.device.type != "cpu" or type(weight.data) is not Tensor:
        return False
    return weight.dtype == torch.float32 or (
        weight.dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


@torch.no_grad()
def pack_linears(model: nn.Module) -> None:
    """Lay out the weights of a model's linear layers, in place and one at a time: no second copy is held.

    A weight that another module uses too (a tied head) stays as it is, and so do small ones and all that `can_pack` refuses.
    """
    users = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    for module in model.modules():
        if not isinstance(module, nn.Linear) or type(module) not in (nn.Linear, LossHead):  # others know their weights
            continue
        if isinstance(module, LossHead) and module.rules != PLAIN:  # which a packed layer knows nothing of
            continue
        if module.weight.numel() >= LEAST and users[id(module.weight)] == 1 and can_pack(module.weight):
            packed = torch.ops.mkldnn._reorder_linear_weight(module.weight.data.contiguous())
            module.weight = nn.Parameter(packed, requires_grad=False)
            module.__class__ = PackedLinear
