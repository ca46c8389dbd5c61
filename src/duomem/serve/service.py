"""One request from body to answer: read, memories placed, answered, and what a person may ask about it afterwards.

In: a body, the owner of its caches. Out: an `Answered`. `Service` is one student with one `Answerer`; a reload is another
service. Not here: HTTP, queues, keys.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from duomem import wire
from duomem.models._grammar import of_schema
from duomem.serve.engine import Engine
from duomem.serve.inject import Injected
from duomem.serve.student import Student
from duomem.serve.wants import Wants, check_met, read_wants
from duomem.types import Reply, Sampling

PREFIXES: dict[wire.Api, str] = {"chat": "chatcmpl-", "responses": "resp_", "messages": "msg_"}


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it is put to who answers. `body` is as it came."""

    request: wire.Request
    body: Mapping[str, Any]
    wants: Wants
    injected: Injected
    sampling: Sampling
    owner: str


@dataclass(frozen=True, slots=True)
class Said:
    """A reply, and what of how it came about the client reads in headers (`x-duomem-...`)."""

    reply: Reply
    headers: Mapping[str, str] = field(default_factory=dict)


class Answerer(Protocol):
    """Who answers: the student alone, or one that asks somebody else as well. Blocks; called from many threads."""

    def say(self, asked: Asked) -> Said: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Alone:
    """The student's own engine."""

    engine: Engine

    def say(self, asked: Asked) -> Said:
        injected, call = asked.injected, asked.wants.choice == "required"
        return Said(self.engine.reply(injected.messages, injected.tools, asked.sampling, asked.owner, call))

    def close(self) -> None:
        """Nothing: the engine is its builder's to close."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A request with its answer, and how it came about."""

    asked: Asked
    answer: wire.Answer
    headers: Mapping[str, str]
    student: Student
    at: float = field(default_factory=time.monotonic)
    """When it was answered, on this process's clock."""

    @property
    def explanation(self) -> dict[str, Any]:
        """What was injected for this answer, in words."""
        return {"reply": self.answer.id, **explain(self.student, self.asked.injected), "headers": dict(self.headers)}


@dataclass(frozen=True)
class Service:
    """A student with who answers for it; safe for many threads."""

    student: Student
    answerer: Answerer
    longest: int = 4096
    """Most tokens of an answer, whatever a request asks for."""
    close: Callable[[], None] = lambda: None

    def answer(self, api: wire.Api, body: Mapping[str, Any], owner: str, headers: Mapping[str, str]) -> Answered:
        """Raises `WireError`, `ContextFull`, `DuomemError`."""
        request, wants = wire.read_request(api, body), read_wants(api, body, headers)
        if request.previous or request.conversation:
            raise wire.WireError("This server keeps no conversations: send all messages, without previous_response_id.")
        if not request.messages:
            raise wire.WireError("the request holds no message.")
        request = replace(request, tools=wants.offered(request.tools))
        injected = self.student.injector.inject(request, body, memories=wants.memories)
        asked = Asked(request, body, wants, injected, self.sampling(request, wants, body), owner)
        seeds = range(asked.sampling.seed, asked.sampling.seed + max(1, min(request.choices, 8)))
        said = [self.answerer.say(replace(asked, sampling=replace(asked.sampling, seed=seed))) for seed in seeds]
        replies = tuple(each.reply for each in said)
        made = f"{PREFIXES[api]}{uuid.uuid4().hex}"
        answer = wire.Answer(made, self.student.name, replies, created=int(time.time()))
        check_met(wants, answer)
        return Answered(asked, answer, self._headers(injected, wants, said[0]), self.student)

    def sampling(self, request: wire.Request, wants: Wants, body: Mapping[str, Any]) -> Sampling:
        """What the request asks for; what it leaves open is as the student was measured."""
        ours, asked = self.student.sampling, request.sampling
        held = wants.schema and self.student.model.constrains
        return replace(
            asked,
            grammar=of_schema(json.loads(wants.schema)) if held else "",
            temperature=ours.temperature if body.get("temperature") is None else asked.temperature,
            max_tokens=min(asked.max_tokens or ours.max_tokens, self.longest),
            seed=ours.seed if body.get("seed") is None else asked.seed,
        )

    def _headers(self, injected: Injected, wants: Wants, said: Said) -> dict[str, str]:
        own = {
            "x-duomem-task": injected.key.id,
            "x-duomem-memories": ",".join(injected.ids),
            "x-duomem-bank-version": injected.bank_version,
            "x-duomem-student": self.student.revision,
        }
        return own | ({"x-duomem-ignored": ",".join(wants.ignored)} if wants.ignored else {}) | dict(said.headers)


def explain(student: Student, injected: Injected) -> dict[str, Any]:
    """The task's key, the memories with their text and source, and what they were chosen by."""
    injector = student.injector
    return {
        "task": {"id": injected.key.id, "goal": injected.key.goal, "scene": injected.key.scene, "locator": injector.find.spec},
        "bank_version": injected.bank_version,
        "budget": {"k": injector.budget.k, "floor": injector.budget.floor, "tokens": injector.budget.tokens},
        "layout": {"name": injector.layout.name, "hash": injector.layout.hash},
        "student": {"name": student.name, "revision": student.revision, **student.facts},
        "memories": [
            {
                "id": memory.id,
                "key": memory.key,
                "text": memory.text,
                "kind": memory.kind,
                "from": memory.provenance.task_id,
                "written_by": memory.provenance.written_by,
            }
            for memory in injected.memories
        ],
    }
