"""The internal form behind the three APIs: there and back without loss, streams that come together, garbage that is refused."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from duomem import wire
from duomem.types import Message, Reply, Sampling, TextPart, Tool, ToolCall, Usage
from duomem.wire import Answer, Api, Request, WireError
from duomem.wire._sse import Events

APIS: tuple[Api, ...] = ("chat", "responses", "messages")
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))

texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
names = st.text("abcdef_", min_size=1, max_size=6)
values = st.one_of(st.integers(-5, 5), texts, st.booleans(), st.lists(texts, max_size=2))
calls = st.builds(
    lambda name, arguments, number: ToolCall(name, json.dumps(arguments, ensure_ascii=False), f"call_{number}"),
    names,
    st.dictionaries(names, values, max_size=3),
    st.integers(0, 99),
)
parts = st.lists(st.builds(TextPart, texts), min_size=1, max_size=3).map(tuple)
users = st.builds(lambda parts: Message("user", parts), parts)
tools = st.builds(
    lambda text, number: Message("tool", (TextPart(text),), tool_call_id=f"call_{number}"), texts, st.integers(0, 99)
)
assistants = st.builds(
    lambda parts, calls, thought: Message("assistant", parts if parts or calls else (TextPart("yes"),), calls, None, thought),
    st.one_of(st.just(()), parts),
    st.lists(calls, max_size=3).map(tuple),
    st.one_of(st.just(""), texts),
)
turns = st.tuples(assistants, st.lists(tools, max_size=3), st.one_of(st.none(), users))


@st.composite
def conversations(draw: st.DrawFn) -> tuple[Message, ...]:
    """What an agent sends: instructions, a task, then replies with what came back."""
    messages = [Message.of("system", draw(texts)), draw(users)]
    for reply, results, user in draw(st.lists(turns, max_size=3)):
        after = [*results, *([user] if user else [])] or [Message.of("user", "go on")]
        messages += [reply, *after]
    return tuple(messages)


offered = st.lists(
    st.builds(Tool, names, texts, st.just('{"type": "object", "properties": {"a": {"type": "string"}}}')), max_size=2
)


@QUICK
@given(st.sampled_from(APIS), conversations(), offered.map(tuple), st.booleans(), st.integers(1, 500))
def test_a_request_comes_back_as_it_was(api: Api, messages: Any, offered: Any, stream: bool, limit: int) -> None:
    request = Request(api, "m", messages, offered, Sampling(0.5, limit), stream)
    body = json.loads(json.dumps(wire.write_request(request)))
    assert wire.read_request(api, body) == request


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    message = draw(assistants)
    finish = "tool_calls" if message.tool_calls else draw(st.sampled_from(("stop", "length")))
    return Answer("id-1", "m", (Reply(message, finish, Usage(7, 3, 5)),))


def same(found: Answer, wanted: Answer) -> bool:
    """Equal but for the words in which an API says why it ended, and how it cuts a text into parts."""
    return (found.id, found.model, [reply_of(each) for each in found.replies]) == (
        wanted.id,
        wanted.model,
        [reply_of(each) for each in wanted.replies],
    )


def reply_of(reply: Reply) -> tuple[Any, ...]:
    message = reply.message
    return message.text, message.tool_calls, message.reasoning, reply.finish, reply.usage


@QUICK
@given(st.sampled_from(APIS), answers())
def test_an_answer_comes_back_as_it_was(api: Api, answer: Answer) -> None:
    assert same(wire.read_answer(api, json.loads(json.dumps(wire.write_answer(api, answer)))), answer)


@QUICK
@given(st.sampled_from(APIS), answers(), st.randoms(use_true_random=False))
def test_a_stream_cut_anywhere_comes_together(api: Api, answer: Answer, dice: Any) -> None:
    stream = b"".join(wire.write_stream(api, answer))
    assembler = wire.assembler(api)
    while stream:
        assert not assembler.whole
        size = dice.randint(1, 40)
        assembler.feed(stream[:size])
        stream = stream[size:]
    assert (assembler.whole, assembler.error) == (True, "")
    assert same(wire.read_answer(api, assembler.body()), answer)


@pytest.mark.parametrize("api", APIS)
def test_a_stream_is_whole_with_its_last_byte_and_not_before(api: Api) -> None:
    reply = Reply(Message("assistant", (TextPart("one two"),), (ToolCall("act", '{"a": 1}', "c1"),), None, "hm"), "tool_calls")
    stream = b"".join(wire.write_stream(api, Answer("id", "m", (reply,))))
    assembler = wire.assembler(api)
    for byte in stream[:-1]:
        assembler.feed(bytes([byte]))
        assert not assembler.whole
        json.dumps(assembler.body())  # what came so far can be kept
    assembler.feed(stream[-1:])
    assert assembler.whole


def test_several_choices_keep_their_order() -> None:
    replies = tuple(Reply(Message.of("assistant", text)) for text in ("a", "b", "c"))
    answer = Answer("id", "m", replies)
    body = wire.write_answer("chat", answer)
    body["choices"].reverse()
    assert [reply.message.text for reply in wire.read_answer("chat", body).replies] == ["a", "b", "c"]
    assembler = wire.assembler("chat")
    assembler.feed(b"".join(wire.write_stream("chat", answer)))
    assert [reply.message.text for reply in wire.read_answer("chat", assembler.body()).replies] == ["a", "b", "c"]


def test_parallel_calls_whose_pieces_are_mixed_come_together() -> None:
    pieces = [
        {"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}},
        {"index": 1, "id": "b", "function": {"name": "g", "arguments": '{"x"'}},
        {"index": 0, "function": {"arguments": '{"y": 1}'}},
        {"index": 1, "function": {"arguments": ": 2}"}},
    ]
    assembler = wire.assembler("chat")
    for piece in pieces:
        assembler.feed(f"data: {json.dumps({'choices': [{'index': 0, 'delta': {'tool_calls': [piece]}}]})}\n\n".encode())
    assembler.feed(b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}\n\ndata: [DONE]\n\n')
    assert assembler.whole
    made = wire.read_answer("chat", assembler.body()).message.tool_calls
    assert made == (ToolCall("f", '{"y": 1}', "a"), ToolCall("g", '{"x": 2}', "b"))


@pytest.mark.parametrize(
    ("api", "events", "said"),
    [
        ("chat", ['{"error": {"message": "overloaded"}}'], "overloaded"),
        ("messages", ['{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}'], "Overloaded"),
        ("responses", ['{"type": "response.failed", "response": {"status": "failed", "error": {"message": "no"}}}'], "no"),
        ("chat", ["{not json"], "cannot be read"),
        ("chat", ['{"choices": [{"index": 0, "delta": {"content": "a"}}]}', "[DONE]"], "finish_reason"),
        ("messages", ['{"type": "content_block_delta", "index": 3, "delta": {"type": "text_delta", "text": "a"}}'], "cannot"),
    ],
)
def test_an_error_within_a_stream_is_told_and_never_whole(api: Api, events: list[str], said: str) -> None:
    assembler = wire.assembler(api)
    for each in events:
        assembler.feed(f"data: {each}\n\n".encode())
    last = {"chat": "data: [DONE]", "messages": 'data: {"type": "message_stop"}', "responses": "data: {}"}[api]
    assembler.feed(f"{last}\n\n".encode())
    assert not assembler.whole
    assert said in assembler.error


def test_a_truncated_reply_is_marked_in_each_api() -> None:
    for api in APIS:
        body = wire.write_answer(api, Answer("id", "m", (Reply(Message.of("assistant", "cut"), "length"),)))
        assert wire.read_answer(api, body).replies[0].finish == "length"
    filtered = {"id": "i", "choices": [{"index": 0, "message": {"content": "x"}, "finish_reason": "content_filter"}]}
    answer = wire.read_answer("chat", filtered)
    assert (answer.replies[0].finish, answer.finishes) == ("length", ("content_filter",))


@pytest.mark.parametrize(
    ("api", "body", "field"),
    [
        ("chat", {"messages": "hello"}, "messages"),
        ("chat", {"messages": [{"role": "robot"}]}, "messages[0].role"),
        ("chat", {"messages": [{"role": "user", "content": 7}]}, "content"),
        ("responses", {"input": [{"role": "user", "content": [3]}]}, "content[0]"),
        ("messages", {"messages": [{"role": "user", "content": "a"}], "max_tokens": "many"}, "max_tokens"),
    ],
)
def test_a_wrong_field_is_named(api: Api, body: dict[str, Any], field: str) -> None:
    with pytest.raises(WireError) as error:
        wire.read_request(api, body)
    assert field in str(error.value)


def test_an_answer_without_a_reply_is_refused() -> None:
    for api, body in (("chat", {"choices": []}), ("responses", {"status": "failed"}), ("messages", {"id": "x"})):
        with pytest.raises(WireError):
            wire.read_answer(api, body)  # type: ignore[arg-type]


def test_two_pictures_are_two_different_messages() -> None:
    def request(url: str) -> Request:
        content = [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": url}}]
        return wire.read_request("chat", {"messages": [{"role": "user", "content": content}]})

    assert request("data:a").messages != request("data:b").messages
    assert request("data:a").messages == request("data:a").messages
    assert request("data:a").messages[0].text.startswith("what?[image_url ")


def test_instructions_and_items_of_responses_become_messages() -> None:
    body = {
        "instructions": "be brief",
        "input": [
            {"role": "user", "content": "hi"},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "two calls"}]},
            {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
            {"type": "function_call", "call_id": "b", "name": "g", "arguments": "{}"},
            {"type": "web_search_call", "id": "w"},
            {"type": "function_call_output", "call_id": "b", "output": "2"},
        ],
        "previous_response_id": "r0",
        "conversation": {"id": "c0"},
    }
    request = wire.read_request("responses", body)
    assert [message.role for message in request.messages] == ["system", "user", "assistant", "tool"]
    assert [call.id for call in request.messages[2].tool_calls] == ["a", "b"]
    assert request.messages[2].reasoning == "two calls"
    assert (request.previous, request.conversation) == ("r0", "c0")


def test_a_last_event_with_an_empty_output_keeps_the_items_before_it() -> None:
    stream = list(wire.write_stream("responses", Answer("id", "m", (Reply(Message.of("assistant", "hello")),))))
    last = json.loads(stream[-1].partition(b"data: ")[2])
    last["response"]["output"] = []
    assembler = wire.assembler("responses")
    assembler.feed(b"".join(stream[:-1]) + b"data: " + json.dumps(last).encode() + b"\n\n")
    assert wire.read_answer("responses", assembler.body()).message.text == "hello"


def test_events_follow_the_standard() -> None:
    data = b"\xef\xbb\xbf: a comment\r\nevent: a\r\ndata: 1\r\ndata: 2\r\n\r\ndata:3\r\rid: 9\ndata\n\n"
    data += b"data: \xc3\xa9\n\ndata: unfinished"
    wanted = [("a", "1\n2"), ("", "3"), ("", ""), ("", "é")]
    for size in (1, 2, 3, 7, len(data)):
        events = Events()
        found = [event for start in range(0, len(data), size) for event in events.feed(data[start : start + size])]
        assert found == wanted, size


FIELDS = ["messages", "input", "role", "content", "type", "text", "tool_calls", "function", "name", "arguments", "choices"]
FIELDS += ["message", "delta", "index", "usage", "id", "finish_reason", "stop", "system", "tools", "output", "status", "item"]
FIELDS += ["response", "error", "stop_reason", "n", "temperature", "max_tokens"]

anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(FIELDS),
            inner,
            max_size=5,
        ),
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(APIS), anything)
def test_garbage_is_refused_and_nothing_else_happens(api: Api, body: Any) -> None:
    for read in (wire.read_request, wire.read_answer):
        with contextlib.suppress(WireError):
            read(api, body)
    assembler = wire.assembler(api)
    assembler.feed(f"data: {json.dumps(body)}\n\ndata: [DONE]\n\n".encode())
    assembler.body()
    wire.error_of(body)
