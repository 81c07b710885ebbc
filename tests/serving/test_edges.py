"""A server among strangers: bounds of every field, large and slow requests, keys and names, load, failures, stopping."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import psutil
import pytest

from tests.cli.test_generate import ANTI

KEY = "a key of some length"


@pytest.fixture(scope="module")
def guarded(serve):
    options = [
        "--name",
        "small",
        "--prompt",
        "tinyworld_math",
        "--slots",
        "4",
        "--max-waiting",
        "12",
        "--max-context",
        "128",
    ]
    limits = ["--header-timeout", "1", "--body-timeout", "1.5", "--stop-seconds", "3"]
    with serve(ANTI, *options, *limits, MMSCALE_API_KEY=KEY) as served:
        yield served


def ask(served, path="/v1/completions", body=None, method="POST", timeout=60, **headers):
    """(status, parsed answer)."""
    at = urlsplit(served.url)
    connection = http.client.HTTPConnection(at.hostname, at.port, timeout=timeout)
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    connection.request(
        method, path, data, {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json", **headers}
    )
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, json.loads(text) if answer.headers["content-type"] == "application/json" else text.decode()


def completion(**more):
    return {"model": "small", "prompt": "Q: 1", "max_tokens": 2, "temperature": 0, **more}


@pytest.mark.parametrize(
    "more",
    [
        {"seed": 10**30},
        {"seed": -(10**30)},
        {"top_k": 10**30},
        {"max_tokens": 10**30},
        {"temperature": 1e-9},
        {"temperature": 1e308},
        {"repetition_penalty": 1e300},
        {"n": 10**9},
        {"prompt": ["a"] * 300},
        {"prompt": []},
        {"prompt": [[]]},
        {"prompt": [1, -1]},
        {"prompt": [10**9]},
        {"prompt": [10**30]},
        {"prompt": "half \ud83d"},
        {"stop": "\udfff"},
        {"stop": ["x" * 1000]},
        {"model": "x" * 10_000},
        {"language": "klingon"},
        {"logprobs": 10**6},
        {"prompt": "a" * 100_000},
        {"echo": True, "stream": True},
    ],
    ids=str,
)
def test_every_field_has_a_bound(guarded, more):
    status, answer = ask(guarded, body=completion(**more))
    assert status in (400, 404) and answer["error"]["message"], answer
    assert "function" not in answer["error"]["message"]


def test_not_a_number_is_no_number(guarded):
    for value in (b"NaN", b"Infinity", b"1e999"):
        body = json.dumps(completion()).encode().replace(b'"temperature": 0', b'"temperature": ' + value)
        assert ask(guarded, body=body)[0] == 400
    assert ask(guarded, "/health", method="GET")[1]["status"] == "ok"


def test_what_is_null_is_absent(guarded):
    plain = ask(guarded, body=completion())[1]["choices"][0]["text"]
    absent = ("top_p", "n", "stop", "echo", "seed", "logprobs", "presence_penalty", "user", "stream", "suffix", "top_k")
    status, answer = ask(guarded, body=completion(**dict.fromkeys(absent), frequency_penalty=0.0, best_of=1))
    assert status == 200 and answer["choices"][0]["text"] == plain
    chat = {"model": "small", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "tools": None}
    more = {"metadata": {}, "store": False, "tool_choice": None, "response_format": None, "temperature": None}
    assert ask(guarded, "/v1/chat/completions", {**chat, **more})[0] == 200


def test_a_large_request_holds_nobody_up(guarded):
    """What is too large is sent away unread; a text that could just fit is tokenised beside what others wait for."""
    before = psutil.Process(guarded.process.pid).memory_info().rss
    status, answer = ask(guarded, body=completion(prompt="word " * 2_000_000))
    assert status == 413 and "bytes at most" in answer["error"]["message"]
    with ThreadPoolExecutor(8) as pool:
        large = [pool.submit(ask, guarded, body=completion(prompt="వ" * 4_000)) for _ in range(6)]
        began = time.monotonic()
        assert ask(guarded, "/health", method="GET")[0] == 200
        assert time.monotonic() - began < 10
        assert all(one.result()[1]["error"]["code"] == "context_length_exceeded" for one in large)
    assert psutil.Process(guarded.process.pid).memory_info().rss - before < 100e6


def test_keys_and_names_are_looked_at(guarded):
    assert ask(guarded, body=completion(), Authorization="Bearer wrong")[1]["error"]["code"] == "invalid_api_key"
    assert ask(guarded, body=completion(), Authorization="")[0] == 401
    assert ask(guarded, body=completion(), Host="evil.example")[0] == 403
    assert ask(guarded, body=completion(), Host="LOCALHOST:1234")[0] == 200
    assert ask(guarded, "/health", method="GET", Authorization="")[0] == 200


def raw(served, text: bytes) -> socket.socket:
    at = urlsplit(served.url)
    made = socket.create_connection((at.hostname, at.port), timeout=30)
    made.sendall(text)
    return made


def test_slow_requests_are_ended(guarded):
    """Neither headers nor body, of a first request or a second one, may be waited for without end."""
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n"
    key = f"Authorization: Bearer {KEY}\r\n\r\n".encode()
    whole = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    silent, cut, slow, second = (raw(guarded, text) for text in (b"", head, head + key + b"{", whole))
    answered = b""
    while not answered.endswith(b"}"):
        answered += second.recv(4096)
    assert b"200 OK" in answered
    second.sendall(head)
    assert silent.recv(1) == b"" and cut.recv(1) == b"" and second.recv(4096) == b""
    assert b"408" in slow.recv(100)
    for one in (silent, cut, slow, second):
        one.close()


def test_a_crowd_is_served_or_sent_away(guarded):
    """Many more clients than slots and places, half of them streaming: each gets its own answer or a 503, nothing else."""
    alone = {
        n: ask(guarded, body=completion(prompt=f"Q: {n}", max_tokens=8))[1]["choices"][0]["text"] for n in range(4)
    }

    refused = []

    def one(k: int):
        while True:
            status, answer = ask(guarded, body=completion(prompt=f"Q: {k % 4}", max_tokens=8, stream=k % 2 == 1))
            if status != 503:
                break
            refused.append(k)
            time.sleep(0.1)
        assert status == 200, answer
        if k % 2 == 0:
            return answer["choices"][0]["text"] == alone[k % 4]
        events = [json.loads(line[6:]) for line in answer.splitlines() if line.startswith("data: {")]
        return "".join(event["choices"][0]["text"] for event in events) == alone[k % 4]

    with ThreadPoolExecutor(48) as pool:
        found = list(pool.map(one, range(120)))
    assert all(found) and refused
    counts = ask(guarded, "/health", method="GET")[1]
    assert (counts["running"], counts["waiting"]) == (0, 0)
    text = ask(guarded, "/metrics", method="GET")[1]
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    served = float(values['mmscale_requests_total{path="/v1/completions",status="200"}'])
    assert served >= len(found) and float(values["mmscale_completion_tokens_total"]) >= 2 * served
    assert float(values["mmscale_running"]) == 0 and "mmscale_first_token_seconds_count" in values


def test_nothing_of_the_interface_breaks_the_server(guarded):
    """schemathesis over the OpenAPI description: whatever is sent, an answer or a mistake of the client's comes back."""
    schemathesis = pytest.importorskip("schemathesis", reason="the interface is tested by schemathesis (extra dev)")
    from hypothesis import HealthCheck, Phase, given, settings

    host = guarded.url.removesuffix("/v1")
    schema = schemathesis.openapi.from_url(f"{host}/openapi.json")
    for operation in [found.ok() for found in schema.get_all_operations()]:

        @given(case=operation.as_strategy())
        @settings(
            max_examples=25,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def holds(case):
            answer = case.call(base_url=host, headers={"Authorization": f"Bearer {KEY}"}, timeout=60)
            assert answer.status_code < 500 or answer.status_code == 503, (case.body, answer.text)

        holds()
    assert ask(guarded, "/health", method="GET")[1]["status"] == "ok"


def test_stopping_waits_no_longer_than_told(guarded):
    """A client that asks for a stream and never reads it; the last test of this server."""
    body = json.dumps(completion(max_tokens=100, stream=True, temperature=100, n=4)).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
    held = [raw(guarded, f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body) for _ in range(3)]
    time.sleep(0.3)
    began = time.monotonic()
    code, complaints = guarded.stop()
    assert code == 128 + signal.SIGTERM and time.monotonic() - began < 20 and "Traceback" not in complaints, complaints
    for one in held:
        one.close()


def _worker(fails):
    """A worker of a random model whose choice fails by `fails(held tokens of each row)`."""
    from mmscale.answering.local import LoadedModels
    from mmscale.config.evaluation import GenerationConfig
    from mmscale.data.segments import TokenizedExample
    from mmscale.decoding.engine import GenerationRequest
    from mmscale.decoding.ensemble import Ensemble, ModelStepper
    from mmscale.decoding.stop_criteria import StopCriteria
    from mmscale.serving.worker import GenerationJob, Worker
    from tests.conftest import random_merged

    class Breaking(Ensemble):
        def choose(self, logits, places, held=None):
            fails([place.sequence for place in places], places[0].position)
            return super().choose(logits, places, held)

    end = StopCriteria(frozenset(), (), lambda ids: " ".join(map(str, ids)))
    solver = LoadedModels(
        title="",
        fingerprint="",
        tokenizers=[],
        ensemble=Breaking(ModelStepper(random_merged())),
        end=end,
        context_length=128,
    )
    worker = Worker(solver, 3, 64, 30)
    told: dict[int, list] = {}

    def job(number: int):
        config = GenerationConfig(max_new_tokens=12, temperature=1.0, seed=5)
        request = GenerationRequest(
            number,
            (
                TokenizedExample(
                    prompt_ids=(9 + number, 20, 21), target_ids=(), encoder_ids=(), language="en", origin=""
                ),
            ),
            config,
            end,
        )
        return GenerationJob(request=request, send=told.setdefault(number, []).append)

    return worker, job, told


def _answers(told):
    return {n: [token for progress in found for token in progress.token_ids] for n, found in told.items()}


def test_a_failure_ends_the_request_that_made_it_alone():
    worker, job, told = _worker(lambda rows, position: None)
    worker.start()
    worker.submit([job(n) for n in range(6)])
    worker.stop(60)
    right = _answers(told)

    def fails(rows, position):
        if 2 in rows and position >= 3:
            raise RuntimeError("this one cannot be drawn")

    worker, job, told = _worker(fails)
    worker.start()
    worker.submit([job(n) for n in range(6)])
    worker.stop(60)
    failed = [n for n, found in told.items() if found[-1].failure]
    assert failed == [2] and "cannot be drawn" in told[2][-1].failure and not worker.failure
    assert {n: found for n, found in _answers(told).items() if n != 2} == {n: x for n, x in right.items() if n != 2}
    assert all(found[-1].finished for found in told.values())


def test_an_engine_that_is_gone_is_told_to_all(monkeypatch):
    from mmscale.serving.app import Server, application
    from mmscale.serving.worker import Busy

    class Gone(BaseException):
        pass

    def fails(rows, position):
        if position == 2:
            raise Gone("the device is lost")

    worker, job, told = _worker(fails)
    seen = []
    worker.on_failure = lambda: seen.append(worker.failure)
    monkeypatch.setattr("threading.excepthook", lambda *_: None)
    worker.start()
    worker.submit([job(n) for n in range(2)])
    worker.stop(60)
    assert seen == ["Gone: the device is lost"] and all(found[-1].failure for found in told.values())
    with pytest.raises(Busy):
        worker.submit([job(9)])
    server = Server(worker.solver, "", "en", 3, 64, 30)
    health = next(route.endpoint for route in application(server).routes if route.path == "/health")  # type: ignore[attr-defined]
    assert asyncio.run(health()).status_code == 200
    server.worker = worker
    answer = asyncio.run(health())
    assert answer.status_code == 503 and json.loads(answer.body)["why"] == "Gone: the device is lost"
