"""Questions translated back, beside their originals: chrF of sacrebleu (Popović 2015)."""

from __future__ import annotations

from collections.abc import Sequence

from mmscale.corpus.checks.base import Check, CheckSetting, RowScore, Scorer
from mmscale.corpus.rows import CorpusRow
from mmscale.errors import UserError


def _ready(setting: CheckSetting) -> Scorer:
    try:
        from sacrebleu.metrics import CHRF
    except ImportError as error:
        raise UserError(
            "check back_translation needs sacrebleu: pip install 'mmscale[corpus]', or leave it out"
        ) from error
    import torch

    from mmscale.translation.translator import load_translator

    config = setting.config.back_translation
    assert config is not None, "a check is run only where what it asks for is there"
    translator = load_translator(config, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    metric = CHRF()

    def scores(rows: Sequence[CorpusRow]) -> list[RowScore | None]:
        asked = [i for i, row in enumerate(rows) if row.source_question and row.source_language == config.target]
        texts = [rows[i].question for i in asked]
        back = translator.translate(texts, [rows[i].language for i in asked]) if asked else []
        scored: dict[int, RowScore] = {}
        for i, made in zip(asked, back, strict=True):
            value = metric.sentence_score(made.text, [rows[i].source_question or ""]).score
            scored[i] = RowScore(value, f"reads, translated back, {made.text[:80]!r}")
        return [scored.get(i) for i in range(len(rows))]

    return scores


CHECK = Check(ready=_ready, threshold=30, below=True, asks="back_translation")
"""The question, translated back, is unlike its original: chrF, from 0 to 100."""
