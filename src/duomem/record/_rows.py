"""What goes into a recording and what comes out of it, as data.

In: rows of `exchanges`. Out: `Exchange`. Not here: SQL, judgement.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from duomem.types import Message, Tool, load
from duomem.wire import Answer, Api

State = Literal["open", "whole", "broken", "failed"]
"""`whole`: the reply came to its end. `broken`: it began and was cut. `failed`: there was none. `open`: under way."""

Named = Literal["url", "header", "body", "conversation", "prefix"]
"""How an exchange's episode was found."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A request, redacted, before it is sent on. `episode` is empty where neither URL nor header nor body name one."""

    api: Api
    path: str
    body: Mapping[str, Any]
    episode: str = ""
    named: Named = "prefix"
    model: str = ""
    stream: bool = False
    messages: tuple[Message, ...] = ()
    tools: tuple[Tool, ...] = ()
    task: str = ""
    task_error: str = ""
    """What the user's locator raised; empty where it raised nothing."""
    previous: str = ""
    conversation: str = ""
    gap: str = ""
    """Why the request's messages are not all known; empty where they are."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of a request. `answer` is what could be read of the reply, also of a broken one; `body` all that came."""

    state: State
    status: int = 0
    body: Mapping[str, Any] | None = None
    answer: Answer | None = None
    delivered: bool = True
    """False where the client had left before the reply was there."""
    first_byte: float = 0.0
    """Seconds from the request to the head of the reply."""
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and what became of it. `messages` is the whole conversation before the reply, of which the last `fresh` are
    new since the exchange `parent`, whose reply number `choice` this one goes on from."""

    id: int
    episode: str
    named: str
    api: Api
    model: str
    started: float
    messages: tuple[Message, ...]
    fresh: int
    tools: tuple[Tool, ...]
    before: str
    task: str
    task_error: str
    parent: int | None
    choice: int
    doubt: bool
    gap: str
    state: State
    status: int
    answer: Answer | None
    delivered: bool
    first_byte: float
    seconds: float
    error: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an episode ended, in the word of whoever judged it (`source`: post, header, function, command)."""

    won: bool
    score: float | None
    note: str
    source: str
    at: float


def exchanges(rows: Sequence[sqlite3.Row], items: Callable[[Sequence[str]], Mapping[str, str]]) -> list[Exchange]:
    """Rows of one episode as exchanges; what they have in common is read once."""
    hashes = [json.loads(row["messages"]) for row in rows]
    found = items([*(each for row in hashes for each in row), *(row["tools"] for row in rows)])
    messages = {each: load(Message, found[each]) for each in dict.fromkeys(each for row in hashes for each in row)}
    tools = {row["tools"]: load(tuple[Tool, ...], found[row["tools"]]) for row in rows}
    return [
        _exchange(row, tuple(messages[each] for each in said), tools[row["tools"]])
        for row, said in zip(rows, hashes, strict=True)
    ]


def _exchange(row: sqlite3.Row, messages: tuple[Message, ...], tools: tuple[Tool, ...]) -> Exchange:
    return Exchange(
        id=row["id"],
        episode=row["episode"],
        named=row["named"],
        api=row["api"],
        model=row["model"],
        started=row["started"],
        messages=messages,
        fresh=row["fresh"],
        tools=tools,
        before=row["before"],
        task=row["task"],
        task_error=row["task_error"],
        parent=row["parent"],
        choice=row["choice"],
        doubt=bool(row["doubt"]),
        gap=row["gap"],
        state=row["state"],
        status=row["status"],
        answer=load(Answer, row["answer"]) if row["answer"] else None,
        delivered=bool(row["delivered"]),
        first_byte=row["first_byte"],
        seconds=row["seconds"],
        error=row["error"],
    )
