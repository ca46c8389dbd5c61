"""A teacher of the tool world for tests: acts on the goal and on what its tools answered, one call a turn, with a thought.

In: the conversation. Out: the next tool call. It never sees the office's state.
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


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Clerk:
    def reply(self, messages: Sequence[Message], tools: Sequence[Tool], sampling: Sampling) -> Reply:
        asked = next(message.text for message in messages if message.role == "user")
        done = [(message.tool_calls[0], answer.text) for message, answer in pairwise(messages) if message.role == "assistant"]
        name, arguments = decide(re.search(r"Task: (.*)", asked)[1], done)  # type: ignore[index]
        assert name in {tool.name for tool in tools}
        call = ToolCall(name, json.dumps(arguments), f"call-{len(done)}")
        return Reply(Message("assistant", (TextPart(f"next: {name}"),), (call,)), "tool_calls")

    def provenance(self) -> dict[str, str]:
        return {"model": "clerk", "revision": "1", "licence": "Apache-2.0"}

    def close(self) -> None:
        pass


def decide(goal: str, done: Sequence[tuple[ToolCall, str]]) -> tuple[str, dict[str, Any]]:
    answers = [text for _, text in done]
    if found := re.match(r"send the (\w+) code to (\w+)", goal):
        if not done:
            return "read_file", {"name": f"{found[1]}.txt"}
        return "send_mail", {"to": found[2], "subject": "code", "text": answers[-1]}
    if found := re.match(r"book the meeting that (\w+)", goal):
        if not done:
            return "list_mails", {}
        if len(done) == 1:
            number = next(line.partition(":")[0] for line in answers[0].splitlines() if f": {found[1]}:" in line)
            return "read_mail", {"number": int(number)}
        asked = re.search(r"book (\w+) on (\w+) at (\d+):00", answers[-1])
        assert asked
        return "add_event", {"day": asked[2], "hour": int(asked[3]), "title": asked[1]}
    found = re.search(r"the (\w+) meeting", goal)
    assert found
    days = len([call for call, _ in done if call.name == "list_events"])
    line = next((line for text in answers for line in text.splitlines() if line.endswith(f":00 {found[1]}")), "")
    if not line:
        return "list_events", {"day": DAYS[days]}
    if goal.startswith("cancel"):
        if done[-1][0].name == "list_events":
            return "cancel_event", {"number": int(line.partition(":")[0])}
        person = re.search(r"tell (\w+)", goal)
        assert person
        return "send_mail", {"to": person[1], "subject": "cancelled", "text": f"{found[1]} is cancelled."}
    file = re.search(r"file (\w+\.txt)", goal)
    hour = re.search(r"(\d+):00", line)
    assert file
    assert hour
    return "write_file", {"name": file[1], "text": f"{DAYS[days - 1]} {hour[1]}"}


def build(config: Config) -> Clerk:
    return Clerk()
