"""`mmscale generate`: answers of a plain, merged or proxy-tuned model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mmscale.config.evaluation import GenerationConfig
    from mmscale.evaluation.asking import Asking
    from mmscale.parallel.layout import Layout


def generate(
    model: Annotated[str, typer.Argument(help="model folder (also one with a mapping), hub id or tinyworld:NAME")],
    question: Annotated[
        list[str] | None, typer.Argument(help="questions; without any, one a line from --input or standard input")
    ] = None,
    input_file: Annotated[Path | None, typer.Option("--input", help="text file, one question a line")] = None,
    output: Annotated[
        Path | None, typer.Option(help="JSONL file that keeps every answer at once; the same command goes on from it")
    ] = None,
    language: Annotated[str, typer.Option(help="language of the questions")] = "en",
    prompt: Annotated[
        str | None, typer.Option(help="prompt template; by default the one the model was trained with")
    ] = None,
    expert: Annotated[str | None, typer.Option(help="proxy-tuning: tuned small model")] = None,
    antiexpert: Annotated[str | None, typer.Option(help="proxy-tuning: the same small model untuned")] = None,
    alpha: Annotated[float, typer.Option(help="proxy-tuning: strength")] = 1.0,
    expert_prompt: Annotated[str | None, typer.Option(help="proxy-tuning: template of the expert alone")] = None,
    chat_template: Annotated[
        bool, typer.Option("--chat-template", help="proxy-tuning: the expert reads its own chat format")
    ] = False,
    vocabulary_map: Annotated[
        Path | None, typer.Option(help="proxy-tuning: JSON, the base's tokens -> the small models'")
    ] = None,
    drafter: Annotated[
        str | None, typer.Option(help="proxy-tuning: a smaller model that drafts for the expert")
    ] = None,
    draft_tokens: Annotated[
        str, typer.Option(help="proxy-tuning: tokens that a round tries; 1 is plain decoding, auto measures")
    ] = "auto",
    analysis: Annotated[
        bool,
        typer.Option("--analysis", help="proxy-tuning: what each model thought of each token (with --json, --output)"),
    ] = False,
    tensor_parallel_size: Annotated[int, typer.Option(min=1, help="ranks that share the model's layers")] = 1,
    shard_small: Annotated[
        bool, typer.Option("--shard-small", help="proxy-tuning: cut the small models over those ranks too")
    ] = False,
    dtype: Annotated[str, typer.Option(help="of the weights: float32, bfloat16, float16, float64")] = "float32",
    max_new_tokens: Annotated[int, typer.Option()] = 512,
    temperature: Annotated[float, typer.Option(help="0 is greedy")] = 0.0,
    top_k: Annotated[int, typer.Option(help="0 is off")] = 0,
    top_p: Annotated[float, typer.Option()] = 1.0,
    min_p: Annotated[float, typer.Option()] = 0.0,
    repetition_penalty: Annotated[float, typer.Option()] = 1.0,
    seed: Annotated[int, typer.Option()] = 0,
    batch_size: Annotated[int, typer.Option(help="sequences that run at once")] = 32,
    stop: Annotated[list[str] | None, typer.Option(help="text at which an answer ends")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object a line")] = False,
) -> None:
    """Answer questions.

    Example: `mmscale generate tinyworld:llm "Anna has 12 apples. Anna buys 5 apples. How many apples does Anna have now?" --prompt tinyworld_math --max-new-tokens 64`

    Example: `mmscale generate tinyworld:large_llm --expert runs/quickstart/stages/question_alignment.response/model --antiexpert tinyworld:llm --language sw --input questions.txt --output answers.jsonl`

    Several ranks: `torchrun --nproc-per-node 8 launch/proxy_generate.py BASE --expert TUNED --antiexpert UNTUNED --tensor-parallel-size 8 --input questions.txt --output answers.jsonl`
    """
    from mmscale.config.evaluation import GenerationConfig
    from mmscale.languages import language as known_language

    known_language(language)
    questions = _questions(question, input_file)
    config = checked(
        GenerationConfig,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        batch_size=batch_size,
        seed=seed,
        stop=tuple(stop or ()),
    )
    proxy = proxy_options(
        expert=expert,
        antiexpert=antiexpert,
        alpha=alpha,
        expert_prompt=expert_prompt,
        chat_template=chat_template,
        vocabulary_map=vocabulary_map,
        drafter=drafter,
        draft_tokens=draft_tokens,
        shard_small=shard_small,
    )
    if analysis and proxy is None:
        raise _needs_proxy("--analysis")
    _answer(model, proxy, prompt, dtype, tensor_parallel_size, questions, language, config, analysis, output, as_json)


def checked(kind: Any, **values: Any) -> Any:
    """A configuration of command-line values; UserError names the first that is wrong."""
    from pydantic import ValidationError

    from mmscale.config.base import validation_sentence

    try:
        return kind(**values)
    except ValidationError as error:
        raise validation_sentence(kind, error, "command line") from error


def _needs_proxy(option: str) -> Exception:
    from mmscale.errors import UserError

    return UserError(f"{option} is for proxy-tuning: give --expert and --antiexpert too")


def proxy_options(
    *, expert: str | None, antiexpert: str | None, draft_tokens: str, **more: Any
) -> dict[str, Any] | None:
    """What is asked of proxy-tuning, models by path; None without it."""
    from mmscale.errors import UserError

    if expert is None or antiexpert is None:
        if expert is not None or antiexpert is not None:
            raise UserError("proxy-tuning needs both --expert and --antiexpert")
        for name in ("drafter", "vocabulary_map", "expert_prompt", "chat_template", "shard_small"):
            if more[name]:
                raise _needs_proxy(f"--{name.replace('_', '-')}")
        return None
    if draft_tokens != "auto" and not (draft_tokens.isdigit() and int(draft_tokens) >= 1):
        raise UserError(f"--draft-tokens is auto or a number from 1, not {draft_tokens}")
    tokens = None if draft_tokens == "auto" else int(draft_tokens)
    return {"expert": expert, "antiexpert": antiexpert, "draft_tokens": tokens, **more}


def loaded_solver(model: str, proxy: dict[str, Any] | None, prompt: str | None, dtype: str, layout: Layout) -> Any:
    """The solver of command-line options, in memory."""
    from mmscale.methods.solvers import Steering, model_solver, proxy_solver
    from mmscale.models.assembly import read_parts

    def parts(path: str) -> Any:
        found = read_parts(path)
        values = {**found.language_model.model_dump(), **({"dtype": dtype} if dtype != "float32" else {})}
        return type(found)(checked(type(found.language_model), **values), found.encoder, found.mapping, found.prompt)

    if proxy is None:
        return model_solver(model, parts(model), prompt, layout).loaded
    models = {name: parts(proxy[name]) for name in ("expert", "antiexpert", "drafter") if proxy[name]}
    return proxy_solver(model, parts(model), Steering(**{**proxy, **models}), layout, prompt).loaded


def _questions(given: list[str] | None, file: Path | None) -> list[str]:
    from mmscale.errors import UserError
    from mmscale.files import numbered_lines

    if given:
        return given
    lines = [text for _, text in numbered_lines(file)] if file else sys.stdin.read().splitlines()
    questions = [line for line in lines if line.strip()]
    if not questions:
        raise UserError("no question given: write it on the command line, in --input FILE or on standard input")
    return questions


def _answer(
    model: str,
    proxy: dict[str, Any] | None,
    prompt: str | None,
    dtype: str,
    tensor_parallel_size: int,
    questions: list[str],
    language: str,
    config: GenerationConfig,
    analysis: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    from mmscale.cli.devices import joined, started
    from mmscale.config.parallel import ParallelConfig
    from mmscale.errors import UserError
    from mmscale.evaluation.asking import AnswerFile, Asking

    world = started()
    if world.size > 1 and output is None:
        raise UserError("several ranks share the questions and write a file: give --output FILE")
    with joined(ParallelConfig(tensor_parallel_size=tensor_parallel_size), world) as layout:
        solver = loaded_solver(model, proxy, prompt, dtype, layout)
        asking = Asking(solver, questions, language, config, analysis)
        if output is None:
            found = sorted(asking.rows(layout), key=lambda row: row["number"])
        else:
            with layout.alone_in(AnswerFile.folder_of(output)):
                found = AnswerFile(output, asking, layout).fill()
        if layout.is_first:
            _show(found, asking, output, as_json)


def _show(rows: list[dict[str, Any]], asking: Asking, output: Path | None, as_json: bool) -> None:
    from mmscale.progress import say

    for row in rows if output is None or as_json else []:
        print(json.dumps(row, ensure_ascii=False) if as_json else row["response"])
    if output is not None and not as_json:
        print(output)
    report = asking.pace.report()
    if asking.solver.draft_tokens != 1 and report["rounds"]:
        say(
            f"speculation: {100 * report['acceptance']:.0f} % of drafts accepted, "
            f"{report['tokens_per_round']:.2f} tokens a round"
        )
