"""Public data sets by name: one file each, found through one line here."""

from __future__ import annotations

import importlib

from mmscale.data.sources.base import Source, SourceRequest
from mmscale.errors import unknown_name

SOURCES: dict[str, str] = {
    "bilingual_pairs": "mmscale.data.sources.bilingual_pairs",
    "bitext": "mmscale.data.sources.bitext",
    "gsm8k": "mmscale.data.sources.gsm8k",
    "gsm8kinstruct": "mmscale.data.sources.gsm8kinstruct",
    "gsmtrans": "mmscale.data.sources.gsmtrans",
    "mathinstruct": "mmscale.data.sources.mathinstruct",
    "mcot_math": "mmscale.data.sources.mcot_math",
    "metamath": "mmscale.data.sources.metamath",
    "mgsm": "mmscale.data.sources.mgsm",
    "msvamp": "mmscale.data.sources.msvamp",
    "query_translation": "mmscale.data.sources.query_translation",
    "table": "mmscale.data.sources.table",
    "tinyworld": "mmscale.data.sources.tinyworld",
    "xcopa": "mmscale.data.sources.xcopa",
    "xcsqa": "mmscale.data.sources.xcsqa",
    "xnli": "mmscale.data.sources.xnli",
}


def source(name: str) -> Source:
    """The source of a name; UserError naming the nearest when there is none."""
    if name not in SOURCES:
        raise unknown_name("data source", name, SOURCES)
    return importlib.import_module(SOURCES[name]).SOURCE


__all__ = ["SOURCES", "SourceRequest", "Source", "source"]
