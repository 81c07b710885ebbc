"""`mmscale generate`: answers of a plain, merged or proxy-tuned model."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmscale.cli import options

if TYPE_CHECKING:
    from mmscale.answering.asking import Asking
    from mmscale.parallel.context import ParallelContext


def generate(
    model: options.Model,
    question: Annotated[
        list[str] | None, typer.Argument(help="questions; without any, one per line from --input or standard input")
    ] = None,
    input_file: Annotated[Path | None, typer.Option("--input", help="text file, one question a line")] = None,
    output: Annotated[
        Path | None, typer.Option(help="JSONL file that keeps every answer at once; the same command goes on from it")
    ] = None,
    language: Annotated[str, typer.Option(help="language of the questions")] = "en",
    prompt: options.PromptName = None,
    encoder: options.EncoderPath = None,
    mapping: options.MappingPath = None,
    trust_remote_code: options.TrustRemoteCode = False,
    proxy: options.Proxy = options.NO_PROXY,
    expert: options.Expert = None,
    antiexpert: options.Antiexpert = None,
    alpha: options.Alpha = 1.0,
    expert_prompt: options.ExpertPrompt = None,
    chat_template: options.ChatTemplate = False,
    chat_response_prefix: options.ChatResponsePrefix = "",
    vocabulary_map: options.VocabularyMap = None,
    drafter: options.Drafter = None,
    draft_tokens: options.DraftTokens = "auto",
    analysis: options.Analysis = False,
    tensor_parallel_size: Annotated[int, typer.Option(min=1, help="ranks that share the model's layers")] = 1,
    shard_small: options.ShardSmall = False,
    dtype: options.Dtype = "auto",
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

    Example: `mmscale generate tinyworld:large_llm --proxy runs/quickstart/stages/question_alignment.response/model tinyworld:llm --language sw --input questions.txt --output answers.jsonl`

    Example: `mmscale generate /models/Llama-2-7b-hf --encoder /models/mt5-xl --mapping outputs/MindMerger/math/augmentation/pytorch_model.bin --prompt mindmerger_math --language sw --input questions.txt`

    Several ranks: `torchrun --nproc-per-node 8 launch/proxy_generate.py BASE --proxy TUNED UNTUNED --tensor-parallel-size 8 --input questions.txt --output answers.jsonl`
    """
    from mmscale.config.evaluation import GenerationConfig
    from mmscale.languages import language as known_language

    language = known_language(language).code
    questions = _questions(question, input_file)
    sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "seed": seed}
    limits = {"max_new_tokens": max_new_tokens, "batch_size": batch_size, "stop": tuple(stop or ())}
    config = options.checked(GenerationConfig, repetition_penalty=repetition_penalty, **sampling, **limits)
    models: dict[str, Any] = {"proxy": proxy, "expert": expert, "antiexpert": antiexpert, "drafter": drafter}
    more: dict[str, Any] = {"alpha": alpha, "expert_prompt": expert_prompt, "chat_template": chat_template}
    more |= {"vocabulary_map": vocabulary_map, "draft_tokens": draft_tokens, "shard_small": shard_small}
    more["chat_response_prefix"] = chat_response_prefix
    steering = options.proxy_options(**models, **more)
    if analysis and steering is None:
        raise options.needs_proxy("--analysis")
    said: dict[str, Any] = {"dtype": dtype, "trust": trust_remote_code}
    parts = options.model_parts(model, **said, encoder=encoder, mapping=mapping)

    def ask(context: ParallelContext) -> Asking:
        from mmscale.answering.asking import Asking

        solver = options.loaded_solver(parts, model, steering, prompt, context, **said)
        return Asking(solver, questions, language, config, analysis)

    _answer(ask, tensor_parallel_size, output, as_json)


def _questions(given: list[str] | None, file: Path | None) -> list[str]:
    from mmscale.errors import UserError
    from mmscale.storage.reading import numbered_lines

    if given:
        return given
    lines = [text for _, text in numbered_lines(file)] if file else _lines_of_input()
    questions = [line for line in lines if line.strip()]
    if not questions:
        raise UserError("no question given: write it on the command line, in --input FILE or on standard input")
    return questions


def _lines_of_input() -> list[str]:
    from mmscale.errors import UserError
    from mmscale.storage.reading import require_text

    try:
        lines = sys.stdin.read().split("\n")
    except UnicodeDecodeError as error:
        raise UserError("standard input is not UTF-8: convert it, for example with iconv") from error
    return [
        require_text(line.removesuffix("\r"), f"line {i} of standard input") for i, line in enumerate(lines, start=1)
    ]


def _answer(
    ask: Callable[[ParallelContext], Asking], tensor_parallel_size: int, output: Path | None, as_json: bool
) -> None:
    from mmscale.answering.asking import AnswerFile
    from mmscale.cli.devices import joined, started
    from mmscale.config.parallel import ParallelConfig
    from mmscale.errors import UserError

    world = started()
    if output is not None and not output.name:
        raise UserError(f"--output '{output}' names no file")
    if world.size > 1 and output is None:
        raise UserError("several ranks share the questions and write a file: give --output FILE")
    parallel = options.checked(ParallelConfig, tensor_parallel_size=tensor_parallel_size)
    with joined(parallel, world) as context:
        asking = ask(context)
        if output is None:
            rows = sorted(asking.rows(context), key=lambda row: row["number"])
        else:
            with context.alone_in(AnswerFile.folder_of(output)):
                rows = AnswerFile(output, asking, context).fill()
        if context.is_first:
            _show(rows, asking, output, as_json)


def _show(rows: list[dict[str, Any]], asking: Asking, output: Path | None, as_json: bool) -> None:
    from mmscale.progress import say

    for row in rows if output is None or as_json else []:
        print(json.dumps(row, ensure_ascii=False) if as_json else row["response"])
    if output is not None and not as_json:
        print(output)
    report = asking.draft_length.report()
    if asking.solver.draft_tokens != 1 and report["rounds"]:
        say(
            f"speculation: {100 * report['acceptance']:.0f} % of drafts accepted, "
            f"{report['tokens_per_round']:.2f} tokens per round"
        )
