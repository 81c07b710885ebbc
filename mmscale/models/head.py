"""The head of a language model, and the loss through it.

Both are calls of one module: parameters that are partitioned over ranks are whole inside its forward only.
"""

from __future__ import annotations

from typing import Any

from mmscale_kernels import linear_cross_entropy
from torch import Tensor, nn

from mmscale.errors import UserError
from mmscale.parallel.logit_rules import PLAIN, LogitRules, logit_rules


class LossHead(nn.Linear):
    """Logits [N, V] of hidden states [N, D]; with targets (int64 [N]) their summed cross entropy instead (float32)."""

    rules: LogitRules = PLAIN

    def forward(self, hidden_ND: Tensor, targets_N: Tensor | None = None) -> Tensor:
        hidden_ND = self.rules.scaled(hidden_ND)
        if targets_N is None:
            return self.rules.capped(super().forward(hidden_ND))
        return linear_cross_entropy(hidden_ND, self.weight, targets_N, self.bias, softcap=self.rules.softcap)


def install_loss_head(causal_lm: Any) -> None:
    """Let a model's head be a LossHead, parameters and hooks as they are, with the architecture's own rules for logits;
    UserError for a head of another kind. One that is cut over ranks is a LossHead's counterpart already.
    """
    head = causal_lm.get_output_embeddings()
    if not isinstance(head, nn.Linear) and not hasattr(head, "rules"):
        raise UserError(f"{type(causal_lm).__name__} has a head of {type(head).__name__}, which is no linear layer")
    if type(head) is nn.Linear:
        head.__class__ = LossHead
    rules = logit_rules(causal_lm.config)
    if rules.scale != 1.0 and head.bias is not None:
        raise UserError(f"{type(causal_lm).__name__} scales logits that have a bias, which is not supported")
    if rules != PLAIN:
        head.rules = rules
