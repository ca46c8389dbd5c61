"""The contract of an environment. One file per environment beside this one; the file's name is its name in a config.

A component file defines `Config` (a pydantic model, unknown keys refused) and `build(config) -> Env`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from duomem.types import Labels, Observation, Task, Tool, ToolCall


class Episode(Protocol):
    """One play of one task; single use. Not thread-safe: one thread at a time.

    `observe` gives the first observation, with the goal, and may be called once, before the first step.
    `step` raises `RuntimeError` once the episode is done or closed, `InfraError` when the engine itself fails.
    `close` frees what the episode holds and may be called again.
    """

    def observe(self) -> Observation: ...
    def step(self, call: ToolCall) -> Observation: ...
    def tools(self) -> Sequence[Tool]: ...
    def close(self) -> None: ...


class Env(Protocol):
    """A source of tasks.

    `tasks` are sorted by id and each is there once; an unknown split raises `UsageError`, unusable data `DataError`.
    `open` may be called from several threads. `labels` is for evaluation and report only.
    `provenance` says what was opened (versions, data root's hash, switches) for the record; no paths of the machine.
    """

    def tasks(self, split: str) -> Sequence[Task]: ...
    def open(self, task: Task) -> Episode: ...
    def labels(self, task: Task) -> Labels: ...
    def provenance(self) -> dict[str, str]: ...


ACT = Tool(
    name="act",
    description="Send one text command to the game.",
    parameters='{"type":"object","properties":{"command":{"type":"string"}},"required":["command"]}',
)
"""The single tool of a text environment."""
