"""uvicorn, less patient: slow headers end a connection, and stopping takes no longer than it was told."""

from __future__ import annotations

import asyncio
import signal
import threading
from dataclasses import dataclass
from socket import socket
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from mmscale.serving.worker import Worker

_LAST_WORDS_S = 5
"""For answers that were broken off to reach their clients."""


@dataclass(frozen=True)
class Patience:
    """How long others are waited for, in seconds."""

    headers_s: float = 20
    """For a request's headers to arrive."""
    idle_s: int = 30
    """For a next request on the same connection."""
    stop_s: int = 30
    """For running requests to end when the server stops; what is left then is broken off."""


def listen(app: ASGIApp, worker: Worker, bound: socket, patience: Patience) -> int:
    """Serve until a signal comes, whose number is returned, or 0 when nothing is decoded any more."""
    protocol = type("Patient", (PatientProtocol,), {"header_timeout_s": patience.headers_s})
    config = uvicorn.Config(
        app,
        log_level="warning",
        timeout_graceful_shutdown=patience.stop_s + _LAST_WORDS_S,
        timeout_keep_alive=patience.idle_s,
        http=protocol,
        ws="none",
    )
    listener = _Listener(config, worker, patience.stop_s)
    worker.on_failure = lambda: setattr(listener, "should_exit", True)
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
    ):  # uvicorn takes two of them while it runs, and raises them again
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, listener.handle_exit)
    listener.run(sockets=[bound])
    return listener.signal


class _Listener(uvicorn.Server):
    """Breaks off what still runs some time after it was told to stop."""

    def __init__(self, config: uvicorn.Config, worker: Worker, stop_s: int) -> None:
        super().__init__(config)
        self._worker, self._stop_s = worker, stop_s
        self.signal = 0
        """Number of the first one that came."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.signal = self.signal or sig
        super().handle_exit(sig, frame)
        timer = threading.Timer(self._stop_s, self._worker.break_off)
        timer.daemon = True
        timer.start()


class PatientProtocol(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it, but a connection whose request line and headers do not come in time is closed."""

    header_timeout_s: float = 20
    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    @property
    def _between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _expect_headers(self) -> None:
        if not self._between_requests:
            self._stop_waiting()
        elif self._waiting is None:
            self._waiting = self.loop.call_later(self.header_timeout_s, self._give_up)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _give_up(self) -> None:
        self._waiting = None
        if self._between_requests:
            self.transport.close()
