"""Messages seen by a template: what shape each has, and what goes into its places.

In: messages. Out: shapes for `_chat_frames`, and the texts for the slots of a frame. It knows no tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from duomem._chat_calls import canonical
from duomem._chat_frames import Shape
from duomem.types import Message


def shapes_of(messages: Sequence[Message]) -> tuple[Shape, ...]:
    """What a template can tell of each message; a result belongs to the call whose id it has, else to the next in order."""
    shapes: list[Shape] = []
    ids: list[str] = []
    results = 0
    for message in messages:
        number = len(message.tool_calls) if message.role == "assistant" else 0
        if message.role != "tool":
            ids, results = [call.id for call in message.tool_calls], 0
            shapes.append(Shape(message.role, number, bool(message.text) or not number))
            continue
        answers = ids.index(message.tool_call_id) if message.tool_call_id in ids else min(results, max(len(ids) - 1, 0))
        shapes.append(Shape("tool", answers=answers))
        results += 1
    return tuple(shapes)


def names_of(messages: Sequence[Message], shapes: Sequence[Shape]) -> list[str]:
    """For each tool message, the name of the tool that answered."""
    names = [""] * len(messages)
    said: Message | None = None
    for index, message in enumerate(messages):
        if message.role == "assistant":
            said = message
        elif message.role == "tool" and said and shapes[index].answers < len(said.tool_calls):
            names[index] = said.tool_calls[shapes[index].answers].name
    return names


def fill(slot: tuple[str, int, bool], message: Message, name: str) -> str:
    """The data of a slot, JSON-escaped where the template would have done it."""
    kind, call, escaped = slot
    if kind == "arguments":
        return canonical(message.tool_calls[call].arguments)
    text = {"text": message.text, "reasoning": message.reasoning, "tool": name}.get(kind)
    if text is None:
        text = message.tool_calls[call].name
    return json.dumps(text, ensure_ascii=False)[1:-1] if escaped else text
