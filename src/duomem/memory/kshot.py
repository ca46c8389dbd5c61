"""Fixed k-shot examples: the same k memories for every task, whatever it asks. A peer of retrieval, not a strategy to ship.

In: won trajectories; goals of new episodes, which are not looked at. Out: one memory per trajectory, written as `verbatim` or
`procedure` write it; at the first turn always the same k of the bank. An example made from the very task gives way to the next.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from duomem.memory import BankView, MemoryStrategy, procedure, verbatim
from duomem.memory._common import Counter, allowed, choose, count_tokens
from duomem.models import Model
from duomem.types import BankEdit, Budget, EpisodeView, Hit, MemoryId, Outcome, Recall, Trajectory


class Config(BaseModel):
    """How fixed examples are written and picked."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    build: Literal["verbatim", "script", "trajectory"] = "verbatim"
    """What an example says: the transcript as it was, numbered steps without instance numbers, or the winning commands."""
    pick: Literal["random", "spread"] = "random"
    """Which examples: a seeded sample, or each next one the least like those before it (by the bank's search)."""
    seed: int = 0
    """Seed of the pick; the first example of "spread" is drawn with it too."""


class KShot:
    """The strategy; see the contract in `duomem.memory`."""

    def __init__(self, config: Config, writer: MemoryStrategy, count: Counter) -> None:
        self._config = config
        self._writer = writer
        self._count = count

    def write(self, trajectory: Trajectory, bank: BankView, teacher: Model | None) -> Sequence[BankEdit]:
        return self._writer.write(trajectory, bank, None)

    def recall(self, view: EpisodeView, bank: BankView, budget: Budget) -> Recall:
        """The first k of one order of the whole bank that fit the budget; a floor, where one is set, drops those below it."""
        if view.turns or budget.k == 0:
            return Recall()
        pool = sorted(bank.memories(), key=lambda memory: memory.id)
        random.Random(self._config.seed).shuffle(pool)
        if self._config.pick == "spread" and pool:
            keys = _spread([memory.key for memory in pool], bank, budget.k)
            first = {key: rank for rank, key in reversed(list(enumerate(keys)))}
            pool.sort(key=lambda memory: first.get(memory.key, len(keys)))
        # Asked of the bank, since a memory that several trajectories gave must be allowed with each of them.
        ours = {
            hit.memory.id: hit for hit in bank.search(view.goal, max(1, len(pool)), floor=budget.floor, allow=allowed(view))
        }
        hits: list[Hit] = [ours[memory.id] for memory in pool if memory.id in ours]
        return choose(hits, budget, distinct=True, count=self._count)

    def feedback(self, outcome: Outcome, shown: Sequence[MemoryId]) -> Sequence[BankEdit]:
        return []


def _spread(keys: Sequence[str], bank: BankView, k: int) -> list[str]:
    """Up to k + 1 keys, each the one whose nearest of those before it is furthest away (Gonzalez 1985); one is a spare."""
    chosen = [keys[0]]
    nearest = dict.fromkeys(keys, -2.0)
    while len(chosen) <= k and len(chosen) < len(nearest):
        for hit in bank.search(chosen[-1], max(1, len(bank.memories()))):
            nearest[hit.memory.key] = max(nearest.get(hit.memory.key, -2.0), hit.score)
        rest = [key for key in nearest if key not in chosen]
        chosen.append(min(rest, key=lambda key: nearest[key]))
    return chosen


def build(config: Config, count: Counter = count_tokens) -> KShot:
    """`count` gives the tokens of a text, for the budget; the default is an upper estimate without a tokenizer."""
    if config.build == "verbatim":
        return KShot(config, verbatim.build(verbatim.Config(), count), count)
    return KShot(config, procedure.build(procedure.Config(build=config.build), count), count)
