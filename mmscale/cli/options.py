"""Options that several verbs share, and what becomes of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmscale import registry

if TYPE_CHECKING:
    from mmscale.parallel.context import ParallelContext

Model = Annotated[str, typer.Argument(help="model folder (also one with a mapping), hub id or tinyworld:NAME")]
PromptName = Annotated[
    str | None,
    typer.Option(
        "--prompt", help=f"prompt template: {registry.listed('prompts')}; by default the one the model was trained with"
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        help="of the weights: auto (as a model of ours was saved, else float32), float32, bfloat16, float16, float64"
    ),
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="run Python code that a model's folder brings; no file can say so")
]
EncoderPath = Annotated[
    str | None, typer.Option("--encoder", help="multilingual encoder in front of MODEL; with --mapping")
]
MappingPath = Annotated[
    Path | None,
    typer.Option("--mapping", help="mapping from --encoder to MODEL: ours, or the authors' pytorch_model.bin"),
]

Proxy = Annotated[
    tuple[str, str],
    typer.Option("--proxy", metavar="EXPERT ANTIEXPERT", help="proxy-tuning: --expert and --antiexpert in one"),
]
NO_PROXY = ("", "")
Expert = Annotated[str | None, typer.Option(help="proxy-tuning: tuned small model")]
Antiexpert = Annotated[str | None, typer.Option(help="proxy-tuning: the same small model untuned")]
Alpha = Annotated[float, typer.Option(help="proxy-tuning: strength")]
ExpertPrompt = Annotated[str | None, typer.Option(help="proxy-tuning: template of the expert alone")]
ChatTemplate = Annotated[
    bool, typer.Option("--chat-template", help="proxy-tuning: the expert reads its own chat format")
]
ChatResponsePrefix = Annotated[
    str,
    typer.Option(
        help="proxy-tuning: with --chat-template, text behind the format that the answer goes on from: 'Answer:'"
    ),
]
VocabularyMap = Annotated[Path | None, typer.Option(help="proxy-tuning: JSON, the base's tokens -> the small models'")]
Drafter = Annotated[str | None, typer.Option(help="proxy-tuning: a smaller model that drafts for the expert")]
DraftTokens = Annotated[
    str, typer.Option(help="proxy-tuning: tokens that a round tries; 1 is plain decoding, auto measures")
]

Analysis = Annotated[
    bool, typer.Option("--analysis", help="proxy-tuning: what each model thought of each token (with --json, --output)")
]
ShardSmall = Annotated[
    bool, typer.Option("--shard-small", help="proxy-tuning: cut the small models over those ranks too")
]


def refuse_unread(
    context: typer.Context, beside: str, only: frozenset[str] | None = None, never: frozenset[str] = frozenset()
) -> None:
    """UserError for an option of the command line that nobody would read: not in `only`, or in `never`."""
    from mmscale.errors import UserError

    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        unread = name in never or (only is not None and name not in only)
        if unread and source is not None and source.name == "COMMANDLINE":
            raise UserError(f"{parameter.opts[0]} is of no use with {beside}: leave it out")


def checked(kind: Any, **values: Any) -> Any:
    """A configuration of command-line values; UserError names the first that is wrong."""
    from pydantic import ValidationError

    from mmscale.config.mistakes import validation_sentence

    try:
        return kind(**values)
    except ValidationError as error:
        raise validation_sentence(kind, error, "command line") from error


def checked_normalization(name: str | None) -> str | None:
    """The name of a length normalization; UserError naming the nearest when there is none."""
    from mmscale.config.evaluation import NORMALIZATIONS
    from mmscale.errors import unknown_name

    if name is not None and name not in NORMALIZATIONS:
        raise unknown_name("length normalization", name, NORMALIZATIONS)
    return name


def named_prompt(text: str | None, **more: Any) -> str | None:
    """The name of a prompt as it is typed: a name, or {before: …, after: …}; `more` is what is set of it beside."""
    from mmscale.config.prompt import PromptConfig, is_written
    from mmscale.storage.reading import parse_yaml

    beside = {key: value for key, value in more.items() if value}
    if text is None and not beside:
        return None
    if text is not None and not is_written(text):
        if not beside:
            return text
        given: Any = {"name": text}
    else:
        given = {} if text is None else parse_yaml(text, "--prompt")
    made: PromptConfig = checked(PromptConfig, **{**given, **beside})
    return made.text


def needs_proxy(option: str) -> Exception:
    from mmscale.errors import UserError

    return UserError(f"{option} is for proxy-tuning: give --proxy EXPERT ANTIEXPERT too")


def proxy_options(
    *, proxy: tuple[str, str], expert: str | None, antiexpert: str | None, draft_tokens: str, **more: Any
) -> dict[str, Any] | None:
    """What is asked of proxy-tuning, models by path; None without it."""
    from mmscale.config.evaluation import MOST_DRAFT_TOKENS
    from mmscale.errors import UserError

    if proxy != NO_PROXY:
        if expert is not None or antiexpert is not None:
            raise UserError("--proxy names expert and anti-expert: leave --expert and --antiexpert out")
        expert, antiexpert = proxy
    if expert is None or antiexpert is None:
        if expert is not None or antiexpert is not None:
            raise UserError("proxy-tuning needs both --expert and --antiexpert; --proxy EXPERT ANTIEXPERT names both")
        for name in (
            "drafter",
            "vocabulary_map",
            "expert_prompt",
            "chat_template",
            "chat_response_prefix",
            "shard_small",
        ):
            if more.get(name):
                raise needs_proxy(f"--{name.replace('_', '-')}")
        for name, value, default in (("alpha", more.get("alpha"), 1.0), ("draft-tokens", draft_tokens, "auto")):
            if value not in (None, default):
                raise needs_proxy(f"--{name}")
        return None
    if not re.fullmatch("auto|[0-9]{1,4}", draft_tokens) or not (
        draft_tokens == "auto" or 1 <= int(draft_tokens) <= MOST_DRAFT_TOKENS
    ):
        raise UserError(f"--draft-tokens is auto or a number from 1 to {MOST_DRAFT_TOKENS}, not {draft_tokens}")
    tokens = None if draft_tokens == "auto" else int(draft_tokens)
    return {"expert": expert, "antiexpert": antiexpert, "draft_tokens": tokens, **more}


def model_parts(
    path: str, dtype: str = "auto", trust: bool = False, encoder: str | None = None, mapping: Path | None = None
) -> Any:
    """The parts of a model by path, with what the command line says of it."""
    from dataclasses import replace

    from mmscale.config.model import EncoderConfig
    from mmscale.errors import UserError
    from mmscale.models.assembly import read_parts, require_goes_with
    from mmscale.models.connectors import kind_of

    parts = read_parts(path)
    said = {**({"dtype": dtype} if dtype != "auto" else {}), "trust_remote_code": trust}
    own = checked(type(parts.language_model), **{**parts.language_model.model_dump(), **said})
    parts = replace(parts, language_model=own)
    if (encoder is None) != (mapping is None):
        raise UserError("--encoder and --mapping belong together: give both")
    if encoder is not None and mapping is not None:
        if parts.encoder is not None:
            raise UserError(f"{path} has an encoder and a mapping already: leave --encoder and --mapping out")
        kind = kind_of(mapping)
        reads, weights = EncoderConfig(path=encoder, trust_remote_code=trust), kind.find(mapping)
        require_goes_with(weights, reads)
        return replace(parts, encoder=reads, mapping=str(weights), connector=kind.text)
    if parts.encoder is not None:
        parts = replace(parts, encoder=parts.encoder.model_copy(update={"trust_remote_code": trust}))
    return parts


def loaded_solver(
    parts: Any, title: str, proxy: dict[str, Any] | None, prompt: str | None, context: ParallelContext, **said: Any
) -> Any:
    """The solver of command-line options, in memory; `said` is that of every small model's parts."""
    from mmscale.answering.local import Steering, local_answerer, proxy_answerer

    prompt = named_prompt(prompt)
    if proxy is None:
        return local_answerer(title, parts, prompt, context).loaded
    models = {name: model_parts(proxy[name], **said) for name in ("expert", "antiexpert", "drafter") if proxy[name]}
    return proxy_answerer(title, parts, Steering(**{**proxy, **models}), context, prompt).loaded
