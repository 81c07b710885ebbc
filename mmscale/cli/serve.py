"""`mmscale serve`: an HTTP server with OpenAI's interface in front of a plain, merged or proxy-tuned model."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer


def serve(
    model: Annotated[str, typer.Argument(help="model folder (also one with a mapping), hub id or tinyworld:NAME")],
    name: Annotated[str, typer.Option(help="what clients call the model; by default its path")] = "",
    host: Annotated[str, typer.Option(help="address to listen on; 0.0.0.0 lets others in")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one")] = 8000,
    language: Annotated[str, typer.Option(help="of prompts, where a request does not name one")] = "en",
    prompt: Annotated[
        str | None, typer.Option(help="template of chats without a chat format; by default the one of training")
    ] = None,
    expert: Annotated[str | None, typer.Option(help="proxy-tuning: tuned small model")] = None,
    antiexpert: Annotated[str | None, typer.Option(help="proxy-tuning: the same small model untuned")] = None,
    alpha: Annotated[float, typer.Option(help="proxy-tuning: strength")] = 1.0,
    expert_prompt: Annotated[str | None, typer.Option(help="proxy-tuning: template of the expert alone")] = None,
    vocabulary_map: Annotated[
        Path | None, typer.Option(help="proxy-tuning: JSON, the base's tokens -> the small models'")
    ] = None,
    drafter: Annotated[
        str | None, typer.Option(help="proxy-tuning: a smaller model that drafts for the expert")
    ] = None,
    draft_tokens: Annotated[
        str, typer.Option(help="proxy-tuning: tokens that a round tries; 1 is plain decoding, auto measures")
    ] = "auto",
    dtype: Annotated[str, typer.Option(help="of the weights: float32, bfloat16, float16, float64")] = "float32",
    slots: Annotated[int, typer.Option(min=1, help="sequences that run at once")] = 16,
    max_waiting: Annotated[int, typer.Option(min=0, help="requests that may wait; more are sent away")] = 64,
    max_context: Annotated[
        int, typer.Option(min=2, help="tokens of a prompt and its continuation, by default the models'")
    ] = 4096,
    stop_seconds: Annotated[int, typer.Option(min=0, help="for running requests to end when the server stops")] = 30,
) -> None:
    """Serve a model over HTTP: /v1/completions, /v1/chat/completions, /v1/models, /health.

    Example: `mmscale serve tinyworld:large_llm --expert runs/quickstart/stages/question_alignment.response/model --antiexpert tinyworld:llm --name proxy`

    Ask it: `curl localhost:8000/v1/chat/completions -H 'Content-Type: application/json' -d '{"model": "proxy", "messages": [{"role": "user", "content": "Anna has 12 apples. Anna buys 5 apples. How many apples does Anna have now?"}]}'`
    """
    from mmscale.cli.devices import default_device
    from mmscale.cli.generate import loaded_solver, proxy_options
    from mmscale.errors import UserError
    from mmscale.languages import language as known_language
    from mmscale.parallel.layout import Layout

    try:
        import uvicorn

        from mmscale.serving.app import Server, application
    except ModuleNotFoundError as error:
        raise UserError(
            f"serving needs the extra serve ({error.name} is missing): pip install 'mmscale[serve]'"
        ) from error

    known_language(language)
    proxy = proxy_options(
        expert=expert,
        antiexpert=antiexpert,
        alpha=alpha,
        expert_prompt=expert_prompt,
        chat_template=False,
        vocabulary_map=vocabulary_map,
        drafter=drafter,
        draft_tokens=draft_tokens,
        shard_small=False,
    )
    socket = _listen(host, port)
    solver = loaded_solver(model, proxy, prompt, dtype, Layout(default_device()))
    context = min(max_context, solver.context_length)
    server = Server(solver, name or model, language, slots, context, max_waiting)
    app = application(server, stop_seconds)
    print(f"mmscale serves '{server.name}' at http://{host}:{socket.getsockname()[1]}/v1", flush=True)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=stop_seconds)
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises what stopped it once more, when all is done
        signal.signal(number, lambda *_: None)
    uvicorn.Server(config).run(sockets=[socket])


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
