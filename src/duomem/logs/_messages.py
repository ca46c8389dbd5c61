"""Chat messages as logs have them, and back: OpenAI's form and its variants, made the one form of `duomem.wire`.

In: JSON values with the name of their field. Out: `Message`s and `Tool`s; a `BadField` names the field that is wrong. It knows
no format as a whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from duomem.logs import BadField, Body
from duomem.types import Message, Tool
from duomem.wire import Request, WireError, read_request, write_request

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "ai": "assistant",
    "system": "system",
    "developer": "system",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "text": "user",
}
"""Names of roles in logs. `function` is OpenAI's of 2023, `text` that of verifiers for a prompt without roles."""


def messages(value: object, name: str) -> tuple[Message, ...]:
    """Messages with role and content. A text alone is one user message."""
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    items = objects(value, name)
    plain = [_usual(item, f"{name}[{index}]") for index, item in enumerate(items)]
    return _read({"messages": plain}, name).messages


def tools(value: object, name: str) -> tuple[Tool, ...]:
    """Tool definitions: a list or a JSON text of one; each in OpenAI's form, or a function alone."""
    value = decoded(value)
    if value in (None, "", {}):
        return ()
    items = [definition(item, f"{name}[{index}]") for index, item in enumerate(objects(value, name))]
    return _read({"messages": [], "tools": items}, name).tools


def definition(item: Body, name: str) -> dict[str, Any]:
    """One tool in OpenAI's form."""
    function = item.get("function", item)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise BadField(name, "is no tool definition: it has no name")
    schema = function.get("parameters", function.get("input_schema")) or {}
    words = function.get("description") or ""
    return {"type": "function", "function": {"name": function["name"], "description": words, "parameters": decoded(schema)}}


def written(all_messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages in OpenAI's form; reasoning under `reasoning_content`."""
    found: list[dict[str, Any]] = write_request(Request("chat", "", tuple(all_messages)))["messages"]
    return found


def written_tools(offered: Sequence[Tool]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = write_request(Request("chat", "", (), tuple(offered))).get("tools", [])
    return found


def objects(value: object, name: str) -> list[Body]:
    """A list of JSON objects."""
    value = decoded(value)
    if not isinstance(value, list):
        raise BadField(name, "is missing" if value is None else f"is {type(value).__name__}, not a list")
    for index, item in enumerate(value):
        if not isinstance(item, Mapping):
            raise BadField(f"{name}[{index}]", f"is {type(item).__name__}, not an object")
    return value


def decoded(value: object) -> Any:
    """A value that some tools keep as JSON text; any other text stays as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def call(value: object, name: str) -> dict[str, Any]:
    """One tool call in OpenAI's form: as an object, as JSON text (verifiers), or without its `function` (flat)."""
    value = decoded(value)
    function = value.get("function", value) if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping) or not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise BadField(name, "is no tool call: it has no function with a name")
    given = function.get("arguments", function.get("parameters", function.get("input")))
    if isinstance(given, float) or given in (True, False):
        raise BadField(f"{name}.arguments", f"is {type(given).__name__}, not an object or its JSON text")
    found = value.get("id")
    return {
        "id": found if isinstance(found, str) else "",
        "type": "function",
        "function": {"name": function["name"], "arguments": given},
    }


def _usual(item: Body, name: str) -> dict[str, Any]:
    """One message as `duomem.wire` reads it."""
    role = item.get("role")
    if not isinstance(role, str) or role.lower() not in ROLES:
        raise BadField(f"{name}.role", f"is {role!r}. There are: {', '.join(ROLES)}")
    usual: dict[str, Any] = {"role": ROLES[role.lower()], "content": item.get("content")}
    calls = item.get("tool_calls")
    if calls:
        if not isinstance(calls, list):
            raise BadField(f"{name}.tool_calls", f"is {type(calls).__name__}, not a list")
        usual["tool_calls"] = [call(each, f"{name}.tool_calls[{index}]") for index, each in enumerate(calls)]
    elif item.get("function_call"):
        usual["tool_calls"] = [call(item["function_call"], f"{name}.function_call")]
    for key in ("tool_call_id", "reasoning_content", "reasoning", "refusal"):
        if item.get(key) is not None:
            usual[key] = item[key]
    if not usual["content"] and not usual.get("tool_calls") and "content" not in item and "refusal" not in usual:
        raise BadField(f"{name}.content", "is missing")
    return usual


def _read(body: dict[str, Any], name: str) -> Request:
    try:
        return read_request("chat", body)
    except WireError as error:
        field, _, why = str(error).partition(" ")
        raise BadField(field if "messages" in field or "tools" in field else name, why.rstrip(".")) from error
