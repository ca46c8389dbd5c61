"""What an episode is shown of a bank that may hold several kinds of memories.

In: a view of the episode, a bank, a budget. Out: a `Recall`, a pure function of them. At the first turn the nearest of each
kind in turn, k in all; later only how an action works, right after one that failed. It writes nothing.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest

from duomem.memory import BankView
from duomem.memory._common import Counter, allowed, choose, fitting, nearest
from duomem.memory._keys import Key, by_mean_fact, key_of
from duomem.memory._prompts import command_of
from duomem.types import Budget, EpisodeView, Hit, Recall, digest


@dataclass(frozen=True, slots=True)
class Shower:
    """`kinds` take turns at the start; `action` is the kind that is shown after an error (empty: none)."""

    kinds: Sequence[str]
    action: str
    key: Key
    distinct: bool
    fit: float
    count: Counter

    def recall(self, view: EpisodeView, bank: BankView, budget: Budget) -> Recall:
        if view.turns:
            return self._after_error(view, bank, budget) if self.action else Recall()
        query = key_of(self.key, view.goal, view.scene)
        if len(self.kinds) == 1 and not self.action:  # a bank of one kind: no need to look at kinds
            ranked: Iterable[Hit] = self._ranked(view, bank, budget, query, ())
        else:
            lists = [self._ranked(view, bank, budget, query, (kind,)) for kind in self.kinds]
            ranked = (hit for hit in chain.from_iterable(zip_longest(*lists)) if hit)
        return choose(ranked, budget, distinct=self.distinct, count=self.count)

    def _ranked(
        self, view: EpisodeView, bank: BankView, budget: Budget, query: str, kinds: tuple[str, ...]
    ) -> Iterator[Hit] | list[Hit]:
        """Memories of some kinds (none: any), best first."""
        if budget.k <= 0:
            return []
        if self.key in ("average", "random"):
            # These orders are not the bank's, so all of what may be shown is fetched.
            pool = bank.search(query, max(1, len(bank.memories())), allow=allowed(view, kinds))
            if self.key == "random":
                pool.sort(key=lambda hit: hit.memory.id)
                random.Random(digest([view.goal, view.scene])).shuffle(pool)
                return [hit for hit in pool if hit.score >= budget.floor]
            found: Iterable[Hit] = by_mean_fact(pool, query, budget.floor)
        else:
            found = nearest(view, bank, budget, query, kinds)
        return fitting(found, view, budget, self.fit) if self.fit else iter(found)

    def _after_error(self, view: EpisodeView, bank: BankView, budget: Budget) -> Recall:
        """How the action works that has just failed: one memory for each of the first k errors, within the budget."""
        errors = sum(not turn.valid for turn in view.turns)
        last = view.turns[-1]
        if last.valid or last.call is None or errors > budget.k:
            return Recall()
        start = self.recall(replace(view, turns=()), bank, budget)
        spent = sum(self.count(memory.text) for memory in start.memories)
        spent += sum(self.count(turn.recalled) for turn in view.turns)
        left = Budget(1, budget.floor, max(0, budget.tokens - spent))
        return choose(nearest(view, bank, left, command_of(last), (self.action,)), left, distinct=False, count=self.count)
