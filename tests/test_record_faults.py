"""The fault proxy behind the recorder: client, recorder, faults, engine. What the client gets is what the endpoint sent.

A broken reply is kept as such and never learned; once the agent has tried again, its episode is that of a clean run.

The agent is a loop around the official client, with a tool; the engine is scripted, so that every run asks for the same.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("detect_secrets", reason="detect-secrets is not installed (extra: record)")
httpx = pytest.importorskip("httpx", reason="httpx is not installed (extra: record)")
openai = pytest.importorskip("openai", reason="the client openai is not installed (extra: api)")
httpx2 = pytest.importorskip("httpx2", reason="httpx2, on which openai is built, is not installed (extra: api)")

from duomem import wire  # noqa: E402
from duomem.record import app as recorder  # noqa: E402
from duomem.record.episodes import Episode, read  # noqa: E402
from duomem.record.functions import locator  # noqa: E402
from duomem.record.proxy import Options, Proxy  # noqa: E402
from duomem.record.redact import Redactor  # noqa: E402
from duomem.record.store import FILE, RecordStore  # noqa: E402
from duomem.record.trajectories import trajectories  # noqa: E402
from duomem.types import run_hash  # noqa: E402
from fault_proxy import Fault, FaultProxy, no_choices, replaced, says  # noqa: E402

TURNS = 3
TASK = "Which city is dry?"
CITIES = ("Rome", "Oslo")
TOOL = {"type": "function", "function": {"name": "weather", "description": "The weather.", "parameters": {"type": "object"}}}
TRIES = 8


def engine(body: bytes) -> tuple[int, str, bytes]:
    """Asks for the weather of one city after the other, then answers."""
    asked = json.loads(body)
    seen = sum(message["role"] == "tool" for message in asked["messages"])
    stream = bool(asked.get("stream"))
    if seen == len(CITIES):
        return says("Oslo is dry, é€😀.", stream=stream)
    city = json.dumps({"city": CITIES[seen]})
    call = {"id": f"call_{seen}", "type": "function", "function": {"name": "weather", "arguments": city}}
    return says({"tool_calls": [call], "reasoning_content": "Hm."}, finish="tool_calls", stream=stream)


class Recorded:
    """A recorder before a fault proxy before the engine."""

    def __init__(self, faults: FaultProxy, store: RecordStore, url: str) -> None:
        self.faults, self.store, self.url = faults, store, url

    def episode(self, name: str) -> Episode:
        return read(self.store, name, self.store.outcomes().get(name))

    def log(self, name: str) -> str:
        """The content hash of what would be learned of an episode."""
        return run_hash(trajectories([self.episode(name)], "train"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    run = tmp_path_factory.mktemp("run")
    with FaultProxy(engine) as faults, RecordStore.open(run / FILE, "record") as store:
        proxy = Proxy(store, Redactor(), Options(faults.url, locator(), timeout_s=2.0))
        with recorder.running(proxy) as url:
            yield Recorded(faults, store, url)


@pytest.fixture
def made(shared: Recorded) -> Recorded:
    shared.faults.plan = lambda number, body: None
    shared.faults.forget()
    return shared


def act(made: Recorded, base: str, *, stream: bool, patience_s: float = 10.0) -> None:
    """An episode of an agent that tries again until it has a whole reply, each within its patience."""
    client = openai.OpenAI(base_url=base, api_key="sk-test", max_retries=TRIES, timeout=patience_s)
    client._calculate_retry_timeout = lambda remaining, options, headers=None: _wait(headers)
    messages: list[Any] = [{"role": "user", "content": TASK}]
    for _ in range(TURNS):
        message = _asked(client, messages, stream, patience_s)
        messages.append(message)
        for call in message.get("tool_calls", ()):
            city = json.loads(call["function"]["arguments"])["city"]
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": f"rain in {city}"})
    assert messages[-1]["content"].startswith("Oslo")


def _wait(headers: Any) -> float:
    return float(headers.get("retry-after", 0.01)) if headers else 0.01


def _asked(client: Any, messages: list[Any], stream: bool, patience_s: float) -> dict[str, Any]:
    for _ in range(TRIES):
        try:
            sent = client.chat.completions.with_streaming_response.create(
                model="tiny", messages=messages, tools=[TOOL], stream=stream
            )
            with sent as reply:
                raw = _read(reply.http_response, time.monotonic() + patience_s)
            body = _joined(raw) if stream else json.loads(raw)
            message = body["choices"][0]["message"]
            if body["model"] == "tiny" and (message.get("tool_calls") or message["content"]):
                return {"role": "assistant", **{name: message[name] for name in ("content", "tool_calls") if message.get(name)}}
        except (openai.APIError, httpx2.HTTPError, ValueError, LookupError, TimeoutError):
            continue
    raise AssertionError("no whole reply")


def _read(reply: Any, end: float) -> bytes:
    got = bytearray()
    for chunk in reply.iter_raw():
        got += chunk
        if time.monotonic() > end:
            raise TimeoutError("the agent's patience is at its end")
    return bytes(got)


def _joined(raw: bytes) -> dict[str, Any]:
    """A stream as a careful client takes it: only with its last event."""
    assembler = wire.assembler("chat")
    assembler.feed(raw)
    if not assembler.whole:
        raise ValueError(assembler.error)
    return assembler.body()


@pytest.fixture(scope="module")
def clean(shared: Recorded) -> str:
    """The content hash of the clean run, streamed or not."""
    shared.faults.plan = lambda number, body: None
    found = set()
    for stream in (True, False):
        name = f"clean-{stream}"
        act(shared, f"{shared.url}/e/{name}/v1", stream=stream)
        shared.store.judge(name, True, "test")
        assert [each.state for each in shared.episode(name).exchanges] == ["whole"] * TURNS
        found.add(shared.log(name))
    (log,) = found
    return log


FAULTS: dict[str, tuple[Fault, set[str]]] = {
    "429": (Fault(429), {"failed"}),
    "429 with Retry-After": (Fault(429, (("Retry-After", "0.05"),)), {"failed"}),
    "500": (Fault(500), {"failed"}),
    "502": (Fault(502), {"failed"}),
    "503": (Fault(503), {"failed"}),
    "reset in mid-reply": (Fault(cut=250, how="reset"), {"broken", "failed"}),
    "reset before the reply": (Fault(cut=0, how="reset"), {"broken", "failed"}),
    "cut off": (Fault(cut=250), {"broken"}),
    "fewer bytes than promised": (Fault(cut=250, how="length"), {"broken"}),
    "last chunk missing": (Fault(cut=250, how="chunked"), {"broken"}),
    "malformed JSON": (Fault(edit=replaced(b'"choices":', b'"choices"')), {"broken"}),
    "empty choices": (Fault(edit=no_choices), {"broken", "failed"}),
    "wrong model": (Fault(edit=replaced(b'"tiny"', b'"another"')), {"whole"}),
}
"""What happens, and as what it may be kept."""


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
@pytest.mark.parametrize("name", FAULTS)
def test_after_a_fault_the_episode_is_that_of_a_clean_run(made: Recorded, clean: str, name: str, stream: bool) -> None:
    fault, states = FAULTS[name]
    made.faults.plan = lambda number, body: fault if number % 2 == 0 else None
    episode = f"{name.replace(' ', '-')}-{stream}"
    act(made, f"{made.url}/e/{episode}/v1", stream=stream)
    made.store.judge(episode, True, "test")
    found = made.episode(episode)
    assert len(found.exchanges) == len(made.faults.arrived) == 2 * TURNS, "every exchange is kept"
    assert {each.state for each in found.exchanges[::2]} <= states
    assert {each.state for each in found.exchanges[1::2]} == {"whole"}
    assert (found.problem, [each.id for each in found.main[0].line]) == ("", [each.id for each in found.exchanges[1::2]])
    assert made.log(episode) == clean


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
def test_without_a_name_the_tries_are_one_episode_too(made: Recorded, clean: str, stream: bool) -> None:
    known = set(made.store.episodes())
    faults = [Fault(503), Fault(cut=200), Fault(429)]
    made.faults.plan = lambda number, body: faults[number // 2] if number % 2 == 0 else None
    act(made, f"{made.url}/v1", stream=stream)
    (name,) = set(made.store.episodes()) - known
    made.store.judge(name, True, "test")
    assert (len(made.episode(name).exchanges), made.log(name)) == (2 * TURNS, clean)


def test_an_outage_that_refuses_connections_is_made_good(made: Recorded, clean: str) -> None:
    """The endpoint is gone, then back: each refusal is an exchange without a reply, and no episode of its own."""
    asked = {"model": "tiny", "messages": [{"role": "user", "content": TASK}], "tools": [TOOL]}
    made.faults.down()
    try:
        refused = [httpx.post(f"{made.url}/e/outage/v1/chat/completions", json=asked, timeout=10) for _ in range(2)]
    finally:
        made.faults.up()
    assert [each.status_code for each in refused] == [502, 502]
    assert "gave no reply" in refused[0].json()["error"]["message"]
    act(made, f"{made.url}/e/outage/v1", stream=True)
    made.store.judge("outage", True, "test")
    found = made.episode("outage")
    assert [each.state for each in found.exchanges] == ["failed"] * 2 + ["whole"] * TURNS
    assert made.log("outage") == clean


SLOW: dict[str, tuple[Fault, float]] = {
    "stall": (Fault(cut=120, how="stall"), 0.4),
    "drip": (Fault(drip_s=0.01), 0.4),
    "the recorder's own patience": (Fault(cut=120, how="stall"), 10.0),
}


@pytest.mark.parametrize("name", SLOW)
def test_a_stall_and_a_slow_drip_are_left_and_tried_again(made: Recorded, clean: str, name: str) -> None:
    fault, patience_s = SLOW[name]
    met = iter([False, True])
    made.faults.plan = lambda number, body: fault if next(met, False) else None
    episode = "slow-" + name.replace(" ", "-").replace("'", "")
    act(made, f"{made.url}/e/{episode}/v1", stream=True, patience_s=patience_s)
    made.store.judge(episode, True, "test")
    found = made.episode(episode)
    assert [each.state for each in found.exchanges] == ["whole", "broken", "whole", "whole"]
    assert found.exchanges[1].error.startswith("the stream was cut by the ")
    assert made.log(episode) == clean


# Untouched.


def sent(base: str, body: Any) -> tuple[int, list[tuple[str, str]], bytes, str]:
    """Status, headers, bytes and the error of a plain client that reads as long as anything comes."""
    got, error = bytearray(), ""
    with httpx.stream("POST", f"{base}/chat/completions", json=body, timeout=5) as reply:
        try:
            for chunk in reply.iter_raw():
                got += chunk
        except httpx.HTTPError as cut:
            error = type(cut).__name__
    hop = ("date", "server", "transfer-encoding", "content-length", "connection")
    return reply.status_code, [each for each in reply.headers.multi_items() if each[0] not in hop], bytes(got), error


UNTOUCHED = [name for name in FAULTS if FAULTS[name][0].status or FAULTS[name][0].edit]


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
@pytest.mark.parametrize("name", UNTOUCHED)
def test_what_the_endpoint_sends_reaches_the_client_as_it_was(made: Recorded, name: str, stream: bool) -> None:
    made.faults.plan = lambda number, body: FAULTS[name][0]
    body = {"model": "tiny", "messages": [{"role": "user", "content": TASK}], "stream": stream}
    assert sent(f"{made.url}/e/untouched/v1", body) == sent(made.faults.url, body)


def test_a_stream_cut_anywhere_is_cut_there_for_the_client_and_never_whole(made: Recorded) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": TASK}], "stream": True}
    whole = engine(json.dumps(body).encode())[2]
    last = whole.index(b"[DONE]") + len(b"[DONE]")
    cuts = [*range(0, last, len(whole) // 12), last - 1]
    for number, cut in enumerate(cuts):
        how = ("close", "length", "chunked")[number % 3]
        made.faults.plan = lambda number, body, cut=cut, how=how: Fault(cut=cut, how=how)  # type: ignore[misc]
        status, _, got, error = sent(f"{made.url}/e/cuts/v1", body)
        assert (status, got) == (200, whole[:cut])
        assert bool(error) == (how != "close"), "what looks like an end is passed on as one, what does not is cut"
    exchanges = made.episode("cuts").exchanges
    assert [each.state for each in exchanges] == ["broken"] * len(cuts)
    made.store.judge("cuts", True, "test")
    assert trajectories([made.episode("cuts")], "train") == []


def test_no_prefix_of_a_stream_is_whole() -> None:
    """Every byte: what the recorder takes for a whole reply is one."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": TASK}], "stream": True}
    whole = engine(json.dumps(body).encode())[2]
    last = whole.index(b"[DONE]") + len(b"[DONE]")
    assembler = wire.assembler("chat")
    for at in range(last):
        assert not assembler.whole, f"whole after {at} of {len(whole)} bytes"
        assembler.feed(whole[at : at + 1])
    assembler.feed(whole[last:])
    assert assembler.whole


def test_an_agent_that_goes_on_from_a_broken_reply_teaches_nothing(made: Recorded) -> None:
    """Each fault's reply is taken by a careless agent as if all were well."""
    for name in ("cut off", "fewer bytes than promised", "last chunk missing"):
        episode = f"careless-{name.replace(' ', '-')}"
        base = f"{made.url}/e/{episode}/v1"
        body: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": TASK}], "stream": True}
        fault = Fault(cut=700, how=FAULTS[name][0].how)
        made.faults.plan = lambda number, body, fault=fault: fault  # type: ignore[misc]
        _, _, got, _ = sent(base, body)
        assembler = wire.assembler("chat")
        assembler.feed(got)
        calls = assembler.body()["choices"][0]["message"]["tool_calls"]
        body["messages"] += [{"role": "assistant", "content": None, "tool_calls": calls}]
        body["messages"] += [{"role": "tool", "tool_call_id": calls[0]["id"], "content": "rain"}]
        made.faults.plan = lambda number, body: None
        sent(base, body)
        made.store.judge(episode, True, "test")
        found = made.episode(episode)
        assert ("cut" in found.problem, trajectories([found], "train")) == (True, [])


def test_a_turn_that_another_model_answered_teaches_nothing(made: Recorded) -> None:
    made.faults.plan = lambda number, body: FAULTS["wrong model"][0] if number == 0 else None
    body: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": TASK}]}
    base = f"{made.url}/e/stranger/v1"
    message = json.loads(sent(base, body)[2])["choices"][0]["message"]
    call = message["tool_calls"][0]["id"]
    body["messages"] += [message, {"role": "tool", "tool_call_id": call, "content": "rain"}]
    sent(base, body)
    made.store.judge("stranger", True, "test")
    found = made.episode("stranger")
    assert "'another' answered exchange" in found.problem
    assert trajectories([found], "train") == []
