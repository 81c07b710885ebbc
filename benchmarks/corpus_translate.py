"""Translation of a corpus by CTranslate2 in our batches, against transformers' generate row after row: mmscale bench corpus-translate

An NLLB of random weights that never ends a translation by itself, so that both ways write the same number of tokens; English problems with
their solutions. Ours is what `mmscale corpus translate` does with a shard: cutting up, batches, int8, every batch on the disk. The other way
gives generate the same sentences, those of one row at a time. Seconds are of the processor, medians of runs that take turns.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import M2M100Config, M2M100ForConditionalGeneration, NllbTokenizer

from mmscale.config.corpus import CorpusSourceConfig
from mmscale.config.corpus_translate import TranslateConfig
from mmscale.conversion.convert import convert_translator
from mmscale.corpus.marks import Passage
from mmscale.corpus.reading import ReadAccount, records, row_of_problem
from mmscale.corpus.rows import CorpusRow
from mmscale.corpus.translate import Pair, ShardTranslation, cutter
from mmscale.corpus.translators.encoder_decoder import encoder_decoder
from mmscale.translation.translator import Translator, load_translator

from .recording import record

CODES = ["eng_Latn", "swh_Latn"]
WORDS = 8000
"""Tokens of the vocabulary; NLLB's has 256,206, whose last layer takes a larger share."""


@dataclass(frozen=True, kw_only=True)
class TranslationRates:
    """What was measured."""

    rows: int
    passages: int
    distinct_passages: int
    """Ours translates a sentence that is in a shard several times once."""
    ours_rows_per_core_second: float
    theirs_rows_per_core_second: float
    ratio: float
    """Their seconds per row over ours."""
    ratio_per_distinct_passage: float
    """The same where no sentence came twice."""


def random_nllb(folder: Path, texts: list[str], width: int, layers: int) -> None:
    """An NLLB of random weights with a tokenizer that was trained on the texts."""
    learner = Tokenizer(models.BPE(unk_token="<unk>"))
    learner.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    learner.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=600, special_tokens=special, show_progress=False))
    learned = json.loads(learner.to_str())["model"]
    words = learned["vocab"] | {f"▁never{n}": n for n in range(len(learned["vocab"]), WORDS)}
    merges = [tuple(pair) for pair in learned["merges"]]
    named: dict[str, Any] = {"vocab": words, "merges": merges, "extra_special_tokens": CODES}
    tokenizer = NllbTokenizer(**named)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    halves: dict[str, Any] = {f"{half}_layers": layers for half in ("encoder", "decoder")}
    halves |= {f"{half}_attention_heads": 4 for half in ("encoder", "decoder")}
    halves |= {f"{half}_ffn_dim": 4 * width for half in ("encoder", "decoder")}
    config = M2M100Config(vocab_size=len(tokenizer), d_model=width, decoder_start_token_id=2, init_std=0.2, **halves)
    model = M2M100ForConditionalGeneration(config)
    with torch.no_grad():
        model.lm_head.weight[2] = 0  # </s> is never the likeliest
    model.save_pretrained(folder)


def problems(count: int) -> list[CorpusRow]:
    """English problems of tinyworld, as rows."""
    source = CorpusSourceConfig(source="tinyworld", limit=count)
    return [row_of_problem("tinyworld", i, one) for i, one in enumerate(records(source, ReadAccount()))]


def ours(config: TranslateConfig, pair: Pair, rows: list[CorpusRow]) -> None:
    """A shard, as `mmscale corpus translate` translates it."""
    with tempfile.TemporaryDirectory() as work:
        ShardTranslation(config, pair, rows, Path(work)).translated()


def sentences(config: TranslateConfig, pair: Pair, row: CorpusRow) -> list[str]:
    """What of a row is translated."""
    layouts = [cutter(config, pair).cut(text) for text in (row.question, row.rationale)]
    return [part.shown(config.placeholder) for layout in layouts for part in layout if isinstance(part, Passage)]


def theirs(translator: Translator, rows: list[list[str]]) -> None:
    """transformers' generate on the sentences of one row after the other."""
    for row in rows:
        translator.translate(row, ["en"] * len(row))


def timed(ways: Mapping[str, Callable[[], None]], runs: int) -> dict[str, float]:
    """Median seconds of the processor, in turns, behind one run of each that is not counted."""
    took: dict[str, list[float]] = {name: [] for name in ways}
    for run in range(runs + 1):
        for name, way in ways.items():
            began = time.process_time()
            way()
            if run:
                took[name].append(time.process_time() - began)
    return {name: statistics.median(values) for name, values in took.items()}


def measure(folder: Path, count: int, width: int, layers: int, tokens: int, runs: int) -> TranslationRates:
    """The rates of both ways on the same rows."""
    torch.set_num_threads(1)
    rows = problems(count)
    (folder / "nllb").mkdir()
    random_nllb(folder / "nllb", [f"{row.question} {row.rationale}" for row in rows], width, layers)
    convert_translator(str(folder / "nllb"), folder / "ct2", None)
    config = TranslateConfig(backend="ctranslate2", model=str(folder / "ct2"), max_new_tokens=tokens)
    pair = Pair(CorpusSourceConfig(source="tinyworld"), "sw")
    plain = load_translator(encoder_decoder(config, str(folder / "nllb"), "sw"), torch.device("cpu"))
    texts = [sentences(config, pair, row) for row in rows]
    distinct = len({text for row in texts for text in row})
    took = timed(
        {
            "ours": functools.partial(ours, config, pair, rows),
            "theirs": functools.partial(theirs, plain, texts),
        },
        runs,
    )
    return TranslationRates(
        rows=count,
        passages=sum(map(len, texts)),
        distinct_passages=distinct,
        ours_rows_per_core_second=count / took["ours"],
        theirs_rows_per_core_second=count / took["theirs"],
        ratio=took["theirs"] / took["ours"],
        ratio_per_distinct_passage=took["theirs"] / took["ours"] * distinct / sum(map(len, texts)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4, help="of each half")
    parser.add_argument("--tokens", type=int, default=24, help="of each translation")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rates = measure(Path(folder), asked.rows, asked.width, asked.layers, asked.tokens, asked.runs)
    settings = {name: getattr(asked, name) for name in ("width", "layers", "tokens", "runs")}
    path = record("corpus_translate", {**settings, **asdict(rates)})
    if asked.json:
        print(json.dumps(asdict(rates)))
        return
    table = Table(
        "way",
        "rows per core-second",
        title=f"{rates.rows} rows of {rates.passages} sentences, {rates.distinct_passages} of them different",
    )
    table.add_row("mmscale corpus translate, ctranslate2 int8", f"{rates.ours_rows_per_core_second:.2f}")
    table.add_row("transformers' generate, row after row", f"{rates.theirs_rows_per_core_second:.2f}")
    Console().print(table)
    Console().print(
        f"{rates.ratio:.1f} times as fast, {rates.ratio_per_distinct_passage:.1f} times were no sentence there twice; kept in {path}",
        highlight=False,
    )


if __name__ == "__main__":
    main()
