"""The recorder between real clients and an endpoint: bytes untouched, everything journalled first, breaks recorded as such."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("detect_secrets", reason="detect-secrets is not installed (extra: record)")
anthropic = pytest.importorskip("anthropic", reason="the client anthropic is not installed (extra: dev)")
httpx = pytest.importorskip("httpx", reason="httpx is not installed (extra: record)")
openai = pytest.importorskip("openai", reason="the client openai is not installed (extra: api)")

from duomem import wire  # noqa: E402
from duomem.errors import StoreError  # noqa: E402
from duomem.record import app as recorder  # noqa: E402
from duomem.record.episodes import Episode  # noqa: E402
from duomem.record.store import FILE, RecordStore  # noqa: E402
from duomem.types import Message  # noqa: E402
from duomem.wire import Api  # noqa: E402
from recorded_world import KEY, Endpoint, World, body_of, serving, until, world  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
APIS: tuple[Api, ...] = ("chat", "responses", "messages")
USER = (Message.of("user", "Which way to the café?"),)
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CHAT_TOOL = {"type": "function", "function": {"name": "weather", "description": "The weather.", "parameters": WEATHER}}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One recorder for the tests that name their own episodes."""
    with world(tmp_path_factory.mktemp("shared")) as made:
        yield made


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path / "run") as made:
        yield made


def post(url: str, api: Api, body: Any = None, **headers: str) -> Any:
    sent = {"authorization": f"Bearer {KEY}", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return httpx.post(url + wire.PATHS[api], json=body_of(api, USER) if body is None else body, headers=sent, timeout=20)


def drain(url: str, body: Any, headers: dict[str, str], got: bytearray) -> None:
    """Stream a reply into `got`."""
    with httpx.stream("POST", url, json=body, headers=headers) as reply:
        for chunk in reply.iter_raw():
            got += chunk


def chat_client(made: World, episode: str = "", **more: Any) -> Any:
    base = f"{made.url}/e/{episode}/v1" if episode else made.openai
    return openai.OpenAI(base_url=base, api_key=KEY, max_retries=0, **more)


# Untouched.


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("stream", [False, True])
def test_bytes_pass_untouched_in_both_directions(shared: World, api: Api, stream: bool) -> None:
    body = body_of(api, USER, stream=stream, strange={"field": [1, "é"]})
    headers = {"x-number": "7", "x-custom": "kept", "authorization": f"Bearer {KEY}", "x-duomem-episode": f"raw-{api}-{stream}"}
    path = f"{wire.PATHS[api]}?a=1&b=%20x"
    raw = json.dumps(body, indent=1).encode()
    kind = {"content-type": "application/json"}
    direct = httpx.post(shared.endpoint.url + path, content=raw, headers={**headers, **kind})
    before = shared.endpoint.seen[-1]
    through = httpx.post(shared.url + path, content=raw, headers={**headers, **kind})
    after = shared.endpoint.seen[-1]
    assert (through.status_code, through.content) == (direct.status_code, direct.content)
    hop = ("date", "server", "transfer-encoding", "content-length", "connection")
    assert [each for each in through.headers.multi_items() if each[0] not in hop] == [
        each for each in direct.headers.multi_items() if each[0] not in hop
    ]
    assert (after["body"], after["path"], after["query"]) == (raw, before["path"], "a=1&b=%20x")
    assert {name: value for name, value in after["headers"].items() if name not in ("host", "accept-encoding")} == {
        name: value
        for name, value in before["headers"].items()
        if name not in ("host", "accept-encoding", "connection") and not name.startswith("x-duomem")
    }


def test_the_openai_client_sees_no_difference_and_all_of_it_is_recorded(shared: World) -> None:
    asked: dict[str, Any] = {
        "model": "big",
        "messages": [{"role": "user", "content": "Weather?"}],
        "tools": [CHAT_TOOL],
        "n": 2,
    }
    number = {"x-number": "1"}
    direct = openai.OpenAI(base_url=shared.endpoint.url + "/v1", api_key=KEY)
    client = chat_client(shared, "openai-chat")
    wanted = direct.chat.completions.create(**asked, extra_headers=number)
    found = client.chat.completions.create(**asked, extra_headers=number)
    assert found.model_dump() == wanted.model_dump()
    streamed = [chunk.model_dump() for chunk in client.chat.completions.create(**asked, stream=True, extra_headers=number)]
    assert streamed == [
        chunk.model_dump() for chunk in direct.chat.completions.create(**asked, stream=True, extra_headers=number)
    ]
    whole, stream = shared.episode("openai-chat").exchanges
    assert whole.answer == stream.answer
    assert whole.answer is not None
    assert len(whole.answer.replies) == 2
    reply = whole.answer.replies[1]
    assert [call.arguments for call in reply.message.tool_calls] == ['{"city": "Rome"}', '{"city": "Oslo"}']
    assert (reply.message.reasoning, reply.finish) == ("Two cities.", "tool_calls")
    assert [tool.name for tool in whole.tools] == ["weather"]
    assert whole.answer.replies[0].usage.prompt > 0
    assert 0 < whole.first_byte <= whole.seconds < 30


def test_responses_of_the_openai_client_are_recorded_as_one_conversation(shared: World) -> None:
    client = chat_client(shared, "openai-responses")
    tool = {"type": "function", "name": "weather", "parameters": WEATHER, "strict": False}
    first = client.responses.create(model="big", instructions="Be brief.", input="Weather?", tools=[tool])
    calls = [item for item in first.output if item.type == "function_call"]
    assert len(calls) == 2
    results = [
        {"type": "function_call_output", "call_id": call.call_id, "output": f"rain {index}"} for index, call in enumerate(calls)
    ]
    with client.responses.stream(model="big", input=results, tools=[tool], previous_response_id=first.id) as stream:
        last = stream.get_final_response()
    assert last.output_text.startswith("reply 0 to rain 1")
    episode = shared.episode("openai-responses")
    assert [each.state for each in episode.exchanges] == ["whole", "whole"]
    assert (episode.task, episode.turns, episode.problem) == ("Weather?", 2, "no outcome")
    assert [message.role for message in episode.messages] == ["user", "assistant", "tool", "tool", "assistant"]


def test_the_anthropic_client_streams_and_calls_tools_through_it(shared: World) -> None:
    client = anthropic.Anthropic(base_url=f"{shared.url}/e/claude", api_key=KEY, max_retries=0)
    asked: dict[str, Any] = {
        "model": "big",
        "max_tokens": 99,
        "system": "Be brief.",
        "tools": [{"name": "weather", "description": "d", "input_schema": WEATHER}],
    }
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Weather?"}]
    with client.messages.stream(messages=messages, **asked) as stream:
        first = stream.get_final_message()
    uses = [block for block in first.content if block.type == "tool_use"]
    assert [use.input for use in uses] == [{"city": "Rome"}, {"city": "Oslo"}]
    results = [{"type": "tool_result", "tool_use_id": use.id, "content": "sun"} for use in uses]
    messages += [
        {"role": "assistant", "content": [block.model_dump() for block in first.content]},
        {"role": "user", "content": results},
    ]
    last = client.messages.create(messages=messages, **asked)
    assert last.content[-1].text.startswith("reply 0 to sun")
    episode = shared.episode("claude")
    assert (episode.task, episode.turns, len(episode.trees)) == ("Weather?", 2, 1)
    assert [message.role for message in episode.messages] == ["system", "user", "assistant", "tool", "tool", "assistant"]


def test_what_is_no_model_call_passes_and_is_not_recorded(fresh: World) -> None:
    found = httpx.get(fresh.url + "/v1/models?limit=3", headers={"x-a": "b"})
    assert (found.status_code, found.json()["object"]) == (200, "list")
    assert (fresh.endpoint.seen[-1]["path"], fresh.endpoint.seen[-1]["query"]) == ("/v1/models", "limit=3")
    assert fresh.store.episodes() == []


def test_a_compressed_reply_passes_as_it_is_and_is_read(shared: World) -> None:
    found = post(shared.url, "chat", x_fault="gzip", x_duomem_episode="gzip")
    assert found.headers["content-encoding"] == "gzip"
    assert found.json()["choices"]
    (exchange,) = shared.episode("gzip").exchanges
    assert exchange.state == "whole"


def test_upstream_paths_stand_where_the_agents_base_url_stood() -> None:
    from duomem.record._http import target

    cases = {
        ("https://api.openai.com/v1", "/v1/chat/completions"): "https://api.openai.com/v1/chat/completions",
        ("https://api.openai.com", "/v1/responses"): "https://api.openai.com/v1/responses",
        ("https://router.example/api/v1/", "/v1/chat/completions"): "https://router.example/api/v1/chat/completions",
        ("https://g.example/v1beta/openai/", "/v1/models"): "https://g.example/v1beta/openai/models",
        ("https://api.anthropic.com", "/v1/messages"): "https://api.anthropic.com/v1/messages",
        ("https://x.example/anthropic", "/v1/messages"): "https://x.example/anthropic/v1/messages",
        ("https://x.example/v1", "/v1/messages/count_tokens"): "https://x.example/v1/messages/count_tokens",
    }
    assert {case: target(*case, "") for case in cases} == cases


# Journalled first.


def test_chunks_arrive_as_they_come_and_the_last_one_only_when_all_is_on_disk(shared: World) -> None:
    body = body_of("chat", USER, stream=True)
    headers = {"x-fault": "slow", "x-duomem-episode": "slow"}
    times: list[float] = []
    state = ""
    with httpx.stream("POST", shared.openai + "/chat/completions", json=body, headers=headers) as reply:
        for chunk in reply.iter_raw():
            times.append(time.monotonic())
            if chunk.startswith(b"data: [DONE]"):
                (exchange,) = shared.episode("slow").exchanges
                state = exchange.state
    assert state == "whole"
    assert times[-1] - times[0] > 0.3, "the stream was held back"


def test_a_reply_that_cannot_be_journalled_is_not_handed_back(fresh: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise StoreError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(fresh.store, "end", full)
        refused = post(fresh.url, "chat")
        assert (refused.status_code, "journalled" in refused.json()["error"]["message"]) == (503, True)
        with pytest.raises(httpx.RemoteProtocolError):
            post(fresh.url, "chat", body_of("chat", USER, stream=True))
    seen = len(fresh.endpoint.seen)
    monkeypatch.setattr(fresh.store, "begin", full)
    assert post(fresh.url, "messages").status_code == 503
    assert len(fresh.endpoint.seen) == seen, "a request was sent on that is not journalled"


@pytest.mark.parametrize("api", APIS)
def test_a_stream_that_the_endpoint_cuts_is_broken_for_the_client_and_on_disk(shared: World, api: Api) -> None:
    whole = b"".join(wire.write_stream(api, wire.read_answer(api, post(shared.url, api, x_number="5").json())))
    name = f"cut-{api}"
    cuts = range(1, len(whole), max(1, len(whole) // 12))
    for cut in cuts:
        headers = {"x-fault": f"cut:{cut}", "x-duomem-episode": name, "x-number": "5"}
        got = bytearray()
        with pytest.raises(httpx.RemoteProtocolError):
            drain(shared.url + wire.PATHS[api], body_of(api, USER, stream=True), headers, got)
        assert len(got) == cut
    episode = shared.episode(name)
    assert [each.state for each in episode.exchanges] == ["broken"] * len(cuts)
    assert all("cut by the endpoint" in each.error for each in episode.exchanges)
    assert "was cut" in episode.problem


def test_a_stream_without_its_last_event_is_broken_though_it_ends_cleanly(shared: World) -> None:
    found = post(shared.url, "chat", body_of("chat", USER, stream=True), x_fault="short:200", x_duomem_episode="short")
    assert len(found.content) == 200
    (exchange,) = shared.episode("short").exchanges
    assert (exchange.state, "its last event is missing" in exchange.error) == ("broken", True)


def test_a_client_that_leaves_a_stream_stops_the_endpoint_and_is_recorded(shared: World) -> None:
    cancelled = shared.endpoint.cancelled
    body = body_of("chat", USER, stream=True)
    headers = {"x-fault": "slow", "x-duomem-episode": "left"}
    with httpx.stream("POST", shared.openai + "/chat/completions", json=body, headers=headers) as reply:
        next(reply.iter_raw())
    until(lambda: shared.episode("left").exchanges[0].state != "open")
    (exchange,) = shared.episode("left").exchanges
    assert (exchange.state, "cut by the client" in exchange.error) == ("broken", True)
    until(lambda: shared.endpoint.cancelled > cancelled)


def test_a_reply_that_was_paid_for_is_kept_though_its_client_has_left(shared: World) -> None:
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            shared.openai + "/chat/completions",
            json=body_of("chat", USER),
            headers={"x-fault": "slow", "x-duomem-episode": "late"},
            timeout=0.08,
        )
    until(lambda: shared.episode("late").exchanges and shared.episode("late").exchanges[0].state != "open")
    (exchange,) = shared.episode("late").exchanges
    assert (exchange.state, exchange.delivered) == ("whole", False)


def test_errors_of_the_endpoint_pass_and_are_kept_apart(shared: World) -> None:
    limited = post(shared.url, "chat", x_fault="429", x_duomem_episode="errors")
    assert (limited.status_code, limited.headers["retry-after"]) == (429, "3")
    garbled = post(shared.url, "chat", x_fault="text:{oops", x_duomem_episode="errors")
    assert (garbled.status_code, garbled.content) == (200, b"{oops")
    empty = post(shared.url, "chat", x_fault='text:{"choices": []}', x_duomem_episode="errors")
    assert empty.json() == {"choices": []}
    unread = httpx.post(
        shared.openai + "/chat/completions", content=b"not json", headers={"x-fault": "400", "x-duomem-episode": "errors"}
    )
    assert unread.status_code == 400
    exchanges = shared.episode("errors").exchanges
    assert [each.state for each in exchanges] == ["failed", "broken", "failed", "failed"]
    assert [each.status for each in exchanges] == [429, 200, 200, 400]
    assert KEY not in exchanges[0].error
    assert "told to fail" in exchanges[0].error


def test_an_endpoint_that_is_not_there_is_an_error_of_its_own(tmp_path: Path) -> None:
    from duomem.record.functions import locator
    from duomem.record.proxy import Options, Proxy
    from duomem.record.redact import Redactor

    listener = recorder.bind("127.0.0.1", 0)
    nowhere = f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.close()
    with RecordStore.open(tmp_path / FILE, "record") as store:
        proxy = Proxy(store, Redactor(), Options(nowhere, locator()))
        with recorder.running(proxy) as url:
            refused = post(url, "messages")
        assert refused.status_code == 502
        assert refused.json()["type"] == "error"
        (name,) = store.episodes()
        assert store.exchanges(name)[0].state == "failed"


def test_many_at_once_are_all_there_once(fresh: World) -> None:
    def ask(number: int) -> int:
        body = body_of("chat", (Message.of("user", f"task {number}"),), stream=number % 2 == 0)
        found = post(f"{fresh.url}/e/ep-{number % 8}", "chat", body)
        return int(found.status_code)

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(ask, range(48))) == {200}
    states = [each.state for name in fresh.store.episodes() for each in fresh.store.exchanges(name)]
    assert states == ["whole"] * 48
    assert sorted(fresh.store.episodes()) == [f"ep-{number}" for number in range(8)]


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-c", "from duomem.cli import main; main()", *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "NO_COLOR": "1", "COLUMNS": "200", "OMP_NUM_THREADS": "1"}


def duomem(*arguments: str | Path) -> Any:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=120, env=environment())


class Child:
    """`duomem record` as a process of its own, on a free port."""

    def __init__(self, run: Path, upstream: str, *more: str) -> None:
        line = command("record", "--run", run, "--upstream", upstream, "--port", "0", "--json", *more)
        self.process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
        assert self.process.stderr
        said = self.process.stderr.readline()
        self.url = said.partition("clients: ")[2].partition("/v1")[0]
        assert self.url, said + self.process.stderr.read()
        until(self._up, 30)

    def _up(self) -> bool:
        try:
            return bool(httpx.get(self.url + "/duomem/health").is_success)
        except httpx.HTTPError:
            return False


def test_the_command_records_and_survives_being_killed(tmp_path: Path) -> None:
    endpoint, run = Endpoint(), tmp_path / "run"
    with serving(endpoint) as upstream:
        child = Child(run, upstream + "/v1")
        assert post(child.url, "chat", x_duomem_episode="a").status_code == 200
        slow = {"x-fault": "slow", "x-duomem-episode": "a"}
        with httpx.stream(
            "POST", child.url + "/v1/messages", json=body_of("messages", USER, stream=True), headers=slow
        ) as reply:
            pieces = reply.iter_raw()  # held: an iterator that is let go closes the stream
            next(pieces)
            child.process.kill()
            child.process.wait()
        child = Child(run, upstream + "/v1")
        refused = duomem("record", "--run", run, "--upstream", upstream, "--port", "0")
        assert (refused.returncode, "Another process" in refused.stderr) == (4, True)
        assert post(child.url, "chat", x_duomem_episode="b").status_code == 200
        judged = duomem("outcome", run, "b", "--won", "--note", "by hand")  # while it records
        assert judged.returncode == 0, judged.stderr
        child.process.send_signal(signal.SIGINT)
        out, err = child.process.communicate(timeout=30)
    assert child.process.returncode == 0, err
    rows = {row["episode"]: row for row in json.loads(out)["episodes"]}
    assert (rows["a"]["exchanges"], rows["a"]["broken"], rows["b"]["outcome"]) == (2, 1, "won")
    listed = json.loads(duomem("episodes", run, "--json").stdout)
    assert listed["usable"] == 1
    shown = duomem("episodes", run, "a")
    assert "the recorder ended before the reply did" in shown.stdout


def ask_until_it_dies(url: str, worker: int, got: list[str]) -> None:
    """Keep the ids of the replies that came whole; every second one is a stream."""
    for number in range(1000):
        task = (Message.of("user", f"task {worker}-{number}"),)
        assembler = wire.assembler("chat")
        try:
            if number % 2:
                got.append(post(url, "chat", body_of("chat", task)).json()["id"])
                continue
            with httpx.stream("POST", url + "/v1/chat/completions", json=body_of("chat", task, stream=True)) as reply:
                for chunk in reply.iter_raw():
                    assembler.feed(chunk)
        except httpx.HTTPError:
            return
        finally:
            if assembler.whole:
                got.append(assembler.body()["id"])


def test_what_an_agent_has_got_is_on_disk_however_the_recorder_ends(tmp_path: Path) -> None:
    got: list[str] = []
    dice = random.Random(5)
    with serving(Endpoint()) as upstream, ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            child = Child(tmp_path, upstream + "/v1")
            work = [pool.submit(ask_until_it_dies, child.url, worker, got) for worker in range(4)]
            enough = len(got) + dice.randint(5, 20)
            until(lambda enough=enough: len(got) >= enough, 60)
            child.process.kill()
            child.process.wait()
            for each in work:
                each.result(30)
    with RecordStore.open(tmp_path / FILE, "record") as store:
        exchanges = [each for name in store.episodes() for each in store.exchanges(name)]
    whole = [each.answer.id for each in exchanges if each.state == "whole" and each.answer]
    assert len(got) >= 15
    assert set(got) <= set(whole), "a reply was handed back that is not on disk"
    assert len(whole) == len(set(whole))
    assert len(exchanges) - len(got) <= 3 * 4, "more is cut than was under way"


def test_the_page_on_recording_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block of docs/record.md is run in its order, with the small endpoint in the place of the paid one."""
    blocks = re.findall(r"```(sh|python|toml)\n(.*?)```", (ROOT / "docs/record.md").read_text(), re.S)
    kinds = [kind for kind, _ in blocks]
    assert kinds == ["sh", "python", "sh", "toml"]
    (tmp_path / "mine.toml").write_text(blocks[3][1])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    endpoint = Endpoint()
    with serving(endpoint) as upstream:
        words = shlex.split(blocks[0][1])
        assert words[:4] == ["duomem", "record", "--upstream", "https://api.openai.com/v1"]
        child = Child(Path(words[words.index("--run") + 1]), upstream + "/v1")
        exec(blocks[1][1].replace("http://127.0.0.1:4141", child.url), {})
        for line in blocks[2][1].splitlines():
            done = duomem(*shlex.split(line)[1:])
            assert done.returncode == 0, f"{line}: {done.stderr}"
        child.process.send_signal(signal.SIGINT)
        out, err = child.process.communicate(timeout=30)
    assert child.process.returncode == 0, err
    (row,) = json.loads(out)["episodes"]
    assert (row["episode"], row["turns"], row["outcome"], row["usable"]) == ("booking-1", 2, "won", True)
    steps = json.loads((tmp_path / "runs/mine/steps.json").read_text())
    assert steps["remember"]["result"]["memories"] == 1


# Episodes, tasks, outcomes over HTTP.


def test_episodes_by_header_and_by_a_field_of_the_body(tmp_path: Path) -> None:
    with world(tmp_path / "run", conversation="metadata.user_id") as made:
        post(made.url, "chat", x_duomem_episode="by-header")
        post(made.url, "messages", body_of("messages", USER, metadata={"user_id": "session 9/x"}))
        assert made.store.episodes() == ["by-header", "session_9_x"]
        bad = post(made.url, "chat", x_duomem_episode="no/slash")
        assert (bad.status_code, len(made.store.episodes())) == (400, 2)


def test_outcomes_by_post_by_reply_by_header_and_by_url(fresh: World) -> None:
    client = chat_client(fresh)
    said = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "one"}])
    auto = fresh.only().id
    for body in ({"reply": said.id, "won": True, "score": 0.5, "note": f"key {KEY}"},):
        assert httpx.post(fresh.url + "/duomem/outcome", json=body).json() == {"episode": auto, "won": True}
    outcome = fresh.episode(auto).outcome
    assert outcome is not None
    assert (outcome.won, outcome.score, outcome.source, KEY in outcome.note) == (True, 0.5, "post", False)
    assert fresh.episode(auto).usable
    httpx.post(f"{fresh.url}/duomem/outcome", json={"episode": auto, "won": False})
    assert fresh.episode(auto).problem == "lost"
    post(fresh.url, "chat", x_duomem_episode="two", x_duomem_outcome="lost")
    assert fresh.episode("two").problem == "lost"
    assert httpx.post(f"{fresh.url}/e/two/duomem/outcome", json={"won": True}).json() == {"episode": "two", "won": True}
    assert fresh.episode("two").usable
    for body, status in (({"won": True, "episode": "nobody"}, 404), ({"won": True}, 404), ({"win": True}, 422), ("x", 422)):
        assert httpx.post(f"{fresh.url}/duomem/outcome", json=body).status_code == status
    assert httpx.post(f"{fresh.url}/duomem/outcome", content='{"won": true}').status_code == 415
    assert post(fresh.url, "chat", x_duomem_outcome="perhaps").status_code == 400


def test_a_function_judges_what_is_finished(tmp_path: Path) -> None:
    notes: list[str] = []

    def judge(episode: Episode) -> bool | None:
        if "fails" in episode.task:
            raise RuntimeError("no idea")
        return None if "unknown" in episode.task else "good" in episode.messages[-1].text

    service = recorder.Service(judge, idle_s=0.2, note=notes.append)
    with world(tmp_path / "run", service=service) as made:
        for name in ("good", "bad", "unknown", "fails"):
            post(f"{made.url}/e/{name}", "chat", body_of("chat", (Message.of("user", f"{name} task"),)))
        until(lambda: set(made.store.outcomes()) == {"good", "bad"} and notes)
        time.sleep(0.5)
        assert (made.episode("good").usable, made.episode("bad").problem) == (True, "lost")
        assert made.episode("fails").problem == "no outcome"
        assert [note.partition(":")[0] for note in notes] == ["The judge failed on episode fails"]


def test_an_outcome_that_cannot_be_kept_is_told_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    keep, failures = RecordStore.judge, iter([StoreError("the disk is full")])

    def judge(self: RecordStore, *said: Any) -> None:
        for failure in failures:
            raise failure
        keep(self, *said)

    monkeypatch.setattr(recorder, "TICK_S", 0.02)
    service = recorder.Service(lambda episode: True, idle_s=0.02, note=notes.append)
    with world(tmp_path / "run", service=service) as made:
        monkeypatch.setattr(RecordStore, "judge", judge)
        post(made.url, "chat")
        until(lambda: bool(made.store.outcomes()))
    assert notes == ["An outcome could not be kept: the disk is full"]


def test_only_this_machine_and_only_its_own_pages_are_let_in(tmp_path: Path) -> None:
    with world(tmp_path / "run", service=recorder.Service(key="open sesame")) as made:
        assert post(made.url, "messages").status_code == 401
        assert post(made.url, "chat", x_duomem_key="open sesame").status_code == 200
        assert post(made.url, "chat", x_duomem_key="open sesame", origin="https://evil.example").status_code == 403
        assert "x-duomem-key" not in made.endpoint.seen[-1]["headers"]
    refused = duomem("record", "--run", tmp_path / "other", "--upstream", "http://127.0.0.1:1/v1", "--host", "0.0.0.0")
    assert (refused.returncode, "DUOMEM_RECORD_KEY" in refused.stderr) == (2, True)
    secret = duomem("record", "--run", tmp_path / "other", "--upstream", "http://me:pass@127.0.0.1:1/v1")
    assert (secret.returncode, (tmp_path / "other").exists()) == (2, False)


def test_what_is_no_path_of_ours_goes_nowhere(fresh: World) -> None:
    assert httpx.post(fresh.url + "/duomem/outcome/", json={"won": True}).status_code == 404
    address = fresh.url.removeprefix("http://").split(":")
    with socket.create_connection((address[0], int(address[1])), timeout=10) as wire_:
        wire_.sendall(b"GET @127.0.0.1/v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer x\r\n\r\n")
        assert wire_.recv(100).startswith(b"HTTP/1.1 4")
    assert fresh.endpoint.seen == []


def test_a_locator_that_fails_does_not_stop_the_agent(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def find(messages):\n    return 1 / 0\n")
    with world(tmp_path / "run", task=f"python:{file}:find") as made:
        assert post(made.url, "chat").status_code == 200
        why = "the task locator failed: ZeroDivisionError: division by zero"
        assert made.only().problem == why
        made.store.judge(made.only().id, True, "test")
        assert made.only().problem == why, "nothing can be learned without a task"
    shown = duomem("episodes", tmp_path / "run")
    assert why in shown.stdout


def test_a_large_request_is_refused(tmp_path: Path) -> None:
    with world(tmp_path / "run", max_body=2000) as made:
        found = post(made.url, "messages", body_of("messages", (Message.of("user", "x" * 3000),)))
        assert (found.status_code, found.json()["error"]["type"]) == (413, "request_too_large")
        assert made.endpoint.seen == []


# Secrets.


def test_no_secret_reaches_the_disk_and_the_conversation_stays_one(tmp_path: Path) -> None:
    secrets = ["AKIAIOSFODNN7EXAMPLE", "hunter2-9x", "ghp_" + "a1B2" * 9, "CUSTOMER-4711-9", "xoxb-12345678901-abcdefghij"]
    secrets.append("MIIEowIBAAKCAQEA0Z3VS5JJcds3xfn")
    pem = f"-----BEGIN RSA PRIVATE KEY-----\n{secrets[-1]}\n-----END RSA PRIVATE KEY-----"
    told = f'id {secrets[0]}, password = "{secrets[1]}", {secrets[2]} for {secrets[3]} and {secrets[4]}\n{pem}\nmy key is {KEY}'
    with world(tmp_path / "run", redact=(r"CUSTOMER-[\d-]+",)) as made:
        client = chat_client(made, default_query={"api_key": "query-secret-value"})
        messages: list[dict[str, Any]] = [{"role": "user", "content": told}]
        for _ in range(3):
            said = client.chat.completions.create(model="m", messages=messages).choices[0].message
            assert secrets[0].encode() in made.endpoint.seen[-1]["body"], "the endpoint has to see all of it"
            messages += [said.model_dump(exclude_none=True), {"role": "user", "content": f"again: {secrets[0]}"}]
            calls = [
                {"id": "c", "type": "function", "function": {"name": "f", "arguments": json.dumps({"password": secrets[1]})}}
            ]
            messages += [
                {"role": "assistant", "content": None, "tool_calls": calls},
                {"role": "tool", "tool_call_id": "c", "content": "ok"},
            ]
        assert made.endpoint.seen[-1]["headers"]["authorization"] == f"Bearer {KEY}"
        disk = made.disk()
        for secret in (*secrets, KEY, KEY[3:], "query-secret-value"):
            assert secret.encode() not in disk, secret
        episode = made.only()
        assert episode.turns == 3
        assert "[redacted:aws access key]" in episode.task


def test_ordinary_text_is_left_alone() -> None:
    from duomem.record.redact import Redactor

    redactor = Redactor()
    redactor.learn("anything")  # what people give to a local engine that asks for a key
    plain = [
        "Do anything you like.",
        "You are in the middle of a room. You see a cabinet 4, a keychain 2 and a safe 1.",
        "The key to success is practice; the secret: patience. The password field is empty.",
        '{"id": "call_0123456789abcdef0123456789abcdef", "name": "f", "token_count": 12345678}',
        "commit 468cb3a0b1c2d3e4f5061728394a5b6c7d8e9f00 max_tokens=4096 uuid 123e4567-e89b-12d3-a456-426614174000",
    ]
    assert [redactor.text(text) for text in plain] == plain
    assert redactor.value({"max_tokens": 5, "messages": [{"content": plain[0]}]}) == {
        "max_tokens": 5,
        "messages": [{"content": plain[0]}],
    }


def test_a_pattern_that_is_none_is_refused() -> None:
    from duomem.errors import UsageError
    from duomem.record.redact import Redactor

    with pytest.raises(UsageError, match="regular expression"):
        Redactor(["("])
