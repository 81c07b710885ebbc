"""What a server counts of itself, for Prometheus: https://prometheus.io/docs/practices/naming/."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmscale.serving.worker import Worker

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class ServerMetrics:
    """Counters of one server."""

    def __init__(self, worker: Worker) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_OfWorker(worker))
        named = {"registry": self.registry}
        self.requests = Counter("mmscale_requests", "Answered requests", ["path", "status"], **named)  # type: ignore[arg-type]
        self.prompt_tokens = Counter("mmscale_prompt_tokens", "Tokens of prompts", **named)  # type: ignore[arg-type]
        self.seconds = Histogram(
            "mmscale_request_seconds",
            "From a request to the end of its answer",
            ["path"],
            buckets=_SECONDS,
            **named,  # type: ignore[arg-type]
        )
        self.first_token = Histogram(
            "mmscale_first_token_seconds",
            "From a request to the first token of a choice",
            buckets=_SECONDS,
            **named,  # type: ignore[arg-type]
        )

    def text(self) -> bytes:
        return generate_latest(self.registry)


class _OfWorker(Collector):
    """What the decoding thread knows, read when it is asked for."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def collect(self) -> Iterator[Metric]:
        counts = self.worker.counts()
        yield GaugeMetricFamily("mmscale_running", "Sequences that are decoded", counts["running"])
        yield GaugeMetricFamily("mmscale_waiting", "Sequences that wait", counts["waiting"])
        yield GaugeMetricFamily("mmscale_slots", "Sequences that can be decoded at once", counts["slots"])
        yield GaugeMetricFamily(
            "mmscale_step_seconds", "How long the step that runs has taken", self.worker.seconds_since_step
        )
        yield CounterMetricFamily("mmscale_completion_tokens", "Tokens made", self.worker.tokens)


class Counted:
    """An ASGI application whose answers are counted and timed, by paths that are known."""

    def __init__(self, app: ASGIApp, metrics: ServerMetrics, paths: frozenset[str]) -> None:
        self.app, self.metrics, self.paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self.paths else "other"
        began = time.monotonic()

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.metrics.requests.labels(path, str(message["status"])).inc()
            await send(message)

        try:
            await self.app(scope, receive, counted)
        finally:
            self.metrics.seconds.labels(path).observe(time.monotonic() - began)
