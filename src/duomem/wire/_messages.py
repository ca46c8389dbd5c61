"""/v1/messages: bodies and streams to the internal form and back.

In, out: see `duomem.wire`. A user message with tool results becomes one tool message a result and a user message for the rest,
in their order. Thinking is reasoning; its signatures are not kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from duomem.types import Message, Reply, TextPart, Tool, ToolCall, Usage
from duomem.wire import Answer, Body, Request, WireError
from duomem.wire._parts import arguments, content, joined, number, objects, parsed, sampling, strings, table, text, tool
from duomem.wire._sse import JsonStream, event

FINISHES: dict[str, Literal["stop", "length", "tool_calls"]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "tool_use": "tool_calls",
}
WORDS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
JOINED = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}


def read_request(body: Body) -> Request:
    system = content(body.get("system"), "system")
    messages = [Message("system", system)] if system else []
    for index, item in enumerate(objects(body, "messages")):
        messages += _read(item, f"messages[{index}]")
    return Request(
        api="messages",
        model=text(body, "model"),
        messages=tuple(messages),
        tools=tuple(tool(item, "input_schema") for item in objects(body, "tools") if item.get("input_schema")),
        sampling=sampling(body, "max_tokens"),
        stream=body.get("stream") is True,
    )


def _read(item: Body, place: str) -> list[Message]:
    role = text(item, "role", f"{place}.")
    if role == "assistant":
        return [_assistant(item, place)]
    if role not in ("user", "system"):
        raise WireError(f"{place}.role is {role!r}. There are: user, assistant.")
    given = item.get("content")
    blocks = [{"type": "text", "text": given}] if isinstance(given, str) else objects(item, "content", f"{place}.")
    messages: list[Message] = []
    for block in blocks:
        if block.get("type") == "tool_result":
            messages.append(Message("tool", content(block.get("content"), place), tool_call_id=text(block, "tool_use_id")))
            continue
        parts = content([block], place)
        if messages and messages[-1].role == role:
            messages[-1] = Message(messages[-1].role, messages[-1].parts + parts)
        else:
            messages.append(Message("system" if role == "system" else "user", parts))
    return messages


def _assistant(item: Body, place: str) -> Message:
    given = item.get("content")
    blocks = [{"type": "text", "text": given}] if isinstance(given, str) else objects(item, "content", f"{place}.")
    parts: list[TextPart] = []
    calls: list[ToolCall] = []
    thoughts: list[str] = []
    for block in blocks:
        kind = text(block, "type", f"{place}.content.")
        if kind == "tool_use":
            calls.append(ToolCall(text(block, "name"), arguments(block.get("input")), text(block, "id")))
        elif kind == "thinking":
            thoughts.append(text(block, "thinking"))
        elif kind == "text":
            parts += content([block], place)
    return Message("assistant", tuple(parts), tuple(calls), None, joined(thoughts))


def write_request(request: Request) -> dict[str, Any]:
    system = [part for message in request.messages if message.role == "system" for part in strings(message, "text")]
    body: dict[str, Any] = {"model": request.model, "max_tokens": request.sampling.max_tokens or 4096}
    body |= {"system": system} if system else {}
    body["messages"] = _turns(request.messages)
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
    body["temperature"] = request.sampling.temperature
    if request.sampling.stop:
        body["stop_sequences"] = list(request.sampling.stop)
    return body | ({"stream": True} if request.stream else {})


def _tool(tool: Tool) -> dict[str, Any]:
    return {"name": tool.name, "description": tool.description, "input_schema": json.loads(tool.parameters)}


def _turns(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages by turns: tool results and what the user says after them share a turn."""
    turns: list[dict[str, Any]] = []
    for message in messages:
        if message.role == "system":
            continue
        role = "assistant" if message.role == "assistant" else "user"
        blocks = _blocks(message)
        if message.role == "tool":
            blocks = [{"type": "tool_result", "tool_use_id": message.tool_call_id or "", "content": blocks}]
        after_results = turns and turns[-1]["role"] == "user" and turns[-1]["content"][-1]["type"] == "tool_result"
        if role == "user" and after_results:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
    return turns


def _blocks(message: Message) -> list[dict[str, Any]]:
    thought = [{"type": "thinking", "thinking": message.reasoning, "signature": ""}] if message.reasoning else []
    calls = [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": parsed(call.arguments)} for call in message.tool_calls
    ]
    return [*thought, *strings(message, "text"), *calls]


def read_answer(body: Body) -> Answer:
    if text(body, "type") == "error":
        raise WireError(f"the answer is an error: {table(body, 'error').get('message')}.")
    finish = text(body, "stop_reason")
    counts = table(body, "usage")
    cached = int(number(counts, "cache_read_input_tokens"))
    prompt = int(number(counts, "input_tokens") + number(counts, "cache_creation_input_tokens")) + cached
    used = Usage(prompt, cached, int(number(counts, "output_tokens")))
    if "content" not in body:
        raise WireError("content is missing: the answer holds no reply.")
    message = _assistant(body, "content")
    reply = Reply(message, FINISHES.get(finish, "length" if finish else "stop"), used)
    return Answer(text(body, "id"), text(body, "model"), (reply,), (finish,))


def write_answer(answer: Answer) -> dict[str, Any]:
    reply = answer.replies[0]
    return {
        "id": answer.id,
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "content": _blocks(reply.message),
        "stop_reason": WORDS[reply.finish],
        "stop_sequence": None,
        "usage": {
            "input_tokens": reply.usage.prompt - reply.usage.cached,
            "cache_read_input_tokens": reply.usage.cached,
            "cache_creation_input_tokens": 0,
            "output_tokens": reply.usage.completion,
        },
    }


def write_stream(answer: Answer) -> Iterator[bytes]:
    body = write_answer(answer)
    blocks = body.pop("content")
    begun = {**body, "content": [], "stop_reason": None, "usage": {**body["usage"], "output_tokens": 0}}
    yield event({"type": "message_start", "message": begun}, "message_start")
    for index, block in enumerate(blocks):
        for each in _block_events(block):
            yield event({"type": each["type"], "index": index, **each}, each["type"])
    ended = {"stop_reason": body["stop_reason"], "stop_sequence": None}
    counts = {"output_tokens": body["usage"]["output_tokens"]}
    yield event({"type": "message_delta", "delta": ended, "usage": counts}, "message_delta")
    yield event({"type": "message_stop"}, "message_stop")


def _block_events(block: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    kind = block["type"]
    name, delta = {
        "text": ("text", "text_delta"),
        "thinking": ("thinking", "thinking_delta"),
        "tool_use": ("input", "input_json_delta"),
    }[kind]
    yield {"type": "content_block_start", "content_block": {**block, name: {} if kind == "tool_use" else ""}}
    said = {name: block[name]} if kind != "tool_use" else {"partial_json": json.dumps(block[name], ensure_ascii=False)}
    yield {"type": "content_block_delta", "delta": {"type": delta, **said}}
    yield {"type": "content_block_stop"}


class Stream(JsonStream):
    """Blocks put together from their deltas. Whole with `message_stop` after a stop reason."""

    def __init__(self) -> None:
        super().__init__()
        self._body: dict[str, Any] = {}
        self._blocks: dict[int, dict[str, Any]] = {}
        self._inputs: dict[int, str] = {}

    def _take(self, event: Mapping[str, Any]) -> None:
        kind = event.get("type")
        if kind == "error" or event.get("error"):
            self.error = self.error or str((event.get("error") or {}).get("message") or event)
        elif kind == "message_start":
            self._body = dict(event["message"])
        elif kind == "content_block_start":
            self._blocks[int(event["index"])] = dict(event["content_block"])
        elif kind == "content_block_delta":
            self._join(int(event["index"]), event["delta"])
        elif kind == "message_delta":
            self._body |= event.get("delta") or {}
            self._body["usage"] = {**(self._body.get("usage") or {}), **(event.get("usage") or {})}
        elif kind == "message_stop":
            self.whole = bool(self._body.get("stop_reason")) and not self.error
            self.error = self.error or ("" if self.whole else "the stream ended without a stop_reason")

    def _join(self, index: int, delta: Mapping[str, Any]) -> None:
        kind = str(delta["type"])
        if kind == "input_json_delta":
            self._inputs[index] = self._inputs.get(index, "") + delta["partial_json"]
        elif name := JOINED.get(kind):
            block = self._blocks[index]
            block[name] = (block.get(name) or "") + delta[name]

    def body(self) -> dict[str, Any]:
        blocks = [
            {**block, "input": parsed(self._inputs[index])} if self._inputs.get(index) else block
            for index, block in sorted(self._blocks.items())
        ]
        return {"type": "message", "role": "assistant", **self._body, "content": blocks}
