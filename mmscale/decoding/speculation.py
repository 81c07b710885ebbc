"""What becomes of drafts: the combined distribution's own tokens, chosen so that nothing of it is lost.

By noise: draft and target are the largest of log q + g and log p + g with one g (a Gumbel coupling): the target is what
plain decoding draws, whatever was drafted. By rejection (Leviathan et al. 2023, arXiv 2211.17192, algorithm 1): a draft x is
kept with probability min(1, p(x) / q(x)), else the token is drawn from max(p - q, 0), normalised; the distribution is that
of plain decoding, and drafts are accepted somewhat more often.

Legend: B sequences, k places of each, V entries of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from mmscale_kernels import Chosen, Parts
from mmscale_kernels.noise import ACCEPT, RESIDUAL, gumbel, uniform
from mmscale_kernels.proxy_logits import probabilities
from torch import Tensor

from mmscale.decoding.ensemble import Ensemble, Logits
from mmscale.decoding.sampling import DrawKey, draws, penalised


@dataclass(frozen=True)
class Drafts:
    """What a drafter proposed."""

    tokens: Tensor
    """int64 [B, k]; the last one is read by nobody, and only tells whether it would have been accepted."""
    logits: Tensor
    """[B * k, v] that they were chosen from."""


def choose_by_noise(
    ensemble: Ensemble,
    logits: Logits,
    drafts: Drafts | None,
    places: Sequence[DrawKey],
    held: Sequence[Sequence[int]] | None,
) -> Chosen:
    """Tokens [B * k] of the combined distribution with the noise that the drafts were chosen with."""
    return ensemble.choose(logits, places, held)


def choose_by_rejection(
    ensemble: Ensemble,
    logits: Logits,
    drafts: Drafts | None,
    places: Sequence[DrawKey],
    held: Sequence[Sequence[int]] | None,
) -> Chosen:
    """Tokens [B * k]: the drafts where they are kept, else draws from what is left; plain draws without drafts."""
    if drafts is None:
        return ensemble.choose(logits, places, held)
    how = draws(places, ensemble.device)
    combined = ensemble.combined(logits)
    if held is not None:
        combined = penalised(combined, held, [place.config for place in places])
    wanted = probabilities(Parts(combined), how)
    proposed = probabilities(Parts(ensemble.drafted(drafts.logits)), how)
    draft = drafts.tokens.flatten()
    p, q = (found.gather(1, draft[:, None])[:, 0] for found in (wanted, proposed))
    kept = uniform(how.seed, how.row, how.position, ACCEPT) * q < p
    left = (wanted - proposed).clamp_(min=0)
    noise = gumbel(how.seed, how.row, how.position, 0, left.shape[1], RESIDUAL)
    token = torch.where(kept, draft, (left.log() + noise).argmax(-1))
    log_sum_exp = combined.logsumexp(-1)
    return Chosen(token, combined.gather(1, token[:, None])[:, 0] - log_sum_exp, log_sum_exp)
