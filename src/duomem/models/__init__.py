"""The contract of a model. One file per model beside this one; the file's name is its name in a config.

A component file defines `Config` (a pydantic model, unknown keys refused) and `build(config) -> Model`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from duomem.types import Message, Reply, Sampling, Tool


class Model(Protocol):
    """Answers a conversation.

    `reply` blocks, and may be called from many threads at once: a model that can, batches the callers and keeps KV caches
    keyed by token prefix. Raises `InfraError` when it cannot answer for reasons that say nothing about the task (retried,
    never scored) and `ContextFull` when the conversation no longer fits. Error text never stands in a `Reply`. Caches made for
    one owner (`cache_owner`) are never used for another, so that no time tells what somebody else has asked.
    `provenance` names model, revision and settings for the record. `close` frees what it holds and may be called again.
    """

    def reply(self, messages: Sequence[Message], tools: Sequence[Tool], sampling: Sampling) -> Reply: ...
    def provenance(self) -> dict[str, str]: ...
    def close(self) -> None: ...


class ContextFull(Exception):
    """The prompt and the room for an answer exceed the model's context. The episode stops with `StopReason.CONTEXT`."""


_OWNER: ContextVar[str] = ContextVar("duomem_cache_owner", default="")


@contextmanager
def caches_of(owner: str) -> Iterator[None]:
    """Replies asked for in this block, by this thread, use and leave caches of that owner alone."""
    token = _OWNER.set(owner)
    try:
        yield
    finally:
        _OWNER.reset(token)


def cache_owner() -> str:
    """Whose caches a reply may use now; a model asks in the thread of its caller."""
    return _OWNER.get()
