"""Memory strategies that only an evaluation uses: decoys of other task types, and memories of other rooms only.

In: the run's own strategy, and the labels of the games played and of those that memories came from. Out: strategies that take
the real one's place in an arm. They read task types and rooms, which nothing but evaluation and report may do, and never write.
Which task is being played they learn from the view's `exclude_tasks`, which the episode's loop fills and nothing renders.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from duomem.errors import DataError
from duomem.memory import BankView, MemoryStrategy
from duomem.models import Model
from duomem.types import (
    BankEdit,
    Budget,
    EpisodeView,
    Hit,
    Labels,
    Memory,
    MemoryId,
    Outcome,
    Recall,
    Trajectory,
    digest,
)

Allow = Callable[[Memory], bool]
CANDIDATES = 16
"""A decoy is the one of so many random candidates whose length fits best: close in length, still nearly random in content."""


@dataclass(frozen=True, slots=True)
class _Reader:
    """What both strategies share: labels by task id, and that they write nothing."""

    inner: MemoryStrategy
    labels: Mapping[str, Labels]

    def write(self, trajectory: Trajectory, bank: BankView, teacher: Model | None) -> Sequence[BankEdit]:
        return ()

    def feedback(self, outcome: Outcome, shown: Sequence[MemoryId]) -> Sequence[BankEdit]:
        return ()

    def playing(self, view: EpisodeView) -> list[Labels]:
        found = [self.labels[task] for task in sorted(view.exclude_tasks) if task in self.labels]
        if not found or len(found) < len(view.exclude_tasks):
            raise DataError("A control of memories needs the labels of the game that is played, and they were not given.")
        return found


@dataclass(frozen=True, slots=True)
class Decoys(_Reader):
    """The placebo: as many memories as the real strategy shows, about as long, from tasks of other types, chosen at random.

    The choice depends on the task's words and `seed` alone. Memories whose source is not in `labels` are never shown. Raises
    `DataError` when the bank holds too few memories of other types.
    """

    seed: int = 0

    def recall(self, view: EpisodeView, bank: BankView, budget: Budget) -> Recall:
        real = self.inner.recall(view, bank, budget)
        kinds = {labels.kind for labels in self.playing(view)}
        pool = bank.search(view.goal, max(1, len(bank.memories())), allow=lambda memory: self._is_decoy(memory, kinds, view))
        if len(pool) < len(real.hits):
            raise DataError(
                f"The decoy arm needs {len(real.hits)} memories of other task types; the bank has {len(pool)}. "
                "Collect runs of more task types, or leave the decoy arm out."
            )
        order = random.Random(digest([self.seed, view.goal, view.scene, len(view.turns)]))
        order.shuffle(pool)
        return Recall(tuple(sorted(_fitting(real.hits, pool), key=lambda hit: hit.memory.id)))

    def _is_decoy(self, memory: Memory, kinds: set[str], view: EpisodeView) -> bool:
        source = self.labels.get(memory.provenance.task_id)
        return source is not None and source.kind not in kinds and _allowed(memory, view)


@dataclass(frozen=True, slots=True)
class OtherRooms(_Reader):
    """The real strategy on a bank without the memories of the room that is played (and those of unknown rooms)."""

    def recall(self, view: EpisodeView, bank: BankView, budget: Budget) -> Recall:
        rooms = {labels.room for labels in self.playing(view)}

        def elsewhere(memory: Memory) -> bool:
            source = self.labels.get(memory.provenance.task_id)
            return source is not None and source.room not in rooms

        return self.inner.recall(view, Part(bank, elsewhere), budget)


@dataclass(frozen=True, slots=True)
class Part:
    """A bank of which only some memories can be seen."""

    bank: BankView
    allow: Allow

    def search(self, query: str, k: int, *, floor: float = -1.0, allow: Allow | None = None) -> list[Hit]:
        def both(memory: Memory) -> bool:
            return self.allow(memory) and (allow is None or allow(memory))

        return self.bank.search(query, k, floor=floor, allow=both)

    def get(self, memory: MemoryId) -> Memory:
        return self.bank.get(memory)

    def memories(self) -> Sequence[Memory]:
        return [memory for memory in self.bank.memories() if self.allow(memory)]


def _allowed(memory: Memory, view: EpisodeView) -> bool:
    """A memory never meets its own source."""
    return memory.provenance.trajectory not in view.exclude and memory.provenance.task_id not in view.exclude_tasks


def _fitting(real: Sequence[Hit], pool: list[Hit]) -> list[Hit]:
    """One of the first `CANDIDATES` of the pool for each real memory, so that the total length stays close."""
    chosen: list[Hit] = []
    missing = 0
    for hit in real:
        missing += len(hit.memory.text)
        best = min(pool[:CANDIDATES], key=lambda candidate: abs(len(candidate.memory.text) - missing))
        pool.remove(best)
        chosen.append(best)
        missing -= len(best.memory.text)
    return chosen
