"""/v1/responses: bodies and streams to the internal form and back.

In, out: see `duomem.wire`. Items that follow one another on the assistant's side (reasoning, text, calls) are one message.
Calls of tools that the endpoint runs itself (web search and the like) are not messages and are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from duomem.types import Message, Reply, Tool, ToolCall, Usage
from duomem.wire import Answer, Body, Request, WireError
from duomem.wire._chat import ROLES
from duomem.wire._parts import arguments, content, joined, number, objects, sampling, strings, table, text, tool, usage
from duomem.wire._sse import JsonStream, event

CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
RESULTS = ("function_call_output", "custom_tool_call_output")
LAST = ("response.completed", "response.incomplete")


def read_request(body: Body) -> Request:
    given = body.get("input")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else objects(body, "input")
    instructions = text(body, "instructions")
    head = (Message.of("system", instructions),) if instructions else ()
    conversation = body.get("conversation")
    return Request(
        api="responses",
        model=text(body, "model"),
        messages=(*head, *messages_of(items, "input")),
        tools=tuple(tool(item, "parameters") for item in objects(body, "tools") if item.get("type") == "function"),
        sampling=sampling(body, "max_output_tokens"),
        stream=body.get("stream") is True,
        previous=text(body, "previous_response_id"),
        conversation=str(conversation.get("id", "")) if isinstance(conversation, Mapping) else str(conversation or ""),
    )


def messages_of(items: Sequence[Body], where: str) -> tuple[Message, ...]:
    """Items to messages: neighbours on the assistant's side are one."""
    messages: list[Message] = []
    for index, item in enumerate(items):
        message = _message(item, f"{where}[{index}]")
        if message is None:
            continue
        if messages and messages[-1].role == message.role == "assistant":
            message = _merged(messages.pop(), message)
        messages.append(message)
    return tuple(messages)


def _message(item: Body, place: str) -> Message | None:
    kind = text(item, "type", f"{place}.") or "message"
    if kind == "message":
        role = ROLES.get(text(item, "role", f"{place}."))
        if role is None:
            raise WireError(f"{place}.role is {item.get('role')!r}. There are: {', '.join(ROLES)}.")
        return Message(role, content(item.get("content"), place))
    if kind in CALLS:
        call = ToolCall(text(item, "name", f"{place}."), arguments(item.get(CALLS[kind])), text(item, "call_id"))
        return Message("assistant", tool_calls=(call,))
    if kind in RESULTS:
        return Message("tool", content(item.get("output"), place), tool_call_id=text(item, "call_id"))
    if kind == "reasoning":
        said = [*objects(item, "content", f"{place}."), *objects(item, "summary", f"{place}.")]
        return Message("assistant", reasoning=joined([text(part, "text") for part in said]))
    return None


def _merged(first: Message, second: Message) -> Message:
    reasoning = joined((first.reasoning, second.reasoning))
    return Message("assistant", first.parts + second.parts, first.tool_calls + second.tool_calls, None, reasoning)


def write_request(request: Request) -> dict[str, Any]:
    """Every system message is an item of the input, so that none moves to the front."""
    body: dict[str, Any] = {"model": request.model}
    body["input"] = [item for message in request.messages for item in _items(message, "")]
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
    body["temperature"] = request.sampling.temperature
    if request.sampling.max_tokens:
        body["max_output_tokens"] = request.sampling.max_tokens
    if request.previous:
        body["previous_response_id"] = request.previous
    if request.conversation:
        body["conversation"] = request.conversation
    return body | ({"stream": True} if request.stream else {})


def _tool(tool: Tool) -> dict[str, Any]:
    parameters = json.loads(tool.parameters)
    return {"type": "function", "name": tool.name, "description": tool.description, "parameters": parameters, "strict": False}


def _items(message: Message, name: str) -> list[dict[str, Any]]:
    """A message as items; `name` begins the ids of an answer's items, which a request's need not have."""
    if message.role == "tool":
        return [{"type": "function_call_output", "call_id": message.tool_call_id or "", "output": message.text}]
    items: list[dict[str, Any]] = []
    if message.reasoning:
        items.append({"type": "reasoning", "summary": [{"type": "summary_text", "text": message.reasoning}]})
    if message.parts or not message.tool_calls:
        kind = "output_text" if message.role == "assistant" else "input_text"
        parts = [{**part, "annotations": []} if kind == "output_text" else part for part in strings(message, kind)]
        items.append({"type": "message", "role": message.role, "content": parts})
    items += [
        {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments}
        for call in message.tool_calls
    ]
    if name:
        for index, item in enumerate(items):
            item["id"], item["status"] = f"{name}_{index}", "completed"
    return items


def read_answer(body: Body) -> Answer:
    """One reply. `incomplete` is a reply that was cut; `failed` and `cancelled` are no answers."""
    status = text(body, "status") or "completed"
    if status not in ("completed", "incomplete"):
        raise WireError(f"status is {status!r}: {table(body, 'error').get('message') or 'the answer holds no reply'}.")
    messages = messages_of(objects(body, "output"), "output")
    message = next((each for each in messages if each.role == "assistant"), Message("assistant"))
    counts = usage(body, "input_tokens", "output_tokens", "input_tokens_details")
    why = text(table(body, "incomplete_details"), "reason") or status
    finish = "length" if status == "incomplete" else "tool_calls" if message.tool_calls else "stop"
    return Answer(text(body, "id"), text(body, "model"), (Reply(message, finish, counts),), (why,))  # type: ignore[arg-type]


def write_answer(answer: Answer) -> dict[str, Any]:
    reply = answer.replies[0]
    cut = reply.finish == "length"
    reason = "content_filter" if "content_filter" in answer.finishes else "max_output_tokens"
    return _envelope(answer) | {
        "status": "incomplete" if cut else "completed",
        "incomplete_details": {"reason": reason} if cut else None,
        "output": _items(reply.message, f"item_{answer.id}"),
        "usage": _usage(reply.usage),
    }


def _envelope(answer: Answer) -> dict[str, Any]:
    fixed: dict[str, Any] = {"error": None, "incomplete_details": None, "instructions": None, "metadata": {}, "tools": []}
    fixed |= {"parallel_tool_calls": True, "tool_choice": "auto", "temperature": None, "top_p": None}
    head = {"id": answer.id, "object": "response", "created_at": answer.created, "model": answer.model}
    return {**head, **fixed, "output": [], "status": "in_progress"}


def _usage(counts: Usage) -> dict[str, Any]:
    return {
        "input_tokens": counts.prompt,
        "input_tokens_details": {"cached_tokens": counts.cached, "cache_write_tokens": 0},
        "output_tokens": counts.completion,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": counts.prompt + counts.completion,
    }


def write_stream(answer: Answer) -> Iterator[bytes]:
    body = write_answer(answer)
    opened = _envelope(answer)
    events: list[dict[str, Any]] = [{"type": f"response.{name}", "response": opened} for name in ("created", "in_progress")]
    for index, item in enumerate(body["output"]):
        events += _item_events(index, item)
    events.append({"type": f"response.{body['status']}", "response": body})
    for number_, each in enumerate(events):
        yield event({**each, "sequence_number": number_}, each["type"])


def _item_events(index: int, item: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    place = {"output_index": index, "item_id": item["id"]}
    unfilled: dict[str, dict[str, Any]] = {
        "message": {"content": []},
        "function_call": {"arguments": ""},
        "reasoning": {"summary": []},
    }
    empty = unfilled[item["type"]]
    yield {"type": "response.output_item.added", "output_index": index, "item": {**item, **empty, "status": "in_progress"}}
    if item["type"] == "function_call":
        yield {"type": "response.function_call_arguments.delta", **place, "delta": item["arguments"]}
        yield {
            "type": "response.function_call_arguments.done",
            **place,
            "name": item["name"],
            "arguments": item["arguments"],
        }
    for number_, part in enumerate(item.get("content", ())):
        here = {**place, "content_index": number_}
        yield {"type": "response.content_part.added", **here, "part": {**part, "text": ""}}
        yield {"type": "response.output_text.delta", **here, "delta": part["text"], "logprobs": []}
        yield {"type": "response.output_text.done", **here, "text": part["text"], "logprobs": []}
        yield {"type": "response.content_part.done", **here, "part": part}
    for number_, part in enumerate(item.get("summary", ())):
        here = {**place, "summary_index": number_}
        yield {"type": "response.reasoning_summary_part.added", **here, "part": {**part, "text": ""}}
        yield {"type": "response.reasoning_summary_text.delta", **here, "delta": part["text"]}
        yield {"type": "response.reasoning_summary_text.done", **here, "text": part["text"]}
        yield {"type": "response.reasoning_summary_part.done", **here, "part": part}
    yield {"type": "response.output_item.done", "output_index": index, "item": dict(item)}


class Stream(JsonStream):
    """The last event holds the whole response; before it, the items that are done and the deltas of those that are not."""

    def __init__(self) -> None:
        super().__init__()
        self._body: dict[str, Any] = {}
        self._items: dict[int, dict[str, Any]] = {}

    def _take(self, event: Mapping[str, Any]) -> None:
        kind = str(event.get("type", ""))
        if kind == "error" or event.get("error"):
            self.error = self.error or str(event.get("message") or event.get("error"))
        elif kind == "response.failed":
            self._body = dict(event["response"])
            self.error = self.error or str((self._body.get("error") or {}).get("message") or "the response failed")
        elif kind in LAST:
            self._body = dict(event["response"])
            self.whole = not self.error
        elif kind.startswith("response.output_item."):
            self._items[int(number(event, "output_index"))] = dict(event["item"])
        elif isinstance(event.get("response"), Mapping):
            self._body = dict(event["response"])
        elif kind == "response.output_text.delta":
            item = self._items.setdefault(int(number(event, "output_index")), {"type": "message", "role": "assistant"})
            parts = item["content"] = list(item.get("content") or [{"type": "output_text", "text": ""}])
            parts[-1] = {**parts[-1], "text": parts[-1].get("text", "") + event["delta"]}
        elif kind == "response.function_call_arguments.delta":
            item = self._items.setdefault(int(number(event, "output_index")), {"type": "function_call"})
            item["arguments"] = item.get("arguments", "") + event["delta"]

    def body(self) -> dict[str, Any]:
        if self.whole or self._body.get("status") == "failed":
            # Some servers leave the output of the last event empty: the items came before it.
            items = [item for _, item in sorted(self._items.items())]
            return {**self._body, "output": self._body.get("output") or items}
        items = [item for _, item in sorted(self._items.items())]
        return {**self._body, "output": items, "status": "incomplete"}
