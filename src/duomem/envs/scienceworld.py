"""ScienceWorld: 30 kinds of primary-school experiments in text, by its own simulator. Needs Java and the extra `java`.

In: which tasks, how many variations of each, which simplifications. Out: tasks sorted by id and single-use episodes in one text
tool; the splits are the package's (train, dev, test variations). An episode is won at a score of 100. Not here: the gold path,
which knows the hidden state, and a teacher: name a model behind an endpoint.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from duomem.envs import _java
from duomem.errors import UsageError
from duomem.types import Labels, Observation, Task, digest

SPLITS = ("dev", "test", "train")
_UNKNOWN = "No known action matches that input."
_ENDLESS = 10**9
"""The simulator's own step limit: the step cap is the agent loop's."""


class Config(BaseModel):
    """`[env]` with `name = "scienceworld"`. Each episode under way has a Java process of its own: keep rollout.concurrency
    low."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    experiments: tuple[str, ...] = ()
    """Names such as boil, melt, find-plant; none: all 30."""
    variations: int = Field(default=5, ge=0)
    """Variations of each, the first of those that the package gives the split; 0: all."""
    simplifications: str = ""
    """The package's own, separated by commas: easy, teleportAction, openDoors, ...; none: the full game. Reported."""


def build(config: Config) -> ScienceWorld:
    """The environment. Raises `MissingExtra` without the package, `UsageError` without Java."""
    _java.need("scienceworld")
    return ScienceWorld(config)


@cache
def _pool() -> _java.Pool:
    from scienceworld import ScienceWorldEnv

    return _java.Pool(lambda: ScienceWorldEnv(envStepLimit=_ENDLESS))


class ScienceWorld:
    """See the contract in `duomem.envs`."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._variations: dict[str, dict[str, list[int]]] = {}

    def tasks(self, split: str) -> Sequence[Task]:
        if split not in SPLITS:
            raise UsageError(f"ScienceWorld has no split {split!r}. There are: {', '.join(SPLITS)}.")
        with self._lock:
            if not self._variations:
                self._variations = self._counted()
        most = self._config.variations or None
        return [
            Task(f"{split}/{name}/{number:04d}", split, "scienceworld", self._hash(name, number))
            for name, splits in sorted(self._variations.items())
            for number in sorted(splits[split])[:most]
        ]

    def _counted(self) -> dict[str, dict[str, list[int]]]:
        """The variations of each experiment by split; the simulator knows them of the one that is loaded."""
        with _pool().lent("counting the tasks") as simulator:
            known = simulator.get_task_names()
            wanted = self._config.experiments or tuple(known)
            found = {}
            for name in wanted:
                if name in known:
                    simulator.load(name, 0, "")
                    found[name] = {split: list(getattr(simulator, f"get_variations_{split}")()) for split in SPLITS}
        if strange := sorted(set(wanted) - set(known)):
            there = ", ".join(sorted(known))
            raise UsageError(f"env.experiments: ScienceWorld has no experiment {strange[0]!r}. There are: {there}.")
        return found

    def _hash(self, name: str, number: int) -> str:
        return digest([metadata.version("scienceworld"), name, number, self._config.simplifications])

    def open(self, task: Task) -> ScienceEpisode:
        return ScienceEpisode(_pool(), _pool().take(), task, self._config.simplifications)

    def labels(self, task: Task) -> Labels:
        return Labels(task.id.split("/")[1], "science")

    def provenance(self) -> dict[str, str]:
        return {
            "env": "scienceworld",
            "scienceworld": metadata.version("scienceworld"),
            "simplifications": self._config.simplifications or "none",
        }


class ScienceEpisode(_java.JavaEpisode):
    """One play of one variation."""

    def __init__(self, pool: _java.Pool, simulator: Any, task: Task, simplifications: str) -> None:
        super().__init__(pool, simulator)
        _, self._name, number = task.id.split("/")
        self._number, self._simplifications = int(number), simplifications

    def first(self) -> Observation:
        try:
            self.simulator.load(self._name, self._number, self._simplifications)
        except ValueError as error:
            raise UsageError(f"env.simplifications = {self._simplifications!r}: {error}") from error
        text, _ = self.simulator.reset()
        return Observation(text, goal=self.simulator.get_task_description())

    def act(self, command: str) -> Observation:
        text, _, over, facts = self.simulator.step(command)
        won = facts["score"] >= 100
        return Observation(text, done=bool(over) or won or facts["score"] < 0, won=won, valid=text != _UNKNOWN)
