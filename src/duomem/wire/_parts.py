"""What the three APIs share: fields read with their names in errors, content parts as text, tool arguments as canonical text.

In: JSON values. Out: texts, numbers, messages. A part that is no text (a picture, a file) becomes a short name with its hash:
two different ones differ.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from duomem.types import Message, Sampling, TextPart, Tool, Usage
from duomem.wire import Body, WireError

TEXTS = ("text", "input_text", "output_text", "summary_text", "reasoning_text", "refusal")


def text(body: Body, name: str, place: str = "") -> str:
    """A field that holds text; empty where it is absent or null."""
    value = body.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise WireError(f"{place}{name} is {type(value).__name__}, not text.")
    return value


def number(body: Body, name: str, default: float = 0) -> float:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise WireError(f"{name} is {type(value).__name__}, not a number.")
    if not math.isfinite(value):
        raise WireError(f"{name} is {value}.")
    return value


def table(body: Body, name: str) -> Body:
    """A field that holds an object; empty where it is absent or null."""
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise WireError(f"{name} is {type(value).__name__}, not an object.")
    return value


def objects(body: Body, name: str, place: str = "") -> list[Body]:
    """A field that holds a list of objects; empty where it is absent or null."""
    value = body.get(name)
    if value is None:
        return []
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise WireError(f"{place}{name} is {type(value).__name__}, not a list.")
    for index, item in enumerate(value):
        if not isinstance(item, Mapping):
            raise WireError(f"{place}{name}[{index}] is {type(item).__name__}, not an object.")
    return list(value)


def content(value: object, place: str) -> tuple[TextPart, ...]:
    """The parts of a content field: text, a list of parts, or nothing. Empty texts are left out."""
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        return (TextPart(value),)
    return tuple(part for item in objects({"content": value}, "content", f"{place}.") if (part := _part(item)).text)


def _part(item: Body) -> TextPart:
    kind = str(item.get("type", "text"))
    if kind in TEXTS:
        return TextPart(text(item, "refusal" if kind == "refusal" else "text"))
    stable = {key: value for key, value in item.items() if key != "cache_control"}
    return TextPart(f"[{kind} {hashlib.sha256(json.dumps(stable, sort_keys=True).encode()).hexdigest()[:12]}]")


def arguments(value: object) -> str:
    """Tool arguments as text, whether the API sends an object or a text."""
    return value if isinstance(value, str) else json.dumps({} if value is None else value, ensure_ascii=False)


def parsed(text: str) -> Any:
    """Tool arguments as an object; a text that is no JSON object (a model's slip) under the key "arguments"."""
    try:
        value = json.loads(text or "{}")
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"arguments": text}


def tool(body: Body, schema: str) -> Tool:
    return Tool(text(body, "name"), text(body, "description"), json.dumps(table(body, schema), ensure_ascii=False))


def sampling(body: Body, *limits: str) -> Sampling:
    """Temperature, stop texts, seed, and the first of the named limits that is there; `max_tokens` 0: the model's own."""
    stop = body.get("stop", body.get("stop_sequences"))
    if not (stop is None or isinstance(stop, str | list)):
        raise WireError(f"stop is {type(stop).__name__}, not a list.")
    stops = (stop,) if isinstance(stop, str) else tuple(str(each) for each in stop or ())
    limit = next((int(number(body, name)) for name in limits if body.get(name) is not None), 0)
    return Sampling(float(number(body, "temperature", 1.0)), limit, stops, int(number(body, "seed")))


def usage(body: Body, prompt: str, completion: str, details: str) -> Usage:
    counts = table(body, "usage")
    cached = int(number(table(counts, details), "cached_tokens"))
    return Usage(int(number(counts, prompt)), cached, int(number(counts, completion)))


def joined(parts: Sequence[str]) -> str:
    return "\n".join(part for part in parts if part)


def strings(message: Message, kind: str) -> list[dict[str, Any]]:
    """A message's content as parts of one kind."""
    return [{"type": kind, "text": part.text} for part in message.parts]


def plain(message: Message) -> str | list[dict[str, Any]]:
    """A message's content as text, or as parts where there are several."""
    return message.text if len(message.parts) < 2 else strings(message, "text")
