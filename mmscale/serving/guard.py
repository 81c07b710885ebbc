"""What every request passes before the application sees it: who asks, under which name, how much, and how slowly."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from dataclasses import dataclass

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmscale.serving.protocol import InterfaceError

LOOPBACK = frozenset(["localhost", "127.0.0.1", "::1"])


@dataclass(frozen=True)
class Limits:
    """Bounds of a request."""

    body_bytes: int
    body_timeout_s: float = 30
    """For the whole body to arrive."""
    api_key: str = ""
    """Wanted of everything below /v1; empty lets everybody ask."""
    hosts: frozenset[str] = frozenset()
    """Names under which the server may be asked; empty lets any be. A web page that had its own name lead here
    (DNS rebinding) is sent away by it."""


class Guard:
    """An ASGI application in front of another one: reads the body whole, or sends the request away."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self.app, self.limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            self._admit(scope)
            body = await self._body(scope, receive)
        except InterfaceError as error:
            headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else None
            await JSONResponse(error.body, error.status, headers)(scope, receive, send)
            return
        told = False

        async def replay() -> Message:
            nonlocal told
            if told:
                return await receive()  # the client going away
            told = True
            return {"type": "http.request", "body": body, "more_body": False}

        with contextlib.suppress(asyncio.CancelledError):  # by the listener, which ends and waits no longer
            await self.app(scope, replay, send)

    def _admit(self, scope: Scope) -> None:
        headers = dict(scope["headers"])
        if self.limits.hosts and _name_of(headers.get(b"host", b"")) not in self.limits.hosts:
            raise InterfaceError(
                403,
                f"this server is asked as {' or '.join(sorted(self.limits.hosts))}, not under the name of this request",
            )
        if self.limits.api_key and scope["path"].startswith("/v1"):
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, f"Bearer {self.limits.api_key}".encode()):
                raise InterfaceError(
                    401, "a wrong API key, or none: send 'Authorization: Bearer KEY'", code="invalid_api_key"
                )

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        most = self.limits.body_bytes
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced[:20]) > most:
            raise _too_large(most)
        body = bytearray()

        async def read() -> None:
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise InterfaceError(499, "the client went away", kind="client_error")
                body.extend(message.get("body", b""))
                if len(body) > most:
                    raise _too_large(most)
                if not message.get("more_body"):
                    return

        try:
            await asyncio.wait_for(read(), self.limits.body_timeout_s)
        except asyncio.TimeoutError as error:
            raise InterfaceError(
                408, f"the request did not arrive whole within {self.limits.body_timeout_s:g} s"
            ) from error
        return bytes(body)


def _too_large(most: int) -> InterfaceError:
    return InterfaceError(413, f"a request takes {most:,} bytes at most", code="request_too_large")


def _name_of(host: bytes) -> str:
    """The name in a Host header, without its port."""
    text = host.decode("latin-1").lower()
    return text[1:].split("]")[0] if text.startswith("[") else text.rsplit(":", 1)[0]
