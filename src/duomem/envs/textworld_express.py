"""TextWorldExpress: eight families of fast text games (coin collector, cooking, ...). Needs Java and the extra `java`.

In: a family, its settings, how many games. Out: tasks sorted by id and single-use episodes in one text tool; the splits are the
package's folds (train, dev, test), whose seeds do not meet. An episode is won when the game says so. Not here: the gold path,
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
_UNKNOWN = "Unknown action"
_ENDLESS = 10**9
"""The simulator's own step limit: the step cap is the agent loop's."""


class Config(BaseModel):
    """`[env]` with `name = "textworld_express"`. Each episode under way has a Java process of its own: keep rollout.concurrency
    low."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    family: str = "coin"
    """cookingworld, twc, coin, mapreader, arithmetic, sorting, simonsays or peckingorder."""
    settings: str = ""
    """The family's own, such as "numLocations=5,includeDoors=1"; none: the package's defaults."""
    games: int = Field(default=100, ge=1, le=1000)
    """Games of each split: the first of its seeds."""
    admissible: bool = False
    """Tell the admissible commands with each observation. They make the game much easier; reported."""


def build(config: Config) -> TextWorldExpress:
    """The environment. Raises `MissingExtra` without the package, `UsageError` without Java."""
    _java.need("textworld_express")
    return TextWorldExpress(config)


@cache
def _pool() -> _java.Pool:
    from textworld_express import TextWorldExpressEnv

    return _java.Pool(lambda: TextWorldExpressEnv(envStepLimit=_ENDLESS))


class TextWorldExpress:
    """See the contract in `duomem.envs`."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._seeds: dict[str, list[int]] = {}

    def tasks(self, split: str) -> Sequence[Task]:
        if split not in SPLITS:
            raise UsageError(f"TextWorldExpress has no split {split!r}. There are: {', '.join(SPLITS)}.")
        with self._lock:
            if not self._seeds:
                self._seeds = self._counted()
        return [
            Task(f"{split}/{seed:06d}", split, "textworld_express", self._hash(seed))
            for seed in sorted(self._seeds[split])[: self._config.games]
        ]

    def _counted(self) -> dict[str, list[int]]:
        with _pool().lent("counting the games") as simulator:
            _load(simulator, self._config)
            return {split: list(getattr(simulator, f"getValidSeeds{split.title()}")()) for split in SPLITS}

    def _hash(self, seed: int) -> str:
        return digest([metadata.version("textworld-express"), self._config.family, self._config.settings, seed])

    def open(self, task: Task) -> ExpressEpisode:
        return ExpressEpisode(_pool(), _pool().take(), task, self._config)

    def labels(self, task: Task) -> Labels:
        return Labels(self._config.family, "express")

    def provenance(self) -> dict[str, str]:
        return {
            "env": "textworld_express",
            "textworld-express": metadata.version("textworld-express"),
            "family": self._config.family,
            "settings": self._config.settings or "default",
            "admissible": str(self._config.admissible).lower(),
        }


def _load(simulator: Any, config: Config) -> None:
    """Raises `UsageError` for a family or setting that the package does not have."""
    try:
        simulator.load(config.family, config.settings)
    except ValueError as error:
        asked = f"env.family = {config.family!r}, env.settings = {config.settings!r}"
        raise UsageError(f"{asked}: {str(error).removeprefix('ERROR: ').strip()}") from error


class ExpressEpisode(_java.JavaEpisode):
    """One play of one game."""

    def __init__(self, pool: _java.Pool, simulator: Any, task: Task, config: Config) -> None:
        super().__init__(pool, simulator)
        self._fold, self._seed, self._config = task.split, int(task.id.rpartition("/")[2]), config

    def first(self) -> Observation:
        _load(self.simulator, self._config)
        text, facts = self.simulator.reset(seed=self._seed, gameFold=self._fold)
        return self._observation(text, facts, goal=facts["taskDescription"])

    def act(self, command: str) -> Observation:
        text, _, _, facts = self.simulator.step(command)
        won = bool(facts["tasksuccess"])
        done = won or bool(facts["taskfailure"])
        return self._observation(text, facts, done=done, won=won, valid=not text.startswith(_UNKNOWN))

    def _observation(self, text: str, facts: dict[str, Any], **more: Any) -> Observation:
        admissible = tuple(sorted(facts["validActions"])) if self._config.admissible else None
        return Observation(text.strip(), admissible=admissible, **more)
