"""Endpoints: replies read whole or not at all, waits kept, keys kept secret, refusals final."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from email.utils import formatdate
from typing import Any

import pytest

from duomem.envs import ACT
from duomem.errors import InfraError, UsageError
from duomem.models import ContextFull
from duomem.types import Message, Reply, Sampling, Tool, ToolCall, Usage
from fault_proxy import Fault, FaultProxy, no_choices, replaced, says

pytest.importorskip("openai", reason="needs the extra 'api'")
from duomem.models import openai_api

KEY = "sk-canary-0123456789abcdef"
ASK = [Message.of("user", "You see a mug 1.")]
GREEDY = Sampling(max_tokens=16)
TEXT = "Thought: naïve — it is a mug\nAction: take mug 1"
MAIL = Tool("send", "Send a mail.", '{"type": "object", "properties": {"to": {"type": "string"}}}')


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    def engine(body: bytes) -> tuple[int, str, bytes]:
        return says(TEXT, stream=json.loads(body).get("stream", False))

    with FaultProxy(engine) as made:
        yield made


@pytest.fixture
def model(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., openai_api.OpenAiModel]]:
    monkeypatch.setenv("TINY_KEY", f"{KEY}\n")
    made: list[openai_api.OpenAiModel] = []

    def build(**settings: Any) -> openai_api.OpenAiModel:
        plain = {"remote_model": "tiny", "key_env": "TINY_KEY", "backoff_s": 0.001, "retries": 2, "stall_s": 5.0}
        made.append(openai_api.build(openai_api.Config(**{"base_url": proxy.url, **plain, **settings})))
        return made[-1]

    yield build
    for each in made:
        each.close()
        each.close()


def reading(proxy: FaultProxy, **reply: Any) -> None:
    """Let the engine say this."""
    proxy.kept.clear()
    message = reply.pop("message", TEXT)
    proxy.engine = lambda body: says(message, stream=json.loads(body).get("stream", False), **reply)


@pytest.mark.parametrize("stream", [True, False])
def test_a_reply_is_read_whole(proxy: FaultProxy, model: Callable[..., openai_api.OpenAiModel], stream: bool) -> None:
    asked = model(stream=stream)
    reply = asked.reply(ASK, [], GREEDY)
    assert (reply.message.text, reply.finish, reply.usage) == (TEXT, "stop", Usage(20, 5, 4))
    assert reply.seconds > 0
    reading(proxy, message={"content": "Action: look", "reasoning_content": "Let me see."})
    found = asked.reply(ASK, [], GREEDY).message
    assert (found.text, found.reasoning) == ("Action: look", "Let me see.")
    reading(proxy, message="<think>\nLet me see.\n</think>\n\nAction: look")
    found = asked.reply(ASK, [], GREEDY).message
    assert (found.text, found.reasoning) == ("Action: look", "Let me see.")
    reading(proxy, message="<think>never ends", finish="length")
    cut = asked.reply(ASK, [], GREEDY)
    assert (cut.message.text, cut.message.reasoning, cut.finish) == ("", "never ends", "length")
    call = {"id": "call_7", "type": "function", "function": {"name": "send", "arguments": '{"to": "ann"}'}}
    reading(proxy, message={"tool_calls": [call]}, finish="tool_calls")
    called = asked.reply(ASK, [MAIL], GREEDY)
    assert (called.message.tool_calls, called.finish) == ((ToolCall("send", '{"to": "ann"}', "call_7"),), "tool_calls")
    reading(proxy, finish="content_filter")
    assert asked.reply(ASK, [], GREEDY).finish == "length", "cut short by a filter: it must not be acted on"
    reading(proxy, usage=None)
    counted = asked.reply(ASK, [], GREEDY).usage
    assert counted.prompt >= 10
    assert counted.completion >= 10, "an endpoint that does not count is counted for"


def test_what_is_asked(proxy: FaultProxy, model: Callable[..., openai_api.OpenAiModel]) -> None:
    said = Message("assistant", (), (ToolCall("send", "{}", "call_1"),), None, "secret thoughts")
    messages = [*ASK, said, Message("tool", Message.of("user", "Sent.").parts, tool_call_id="call_1")]
    model().reply(messages, [ACT, MAIL], Sampling(0.5, 33, ("STOP",), seed=7))
    body = json.loads(proxy.paid[-1])
    assert (body["model"], body["temperature"], body["max_tokens"], body["stop"], body["seed"]) == (
        "tiny",
        0.5,
        33,
        ["STOP"],
        7,
    )
    assert [tool["function"]["name"] for tool in body["tools"]] == ["send"], "the command tool is spoken in words"
    assert "secret thoughts" not in proxy.paid[-1].decode()
    assert body["messages"][1]["tool_calls"][0]["id"] == body["messages"][2]["tool_call_id"] == "call_1"
    changed = model(
        limit_name="max_completion_tokens", omit=("temperature", "stream_options"), extra={"reasoning_effort": "low"}
    )
    changed.reply(ASK, [], GREEDY)
    body = json.loads(proxy.paid[-1])
    assert body["max_completion_tokens"] == 16
    assert body["reasoning_effort"] == "low"
    assert not {"max_tokens", "temperature", "stream_options", "tools"} & body.keys()


FAULTS = {
    "429": Fault(429),
    "500": Fault(500),
    "502": Fault(502),
    "503": Fault(503, (("Retry-After", "0.05"),)),
    "408": Fault(408),
    "malformed": Fault(edit=replaced(b'"choices"', b'"choices')),
    "no choices": Fault(edit=no_choices),
    "no finish": Fault(edit=replaced(b'"finish_reason": "stop"', b'"finish_reason": null')),
    "an error inside": Fault(edit=lambda reply: b'data: {"error": {"message": "overloaded"}}\n\ndata: [DONE]\n\n'),
    "wrong model": Fault(edit=replaced(b'"tiny"', b'"other"')),
    "html": Fault(edit=lambda reply: b"<html>Bad gateway</html>"),
    "nothing": Fault(edit=lambda reply: b""),
    "cut": Fault(cut=300),
    "short": Fault(cut=300, how="length"),
    "chunk": Fault(cut=300, how="chunked"),
    "reset": Fault(cut=300, how="reset"),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_tried_again_and_never_a_reply(
    proxy: FaultProxy, model: Callable[..., openai_api.OpenAiModel], name: str, stream: bool
) -> None:
    asked = model(stream=stream)
    wanted = asked.reply(ASK, [], GREEDY)
    size = len(next(iter(proxy.kept.values()))[2])
    fault = FAULTS[name]
    if fault.cut is not None:
        fault = replace(fault, cut=size // 2)
    proxy.forget()
    proxy.plan = lambda number, body: fault if number < 2 else None
    assert same(asked.reply(ASK, [], GREEDY), wanted)
    assert len(proxy.arrived) == 3
    proxy.plan = lambda number, body: fault
    with pytest.raises(InfraError, match=r"tiny at http://127.* did not answer in 3 attempts. The last: "):
        asked.reply(ASK, [], GREEDY)
    billed = [each for each in (fault,) if not each.status]
    assert (asked.tally.wasted.completion > 0) is bool(billed), "what may be billed is counted"


def same(one: Reply, other: Reply) -> bool:
    return (one.message, one.finish, one.usage) == (other.message, other.finish, other.usage)


@pytest.mark.parametrize("stream", [True, False])
def test_a_reply_cut_at_any_byte_is_not_taken(
    proxy: FaultProxy, model: Callable[..., openai_api.OpenAiModel], stream: bool
) -> None:
    """No length is promised, so that a cut looks like an end: only the reply itself can tell."""
    reading(proxy, message="é > go", usage=None)
    asked = model(stream=stream, backoff_s=0.0)
    wanted = asked.reply(ASK, [], GREEDY)
    whole = next(iter(proxy.kept.values()))[2]
    for place in range(len(whole)):
        proxy.forget()
        proxy.plan = lambda number, body, place=place: Fault(cut=place) if number == 0 else None  # type: ignore[misc]
        assert same(asked.reply(ASK, [], GREEDY), wanted), place
        ends = b"data: [DONE]\n\n" if stream else b"}"
        assert len(proxy.paid) == 2 or whole[:place].endswith(ends[:-1]), f"taken at byte {place} of {len(whole)}"


@pytest.mark.parametrize("how", ["length", "chunked", "reset"])
def test_a_stream_cut_at_many_bytes_in_other_ways(
    proxy: FaultProxy, model: Callable[..., openai_api.OpenAiModel], how: str
) -> None:
    asked = model(backoff_s=0.0)
    wanted = asked.reply(ASK, [], GREEDY)
    size = len(next(iter(proxy.kept.values()))[2])
    for place in range(0, size, 97):
        proxy.forget()
        fault = Fault(cut=place, how=how)
        proxy.plan = lambda number, body, fault=fault: fault if number == 0 else None  # type: ignore[misc]
        assert same(asked.reply(ASK, [], GREEDY), wanted)


def test_a_stall_and_a_slow_drip_end_in_time(proxy: FaultProxy, model: Callable[..., openai_api.OpenAiModel]) -> None:
    stalls, drips = model(stall_s=0.3), model(timeout_s=0.5)
    wanted = drips.reply(ASK, [], GREEDY)
    for asked, fault in ((stalls, Fault(cut=50, how="stall")), (drips, Fault(drip_s=0.02))):
        proxy.forget()
        proxy.plan = lambda number, body, fault=fault: fault if number == 0 else None  # type: ignore[misc]
        started = time.monotonic()
        reply = asked.reply(ASK, [], GREEDY)
        assert same(reply, wanted)
        assert time.monotonic() - started < 20
        assert reply.seconds < 0.3, "time lost to a stall is not the reply's"


@pytest.mark.parametrize("header", ["seconds", "milliseconds", "date"])
def test_nobody_asks_sooner_than_retry_after(
    proxy: FaultProxy, model: Callable[..., openai_api.OpenAiModel], header: str
) -> None:
    wait = 0.6
    found = {
        "seconds": ("Retry-After", str(wait)),
        "milliseconds": ("retry-after-ms", str(wait * 1000)),
        "date": ("Retry-After", formatdate(time.time() + 2, usegmt=True)),
    }[header]
    proxy.plan = lambda number, body: Fault(429, (found,)) if number == 0 else None
    asked = model(concurrency=1)
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda _: asked.reply(ASK, [], GREEDY), range(4)))
    assert {reply.message.text for reply in replies} == {TEXT}
    first, *later = [when for when, _ in proxy.arrived]
    assert min(later) - first >= (0.9 if header == "date" else wait), "the wait holds for every caller"


def test_a_wait_beyond_patience_is_not_waited_for(proxy: FaultProxy, model: Callable[..., openai_api.OpenAiModel]) -> None:
    proxy.plan = lambda number, body: Fault(429, (("Retry-After", "3600"),))
    started = time.monotonic()
    with pytest.raises(InfraError, match=r"did not answer in 1 attempts.*429"):
        model(patience_s=5).reply(ASK, [], GREEDY)
    assert time.monotonic() - started < 5


def test_so_many_in_flight_and_no_more(proxy: FaultProxy, model: Callable[..., openai_api.OpenAiModel]) -> None:
    lock, now, most = threading.Lock(), [0], [0]

    def plan(number: int, body: bytes) -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])

    def slow(body: bytes) -> bytes:
        time.sleep(0.03)
        with lock:
            now[0] -= 1
        return body

    proxy.plan = lambda number, body: plan(number, body) or Fault(edit=slow)
    asked = model(concurrency=3)
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda _: asked.reply(ASK, [], GREEDY), range(24)))
    assert 1 < most[0] <= 3
    assert (asked.tally.requests, asked.tally.replies) == (24, 24)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_is_final_and_keeps_the_key_secret(
    proxy: FaultProxy, model: Callable[..., openai_api.OpenAiModel], status: int
) -> None:
    proxy.engine = lambda body: (status, "application/json", json.dumps({"error": {"message": f"Bad key {KEY}!"}}).encode())
    asked = model()
    for _ in range(3):
        with pytest.raises(UsageError, match=f"refuses: HTTP {status}") as refused:
            asked.reply(ASK, [], GREEDY)
        assert "TINY_KEY" in str(refused.value)
        assert KEY not in str(refused.value) + repr(refused.value.__cause__)
    assert len(proxy.arrived) == 1, "a key that is refused is not tried with every episode"
    assert proxy.keys == [f"Bearer {KEY}"]


def test_other_refusals(proxy: FaultProxy, model: Callable[..., openai_api.OpenAiModel]) -> None:
    def refuses(status: int, **error: str) -> None:
        proxy.kept.clear()
        proxy.engine = lambda body: (status, "application/json", json.dumps({"error": error}).encode())

    asked = model()
    refuses(400, message="too long", code="context_length_exceeded")
    with pytest.raises(ContextFull):
        asked.reply(ASK, [], GREEDY)
    refuses(400, message="request (5000 tokens) exceeds the available context size (2048 tokens)")
    with pytest.raises(ContextFull):
        asked.reply(ASK, [], GREEDY)
    refuses(400, message="unknown field seed")
    with pytest.raises(UsageError, match="unknown field seed"):
        asked.reply(ASK, [], GREEDY)
    refuses(429, message="You exceeded your quota", code="insufficient_quota")
    proxy.forget()
    for _ in range(2):
        with pytest.raises(UsageError, match="quota"):
            asked.reply(ASK, [], GREEDY)
    assert len(proxy.arrived) == 1


@pytest.mark.parametrize(
    ("asked_for", "said", "pattern", "fits"),
    [
        ("tiny", "tiny", "", True),
        ("tiny", "tiny-2026-01-31", "", True),
        ("acme/tiny", "tiny", "", True),
        ("tiny", "", "", True),
        ("tiny", "tiny-mini", "", False),
        ("tiny", "tiny-mini", "tiny-.*", True),
    ],
)
def test_the_model_that_answers(
    proxy: FaultProxy, model: Callable[..., openai_api.OpenAiModel], asked_for: str, said: str, pattern: str, fits: bool
) -> None:
    reading(proxy, model=said)
    asked = model(remote_model=asked_for, reply_model=pattern, retries=0)
    if fits:
        assert asked.reply(ASK, [], GREEDY).message.text == TEXT
    else:
        with pytest.raises(InfraError, match="'tiny-mini' answered in its place"):
            asked.reply(ASK, [], GREEDY)


def test_an_endpoint_that_comes_back(proxy: FaultProxy, model: Callable[..., openai_api.OpenAiModel]) -> None:
    asked = model(retries=30, backoff_s=0.05)
    proxy.down()
    threading.Timer(0.4, proxy.up).start()
    assert asked.reply(ASK, [], GREEDY).message.text == TEXT
    assert asked.tally.wasted == Usage(), "where no connection was made nothing is billed"


def test_closing_wakes_who_waits(proxy: FaultProxy, model: Callable[..., openai_api.OpenAiModel]) -> None:
    proxy.plan = lambda number, body: Fault(429, (("Retry-After", "60"),))
    asked = model()
    threading.Timer(0.3, asked.close).start()
    started = time.monotonic()
    with pytest.raises(InfraError, match="closed"):
        asked.reply(ASK, [], GREEDY)
    assert time.monotonic() - started < 30


def test_a_key_is_named_not_held(model: Callable[..., openai_api.OpenAiModel], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = model()
    assert KEY not in asked.config.model_dump_json() + json.dumps(asked.provenance())
    monkeypatch.delenv("TINY_KEY")
    with pytest.raises(UsageError, match="the environment variable TINY_KEY holds no key"):
        model()
    with pytest.raises(UsageError, match="remote_model is empty"):
        model(remote_model="")
    for url in ("https://user:pass@host/v1", "https://host/v1?key=abc", "host/v1"):
        with pytest.raises(ValueError, match="base_url"):
            openai_api.Config(base_url=url)
