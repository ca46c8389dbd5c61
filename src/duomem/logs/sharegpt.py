"""ShareGPT: `conversations` of `from` and `value`, with `system` and `tools` beside them, as LLaMA-Factory and Axolotl read it.

In: records or trajectories. Out: trajectories' conversations or a JSON list. Roles: human, gpt, system, function_call,
observation. What the form has no place for (thoughts beside a call, ids, several results) is written under keys that its
readers pass over.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from duomem.logs import Bad, BadField, Body, Record, Row
from duomem.logs import _messages as chat
from duomem.logs._fields import number, success, text
from duomem.logs._meta import checked_layout, describe
from duomem.logs._read import each
from duomem.prompts import Layout, conversation
from duomem.types import Message, TextPart, Trajectory

SUFFIX = ".json"
EXTRA = "message"
"""Beside `from` and `value`: the messages themselves, in OpenAI's form, where the two do not tell them whole."""


def knows(body: Body) -> bool:
    return isinstance(body.get("conversations", body.get("conversation")), list) and not isinstance(body.get("meta"), Mapping)


def read(rows: Iterable[Row | Bad]) -> Iterator[Record | Bad]:
    return each(rows, lambda row: [_record(row)])


def _record(row: Row) -> Record:
    body = row.body
    name = "conversation" if "conversations" not in body and "conversation" in body else "conversations"
    messages = conversations(body.get(name), name)
    if system := text(body.get("system"), "system"):
        messages = (Message.of("system", system), *messages)
    metadata = chat.decoded(body.get("metadata"))
    said = metadata.get("success") if isinstance(metadata, Mapping) else None
    return Record(
        messages,
        row.place,
        body,
        chat.tools(body.get("tools"), "tools"),
        id=text(body.get("id"), "id"),
        success=success(said, "metadata.success", 1.0),
        reward=number(body.get("reward")),
    )


def conversations(value: object, name: str) -> tuple[Message, ...]:
    """Messages from `from` and `value` (or `role` and `content`). Raises `BadField`."""
    found: list[Message] = []
    for index, item in enumerate(chat.objects(value, name)):
        place = f"{name}[{index}]"
        if isinstance(whole := item.get(EXTRA), list):
            found += chat.messages(whole, f"{place}.{EXTRA}")
        elif "from" in item:
            found.append(_message(item, place))
        else:
            found += chat.messages([item], place)
    return tuple(found)


def _message(item: Body, place: str) -> Message:
    role, value = item.get("from"), item.get("value")
    if role in ("function_call", "tool_call"):
        decoded = chat.decoded(value)
        calls = decoded if isinstance(decoded, list) else [decoded]
        made = [
            chat.call(call, f"{place}.value" + (f"[{index}]" if len(calls) > 1 else "")) for index, call in enumerate(calls)
        ]
        return chat.messages([{"role": "assistant", "content": None, "tool_calls": made}], place)[0]
    if not isinstance(role, str) or role.lower() not in chat.ROLES:
        raise BadField(f"{place}.from", f"is {role!r}. There are: {', '.join(chat.ROLES)}, function_call")
    if not isinstance(value, str):
        raise BadField(f"{place}.value", "is missing" if value is None else f"is {type(value).__name__}, not text")
    return chat.messages([{"role": role, "content": value}], place)[0]


def write(trajectories: Sequence[Trajectory], path: Path, layout: Layout, bare: bool) -> int:
    """One JSON list, an object an episode on a line of its own."""
    with path.open("w", encoding="utf-8") as file:
        file.write("[\n")
        for index, trajectory in enumerate(trajectories):
            end = ",\n" if index + 1 < len(trajectories) else "\n"
            file.write(json.dumps(_written(trajectory, layout, bare), ensure_ascii=False) + end)
        file.write("]\n")
    return len(trajectories)


def _written(trajectory: Trajectory, layout: Layout, bare: bool) -> dict[str, Any]:
    checked_layout(trajectory, layout)
    messages = conversation(layout, trajectory)
    made: dict[str, Any] = {"conversations": []}
    if messages[0].role == "system":
        made["system"], messages = messages[0].text, messages[1:]
    made["conversations"] = [_item(group, bare) for group in _groups(messages)]
    if trajectory.tools:
        functions = [tool["function"] for tool in chat.written_tools(trajectory.tools)]
        made["tools"] = json.dumps(functions, ensure_ascii=False)
    return made if bare else made | {"metadata": describe(trajectory)}


def _groups(messages: Sequence[Message]) -> list[list[Message]]:
    """Neighbours of one side together: the form wants the two sides in turn."""
    groups: list[list[Message]] = []
    for message in messages:
        if groups and (groups[-1][-1].role == "assistant") == (message.role == "assistant"):
            groups[-1].append(message)
        else:
            groups.append([message])
    return groups


def _item(group: Sequence[Message], bare: bool) -> dict[str, Any]:
    calls = [call for message in group for call in message.tool_calls]
    if calls:
        plain = [{"name": call.name, "arguments": chat.decoded(call.arguments)} for call in calls]
        made: dict[str, Any] = {
            "from": "function_call",
            "value": json.dumps(plain if len(plain) > 1 else plain[0], ensure_ascii=False),
        }
    else:
        roles = {message.role for message in group}
        side = "gpt" if roles == {"assistant"} else "observation" if roles == {"tool"} else "human"
        made = {"from": side, "value": "\n".join(message.text for message in group)}
    if not bare and _again(made) != tuple(group):
        made[EXTRA] = chat.written(group)
    return made


def _again(made: Body) -> tuple[Message, ...]:
    """What reading gives of an item, to see whether anything is lost."""
    message = _message(made, "")
    return (message,) if message.parts or message.tool_calls else (Message(message.role, (TextPart(""),)),)
