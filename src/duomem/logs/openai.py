"""OpenAI's chat form: fine-tuning JSONL, stored completions with their messages, and request/response pairs. Read and written.

In: records with `messages` (and `tools`), with `choices` beside them, or with `request` and `response`. Out: a conversation a
record; single calls are put together by their growing prefix. The success is looked for in `metadata.success`. The Responses
API's logs and the loss weights of fine-tuning files are not read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from duomem.logs import Bad, BadField, Body, Record, Row
from duomem.logs import _messages as chat
from duomem.logs._fields import success, text
from duomem.logs._meta import checked_layout, describe
from duomem.logs._read import each
from duomem.prompts import Layout, conversation
from duomem.types import Trajectory

SUFFIX = ".jsonl"


def knows(body: Body) -> bool:
    return "messages" in body or body.get("object") == "chat.completion" or {"request", "response"} <= set(body)


def read(rows: Iterable[Row | Bad]) -> Iterator[Record | Bad]:
    return each(rows, _records)


def _records(row: Row) -> Iterator[Record]:
    body = _joined(row.body)
    if "messages" not in body and "choices" in body:
        raise BadField(
            "messages", "is missing: a stored completion holds only its reply. Put what it answers beside it (docs/logs.md)"
        )
    if "messages" not in body:
        raise BadField("messages", "is missing. If this is another format, name it with --format")
    asked = chat.messages(_listed(body["messages"]), "messages")
    offered = chat.tools(body.get("tools") or body.get("functions"), "tools")
    metadata = chat.decoded(body.get("metadata"))
    said = metadata.get("success") if isinstance(metadata, Mapping) else None
    word = success(said, "metadata.success", 1.0)
    model = text(body.get("model"), "model")
    if "choices" not in body:
        yield Record(asked, row.place, row.body, offered, model=model, success=word)
        return
    for index, choice in enumerate(chat.objects(body["choices"], "choices")):
        reply = _reply(choice, f"choices[{index}]")
        yield Record((*asked, *reply), row.place, row.body, offered, model=model, success=word, single=True)


def _joined(body: Body) -> Body:
    """A request and its response as one record."""
    request, response = chat.decoded(body.get("request")), chat.decoded(body.get("response"))
    if not isinstance(request, Mapping) or not isinstance(response, Mapping):
        return body
    inner = [each.get("body") for each in (request, response)]
    request, response = (
        full if isinstance(full, Mapping) else each for full, each in zip(inner, (request, response), strict=True)
    )
    if "choices" not in response:
        raise BadField("response.choices", "is missing: the response holds no reply")
    return {**body, **response, **request}


def _listed(value: object) -> object:
    """Messages as a list, also where they are the page that the API gives."""
    return value.get("data") if isinstance(value, Mapping) else value


def _reply(choice: Body, name: str) -> Sequence[Any]:
    finish = choice.get("finish_reason")
    if finish not in (None, "stop", "tool_calls", "function_call"):
        raise BadField(f"{name}.finish_reason", f"is {finish!r}: the reply was cut off")
    message = choice.get("message")
    if not isinstance(message, Mapping):
        raise BadField(f"{name}.message", "is missing")
    return chat.messages([{"role": "assistant", **message}], f"{name}.message")


def write(trajectories: Sequence[Trajectory], path: Path, layout: Layout, bare: bool) -> int:
    """One line an episode, ended by its last reply."""
    with path.open("w", encoding="utf-8") as file:
        for trajectory in trajectories:
            file.write(json.dumps(record(trajectory, layout, bare), ensure_ascii=False) + "\n")
    return len(trajectories)


def record(trajectory: Trajectory, layout: Layout, bare: bool) -> dict[str, Any]:
    """An episode as OpenAI's fine-tuning reads it; `metadata` beside it unless `bare`."""
    checked_layout(trajectory, layout)
    messages = chat.written(conversation(layout, trajectory))
    for message in messages if bare else ():
        message.pop("reasoning_content", None)
    made: dict[str, Any] = {"messages": messages}
    if trajectory.tools:
        made["tools"] = chat.written_tools(trajectory.tools)
    return made if bare else made | {"metadata": describe(trajectory)}
