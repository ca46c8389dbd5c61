"""/v1/chat/completions: bodies and streams to the internal form and back.

In, out: see `duomem.wire`. Reasoning is read under both its names (`reasoning_content`, `reasoning`), written under the first.
The `function_call` form of 2023 is not read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from duomem.types import Message, Reply, Role, Tool, ToolCall, Usage
from duomem.wire import Answer, Body, Request, WireError
from duomem.wire._parts import arguments, content, number, objects, plain, sampling, table, text, tool, usage
from duomem.wire._sse import JsonStream, event

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
FINISHES: dict[str, Literal["stop", "length", "tool_calls"]] = {"stop": "stop", "tool_calls": "tool_calls"}
REASONING = ("reasoning_content", "reasoning")


def read_request(body: Body) -> Request:
    messages = tuple(_message(item, f"messages[{index}]") for index, item in enumerate(objects(body, "messages")))
    tools = tuple(tool(table(item, "function"), "parameters") for item in objects(body, "tools") if item.get("function"))
    return Request(
        api="chat",
        model=text(body, "model"),
        messages=messages,
        tools=tools,
        sampling=sampling(body, "max_completion_tokens", "max_tokens"),
        stream=body.get("stream") is True,
        choices=int(number(body, "n", 1)),
    )


def _message(item: Body, place: str) -> Message:
    role = ROLES.get(text(item, "role", f"{place}."))
    if role is None:
        raise WireError(f"{place}.role is {item.get('role')!r}. There are: {', '.join(ROLES)}.")
    calls = tuple(_call(call, f"{place}.tool_calls") for call in objects(item, "tool_calls", f"{place}."))
    parts = content(item.get("content") or item.get("refusal"), place)
    reasoning = next((item[name] for name in REASONING if isinstance(item.get(name), str)), "")
    return Message(role, parts, calls, text(item, "tool_call_id") or None, reasoning)


def _call(item: Body, place: str) -> ToolCall:
    function = table(item, "function") or table(item, "custom")
    if not function:
        raise WireError(f"{place}: a call without a function.")
    return ToolCall(
        text(function, "name", place), arguments(function.get("arguments", function.get("input"))), text(item, "id")
    )


def write_request(request: Request) -> dict[str, Any]:
    body: dict[str, Any] = {"model": request.model, "messages": [_written(message) for message in request.messages]}
    if request.tools:
        body["tools"] = [{"type": "function", "function": _function(tool)} for tool in request.tools]
    body["temperature"] = request.sampling.temperature
    if request.sampling.max_tokens:
        body["max_tokens"] = request.sampling.max_tokens
    if request.sampling.stop:
        body["stop"] = list(request.sampling.stop)
    if request.sampling.seed:
        body["seed"] = request.sampling.seed
    return body | ({"stream": True} if request.stream else {}) | ({"n": request.choices} if request.choices > 1 else {})


def _function(tool: Tool) -> dict[str, Any]:
    return {"name": tool.name, "description": tool.description, "parameters": json.loads(tool.parameters)}


def _written(message: Message) -> dict[str, Any]:
    body: dict[str, Any] = {"role": message.role, "content": plain(message)}
    if message.reasoning:
        body["reasoning_content"] = message.reasoning
    if message.tool_calls:
        body["content"] = body["content"] or None
        body["tool_calls"] = [_written_call(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        body["tool_call_id"] = message.tool_call_id
    return body


def _reply(message: Message) -> dict[str, Any]:
    """A reply's content is one text, not a list of parts."""
    return {**_written(message), "content": message.text or (None if message.tool_calls else "")}


def _written_call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def read_answer(body: Body) -> Answer:
    choices = objects(body, "choices")
    if not choices:
        raise WireError("choices is empty: the answer holds no reply.")
    counts = usage(body, "prompt_tokens", "completion_tokens", "prompt_tokens_details")
    replies, finishes = [], []
    for index, choice in enumerate(sorted(choices, key=lambda each: number(each, "index"))):
        if not choice.get("message"):
            raise WireError(f"choices[{index}].message is missing.")
        message = _message({"role": "assistant", **table(choice, "message")}, f"choices[{index}].message")
        finish = text(choice, "finish_reason")
        replies.append(Reply(message, FINISHES.get(finish, "length" if finish else "stop"), counts if index == 0 else Usage()))
        finishes.append(finish)
    return Answer(text(body, "id"), text(body, "model"), tuple(replies), tuple(finishes))


def write_answer(answer: Answer) -> dict[str, Any]:
    choices = [
        {"index": index, "message": _reply(reply.message), "finish_reason": _finish(answer, index), "logprobs": None}
        for index, reply in enumerate(answer.replies)
    ]
    return _head(answer, "chat.completion") | {"choices": choices, "usage": _usage(answer)}


def _head(answer: Answer, kind: str) -> dict[str, Any]:
    return {"id": answer.id, "object": kind, "created": answer.created, "model": answer.model}


def _finish(answer: Answer, index: int) -> str:
    return answer.finishes[index] if answer.finishes else answer.replies[index].finish


def _usage(answer: Answer) -> dict[str, Any]:
    counts = sum((reply.usage for reply in answer.replies), Usage())
    return {
        "prompt_tokens": counts.prompt,
        "completion_tokens": counts.completion,
        "total_tokens": counts.prompt + counts.completion,
        "prompt_tokens_details": {"cached_tokens": counts.cached},
    }


def write_stream(answer: Answer, *, usage: bool = True) -> Iterator[bytes]:
    head = _head(answer, "chat.completion.chunk")
    for index, reply in enumerate(answer.replies):
        delta = _reply(reply.message)
        calls = delta.pop("tool_calls", ())
        yield event({**head, "choices": [{"index": index, "delta": delta, "finish_reason": None}]})
        for position, call in enumerate(calls):
            delta = {"tool_calls": [{"index": position, **call}]}
            yield event({**head, "choices": [{"index": index, "delta": delta, "finish_reason": None}]})
        yield event({**head, "choices": [{"index": index, "delta": {}, "finish_reason": _finish(answer, index)}]})
    if usage:
        yield event({**head, "choices": [], "usage": _usage(answer)})
    yield b"data: [DONE]\n\n"


class Stream(JsonStream):
    """Chunks put together: deltas of a choice are joined by its index, those of a tool call by theirs. Whole with `[DONE]`."""

    def __init__(self) -> None:
        super().__init__()
        self._head: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}
        self._usage: Any = None

    def _done(self) -> None:
        ended = self._choices and all(choice["finish_reason"] for choice in self._choices.values())
        if ended and not self.error:
            self.whole = True
        else:
            self.error = self.error or "the stream ended before a choice had a finish_reason"

    def _take(self, event: Mapping[str, Any]) -> None:
        if event.get("error"):
            self.error = self.error or str(event["error"])
            return
        self._head = {key: event[key] for key in ("id", "created", "model") if event.get(key)} | self._head
        self._usage = event.get("usage") or self._usage
        for piece in event.get("choices") or ():
            index = int(piece.get("index") or 0)
            empty = {"index": index, "message": {"role": "assistant", "content": None}, "finish_reason": None}
            choice = self._choices.setdefault(index, empty)
            choice["finish_reason"] = piece.get("finish_reason") or choice["finish_reason"]
            self._join(choice["message"], piece.get("delta") or {})

    def _join(self, message: dict[str, Any], delta: Mapping[str, Any]) -> None:
        for key, value in delta.items():
            if key == "tool_calls":
                calls = message.setdefault("tool_calls", [])
                for piece in value or ():
                    self._join_call(calls, piece)
            elif key in ("content", "refusal", *REASONING) and value is not None:
                message[key] = (message.get(key) or "") + value
            elif key != "role" and value is not None:
                message[key] = value

    def _join_call(self, calls: list[dict[str, Any]], piece: Mapping[str, Any]) -> None:
        index = piece.get("index")
        call = next((each for each in calls if each["index"] == index and index is not None), None)
        if call is None:
            call = {"index": len(calls) if index is None else index, "id": "", "type": "function"}
            call["function"] = {"name": "", "arguments": ""}
            calls.append(call)
        function = piece.get("function") or {}
        call["id"] = piece.get("id") or call["id"]
        call["function"]["name"] += function.get("name") or ""
        call["function"]["arguments"] += function.get("arguments") or ""

    def body(self) -> dict[str, Any]:
        choices = [choice for _, choice in sorted(self._choices.items())]
        return {"object": "chat.completion", **self._head, "choices": choices, "usage": self._usage}
