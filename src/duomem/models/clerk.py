"""A teacher for the tool world: acts on the goal and on what its tools answered, one call a turn, with a thought.

In: the same messages any model gets. Out: the next tool call. It reads the conversation anew at every call, so it is stateless
and thread-safe; it never sees the office's state.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from pydantic import BaseModel, ConfigDict

from duomem.envs._office import DAYS
from duomem.types import Message, Reply, Sampling, TextPart, Tool, ToolCall

REVISION = "1"
"""Raise with every change of behaviour: it is part of a run's provenance."""


class Config(BaseModel):
    """The clerk has no settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Clerk:
    """See the module's docstring. `reply` raises ValueError for a task that is none of the office's."""

    writes = False
    """It acts, and cannot write memories."""

    def reply(self, messages: Sequence[Message], tools: Sequence[Tool], sampling: Sampling) -> Reply:
        asked = next(message.text for message in messages if message.role == "user")
        done = [(message.tool_calls[0], answer.text) for message, answer in pairwise(messages) if message.role == "assistant"]
        name, arguments = decide(_found(r"Task: (.*)", asked)[1], done)
        call = ToolCall(name, json.dumps(arguments), f"call-{len(done)}")
        return Reply(Message("assistant", (TextPart(f"next: {name}"),), (call,)), "tool_calls")

    def provenance(self) -> dict[str, str]:
        return {"model": "clerk", "revision": REVISION, "licence": "Apache-2.0"}

    def close(self) -> None:
        pass


def _found(pattern: str, text: str) -> re.Match[str]:
    found = re.search(pattern, text)
    if found is None:
        raise ValueError(f"not one of the office's tasks or answers: {text[:200]!r}")
    return found


def decide(goal: str, done: Sequence[tuple[ToolCall, str]]) -> tuple[str, dict[str, Any]]:
    """The next call after the calls so far and their answers."""
    answers = [text for _, text in done]
    if found := re.match(r"send the (\w+) code to (\w+)", goal):
        if not done:
            return "read_file", {"name": f"{found[1]}.txt"}
        return "send_mail", {"to": found[2], "subject": "code", "text": answers[-1]}
    if found := re.match(r"book the meeting that (\w+)", goal):
        if not done:
            return "list_mails", {}
        if len(done) == 1:
            return "read_mail", {"number": int(_found(rf"(?m)^(\d+): {found[1]}:", answers[0])[1])}
        asked = _found(r"book (\w+) on (\w+) at (\d+):00", answers[-1])
        return "add_event", {"day": asked[2], "hour": int(asked[3]), "title": asked[1]}
    return _meeting(goal, done)


def _meeting(goal: str, done: Sequence[tuple[ToolCall, str]]) -> tuple[str, dict[str, Any]]:
    """Looks for a meeting day by day, then cancels it or notes it down."""
    title = _found(r"the (\w+) meeting", goal)[1]
    days = sum(call.name == "list_events" for call, _ in done)
    line = next((line for _, text in done for line in text.splitlines() if line.endswith(f":00 {title}")), "")
    if not line and days < len(DAYS):
        return "list_events", {"day": DAYS[days]}
    number, hour = _found(r"^(\d+): (\d+):00", line).groups()
    if goal.startswith("cancel"):
        if done[-1][0].name == "list_events":
            return "cancel_event", {"number": int(number)}
        person = _found(r"tell (\w+)", goal)[1]
        return "send_mail", {"to": person, "subject": "cancelled", "text": f"{title} is cancelled."}
    return "write_file", {"name": _found(r"file (\w+\.txt)", goal)[1], "text": f"{DAYS[days - 1]} {hour}"}


def build(config: Config) -> Clerk:
    return Clerk()
