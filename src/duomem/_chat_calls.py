"""Tool calls and thinking as text: written into a conversation, and read back from an answer.

In: messages with tools, or the text of an answer with the pieces in which a template writes calls. Out: plain messages for a
template that has no tools, or a message with calls and reasoning apart. Nothing is repaired: what cannot be read stays text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from duomem._chat_frames import CLOSE, OPEN, Piece, call_id
from duomem.types import Message, TextPart, Tool, ToolCall

_LINE = "Tool call: "
_WRITTEN = re.compile(rf"(?m)^{_LINE}(?=\{{)")
_SCALARS = ("string", "integer", "number", "boolean")
_OFFER = (
    'You have tools. To call one, write one line for each call:\n{line}{{"name": "the tool", "arguments": {{...}}}}\n'
    "The tools are:\n"
)


def canonical(arguments: str) -> str:
    """Arguments as every prompt writes them; what is no JSON stays as it is."""
    try:
        return json.dumps(json.loads(arguments), ensure_ascii=False)
    except ValueError:
        return arguments


def as_text(messages: Sequence[Message], learn: Sequence[float], tools: Sequence[Tool]) -> tuple[list[Message], list[float]]:
    """The same conversation without tools in its structure: offers in the system message, calls as lines of the answer, results
    as user messages. Neighbouring results and user messages become one, for templates whose roles alternate.
    """
    plain: list[Message] = []
    weights: list[float] = []
    if tools:
        offer = _offer(tools)
        if messages and messages[0].role == "system":
            offer, messages, learn = f"{messages[0].text}\n\n{offer}", messages[1:], learn[1:]
        plain, weights = [Message.of("system", offer)], [0.0]
    for message, weight in zip(messages, learn, strict=True):
        if message.role == "assistant":
            lines = [_LINE + json.dumps(_plain(call), ensure_ascii=False) for call in message.tool_calls]
            text = "\n".join([*([message.text] if message.text else []), *lines])
            plain.append(replace(message, parts=(TextPart(text),), tool_calls=()))
        else:
            role = message.role if message.role == "system" else "user"
            text = f"Tool result: {message.text}" if message.role == "tool" else message.text
            if role == "user" and plain and plain[-1].role == "user":
                plain[-1] = Message.of("user", f"{plain[-1].text}\n{text}")
                continue
            plain.append(Message.of(role, text))
        weights.append(weight)
    return plain, weights


def _offer(tools: Sequence[Tool]) -> str:
    return _OFFER.format(line=_LINE) + "\n".join(_offered(tool) for tool in tools)


def _offered(tool: Tool) -> str:
    """One tool in one line: `name(argument: type, ...): description` where its arguments are plain values, a fifth of the
    tokens of its JSON; else its JSON."""
    schema = json.loads(tool.parameters)
    signature = _signature(schema) if isinstance(schema, dict) else None
    if signature is None:
        return json.dumps({"name": tool.name, "description": tool.description, "parameters": schema}, ensure_ascii=False)
    return f"{tool.name}({signature}): {tool.description}"


def _signature(schema: dict[str, Any]) -> str | None:
    """Arguments with their types, a question mark behind one that may be left out; None where this would not say it all."""
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if set(schema) - {"type", "properties", "required"} or not all(
        isinstance(kind, dict) and set(kind) == {"type"} and kind["type"] in _SCALARS for kind in properties.values()
    ):
        return None
    return ", ".join(f"{name}{'' if name in required else '?'}: {kind['type']}" for name, kind in properties.items())


def _plain(call: ToolCall) -> dict[str, object]:
    try:
        return {"name": call.name, "arguments": json.loads(call.arguments)}
    except ValueError:
        return {"name": call.name, "arguments": call.arguments}


@dataclass(frozen=True)
class CallForm:
    """How calls stand in an answer, as literals of the template: before the first name, between name and arguments, between
    two calls (none: one call only), after the last. White space in them may differ."""

    first: str
    middle: str
    between: str | None
    last: str

    @classmethod
    def of(cls, one: Sequence[Piece], two: Sequence[Piece] | None) -> CallForm:
        """From the bodies of an answer with one call, and of one with two where the template takes it."""
        literals = _literals(one)
        return cls(literals[0], literals[1], _literals(two)[2] if two else None, literals[2])

    @cached_property
    def _patterns(self) -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str] | None, re.Pattern[str]]:
        between = re.compile(_loose(self.between)) if self.between is not None else None
        return re.compile(_loose(self.first)), re.compile(_loose(self.middle)), between, re.compile(_loose(self.last))

    def read(self, text: str) -> tuple[str, list[tuple[str, str]]]:
        """The text beside the calls, and each call's name and arguments. All of it is text where no call can be read."""
        first, middle, between, last = self._patterns
        calls: list[tuple[str, str]] = []
        for start in first.finditer(text):
            at = start.end()
            while (call := _call(text, at, middle)) is not None:
                calls.append(call[:2])
                at = call[2]
                following = between.match(text, at) if between else None
                if following is None:
                    break
                at = following.end()
            if calls:
                end = last.match(text, at)
                return (text[: start.start()] + text[end.end() if end else at :]).strip(), calls
        return text, []


LINES = CallForm(f'{_LINE}{{"name": "', '", "arguments": ', f'}}\n{_LINE}{{"name": "', "}")
"""How calls stand in an answer as plain text."""


def _literals(pieces: Sequence[Piece]) -> list[str]:
    """The literals around name, arguments, name, arguments; empty ones too."""
    found = [""]
    for piece in pieces:
        if isinstance(piece, str):
            found[-1] += piece
        else:
            found.append("")
    return found


def _loose(literal: str) -> str:
    """A pattern of a literal; ids are any word, white space is optional."""
    parts = re.split(r"(\s+|\d{9})", literal)
    return "".join(r"\s*" if part.isspace() else r"\w+" if re.fullmatch(r"\d{9}", part) else re.escape(part) for part in parts)


def _call(text: str, at: int, middle: re.Pattern[str]) -> tuple[str, str, int] | None:
    """Name, arguments and end of the call whose name starts at `at`."""
    name = re.compile(r"[^\s\"'\\<>{}\[\]()]+").match(text, at)
    then = middle.match(text, name.end()) if name else None
    if name is None or then is None:
        return None
    try:
        arguments, end = json.JSONDecoder().raw_decode(text, then.end())
    except ValueError:
        return None
    return (name[0], json.dumps(arguments, ensure_ascii=False), end) if isinstance(arguments, dict) else None


def read_lines(text: str) -> tuple[str, list[tuple[str, str]]]:
    """What `as_text` wrote of an answer's calls: the text beside them, and names and arguments."""
    kept, calls, at = "", [], 0
    for found in _WRITTEN.finditer(text):
        try:
            value, end = json.JSONDecoder().raw_decode(text, found.end())
        except ValueError:
            continue
        if isinstance(value, dict) and isinstance(value.get("name"), str) and isinstance(value.get("arguments"), dict):
            calls.append((value["name"], json.dumps(value["arguments"], ensure_ascii=False)))
            kept, at = kept + text[at : found.start()], end
    return ((kept + text[at:]).strip(), calls) if calls else (text, [])


def split_thinking(text: str, *, opened: bool) -> tuple[str, str]:
    """Reasoning and the rest of an answer. `opened`: its prompt ends inside a thinking block. One that never closes is all
    reasoning."""
    head, closed, tail = text.partition(CLOSE)
    before, mark, inside = head.partition(OPEN)
    rest = tail if closed else ""
    if mark:
        return inside.strip(), (before + rest).lstrip("\n")
    return (head.strip(), rest.lstrip("\n")) if opened else ("", text)


def message_of(text: str, calls: Sequence[tuple[str, str]], reasoning: str, number: int) -> Message:
    """An answer as a message. `number` is that of its first call in the conversation."""
    made = tuple(ToolCall(name, arguments, call_id(number + index)) for index, (name, arguments) in enumerate(calls))
    return Message("assistant", (TextPart(text),) if text or not made else (), made, reasoning=reasoning)
