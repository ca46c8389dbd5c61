"""What a request asks beyond its messages: whether tools must be called, a form of the answer, memories or none.

In: a body of one of the three APIs. Out: `Wants`. A field that would change an answer and that the student cannot follow is
named in `ignored`, and the client reads it in a header: it is never dropped in silence. Not here: what comes of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from duomem import wire
from duomem.errors import UsageError
from duomem.types import Tool
from duomem.wire import Api, Body, WireError

Choice = Literal["auto", "none", "required"]

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "top_p": (1, 1.0),
    "top_k": (),
    "frequency_penalty": (0, 0.0),
    "presence_penalty": (0, 0.0),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "reasoning_effort": (),
    "reasoning": ({},),
    "thinking": ({"type": "disabled"},),
    "prediction": (),
    "truncation": ("disabled",),
}
"""Fields that the student does not follow, each with the values that change nothing."""


@dataclass(frozen=True, slots=True)
class Wants:
    """`tool` is the one tool that must be called, empty for any. `schema` is JSON Schema as text that the answer must fit:
    empty for free text, "{}" for any object."""

    choice: Choice = "auto"
    tool: str = ""
    schema: str = ""
    usage: bool = True
    """Whether a chat stream ends with a chunk of token counts."""
    memories: bool = True
    ignored: tuple[str, ...] = ()

    def offered(self, tools: tuple[Tool, ...]) -> tuple[Tool, ...]:
        """The tools that the student may call. Raises `WireError` for a named one that is not there."""
        if self.choice == "none":
            return ()
        if self.choice == "required" and not tools:
            raise WireError("tool_choice asks for a call, and tools is empty.")
        if self.tool and not any(tool.name == self.tool for tool in tools):
            raise WireError(f"tool_choice names {self.tool!r}, which is not in tools.")
        return tuple(tool for tool in tools if not self.tool or tool.name == self.tool)


class NotMet(UsageError):
    """The student's answer does not have the form that the request insists on."""


def read_wants(api: Api, body: Body, headers: Mapping[str, str]) -> Wants:
    """Raises `WireError` for a field of the wrong shape."""
    off = "off" in (str(headers.get("x-duomem-memory", "")).lower(), body.get("memory"))
    options = body.get("stream_options")
    usage = bool(options.get("include_usage")) if isinstance(options, Mapping) else False
    ignored = tuple(name for name, same in NEUTRAL.items() if body.get(name) is not None and body[name] not in same)
    choice, tool = _choice(body.get("tool_choice"))
    return Wants(choice, tool, _schema(_format(api, body)), usage or api != "chat", not off, ignored)


def _choice(value: Any) -> tuple[Choice, str]:
    """Both ways of writing it: OpenAI's words and objects, Anthropic's objects."""
    if value is None:
        return "auto", ""
    kind = value.get("type") if isinstance(value, Mapping) else value
    if kind in ("auto", "none", "required"):
        return kind, ""
    if kind == "any":
        return "required", ""
    if isinstance(value, Mapping) and kind in ("function", "tool"):
        inner = value.get("function")
        name = (inner if isinstance(inner, Mapping) else value).get("name")
        if isinstance(name, str) and name:
            return "required", name
    raise WireError(f"tool_choice is {json.dumps(value)[:120]}: none of auto, none, required or a function's name.")


def _format(api: Api, body: Body) -> Any:
    if api == "chat":
        return body.get("response_format")
    holder = body.get("text" if api == "responses" else "output_config")
    inner = holder.get("format") if isinstance(holder, Mapping) else None
    return inner if api == "responses" else inner or body.get("output_format")


def _schema(value: Any) -> str:
    if value is None:
        return ""
    kind = value.get("type") if isinstance(value, Mapping) else None
    if kind in ("text", "json_object"):
        return "" if kind == "text" else "{}"
    if kind == "json_schema":
        holder = value.get("json_schema", value)
        schema = holder.get("schema") if isinstance(holder, Mapping) else None
        if isinstance(schema, Mapping):
            return json.dumps(schema, sort_keys=True)
    raise WireError(
        f"the answer's format is {json.dumps(value)[:120]}: none of text, json_object or json_schema with a schema."
    )


def check_met(wants: Wants, answer: wire.Answer) -> None:
    """Raises `NotMet` where a reply lacks the call, or the JSON object, that the request insists on."""
    for reply in answer.replies:
        if wants.choice == "required" and not reply.message.tool_calls:
            raise NotMet("tool_choice asks for a call, and the student made none. Ask with tool_choice auto.")
        if wants.schema and not reply.message.tool_calls and reply.finish != "length" and not _fits(reply.message.text):
            raise NotMet("The request asks for JSON, and the student's answer is none. Serve with --engine llamacpp.")


def _fits(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict | list)
    except ValueError:
        return False
