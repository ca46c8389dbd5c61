"""The contract of a memory strategy. One file per strategy beside this one; the file's name is its name in a config.

A component file defines `Config` (a pydantic model, unknown keys refused) and `build(config) -> MemoryStrategy`. The strategy
decides what a memory says, how it is keyed and what is shown; the bank (`duomem.bank`) stores, embeds and searches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from duomem.models import Model
from duomem.types import BankEdit, Budget, EpisodeView, Hit, Memory, MemoryId, Outcome, Recall, Trajectory


class BankView(Protocol):
    """What a strategy may do with a bank: read and search one version of it.

    `search` gives the k nearest by cosine, best first, equal ones by id. Where several trajectories gave the very same memory,
    `allow` must accept it with the provenance of each of them: an exclusion by source misses none.
    """

    def search(
        self, query: str, k: int, *, floor: float = -1.0, allow: Callable[[Memory], bool] | None = None
    ) -> list[Hit]: ...
    def get(self, memory: MemoryId) -> Memory: ...
    def memories(self) -> Sequence[Memory]: ...


@dataclass(frozen=True, slots=True)
class Refusal:
    """A memory that a writing model was asked for and did not write usably. `question` is what it was asked."""

    task_id: str
    attempt: int
    question: str
    reason: str


class MemoryStrategy(Protocol):
    """Turns trajectories into bank edits and an episode into what is shown.

    `write` gets one trajectory and a model that may write (None: rules only) and changes nothing itself.
    `recall` is asked before each turn; the default strategies answer at the first one only. It must be a pure function of the
    view and the bank's version, respect the view's exclusions and the budget, return memories in canonical order (by id),
    and may be empty. `feedback` turns an outcome into edits (usefulness counts, retirement).

    A strategy that learns from failed trajectories too says so with `takes_failures = True`; one that asks a model says what
    came to nothing in `refusals`, a sequence of `Refusal`. Without these it gets won trajectories alone and refuses nothing.
    """

    def write(self, trajectory: Trajectory, bank: BankView, teacher: Model | None) -> Sequence[BankEdit]: ...
    def recall(self, view: EpisodeView, bank: BankView, budget: Budget) -> Recall: ...
    def feedback(self, outcome: Outcome, shown: Sequence[MemoryId]) -> Sequence[BankEdit]: ...
