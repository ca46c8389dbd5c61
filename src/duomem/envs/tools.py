"""A small office with typed tools: a mailbox, a calendar, files. Goals are checked in the state, tasks come from a seed.

In: tool calls. Out: what the tool answers. Pure Python, deterministic, milliseconds: it exercises the path of tool calls, from
recording to training and evaluation. It says that the path works and how far a student gets on it, not how an office is run.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from duomem.envs._office import KINDS, TOOLS, Office, make
from duomem.errors import UsageError
from duomem.types import Labels, Observation, Task, Tool, ToolCall, digest

REVISION = "1"
"""Raise when the same seed gives another office."""
SPLITS = ("dev", "test", "train")
SCENE = "You have a mailbox, a calendar and files."


class Config(BaseModel):
    """How many offices there are."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    games: int = Field(default=24, ge=1)
    """Tasks in each split; each split has its own."""
    seed: int = 0
    """Seed of the offices."""


def build(config: Config) -> ToolWorld:
    return ToolWorld(config)


class ToolWorld:
    """Offices made from a seed; see the contract in `duomem.envs`."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def tasks(self, split: str) -> Sequence[Task]:
        if split not in SPLITS:
            raise UsageError(f"The tool world has no split {split!r}. There are: {', '.join(SPLITS)}.")
        names = [f"{split}/{number:04d}" for number in range(self._config.games)]
        return [Task(name, split, "tools", digest([REVISION, self._config.seed, name])) for name in names]

    def office(self, task: Task) -> Office:
        """`KINDS` in turn, so that small splits hold all of them."""
        number = int(task.id.rpartition("/")[2])
        return make(random.Random(f"{self._config.seed}/{task.id}"), KINDS[number % len(KINDS)])

    def open(self, task: Task) -> OfficeEpisode:
        return OfficeEpisode(self.office(task))

    def labels(self, task: Task) -> Labels:
        return Labels(self.office(task).kind, "office")

    def provenance(self) -> dict[str, str]:
        return {"env": "tools", "revision": REVISION, "seed": str(self._config.seed)}


class OfficeEpisode:
    """One play of one office; single use."""

    def __init__(self, office: Office) -> None:
        self._office: Office | None = office
        self._observed = False

    def observe(self) -> Observation:
        office = self._open()
        if self._observed:
            raise RuntimeError("observe() may be called once, before the first step")
        self._observed = True
        return Observation(SCENE, goal=office.goal)

    def step(self, call: ToolCall) -> Observation:
        office = self._open()
        if office.won:
            raise RuntimeError("the episode is done; open the task again")
        self._observed = True
        given = json.loads(call.arguments)
        text, valid = office.do(call.name, given if isinstance(given, dict) else {"": given})
        return Observation(text, done=office.won, won=office.won, valid=valid)

    def tools(self) -> Sequence[Tool]:
        return TOOLS

    def close(self) -> None:
        self._office = None

    def _open(self) -> Office:
        if self._office is None:
            raise RuntimeError("the episode is closed; open the task again")
        return self._office
