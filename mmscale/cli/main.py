"""Entry point `mmscale`: verbs, and exit codes 0 (done, or Slurm will go on), 2 (your mistake, one sentence), 1 (ours), 128 +
the number of the signal that stopped it."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from mmscale import logs
from mmscale.cli import (
    bench,
    config,
    convert,
    corpus,
    data,
    doctor,
    evaluate,
    generate,
    launch,
    plan,
    report,
    run,
    serve,
    stopping,
    tinyworld,
    train,
)
from mmscale.cli import list as list_verb
from mmscale.errors import Interrupted, UserError
from mmscale.versions import require_known_versions, untried

_HARMLESS = frozenset(("doctor", "--help"))
"""What answers under any version of the libraries."""
_MAY_BE_EMPTY = frozenset(("--chat-response-prefix", "--stop"))
"""Options whose value may be blank text; elsewhere it is a variable of the shell that nobody set."""
_WITH_TRACEBACK = "MMSCALE_TRACEBACK"

app = typer.Typer(
    name="mmscale",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Give an LLM that reasons in English the same ability in other languages.",
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"mmscale {version('mmscale')}")
        raise typer.Exit


@app.callback()
def _everywhere(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="also show details, and warnings of other libraries")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="show results, warnings and errors only")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version and stop")
    ] = False,
) -> None:
    """Give an LLM that reasons in English the same ability in other languages."""
    if verbose and quiet:
        raise UserError("--verbose and --quiet are opposites: give one of them")
    logs.choose_level(verbose, quiet)
    if quiet:
        os.environ.setdefault("TQDM_DISABLE", "1")


app.command("run")(run.run)
app.command("train")(train.train)
app.command("launch")(launch.launch)
app.command("plan")(plan.plan)
app.command("evaluate")(evaluate.evaluate)
app.command("generate")(generate.generate)
app.command("serve")(serve.serve)
app.add_typer(data.app, name="data")
app.add_typer(corpus.app, name="corpus")
app.command("report")(report.report)
app.command("convert")(convert.convert)
app.command("doctor")(doctor.doctor)
app.command(
    "bench", context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
)(bench.bench)
app.add_typer(config.app, name="config")
app.command("list")(list_verb.list_names)
app.command("tinyworld")(tinyworld.tinyworld)


def _quiet_libraries() -> None:
    """Their progress bars show on a terminal only, as ours do; what they log mmscale.logs takes."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # unset, it would warn of forks; we make none
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")


_FULL = (errno.ENOSPC, errno.EDQUOT)
_CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)


def _told(error: OSError) -> str | None:
    """What to tell of a disk that is full or a path that cannot be used; None for a fault of ours."""
    where = f" for {error.filename}" if error.filename else ""
    if error.errno in _FULL:
        return f"{error.strerror}{where}: free space; the same command goes on from the last save"
    if error.errno in _CLOSED and error.filename:
        return f"cannot use {error.filename!s:.200}: {error.strerror}; check the path and its permissions"
    return None


def _require_text(arguments: Sequence[str]) -> None:
    """UserError for a word that no file, model or text could be called by, or that is empty."""
    from mmscale.storage.reading import require_text

    for before, word in zip(("", *arguments), arguments, strict=False):
        require_text(word, f"on the command line, {word[:80]!r}")
        if not word.strip() and before not in _MAY_BE_EMPTY:
            where = f" behind {before}" if before else ""
            raise UserError(f"an empty word stands on the command line{where}: give it a value, or leave it out")


def _tell(sentence: str) -> None:
    """Why a command ends, to whoever looks: on standard error, and in the run's log."""
    print(f"mmscale: {sentence}", file=sys.stderr)
    logs.note(sentence, logging.ERROR)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; by default this process's own; returns its code."""
    _quiet_libraries()
    with logs.session():
        return _code_of(arguments)


def _code_of(arguments: Sequence[str] | None) -> int:
    try:
        given = sys.argv[1:] if arguments is None else arguments
        _require_text(given)
        if not _HARMLESS.intersection(given):
            require_known_versions()
        code = app(args=list(arguments) if arguments is not None else None, standalone_mode=False)
    except UserError as error:
        _tell(str(error))
        code = 2
    except typer.TyperException as error:  # unknown option, missing argument
        _tell(error.format_message())
        code = 2
    except OSError as error:
        sentence = _told(error)
        if sentence is None:
            raise
        _tell(sentence)
        code = 2
    except Interrupted as error:
        code = error.exit_code  # saved, and said
    except stopping.Stopped as stop:
        _tell(stop.sentence)
        code = stop.exit_code
    except typer.Abort as error:
        if isinstance(error.__cause__, EOFError):  # typer takes a file that ended early for Ctrl-D
            raise error.__cause__ from None
        raise
    except Exception as error:
        logs.LOGGER.error("a fault of ours", exc_info=True, extra=logs.FILE_ONLY)
        if os.environ.get(_WITH_TRACEBACK) or not (newer := untried()):
            raise
        _tell(f"{type(error).__name__}: {error} ({'; '.join(newer)}; or see the whole error with {_WITH_TRACEBACK}=1)")
        code = 1
    return int(code or 0)


def program(arguments: Sequence[str] | None = None) -> NoReturn:
    """`main` as a process of its own, which ends with its code."""
    from mmscale.parallel.world import leave

    stopping.watch()
    if "SLURM_JOB_ID" in os.environ:  # a signal before anything can be saved: go on, the job's end is known as well
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    code = main(arguments)
    stopping.leave_alone()
    leave(code)
