"""Questions of benchmarks that rows hold, in the original or in the translation: the same text, or nearly."""

from __future__ import annotations

from mmscale.corpus.checks.base import Check, CheckSetting, RowScore, Scorer, each
from mmscale.corpus.rows import CorpusRow
from mmscale.data.loading import load_records
from mmscale.data.overlap import TextIndex


def _ready(setting: CheckSetting) -> Scorer:
    texts = []
    for benchmark in setting.config.benchmarks:
        records, _ = load_records(benchmark, setting.languages)
        texts += [(side, f"{benchmark.source} {record.origin}") for record in records for side in record.sides]
    index = TextIndex(texts, setting.config.overlap_similarity)

    def score(row: CorpusRow) -> RowScore:
        asked = [one for one in (row.question, row.source_question) if one]
        similarity, origin = max(filter(None, map(index.nearest, asked)), default=(0.0, ""))
        return RowScore(similarity, f"holds {origin}")

    return each(score)


CHECK = Check(ready=_ready, threshold=0, asks="benchmarks")
"""A question of a benchmark, the same or nearly, in the original or the translation."""
