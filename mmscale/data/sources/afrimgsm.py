"""AfriMGSM (IrokoBench, Adelani et al. 2024, arXiv 2406.03368): MGSM's 250 problems in sixteen African languages, English and French.

Form: data/{three letters}/{split}.tsv of the hub's masakhane/afrimgsm, with a header, quoted as pandas writes it: question, answer,
answer_number, equation_solution. Vai, which has no two-letter code, is not read.
"""

from __future__ import annotations

from dataclasses import replace

from mmscale.data.sources import mgsm
from mmscale.data.sources.base import Rows, Source, SourceRequest
from mmscale.data.sources.rows import csv_rows

CODES = {
    "am": "amh", "ee": "ewe", "en": "eng", "fr": "fra", "ha": "hau", "ig": "ibo", "ln": "lin", "lg": "lug", "om": "orm",
    "rw": "kin", "sn": "sna", "st": "sot", "sw": "swa", "tw": "twi", "wo": "wol", "xh": "xho", "yo": "yor", "zu": "zul",
}  # fmt: skip
"""Our codes -> those of IrokoBench's folders."""
LAYOUTS = ("data/{code}/{split}.tsv", "{code}/{split}.tsv", "{split}_{code}.tsv")


def rows(request: SourceRequest) -> Rows:
    """Rows of the file of a language, as texts by column."""
    return csv_rows(replace(request, codes=CODES).file(*LAYOUTS), quoted=True)


SOURCE = Source(rows, mgsm.parse, tuple(CODES))
