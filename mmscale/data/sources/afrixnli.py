"""AfriXNLI (IrokoBench, Adelani et al. 2024, arXiv 2406.03368): 600 of XNLI's test pairs, and 450 of its dev pairs, in sixteen African
languages, English and French.

Form: data/{three letters}/{split}.tsv of the hub's masakhane/afrixnli, with a header, quoted as pandas writes it: premise, hypothesis,
label (0, 1, 2 or the word).
"""

from __future__ import annotations

from mmscale.data.sources import xnli
from mmscale.data.sources.afrimgsm import CODES, rows
from mmscale.data.sources.base import Source

SOURCE = Source(rows, xnli.parse, tuple(CODES))
