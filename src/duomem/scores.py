"""What an evaluation found: arms, one score per arm, seed and game, and the facts of the run that a report states.

In: scores from `duomem.evaluate`. Out: `Results`, written as results.json and all that a report needs, so that a report can be
made again without a model. It plays nothing and draws no conclusion.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from duomem.errors import DataError, UsageError
from duomem.stats import Array, detectable_difference
from duomem.types import StopReason, Trajectory, Usage, dump, load

SCHEMA = 1
"""Version of results.json; a reader refuses a newer one."""

MemorySource = Literal["none", "bank", "decoy", "other_rooms", "example"]


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to play: who plays, with the adapter or not, and what stands in the memories' place."""

    name: str
    model: Literal["student", "teacher"] = "student"
    adapter: bool = False
    memories: MemorySource = "none"

    @property
    def seeded(self) -> bool:
        """True where the collection or tuning seed changes what plays; greedy play of the others is the same for every seed."""
        return self.adapter or self.memories in ("bank", "decoy", "other_rooms")


ARMS = {
    arm.name: arm
    for arm in (
        Arm("none"),
        Arm("format_only", memories="example"),
        Arm("memory", memories="bank"),
        Arm("adapter", adapter=True),
        Arm("both", adapter=True, memories="bank"),
        Arm("decoy", memories="decoy"),
        Arm("teacher", model="teacher"),
        Arm("no_same_room", memories="other_rooms"),
        Arm("both_decoy", adapter=True, memories="decoy"),
        Arm("both_no_same_room", adapter=True, memories="other_rooms"),
    )
}
"""Every arm by name, in report order. The last three are optional: for seen rooms, and memory's placebo beside the adapter."""


@dataclass(frozen=True, slots=True)
class Score:
    """One episode, as the statistics see it. Bytes and counts are of the memories shown; seconds are wall-clock.

    `similarity` is the cosine of the nearest memory shown; `same_kind` and `same_object` say whether that memory came from a
    task of the same type and object. All three are None where no memory of a bank was shown or its source is not known.
    """

    arm: str
    seed: int
    task: str
    kind: str
    room: str
    stop: StopReason
    steps: int
    invalid: int
    unparsed: int
    repaired: int
    usage: Usage
    seconds: float
    memories: int = 0
    memory_bytes: int = 0
    similarity: float | None = None
    same_kind: bool | None = None
    same_object: bool | None = None
    error: str = ""

    @property
    def won(self) -> bool:
        return self.stop is StopReason.WON


@dataclass(frozen=True, slots=True)
class Facts:
    """What a report says of the run beside its scores. Everything is optional and shown only where it is there."""

    adapter_parameters: int = 0
    memory_bytes: int = 0
    """Size of the bank file."""
    memories: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall-clock by verb: collect, remember, tune, evaluate."""
    versions: dict[str, str] = field(default_factory=dict)
    commit: str = ""
    data: dict[str, str] = field(default_factory=dict)
    """The environment's own record: data hash, games found and official counts, switches."""
    hardware: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    """What was played how: base, layout, max_steps, k, repair, admissible, memories in training prompts."""
    config_hash: str = ""
    losses: tuple[float, ...] = ()
    """Training loss by step."""
    made: str = ""
    """When the results were made; a report shows no other time."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One episode to read in the report."""

    arm: str
    seed: int
    trajectory: Trajectory


@dataclass(frozen=True, slots=True)
class Results:
    """An evaluation. `tasks` are sorted; `games_of` counts the split's games, `sample_seed` drew the subset (None: all)."""

    split: str
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    tasks: tuple[str, ...]
    rooms: tuple[str, ...]
    """The room of each task."""
    scores: tuple[Score, ...]
    games_of: int
    sample_seed: int | None = None
    repeats: bool = False
    """True where arms that no seed changes were played once per seed all the same."""
    facts: Facts = Facts()
    shown: tuple[Shown, ...] = ()
    schema: int = SCHEMA

    def seeds_of(self, arm: Arm) -> tuple[int, ...]:
        """The seeds an arm has to be played with."""
        return self.seeds if arm.seeded or self.repeats else self.seeds[:1]

    def of(self, arm: str) -> list[Score]:
        return [score for score in self.scores if score.arm == arm]

    def matrix(self, arm: str) -> Array:
        """Wins as 0 and 1, seeds x games, NaN where an episode has no outcome."""
        row = {seed: number for number, seed in enumerate(self.seeds_of(self.arm(arm)))}
        column = {task: number for number, task in enumerate(self.tasks)}
        wins = np.full((len(row), len(column)), np.nan)
        for score in self.of(arm):
            if score.stop.is_outcome and score.seed in row and score.task in column:
                wins[row[score.seed], column[score.task]] = float(score.won)
        return wins

    def differences(self, first: str, second: str) -> Array:
        """Wins of the first arm less those of the second on the same game and seed; an arm of one seed meets every seed."""
        difference: Array = self.matrix(first) - self.matrix(second)
        return difference

    def arm(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)

    def has(self, name: str) -> bool:
        return any(arm.name == name for arm in self.arms)

    @property
    def detectable(self) -> float:
        """The paired difference that this many games and seeds find, as a fraction, by games alone."""
        return detectable_difference(max(1, len(self.tasks)), len(self.seeds))

    def problems(self) -> list[str]:
        """What keeps these results from being complete, in words; empty where every game has its one outcome in every arm."""
        wanted = {(arm.name, seed, task) for arm in self.arms for seed in self.seeds_of(arm) for task in self.tasks}
        counts = Counter((score.arm, score.seed, score.task) for score in self.scores)
        found = [f"{where}: scored {count} times" for where, count in sorted(counts.items()) if count > 1]
        found += [f"{where}: not asked for" for where in sorted(counts.keys() - wanted)]
        found += [f"{where}: not played" for where in sorted(wanted - counts.keys())]
        for score in self.scores:
            if not score.stop.is_outcome:
                found.append(f"{(score.arm, score.seed, score.task)}: {score.stop.value} {score.error}".rstrip())
        if not self.tasks:
            found.append("no games")
        return found

    @property
    def complete(self) -> bool:
        return not self.problems()

    def to_json(self) -> str:
        """Canonical text: the same results give the same bytes."""
        return json.dumps(json.loads(dump(self)), sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, source: str = "results.json") -> Results:
        """Raises `DataError` for text that is not results of this schema."""
        try:
            found: Any = json.loads(text)
        except ValueError as error:
            raise DataError(
                f"{source} is not JSON ({error}). Run duomem evaluate again; recorded episodes are kept."
            ) from error
        version = found.get("schema") if isinstance(found, Mapping) else None
        if version != SCHEMA:
            raise DataError(f"{source} has results schema {version}; this duomem reads {SCHEMA}. Run duomem evaluate again.")
        try:
            return load(cls, text)
        except ValidationError as error:
            raise DataError(f"{source} is damaged: {error.errors()[0]['loc']}: {error.errors()[0]['msg']}.") from error

    @classmethod
    def read(cls, path: Path) -> Results:
        if not path.is_file():
            raise DataError(f"No results at {path}. Make them with: duomem evaluate RUN")
        return cls.from_json(path.read_bytes(), str(path))


def arms_named(names: Sequence[str]) -> tuple[Arm, ...]:
    """Arms by name in report order, each once. Raises `UsageError` for a name that does not exist."""
    unknown = sorted(set(names) - ARMS.keys())
    if unknown:
        raise UsageError(f"No arm {unknown[0]!r}. There are: {', '.join(ARMS)}.")
    return tuple(arm for name, arm in ARMS.items() if name in names)
