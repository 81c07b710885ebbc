"""OpenAI's interface, asked by the official client: answers, streams, mistakes, many clients, and stopping."""

from __future__ import annotations

import json
import signal
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from mmscale.cli.main import main
from mmscale.models.places import resolve_path
from tests.cli.test_generate import ANTI, BASE, expert  # noqa: F401

QUESTION = "Anna has 12 apples. Anna buys 5 apples. How many apples does Anna have now?"
PROMPT = "Problem: Anna has 12 apples."


@pytest.fixture(scope="module")
def proxy(serve, expert):  # noqa: F811
    options = ["--expert", expert, "--antiexpert", ANTI, "--prompt", "tinyworld_math", "--slots", "3"]
    with serve(BASE, *options, "--name", "proxy", "--dtype", "float64", "--max-waiting", "8") as served:
        yield served


def chat(served, **more):
    values = {"model": "proxy", "messages": [{"role": "user", "content": QUESTION}], "temperature": 0, **more}
    return served.client().chat.completions.create(**values)


def test_a_chat_is_what_generate_answers(proxy, expert, capsys):  # noqa: F811
    command = ["generate", BASE, QUESTION, "--expert", expert, "--antiexpert", ANTI, "--prompt", "tinyworld_math"]
    assert main([*command, "--max-new-tokens", "24", "--dtype", "float64"]) == 0
    plain = capsys.readouterr().out.strip()
    answer = chat(proxy, max_completion_tokens=24)
    assert answer.choices[0].message.content.strip() == plain
    assert answer.usage.completion_tokens <= 24 and answer.usage.prompt_tokens > 10
    assert answer.object == "chat.completion" and answer.model == "proxy"


def test_a_stream_is_the_whole_answer_in_pieces(proxy):
    asked = {"max_tokens": 30, "temperature": 4, "seed": 11, "n": 2}
    whole = chat(proxy, **asked)
    pieces = {0: "", 1: ""}
    reasons, usage = {}, None
    for chunk in chat(proxy, **asked, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            pieces[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason or reasons.get(choice.index)
    assert [pieces[c.index] for c in whole.choices] == [c.message.content for c in whole.choices]
    assert [reasons[c.index] for c in whole.choices] == [c.finish_reason for c in whole.choices]
    assert pieces[0] != pieces[1], "two choices draw with noise of their own"
    assert usage == whole.usage


def test_seeds_stops_and_log_probabilities_of_completions(proxy):
    client = proxy.client()

    def complete(**more):
        values = {"model": "proxy", "prompt": [PROMPT, "Two"], "max_tokens": 12, "temperature": 3, "seed": 5, **more}
        return client.completions.create(**values)

    first, again = complete(logprobs=3), complete(logprobs=3)
    assert [c.text for c in first.choices] == [c.text for c in again.choices] and len(first.choices) == 2
    assert [c.text for c in complete(seed=6).choices] != [c.text for c in first.choices]
    logprobs = first.choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == 12
    assert all(value < 0 for value in logprobs.token_logprobs)
    assert all(max(top.values()) >= value - 1e-9 for top, value in zip(logprobs.top_logprobs, logprobs.token_logprobs))
    text = complete(prompt=PROMPT).choices[0].text
    stop = text[4:7]
    cut = complete(prompt=PROMPT, stop=[stop])
    assert cut.choices[0].text == text[: text.index(stop)] and cut.choices[0].finish_reason == "stop"
    streamed = "".join(c.choices[0].text for c in complete(prompt=PROMPT, stop=[stop], stream=True) if c.choices)
    assert streamed == cut.choices[0].text
    assert complete(prompt=PROMPT).choices[0].finish_reason == "length"
    greedy = complete(temperature=0, extra_body={"top_k": 1, "repetition_penalty": 1.0})
    assert greedy.choices[0].text == complete(seed=1, extra_body={"top_k": 1}).choices[0].text


def test_many_clients_get_what_each_would_get_alone(proxy):
    def ask(seed: int) -> str:
        return chat(proxy, max_tokens=16, temperature=4, seed=seed).choices[0].message.content

    alone = [ask(seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == alone
    assert len(set(alone)) > 4


def health(served) -> dict:
    with urllib.request.urlopen(served.url.removesuffix("/v1") + "/health", timeout=30) as answer:
        return json.load(answer)


def wait_for(condition, seconds: float = 60) -> None:
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < seconds, "it does not come to pass"
        time.sleep(0.05)


def long_stream(served, **more):
    """The answer of a model that hardly ever ends by itself at this temperature."""
    return served.client().completions.create(
        model="proxy", prompt="a", max_tokens=400, temperature=100, stream=True, **more
    )


def test_a_client_that_goes_away_frees_its_slot(proxy):
    streams = [long_stream(proxy) for _ in range(3)]
    for stream in streams:
        next(iter(stream))
    wait_for(lambda: health(proxy)["running"] == 3)
    for stream in streams:
        stream.close()
    begin = time.monotonic()
    wait_for(lambda: health(proxy)["running"] == 0)
    assert chat(proxy, max_tokens=4).choices[0].message.content
    assert time.monotonic() - begin < 60 and health(proxy)["waiting"] == 0


def test_too_many_requests_are_sent_away(proxy):
    import openai

    with pytest.raises(openai.InternalServerError) as raised:
        proxy.client().completions.create(model="proxy", prompt=["a"] * 12, max_tokens=4)
    assert raised.value.status_code == 503 and raised.value.code == "overloaded"
    assert raised.value.response.headers["retry-after"] == "1"
    assert chat(proxy, max_tokens=4).choices


@pytest.mark.parametrize(
    ("path", "body", "status", "param", "message"),
    [
        ("completions", b"{", 400, None, "not valid JSON"),
        ("completions", {"prompt": "a"}, 400, "model", "model: Field required"),
        ("completions", {"model": "gpt", "prompt": "a"}, 404, "model", "'gpt' is not served here: it is 'proxy'"),
        ("completions", {"model": "proxy", "prompt": "a", "temperature": -1}, 400, "temperature", "greater than"),
        ("completions", {"model": "proxy", "prompt": "a", "tempreature": 1}, 400, "tempreature", "not permitted"),
        ("completions", {"model": "proxy", "prompt": "a", "presence_penalty": 1}, 400, "presence_penalty", "0"),
        ("completions", {"model": "proxy", "prompt": "a", "max_tokens": 0}, 400, None, "or 0 with echo"),
        ("completions", {"model": "proxy", "prompt": "a", "suffix": "b"}, 400, "suffix", "''"),
        ("completions", {"model": "proxy", "prompt": "a", "max_tokens": 9999}, 400, "max_tokens", "longest context"),
        (
            "completions",
            {"model": "proxy", "prompt": "a", "stop": list("abcdefghijklmnopq")},
            400,
            None,
            "16 texts at most",
        ),
        ("chat/completions", {"model": "proxy", "messages": []}, 400, "messages", "at least 1"),
        ("chat/completions", {"model": "proxy", "messages": [{"role": "x", "content": "a"}]}, 400, "messages", "role"),
        (
            "chat/completions",
            {"model": "proxy", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            400,
            "messages",
            "text only",
        ),
        (
            "chat/completions",
            {"model": "proxy", "messages": [{"role": r, "content": "a"} for r in ("system", "user")]},
            400,
            "messages",
            "no chat format",
        ),
        ("embeddings", {"model": "proxy"}, 404, None, "POST /v1/embeddings: Not Found"),
    ],
)
def test_a_malformed_request_gets_the_error_object(proxy, path, body, status, param, message):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"{proxy.url}/{path}", data, {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(request, timeout=30)
    error = json.load(raised.value)["error"]
    assert raised.value.code == status and error["param"] == param and message in error["message"]
    assert error["type"] == "invalid_request_error" and set(error) == {"message", "type", "param", "code"}


def test_a_prompt_told_again_has_the_log_probabilities_of_the_steered_base(proxy, expert):  # noqa: F811
    """As lm-eval's local-completions asks for likelihoods: ids, echo and logprobs, against transformers' own forwards."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resolve_path(BASE))
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (PROMPT, "Two cats and Anna.")]
    with torch.inference_mode():
        base, tuned, untuned = (
            [
                AutoModelForCausalLM.from_pretrained(resolve_path(path)).double()(torch.tensor([[1, *own]]))
                for own in ids
            ]
            for path in (BASE, expert, ANTI)
        )
    rows = [
        (b.logits + t.logits - u.logits)[0].float().log_softmax(-1)
        for b, t, u in zip(base, tuned, untuned, strict=True)
    ]
    texts = [PROMPT, "Two cats and Anna."]
    for sent, count in ((ids, 1), (ids, 0), (texts, 1), (texts, 0), ([[1, *own] for own in ids], 1)):
        asked = {"model": "proxy", "temperature": 0, "max_tokens": count, "logprobs": 1, "echo": True, "prompt": sent}
        answer = proxy.client().completions.create(**asked, suffix="")
        assert answer.usage.completion_tokens == 2 * count
        for choice, own, row, text in zip(answer.choices, ids, rows, texts, strict=True):
            told, more = choice.logprobs, len(choice.logprobs.tokens) - len(own) - count
            assert more == (isinstance(sent[0], list) and sent[0][0] == 1), "a BOS that was sent is told again, first"
            assert told.token_logprobs[:more] == [None] * more
            chosen = slice(more, more + len(own))
            values, top = told.token_logprobs[chosen], told.top_logprobs[chosen]
            assert choice.finish_reason == "length" and (count or choice.text == text)
            assert values == pytest.approx(row[range(len(own)), own].tolist(), abs=1e-4)
            best = row[: len(own)].max(-1)
            assert [max(one.values()) for one in top] == pytest.approx(best.values.tolist(), abs=1e-4)
            greedy = [value == max(one.values()) for value, one in zip(values, top)]
            assert greedy == (best.indices == torch.tensor(own)).tolist(), "equal to the last bit where it is the best"
            assert choice.text.startswith(text)
            assert told.text_offset[more:][:2] == [0, len(told.tokens[more])]


def test_models_are_listed(proxy):
    client = proxy.client()
    assert [model.id for model in client.models.list()] == ["proxy"]
    assert client.models.retrieve("proxy").owned_by == "mmscale"


def test_a_server_that_is_stopped_finishes_what_runs(serve):
    with serve(ANTI, "--slots", "2", "--name", "proxy", "--stop-seconds", "60") as served:
        stream = served.client().completions.create(
            model="proxy", prompt="a", max_tokens=200, temperature=100, stream=True, seed=1
        )
        chunks = [next(iter(stream))]
        served.process.send_signal(signal.SIGHUP)
        chunks += list(stream)
        assert chunks[-1].choices[0].finish_reason in ("length", "stop")
        code, complaints = served.stop()
        assert code == 128 + signal.SIGHUP and "stopped by SIGHUP" in complaints and "Traceback" not in complaints


def test_what_cannot_be_served_is_one_sentence(capsys):
    import socket

    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        assert main(["serve", ANTI, "--port", str(held.getsockname()[1])]) == 2
    assert "choose another --port" in capsys.readouterr().err
    assert main(["serve", ANTI, "--port", "0", "--expert", ANTI]) == 2
    assert "needs both --expert and --antiexpert" in capsys.readouterr().err
