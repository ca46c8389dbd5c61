"""What clients of the three APIs see: answers, tools, forms, errors in their own shape; and who is kept out."""

from __future__ import annotations

import json
import socket
import threading
import time
from dataclasses import replace
from typing import Any

import httpx
import pytest

import serve_world
from duomem.models.scripted import Scripted
from duomem.record.functions import Locator
from duomem.serve.limits import Keys, Limits
from duomem.types import Message, Reply, Sampling, TextPart, ToolCall, Usage

pytest.importorskip("uvicorn", reason="needs the extra 'record'")
pytest.importorskip("prometheus_client", reason="needs the extra 'serve'")
openai = pytest.importorskip("openai", reason="needs the extra 'api'")
anthropic = pytest.importorskip("anthropic", reason="needs anthropic's client")

ASK: list[Any] = [{"role": "user", "content": "put a mug on the desk"}]
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


class Listening:
    """A model that keeps what it was asked: messages, tools, sampling."""

    context = 4096

    def __init__(self, reply: Reply | None = None) -> None:
        said = Message("assistant", (TextPart("It is done."),), reasoning="Let me see.")
        self.made = reply or Reply(said, usage=Usage(20, 5, 7))
        self.asked: list[tuple[tuple[Message, ...], tuple[Any, ...], Sampling, str]] = []

    def reply(self, messages: Any, tools: Any, sampling: Sampling, owner: str, call: bool = False) -> Reply:
        self.asked.append((tuple(messages), tuple(tools), sampling, owner))
        return self.made

    def close(self) -> None:
        pass


def client(url: str, key: str = "none") -> Any:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


def claude(url: str, key: str = "none") -> Any:
    return anthropic.Anthropic(base_url=url, api_key=key, max_retries=0)


def calling(name: str = "weather") -> Reply:
    calls = (ToolCall(name, '{"city": "Rome"}', "call_1"), ToolCall(name, '{"city": "Oslo"}', "call_2"))
    return Reply(Message("assistant", (), calls), "tool_calls", Usage(30, 10, 9))


def test_chat_completions() -> None:
    with serve_world.serving(Listening()) as (url, _):
        done = client(url).chat.completions.create(model="any", messages=ASK)
        assert done.choices[0].message.content == "It is done."
        assert done.choices[0].message.reasoning_content == "Let me see."
        assert (done.usage.prompt_tokens, done.usage.prompt_tokens_details.cached_tokens, done.usage.completion_tokens) == (
            20,
            5,
            7,
        )
        assert abs(done.created - time.time()) < 60
        plain = list(client(url).chat.completions.create(model="any", messages=ASK, stream=True))
        assert all(chunk.choices for chunk in plain), "a chunk without choices breaks loops that did not ask for counts"
        counted = list(
            client(url).chat.completions.create(model="any", messages=ASK, stream=True, stream_options={"include_usage": True})
        )
        assert counted[-1].usage.prompt_tokens == 20
        several = client(url).chat.completions.create(model="any", messages=ASK, n=3, temperature=1.0)
        assert len(several.choices) == 3


def test_responses() -> None:
    with serve_world.serving(Listening()) as (url, _):
        done = client(url).responses.create(model="any", input="put a mug on the desk", instructions="Be brief.")
        assert done.output_text == "It is done."
        assert (done.usage.input_tokens, done.usage.input_tokens_details.cached_tokens) == (20, 5)
        with client(url).responses.stream(model="any", input="put a mug on the desk") as stream:
            assert stream.get_final_response().output_text == "It is done."
        with pytest.raises(openai.BadRequestError, match="keeps no conversations"):
            client(url).responses.create(model="any", input="go on", previous_response_id="resp_1")


def test_messages() -> None:
    engine = Listening()
    with serve_world.serving(engine) as (url, _):
        asked: Any = {"model": "any", "max_tokens": 50, "messages": ASK, "system": "Be brief."}
        done = claude(url).messages.create(**asked)
        assert [block.type for block in done.content] == ["thinking", "text"]
        assert done.content[-1].text == "It is done."
        assert (done.usage.input_tokens, done.usage.cache_read_input_tokens, done.usage.output_tokens) == (15, 5, 7)
        with claude(url).messages.stream(**asked) as stream:
            assert "".join(stream.text_stream) == "It is done."
        assert engine.asked[0][0][0] == Message.of("system", "Be brief.")
        with pytest.raises(anthropic.BadRequestError, match="role"):
            claude(url).messages.create(**{**asked, "messages": [{"role": "nobody", "content": "x"}]})


def test_tools_in_all_three_apis() -> None:
    engine = Listening(calling())
    chat = [{"type": "function", "function": {"name": "weather", "description": "d", "parameters": WEATHER}}]
    flat = [{"type": "function", "name": "weather", "description": "d", "parameters": WEATHER, "strict": False}]
    theirs = [{"name": "weather", "description": "d", "input_schema": WEATHER}]
    with serve_world.serving(engine) as (url, _):
        one = client(url).chat.completions.create(model="any", messages=ASK, tools=chat).choices[0]
        assert one.finish_reason == "tool_calls"
        assert [(call.function.name, call.function.arguments) for call in one.message.tool_calls] == [
            ("weather", '{"city": "Rome"}'),
            ("weather", '{"city": "Oslo"}'),
        ]
        two = client(url).responses.create(model="any", input="x", tools=flat)
        assert [item.name for item in two.output if item.type == "function_call"] == ["weather", "weather"]
        three = claude(url).messages.create(model="any", max_tokens=9, messages=ASK, tools=theirs)
        assert three.stop_reason == "tool_use"
        assert [block.input for block in three.content] == [{"city": "Rome"}, {"city": "Oslo"}]
        with claude(url).messages.stream(model="any", max_tokens=9, messages=ASK, tools=theirs) as stream:
            assert [block.input for block in stream.get_final_message().content] == [{"city": "Rome"}, {"city": "Oslo"}]
    assert [tools[0].name for _, tools, _, _ in engine.asked] == ["weather"] * 4
    assert len({tools for _, tools, _, _ in engine.asked}) == 1


def test_tool_choice() -> None:
    engine = Listening(calling("write"))
    tools: Any = [{"type": "function", "function": {"name": name, "parameters": WEATHER}} for name in ("read", "write")]
    with serve_world.serving(engine) as (url, _):
        create = client(url).chat.completions.create
        named = {"type": "function", "function": {"name": "write"}}
        for choice, offered in (("auto", ["read", "write"]), ("none", []), ("required", ["read", "write"]), (named, ["write"])):
            create(model="any", messages=ASK, tools=tools, tool_choice=choice)
            assert [tool.name for tool in engine.asked[-1][1]] == offered
        with pytest.raises(openai.BadRequestError, match="not in tools"):
            create(model="any", messages=ASK, tools=tools, tool_choice={"type": "function", "function": {"name": "burn"}})
        claude(url).messages.create(
            model="any",
            max_tokens=9,
            messages=ASK,
            tools=[{"name": "write", "input_schema": WEATHER}],
            tool_choice={"type": "any"},
        )
        engine.made = Listening().made
        with pytest.raises(openai.UnprocessableEntityError, match="made none"):
            create(model="any", messages=ASK, tools=tools, tool_choice="required")


def test_a_json_answer_is_json_or_an_error() -> None:
    engine = Listening(Reply(Message.of("assistant", '{"city": "Rome"}')))
    shape: Any = {"type": "json_schema", "json_schema": {"name": "w", "schema": WEATHER}}
    with serve_world.serving(engine) as (url, _):
        create = client(url).chat.completions.create
        assert create(model="any", messages=ASK, response_format=shape).choices[0].message.content == '{"city": "Rome"}'
        engine.made = Reply(Message.of("assistant", "Rome"))
        with pytest.raises(openai.UnprocessableEntityError, match="asks for JSON"):
            create(model="any", messages=ASK, response_format={"type": "json_object"})
        with pytest.raises(openai.BadRequestError, match="format"):
            create(model="any", messages=ASK, response_format={"type": "xml"})
        assert create(model="any", messages=ASK, response_format={"type": "text"}).choices[0].message.content == "Rome"


def test_what_a_request_leaves_open_is_as_the_student_was_measured() -> None:
    engine = Listening()
    with serve_world.serving(engine) as (url, _):
        create = client(url).chat.completions.create
        create(model="any", messages=ASK)
        create(model="any", messages=ASK, temperature=0.7, max_tokens=500, seed=3, stop=["\n"])
        create(model="any", messages=ASK, max_completion_tokens=20, stop="end")
    assert [sampling for _, _, sampling, _ in engine.asked] == [
        Sampling(0.0, 64),
        Sampling(0.7, 500, ("\n",), 3),
        Sampling(0.0, 20, ("end",)),
    ]


def test_fields_that_are_not_followed_are_named() -> None:
    with serve_world.serving(Listening()) as (url, _):
        raw = client(url).chat.completions.with_raw_response.create(model="any", messages=ASK, top_p=0.5, presence_penalty=0)
        assert raw.headers["x-duomem-ignored"] == "top_p"
        raw = client(url).chat.completions.with_raw_response.create(model="any", messages=ASK, top_p=1)
        assert "x-duomem-ignored" not in raw.headers


def test_models_health_and_metrics() -> None:
    with serve_world.serving(Listening()) as (url, _):
        assert [model.id for model in client(url).models.list()] == ["duomem-toy"]
        assert [model.id for model in claude(url).models.list()] == ["duomem-toy"]
        client(url).chat.completions.create(model="any", messages=ASK)
        assert httpx.get(f"{url}/healthz").json() == {"status": "ok", "model": "duomem-toy", "revision": "revision-toy"}
        from prometheus_client.parser import text_string_to_metric_families

        found = {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(httpx.get(f"{url}/metrics").text)
            for sample in family.samples
        }
        assert found["duomem_requests_total", ("api", "chat"), ("status", "200")] == 1
        assert found["duomem_tokens_total", ("kind", "cached")] == 5
        assert found["duomem_student", ("name", "duomem-toy"), ("revision", "revision-toy")] == 1


def test_keys() -> None:
    keys = Keys(("alpha", "beta"), "boss")
    with serve_world.serving(Listening(), keys=keys) as (url, _):
        for make, error in ((client, openai.AuthenticationError), (claude, anthropic.AuthenticationError)):
            with pytest.raises(error, match="needs a key"):
                make(url, "gamma").models.list()
            make(url, "beta").models.list()
        assert httpx.get(f"{url}/healthz").status_code == 200
        assert httpx.get(f"{url}/metrics").status_code == 401
        assert httpx.post(f"{url}/duomem/reload", headers={"x-api-key": "alpha"}).status_code == 403


def test_each_key_has_caches_and_answers_of_its_own() -> None:
    engine = Listening()
    with serve_world.serving(engine, keys=Keys(("alpha", "beta"))) as (url, _):
        first = client(url, "alpha").chat.completions.create(model="any", messages=ASK)
        claude(url, "alpha").messages.create(model="any", max_tokens=5, messages=ASK)
        client(url, "beta").chat.completions.create(model="any", messages=ASK)
        owners = [owner for _, _, _, owner in engine.asked]
        assert owners[0] == owners[1] != owners[2]
        assert not any("alpha" in owner for owner in owners)
        path = f"{url}/duomem/explain?reply={first.id}"
        assert httpx.get(path, headers={"x-api-key": "alpha"}).json()["task"]["goal"] == "put a mug on the desk"
        assert httpx.get(path, headers={"x-api-key": "beta"}).status_code == 404


def test_pages_of_other_sites_are_kept_out() -> None:
    with serve_world.serving(Listening()) as (url, _):
        assert httpx.get(f"{url}/v1/models", headers={"origin": "https://evil.example"}).status_code == 403
        assert httpx.get(f"{url}/v1/models", headers={"host": "evil.example"}).status_code == 403
        kept = httpx.get(f"{url}/v1/models", headers={"origin": "http://localhost:3000"})
        assert kept.status_code == 200
        assert not [name for name in kept.headers if name.startswith("access-control")]


def test_a_body_that_is_too_large_or_too_slow() -> None:
    with serve_world.serving(Listening(), limits=Limits(body=2000, body_s=0.3)) as (url, _):
        large: list[Any] = [{"role": "user", "content": "x" * 3000}]
        with pytest.raises(openai.APIStatusError) as raised:
            client(url).chat.completions.create(model="any", messages=large)
        assert raised.value.status_code == 413
        assert httpx.post(f"{url}/v1/messages", content=iter([b"x" * 1500] * 3)).status_code == 413
        host, _, port = url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as link:
            link.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 500\r\n\r\n{")
            assert link.recv(100).startswith(b"HTTP/1.1 408")
        assert httpx.get(f"{url}/healthz").status_code == 200


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"messages": 3}', b"[" * 50_000, b'{"messages": [[]]}']
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
def test_nonsense_is_a_bad_request(nonsense: str, path: str, body: bytes) -> None:
    answer = httpx.post(f"{nonsense}{path}", content=body)
    assert answer.status_code == 400
    assert answer.json()


@pytest.fixture(scope="module")
def nonsense() -> Any:
    with serve_world.serving(Listening()) as (url, _):
        yield url


def test_a_full_server_says_when_to_come_again() -> None:
    go, begun = threading.Event(), threading.Semaphore(0)

    def stall(number: int) -> None:
        begun.release()
        go.wait(30)

    model = Scripted(lambda messages: "Done.", stall_at=range(100), stall=stall)
    with serve_world.serving(model, limits=Limits(running=2, waiting=1)) as (url, _):
        answers: list[int] = []

        def ask() -> None:
            answers.append(httpx.post(f"{url}/v1/chat/completions", json={"messages": ASK}, timeout=60).status_code)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert begun.acquire(timeout=20)
        assert begun.acquire(timeout=20)
        _until(lambda: "duomem_requests_inside 3.0" in httpx.get(f"{url}/metrics").text)
        refused = httpx.post(f"{url}/v1/messages", json={"messages": ASK, "max_tokens": 5})
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["type"] == "rate_limit_error"
        go.set()
        for thread in threads:
            thread.join(30)
        assert answers == [200] * 3
        assert httpx.post(f"{url}/v1/chat/completions", json={"messages": ASK}, timeout=60).status_code == 200


def test_one_key_leaves_room_for_others() -> None:
    go, begun = threading.Event(), threading.Semaphore(0)

    def stall(number: int) -> None:
        begun.release()
        go.wait(30)

    model = Scripted(lambda messages: "Done.", stall_at=[0], stall=stall)
    with serve_world.serving(model, limits=Limits(running=4, waiting=4, per_key=1)) as (url, _):
        first = threading.Thread(target=lambda: client(url, "alpha").chat.completions.create(model="any", messages=ASK))
        first.start()
        assert begun.acquire(timeout=20)
        with pytest.raises(openai.RateLimitError):
            client(url, "alpha").chat.completions.create(model="any", messages=ASK)
        assert client(url, "beta").chat.completions.create(model="any", messages=ASK).choices
        go.set()
        first.join(30)


def test_an_answer_that_takes_too_long_keeps_its_place_until_the_engine_is_done() -> None:
    go = threading.Event()
    model = Scripted(lambda messages: "Done.", stall_at=[0], stall=lambda number: bool(go.wait(30)) and None)
    with serve_world.serving(model, limits=Limits(running=1, waiting=0, seconds=0.3)) as (url, _):
        late = httpx.post(f"{url}/v1/chat/completions", json={"messages": ASK}, timeout=60)
        assert late.status_code == 504
        assert httpx.post(f"{url}/v1/chat/completions", json={"messages": ASK}).status_code == 429
        go.set()
        _until(lambda: "duomem_requests_inside 0.0" in httpx.get(f"{url}/metrics").text)
        assert httpx.post(f"{url}/v1/chat/completions", json={"messages": ASK}).status_code == 200


def test_a_failing_engine_is_a_server_error_that_clients_retry() -> None:
    model = Scripted(lambda messages: "Done.", raise_at=[0])
    with serve_world.serving(model) as (url, _):
        answer = httpx.post(f"{url}/v1/chat/completions", json={"messages": ASK})
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        again = openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=2)
        assert again.chat.completions.create(model="any", messages=ASK).choices[0].message.content == "Done."


def test_a_failure_of_the_users_own_locator_is_said_in_the_apis_form() -> None:
    def broken(messages: Any, body: Any) -> str:
        raise KeyError("no such field")

    student = serve_world.scripted_student()
    injector = replace(student.injector, find=Locator("python:mine.py:find", "", broken))
    with serve_world.serving(Listening(), replace(student, injector=injector)) as (url, _):
        answer = httpx.post(f"{url}/v1/messages", json={"messages": ASK, "max_tokens": 5})
        assert answer.status_code == 500
        assert "KeyError: 'no such field'" in answer.json()["error"]["message"]
        assert httpx.get(f"{url}/healthz").status_code == 200


def test_a_client_that_leaves_takes_no_place_with_it() -> None:
    with serve_world.serving(Listening(), limits=Limits(running=1, waiting=1)) as (url, _):
        host, _, port = url.removeprefix("http://").partition(":")
        body = json.dumps({"messages": ASK}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        for cut in (10, len(head), len(head) + 5, len(head) + len(body)):
            with socket.create_connection((host, int(port))) as link:
                link.sendall((head + body)[:cut])
        _until(lambda: "duomem_requests_inside 0.0" in httpx.get(f"{url}/metrics").text)
        assert httpx.post(f"{url}/v1/chat/completions", json={"messages": ASK}).status_code == 200


def _until(holds: Any) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)
