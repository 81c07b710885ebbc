"""`mmscale data`: look at data before trusting it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmscale import registry
from mmscale.cli.translate import translate

if TYPE_CHECKING:
    from mmscale.config.data import DataConfig

app = typer.Typer(no_args_is_help=True, help="Look at data: preview, stats, overlap; prepare it: tokenize, translate.")
app.command()(translate)

Languages = Annotated[str, typer.Option(help="comma-separated ISO codes")]
Split = Annotated[str, typer.Option(help="split of the source")]
Options = Annotated[list[str] | None, typer.Option("--option", help="option of the source as key=value (YAML)")]


def _config(
    source: str, path: str, languages: str, split: str, limit: int | None, options: list[str] | None
) -> DataConfig:
    from pydantic import ValidationError

    from mmscale.config.data import DataConfig
    from mmscale.config.documents import apply_overrides
    from mmscale.config.mistakes import validation_sentence

    values = {
        "source": source,
        "path": path,
        "languages": [code for code in languages.split(",") if code],
        "split": split,
        "limit_per_language": limit,
        "options": apply_overrides({}, options or []),
    }
    try:
        return DataConfig.model_validate(values)
    except ValidationError as error:
        raise validation_sentence(DataConfig, error, "command line") from error


@app.command()
def preview(
    config: Annotated[str, typer.Argument(help="configuration file")],
    stage: Annotated[str, typer.Argument(help="METHOD.STAGE")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value")] = None,
    rows: Annotated[int, typer.Option(min=1, help="examples to show")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON list of [kind, text] an example")] = False,
) -> None:
    """Show examples exactly as the model will see them, segments coloured.

    Example: `mmscale data preview configs/quickstart.yaml mindmerger.augmentation --rows 2`
    """
    from mmscale.config.run import load_run
    from mmscale.data.preview import STYLES
    from mmscale.runs.run import stages_up_to
    from mmscale.runs.stage_data import StageData

    shown = StageData(stages_up_to(load_run(config, overrides or []), stage)[-1]).preview(rows)
    if as_json:
        print(json.dumps(shown, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    console.print(Text.assemble(*((f" {kind} ", f"reverse {style}") for kind, style in STYLES.items())))
    for example in shown:
        console.print(Text.assemble(*((text, STYLES[kind]) for kind, text in example)))
        console.rule()


@app.command()
def stats(
    source: Annotated[str, typer.Argument(help=f"data source: {registry.listed('sources')}")],
    path: Annotated[str, typer.Argument(help="its file, folder or pattern")] = "",
    languages: Languages = "",
    split: Split = "train",
    limit: Annotated[int | None, typer.Option(help="first rows of each language")] = None,
    option: Options = None,
    tokenizer: Annotated[
        str, typer.Option(help="model folder, hub id or tinyworld:NAME whose tokenizer counts")
    ] = "tinyworld:llm",
    png: Annotated[Path | None, typer.Option(help="also write the histogram as a picture")] = None,
    list_rows: Annotated[
        str | None,
        typer.Option("--list", help=f"print file:line of every row that a filter flags: {registry.listed('filters')}"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
) -> None:
    """Rows, faults and token lengths of a data set.

    Example: `mmscale data stats tinyworld --languages en,sw --limit 200 --png lengths.png`
    """
    from mmscale.data import filters
    from mmscale.data.statistics import flagged_rows, statistics
    from mmscale.languages import MGSM_LANGUAGES
    from mmscale.reporting.lengths import picture, text_histogram

    wanted = _config(source, path, languages, split, limit, option)
    if list_rows is not None:
        filters.get(list_rows)
        print("\n".join(flagged_rows(wanted, MGSM_LANGUAGES, list_rows)))
        return
    of_data = statistics(wanted, MGSM_LANGUAGES, _counter(tokenizer))
    account, lengths = of_data.account, {code: values for code, values in of_data.lengths.items() if values}
    if png is not None:
        picture(lengths, png, f"questions of {source}")
    if as_json:
        means = {code: sum(values) / len(values) for code, values in lengths.items()}
        print(json.dumps({**account.summary(), "mean_tokens": means}, ensure_ascii=False, indent=2))
        return
    print(text_histogram(lengths))
    for name, rows in account.flagged.items():
        print(f"{name:26} {len(rows):6} rows, first {rows[0]}")
    for code, of_language in account.counts.items():
        print(
            f"{code}: {of_language.rows} rows, {of_language.read} read, {of_language.bad} unreadable, {sum(of_language.left_out.values())} left out"
        )
    for reason, number in account.left_out.items():
        print(f"left out: {reason}, {number} rows")
    for row in account.bad[:5]:
        print(f"unreadable: {row}")


def _counter(tokenizer: str) -> Callable[[Sequence[str]], list[int]]:
    """Texts -> tokens of each. The embedded models' tokenizers are read without transformers, which imports torch."""
    from mmscale.models.places import EMBEDDED, resolve_path

    if tokenizer.startswith(EMBEDDED):
        from tokenizers import Tokenizer

        own = Tokenizer.from_file(str(Path(resolve_path(tokenizer)) / "tokenizer.json"))
        return lambda texts: [len(one) for one in own.encode_batch_fast(list(texts), add_special_tokens=False)]
    from mmscale.config.model import LanguageModelConfig
    from mmscale.models.language_model import load_tokenizer

    loaded = load_tokenizer(LanguageModelConfig(path=tokenizer))
    return lambda texts: (
        [len(ids) for ids in loaded(list(texts), add_special_tokens=False)["input_ids"]] if texts else []
    )


@app.command()
def overlap(
    train: Annotated[str, typer.Option(help="SOURCE=PATH of training data")],
    test: Annotated[str, typer.Option(help="SOURCE=PATH of test data")],
    languages: Languages = "en",
    train_split: Split = "train",
    test_split: Split = "test",
    threshold: Annotated[
        float, typer.Option(help="Jaccard similarity of character 5-grams that counts as near, 0.1 to 1")
    ] = 0.8,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object with every pair")] = False,
) -> None:
    """Find test questions in training data, exact and nearly.

    Example: `mmscale data overlap --train tinyworld= --test tinyworld= --languages en,sw`
    """
    from dataclasses import asdict

    from mmscale.data.loading import DataAccount, load_records, stream_records
    from mmscale.data.overlap import find_overlaps
    from mmscale.languages import MGSM_LANGUAGES

    sides = []
    for text, split in ((train, train_split), (test, test_split)):
        source, _, path = text.partition("=")
        sides.append(_config(source, path, languages, split, None, None))
    questions, _ = load_records(sides[1], MGSM_LANGUAGES, pointing=())
    account = DataAccount(source=sides[0].source, path=sides[0].path)
    exact, near = find_overlaps(stream_records(sides[0], MGSM_LANGUAGES, account), questions, threshold)
    if as_json:
        print(
            json.dumps(
                {
                    "train": account.kept,
                    "test": len(questions),
                    "exact": [asdict(o) for o in exact],
                    "near": [asdict(o) for o in near],
                },
                ensure_ascii=False,
                indent=2,
            )
        )
        return
    print(f"{len(questions)} test rows against {account.kept} training rows: {len(exact)} the same, {len(near)} nearly")
    for pair in (*exact[:10], *near[:10]):
        print(f"{pair.similarity:.2f}  {pair.test}  ~  {pair.train}  {pair.question[:80]}")


@app.command()
def tokenize(
    config: Annotated[str, typer.Argument(help="configuration file")],
    targets: Annotated[
        list[str] | None, typer.Argument(help="METHOD.STAGE ..., by default all that the run trains; key=value")
    ] = None,
    processes: Annotated[int, typer.Option(min=1, max=1024, help="processes on this machine")] = 1,
) -> None:
    """Tokenise a run's training data before it starts; what is there already is not made again.

    Example: `mmscale data tokenize configs/quickstart.yaml mindmerger.mapping --processes 2`

    On many nodes any launcher shares the work: `mpirun -n 64 mmscale data tokenize CONFIG`. Training does the same by
    itself at its start; a step of its own keeps GPUs from waiting for it.
    """
    from mmscale import logs
    from mmscale.cli.devices import started
    from mmscale.cli.processes import run_processes
    from mmscale.config.run import load_run
    from mmscale.runs.run import stages_of, stages_up_to
    from mmscale.runs.stage_data import StageData

    overrides = [target for target in targets or [] if "=" in target]
    stages = [target for target in targets or [] if "=" not in target]
    if processes > 1:
        raise typer.Exit(run_processes(processes, ["data", "tokenize", config, *(targets or [])]))
    run = load_run(config, overrides)
    wanted = [stages_up_to(run, target)[-1] for target in stages] or stages_of(run)
    world = started()
    logs.to_folder(run.directory)
    for stage in wanted:
        folder = StageData(stage).prepare(world)
        if world.rank == 0:
            print(folder)
