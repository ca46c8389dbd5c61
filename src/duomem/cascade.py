"""When a student asks the teacher: on an unlikely action, one that was just made, or none at all; and for how many calls.

In: a student, a teacher, a `Rule`, the largest share of calls that the teacher may get. Out: replies, and who gave them. The
same rule serves in an evaluation (`CascadeModel`, `duomem cascade`) and behind a server (`duomem.serve.cascade`). Not here:
where the threshold comes from (`duomem.cascade_curve`).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from duomem.models import ContextFull, Model
from duomem.prompts import Layout, parse
from duomem.types import Message, Reply, Sampling, Tool

Why = Literal["", "unsure", "repeat", "invalid"]
"""Why a reply is not trusted; empty: it is."""
BURST = 8.0
"""Calls that the teacher may get ahead of its share, so that a hard beginning is not refused."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Which of the student's replies go to the teacher."""

    threshold: float = float("-inf")
    """A reply whose log-probability (`Reply.logprob`) is below it: the student is unsure. -inf: none is."""
    repeats: bool = True
    """A reply with the very action of the student's turn before: what did not help will not."""
    invalid: bool = True
    """A reply that holds no action of the layout's form, or that was cut off."""

    def why(self, messages: Sequence[Message], reply: Reply, layout: Layout | None = None) -> Why:
        """Why this reply to the messages is not trusted. `layout` where the prompt is in one; else an action has no form."""
        said = action_of(reply.message, layout)
        if self.invalid and (reply.finish == "length" or not said):
            return "invalid"
        last = next((message for message in reversed(messages) if message.role == "assistant"), None)
        if self.repeats and last is not None and action_of(last, layout) == said:
            return "repeat"
        return "unsure" if reply.logprob is not None and reply.logprob < self.threshold else ""


def action_of(message: Message, layout: Layout | None) -> object:
    """What a message does; empty for nothing."""
    if message.tool_calls:
        return [(call.name, call.arguments) for call in message.tool_calls]
    if layout is None:
        return message.text.strip()
    call = parse(layout, Reply(message))
    return call.command if call else ""


@dataclass
class Share:
    """Holds the teacher's part of all calls to a limit, whenever it is looked at, but for a short burst. Safe for threads."""

    limit: float = 1.0
    calls: int = 0
    granted: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def call(self) -> None:
        """Count a call."""
        with self._lock:
            self.calls += 1

    def grant(self) -> bool:
        """Whether the teacher may have one; counted where it may."""
        with self._lock:
            allowed = self.granted + 1 <= self.limit * self.calls + (BURST if self.limit > 0 else 0)
            self.granted += allowed
            return allowed


class CascadeModel:
    """A model that is a student as long as its replies can be trusted, and a teacher else. See `duomem.models.Model`.

    A reply of the student says how sure it was (`Reply.logprob`), one of the teacher does not: so a journal tells them apart.
    """

    def __init__(
        self, student: Model, teacher: Model, rule: Rule, layout: Layout | None = None, share: Share | None = None
    ) -> None:
        self.student, self.teacher, self.rule, self.layout = student, teacher, rule, layout
        self.share = share or Share()

    def reply(self, messages: Sequence[Message], tools: Sequence[Tool], sampling: Sampling) -> Reply:
        self.share.call()
        try:
            reply = self.student.reply(messages, tools, replace(sampling, logprob=True))
            why = self.rule.why(messages, reply, self.layout)
        except ContextFull:
            if not self.share.grant():
                raise
            return self.teacher.reply(messages, tools, sampling)
        return self.teacher.reply(messages, tools, sampling) if why and self.share.grant() else reply

    def provenance(self) -> dict[str, str]:
        student, teacher = self.student.provenance(), self.teacher.provenance()
        both = {f"student_{name}": text for name, text in student.items()}
        both |= {f"teacher_{name}": text for name, text in teacher.items()}
        licence = " and ".join(dict.fromkeys(each["licence"] for each in (student, teacher) if each.get("licence")))
        named = f"{student.get('model', '')} with {teacher.get('model', '')}"
        return both | {"model": named, "licence": licence, "rule": f"{self.rule}", "share": f"{self.share.limit:g}"}

    def close(self) -> None:
        self.student.close()
        self.teacher.close()
