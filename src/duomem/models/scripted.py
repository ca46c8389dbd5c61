"""A deterministic model for tests and demos: it says what a script says, and can fail or stall where it is told to.

In: a list of replies, replies by a text that the first user message holds, or a function of the conversation. Out: replies.
Which one depends only on the conversation (the number of assistant messages in it), so results don't depend on concurrency;
`raise_at` and `stall_at` count the calls of this instance. It doesn't look at tools or at the sampling seed.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection, Sequence

from pydantic import BaseModel, ConfigDict, Field

from duomem.errors import InfraError
from duomem.models import ContextFull
from duomem.types import Message, Reply, Sampling, Tool, Usage

Script = Callable[[Sequence[Message]], "str | Reply"]


class Config(BaseModel):
    """What is said, and when it fails."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    replies: list[str] = Field(default=["Thought: look\nAction: look"], min_length=1)
    """The replies in order; the last one is repeated."""
    scripts: dict[str, list[str]] = {}
    """Replies for conversations whose first user message holds the key (a goal, a scene). The longest matching key counts."""
    raise_at: list[int] = []
    """Numbers of the calls, from 0, that raise `InfraError`."""
    stall_at: list[int] = []
    """Numbers of the calls, from 0, that take `stall_s` longer."""
    stall_s: float = Field(default=1.0, ge=0)
    """Seconds of a stall."""
    context: int = Field(default=0, ge=0)
    """Words of prompt and answer that fit; 0: no limit."""


class Scripted:
    """The model. `stall` is called with the number of a call in `stall_at`; tests pass a wait for an event."""

    def __init__(
        self,
        script: Script,
        *,
        raise_at: Collection[int] = (),
        stall_at: Collection[int] = (),
        stall: Callable[[int], None] = lambda number: None,
        context: int = 0,
    ) -> None:
        self._script = script
        self._raise_at = frozenset(raise_at)
        self._stall_at = frozenset(stall_at)
        self._stall = stall
        self._context = context
        self._numbers = itertools.count()

    def reply(self, messages: Sequence[Message], tools: Sequence[Tool], sampling: Sampling) -> Reply:
        number = next(self._numbers)
        started = time.monotonic()
        if number in self._stall_at:
            self._stall(number)
        if number in self._raise_at:
            raise InfraError(f"The scripted model fails at call {number}, as it was told to.")
        prompt = sum(_words(message.text) for message in messages)
        if self._context and prompt + sampling.max_tokens > self._context:
            raise ContextFull(f"{prompt} + {sampling.max_tokens} words exceed the context of {self._context}.")
        said = self._script(messages)
        if isinstance(said, Reply):
            return said
        usage = Usage(prompt=prompt, completion=_words(said))
        return Reply(Message.of("assistant", said), usage=usage, seconds=time.monotonic() - started)

    def provenance(self) -> dict[str, str]:
        return {"model": "scripted", "revision": "1"}

    def close(self) -> None:
        pass


def in_order(replies: Sequence[str], scripts: dict[str, list[str]] | None = None) -> Script:
    """A script that reads its replies from lists, by the number of assistant messages so far."""

    def script(messages: Sequence[Message]) -> str:
        first = next((message.text for message in messages if message.role == "user"), "")
        keys = [key for key in scripts or {} if key in first]
        lines = (scripts or {})[max(keys, key=len)] if keys else replies
        return lines[min(sum(message.role == "assistant" for message in messages), len(lines) - 1)]

    return script


def build(config: Config) -> Scripted:
    return Scripted(
        in_order(config.replies, config.scripts),
        raise_at=config.raise_at,
        stall_at=config.stall_at,
        stall=lambda number: time.sleep(config.stall_s),
        context=config.context,
    )


def _words(text: str) -> int:
    return len(text.split())
