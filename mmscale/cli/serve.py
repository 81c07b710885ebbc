"""`mmscale serve`: an HTTP server with OpenAI's interface in front of a plain, merged or proxy-tuned model."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmscale.cli import options

if TYPE_CHECKING:
    from socket import socket as Socket

    from mmscale.models.language_model import LanguageModel
    from mmscale.serving.app import Server
    from mmscale.serving.guard import Limits
    from mmscale.serving.listener import Patience

_MaxContext = Annotated[
    int,
    typer.Option(min=2, help="tokens of a prompt and its continuation; the models' own limit where that is smaller"),
]
_ApiKey = Annotated[
    str, typer.Option(envvar="MMSCALE_API_KEY", help="wanted as 'Authorization: Bearer KEY' of everything below /v1")
]
_AllowedHost = Annotated[
    list[str] | None,
    typer.Option(help="name that clients may ask under; on loopback its own names, elsewhere any, by default"),
]
_MaxBodyBytes = Annotated[
    int, typer.Option(min=0, help="of a request; 0 takes 0.5 MB and 64 bytes per token of the context")
]


def serve(
    model: options.Model,
    name: Annotated[str, typer.Option(help="what clients call the model; by default its path")] = "",
    host: Annotated[str, typer.Option(help="address to listen on; 0.0.0.0 lets others in")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one")] = 8000,
    language: Annotated[str, typer.Option(help="of prompts, where a request does not name one")] = "en",
    prompt: options.PromptName = None,
    encoder: options.EncoderPath = None,
    mapping: options.MappingPath = None,
    trust_remote_code: options.TrustRemoteCode = False,
    proxy: options.Proxy = options.NO_PROXY,
    expert: options.Expert = None,
    antiexpert: options.Antiexpert = None,
    alpha: options.Alpha = 1.0,
    expert_prompt: options.ExpertPrompt = None,
    vocabulary_map: options.VocabularyMap = None,
    drafter: options.Drafter = None,
    draft_tokens: options.DraftTokens = "auto",
    dtype: options.Dtype = "auto",
    slots: Annotated[int, typer.Option(min=1, max=1 << 16, help="sequences that run at once")] = 16,
    max_waiting: Annotated[int, typer.Option(min=0, help="requests that may wait; more are sent away")] = 64,
    max_context: _MaxContext = 4096,
    stop_seconds: Annotated[int, typer.Option(min=0, help="for running requests to end when the server stops")] = 30,
    api_key: _ApiKey = "",
    allowed_host: _AllowedHost = None,
    max_body_bytes: _MaxBodyBytes = 0,
    header_timeout: Annotated[float, typer.Option(min=0.1, help="seconds for a request's headers to arrive")] = 20,
    body_timeout: Annotated[float, typer.Option(min=0.1, help="seconds for a request's body to arrive")] = 30,
    idle_timeout: Annotated[int, typer.Option(min=1, help="seconds that a connection may be idle")] = 30,
) -> None:
    """Serve a model over HTTP: /v1/completions, /v1/chat/completions, /v1/models, /health, /metrics.

    Example: `mmscale serve tinyworld:large_llm --proxy runs/quickstart/stages/question_alignment.response/model tinyworld:llm --name proxy`

    Ask it: `curl localhost:8000/v1/chat/completions -H 'Content-Type: application/json' -d '{"model": "proxy", "messages": [{"role": "user", "content": "Anna has 12 apples. Anna buys 5 apples. How many apples does Anna have now?"}]}'`
    """
    from mmscale.cli.devices import default_device
    from mmscale.languages import language as known_language
    from mmscale.parallel.context import ParallelContext

    _require_extra()
    language = known_language(language).code
    steering = options.proxy_options(
        proxy=proxy,
        expert=expert,
        antiexpert=antiexpert,
        alpha=alpha,
        expert_prompt=expert_prompt,
        chat_template=False,
        chat_response_prefix="",
        vocabulary_map=vocabulary_map,
        drafter=drafter,
        draft_tokens=draft_tokens,
        shard_small=False,
    )
    socket = _listen(host, port)
    said: dict[str, Any] = {"dtype": dtype, "trust": trust_remote_code}
    parts = options.model_parts(model, **said, encoder=encoder, mapping=mapping)
    solver = options.loaded_solver(parts, model, steering, prompt, ParallelContext(device=default_device()), **said)

    from mmscale.serving.app import Server
    from mmscale.serving.guard import LOOPBACK, Limits
    from mmscale.serving.listener import Patience

    context = min(max_context, solver.context_length)
    server = Server(solver, name or model, language, slots, context, max_waiting)
    hosts = frozenset(name.lower() for name in allowed_host or (LOOPBACK | {host} if host in LOOPBACK else ()))
    limits = Limits(max_body_bytes or 500_000 + 64 * context, body_timeout, api_key, hosts)
    _run(server, limits, Patience(header_timeout, idle_timeout, stop_seconds), socket, host, slots)


def _require_extra() -> None:
    from mmscale.errors import UserError

    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(
            f"serving needs the extra serve ({error.name} is missing): pip install 'mmscale[serve]'"
        ) from error


def _memory_bytes(device: Any) -> int:
    """How much memory a GPU, or this machine, has."""
    import os

    import torch

    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _run(server: Server, limits: Limits, patience: Patience, bound: Socket, host: str, slots: int) -> None:
    """Serve until a signal, and say so by the exit code; 1 where decoding came to an end by itself."""
    from mmscale.errors import UserError
    from mmscale.progress import say
    from mmscale.serving.app import application, guarded
    from mmscale.serving.listener import listen

    held = sum(_cache_bytes(one.model.language_model, slots * server.context) for one in server.solver.ensemble.models)
    whole = _memory_bytes(server.solver.ensemble.device)
    if held > whole:
        raise UserError(
            f"keys and values of {slots} x {server.context:,} tokens would take {held / 1e9:.2f} GB of the {whole / 1e9:.2f} "
            f"GB there are: lower --slots or --max-context"
        )
    say(f"keys and values of {slots} x {server.context:,} tokens take {held / 1e9:.2f} GB")
    app = guarded(application(server, patience.stop_s), server, limits)
    bound.listen()  # whoever reads the next line may connect at once
    print(f"mmscale serves '{server.name}' at http://{host}:{bound.getsockname()[1]}/v1", flush=True)
    number = listen(app, server.worker, bound, patience)
    if server.worker.failure:
        say(f"decoding ended: {server.worker.failure}")
        raise typer.Exit(1)
    if number:
        say(f"stopped by {signal.Signals(number).name}")
        raise typer.Exit(128 + number)


def _cache_bytes(language_model: LanguageModel, tokens: int) -> int:
    from mmscale.planning.inference import key_value_bytes

    width = next(language_model.parameters()).element_size()
    return key_value_bytes(language_model.config, tokens, width)


def _listen(host: str, port: int):  # type: ignore[no-untyped-def]
    """A bound socket, before any model is loaded; UserError when the address is not to be had."""
    import socket

    from mmscale.errors import UserError

    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
    except OSError as error:
        raise UserError(
            f"cannot listen on {host}:{port} ({error.strerror}): choose another --port, or --port 0 for a free one"
        ) from error
    return made
