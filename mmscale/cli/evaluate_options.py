"""What `mmscale evaluate` can be told, each option by name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmscale import registry

Model = Annotated[str | None, typer.Argument(help="model folder, hub id or tinyworld:NAME to run on a task")]
MoreFiles = Annotated[
    list[str] | None, typer.Argument(help="with --predictions more FILE, with --consistency more LANG=FILE")
]
Predictions = Annotated[
    list[str] | None,
    typer.Option(help="FILE or LANG=FILE to score, more may follow: JSONL or JSON array, the authors' forms or ours"),
]
Against = Annotated[Path | None, typer.Option(help="second prediction file over the same rows: paired bootstrap")]
Consistency = Annotated[list[str] | None, typer.Option(help="LANG=FILE, at least two: CC and IC of all pairs")]
Rule = Annotated[str | None, typer.Option(help=f"one of {registry.listed('rules')}; by default default")]
Language = Annotated[
    str | None,
    typer.Option(help="language of rows that do not name theirs; by default the file's name says it, else en"),
]
Task = Annotated[
    str | None,
    typer.Option(help=f"with MODEL: benchmark whose settings the others change: {registry.listed('tasks')}"),
]
Source = Annotated[
    str | None,
    typer.Option(help=f"with MODEL: data source: {registry.listed('sources')}; by default the task's, else mgsm"),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        "--path",
        help="with MODEL: path of its files, or hf://datasets/OWNER/NAME; by default the task's, on the hub",
    ),
]
Languages = Annotated[
    str | None, typer.Option(help="with MODEL: comma-separated codes; by default all of the task's, else en")
]
Split = Annotated[str | None, typer.Option(help="with MODEL: split of the source; by default test")]
Limit = Annotated[int | None, typer.Option(help="with MODEL: first rows of each language")]
Prompt = Annotated[str | None, typer.Option(help=f"with MODEL: prompt template: {registry.listed('prompts')}")]
Translator = Annotated[
    str | None,
    typer.Option(
        help="with MODEL and a prompt that shows translations: who makes them, a model or {path: MODEL, beams: 4}"
    ),
]
MaxNewTokens = Annotated[int | None, typer.Option(help="with MODEL; by default the task's, else 512")]
BatchSize = Annotated[int | None, typer.Option(help="with MODEL; by default 32")]
Output = Annotated[Path, typer.Option(help="with MODEL: folder of its prediction files")]
Scoring = Annotated[
    str | None,
    typer.Option(help="with MODEL: generation, or log_likelihood of each option of a question; by default the task's"),
]
LengthNormalization = Annotated[
    str | None,
    typer.Option(
        help="with log_likelihood, or --predictions of one: none, characters (lm-eval's acc_norm), bytes (acc_bytes) or tokens"
    ),
]
Chat = Annotated[
    bool,
    typer.Option(
        "--chat-template", help="with MODEL: ask in its own chat format; the question alone, or what --prompt says"
    ),
]
ResponsePrefix = Annotated[
    str, typer.Option(help="with --chat-template: text behind the format that the answer goes on from")
]
Exemplars = Annotated[
    str | None, typer.Option(help="with MODEL: MGSM's exemplars.py, whose worked problems stand before the question")
]
ExemplarsForm = Annotated[
    str | None, typer.Option(help="of --exemplars: native, english_cot or english; by default native")
]
Shots = Annotated[int | None, typer.Option(help="of --exemplars: how many; by default 8")]
Isolation = Annotated[
    str,
    typer.Option(help="with --rule program: bubblewrap, or none, which runs the programs of the answers as you"),
]
