"""`mmscale generate`: answers of a plain, merged or proxy-tuned model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer


def generate(
    model: Annotated[str, typer.Argument(help="model folder (also one with a mapping), hub id or tinyworld:NAME")],
    question: Annotated[
        list[str] | None, typer.Argument(help="questions; without any, one a line from --input or standard input")
    ] = None,
    input_file: Annotated[Path | None, typer.Option("--input", help="text file, one question a line")] = None,
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
    max_new_tokens: Annotated[int, typer.Option()] = 512,
    temperature: Annotated[float, typer.Option(help="0 is greedy")] = 0.0,
    top_p: Annotated[float, typer.Option()] = 1.0,
    seed: Annotated[int, typer.Option()] = 0,
    batch_size: Annotated[int, typer.Option()] = 32,
    stop: Annotated[list[str] | None, typer.Option(help="text at which an answer ends")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object a line")] = False,
) -> None:
    """Answer questions.

    Example: `mmscale generate tinyworld:llm "Anna has 12 apples. Anna buys 5 apples. How many apples does Anna have now?" --prompt tinyworld_math --max-new-tokens 64`

    Example: `mmscale generate tinyworld:large_llm --expert runs/quickstart/stages/question_alignment.response/model --antiexpert tinyworld:llm --language sw --input questions.txt`
    """
    import math

    from pydantic import ValidationError

    from mmscale.config.base import validation_sentence
    from mmscale.config.evaluation import GenerationConfig
    from mmscale.errors import UserError
    from mmscale.languages import language as known_language

    known_language(language)
    questions = _questions(question, input_file)
    if (expert is None) != (antiexpert is None):
        raise UserError("proxy-tuning needs both --expert and --antiexpert")
    if not math.isfinite(alpha):
        raise UserError(f"--alpha must be a finite number, got {alpha}")
    try:
        config = GenerationConfig(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            batch_size=batch_size,
            seed=seed,
            stop=tuple(stop or ()),
        )
    except ValidationError as error:
        raise validation_sentence(GenerationConfig, error, "command line") from error
    solver = _solver(model, prompt, expert, antiexpert, alpha, expert_prompt, chat_template)
    for asked, answer in zip(questions, _answers(solver, questions, language, config), strict=True):
        print(json.dumps({"question": asked, "response": answer}, ensure_ascii=False) if as_json else answer)


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


def _solver(model, prompt, expert, antiexpert, alpha, expert_prompt, chat_template):  # type: ignore[no-untyped-def]
    from mmscale.cli.devices import default_device
    from mmscale.methods.solvers import model_solver, proxy_solver
    from mmscale.models.assembly import read_parts
    from mmscale.parallel.layout import Layout

    if expert is None:
        return model_solver(model, read_parts(model), prompt, Layout(default_device())).loaded
    return proxy_solver(
        model,
        read_parts(model),
        read_parts(expert),
        read_parts(antiexpert),
        alpha,
        Layout(default_device()),
        (prompt, expert_prompt, prompt),
        chat_template,
    ).loaded


def _answers(solver, questions, language, config):  # type: ignore[no-untyped-def]
    from mmscale.data.records import Problem
    from mmscale.evaluation.solving import answer

    records = [Problem(text, language, origin=f"question {i}") for i, text in enumerate(questions, start=1)]
    answered = {row.origin: row.response.strip() for batch in answer(solver, records, config) for row in batch}
    return [answered[record.origin] for record in records]
