"""The true facts of an ALFWorld state, and the queries that the text grammar asks of them.

In: facts as plain tuples, queries as text. Out: every way to bind a query's free slots, in the order in which the stock engine
finds them, for that order is the order of the words that a player reads. Not here: what makes a fact true (the engine does).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

Slot = tuple[str, str]
"""A placeholder: its name and its type."""
Row = tuple[str, ...]
"""The arguments of a fact: entity ids."""
Signature = tuple[str, tuple[str, ...]]
"""A predicate and the types of its arguments."""

Binding = Mapping[Slot, str]
"""Which entity each slot stands for."""


class GrammarError(ValueError):
    """A grammar that cannot be read or derived; the caller adds the file's name."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One predicate of a query."""

    predicate: str
    slots: tuple[Slot, ...]

    @property
    def types(self) -> tuple[str, ...]:
        return tuple(kind for _, kind in self.slots)


class Facts:
    """The true facts of a state, by signature. A predicate's `version` moves when one of its facts does."""

    def __init__(self, subtypes: Callable[[tuple[str, ...]], Sequence[tuple[str, ...]]]) -> None:
        self.subtypes = subtypes
        self._rows: dict[Signature, set[Row]] = {}
        self._sorted: dict[Signature, list[Row]] = {}
        self._versions: dict[str, int] = {}

    def copy(self) -> Facts:
        twin = Facts(self.subtypes)
        twin._rows = {signature: set(rows) for signature, rows in self._rows.items()}
        twin._sorted = dict(self._sorted)
        twin._versions = dict(self._versions)
        return twin

    def add(self, signature: Signature, row: Row) -> None:
        self._rows.setdefault(signature, set()).add(row)
        self._touch(signature)

    def discard(self, signature: Signature, row: Row) -> None:
        self._rows.get(signature, set()).discard(row)
        self._touch(signature)

    def _touch(self, signature: Signature) -> None:
        self._sorted.pop(signature, None)
        self._versions[signature[0]] = self._versions.get(signature[0], 0) + 1

    def versions(self, predicates: Iterable[str]) -> tuple[int, ...]:
        return tuple([self._versions.get(name, 0) for name in predicates])

    def holds(self, signature: Signature, row: Row) -> bool:
        return row in self._rows.get(signature, ())

    def rows(self, signature: Signature) -> Sequence[Row]:
        """Sorted, as the stock engine walks them: the order of every list the player reads."""
        if (found := self._sorted.get(signature)) is None:
            found = self._sorted[signature] = sorted(self._rows.get(signature, ()))
        return found

    def all(self) -> Iterable[tuple[Signature, Row]]:
        return ((signature, row) for signature, rows in self._rows.items() for row in rows)

    def answers(self, query: Sequence[Condition], binding: Binding) -> list[dict[Slot, str]]:
        """All ways to bind the query's free slots, distinct slots to distinct entities, in the stock engine's order."""
        bound = dict(binding)
        found: list[dict[Slot, str]] = []
        self._answer(query, 0, bound, set(bound.values()), found)
        return found

    def _answer(
        self, query: Sequence[Condition], depth: int, bound: dict[Slot, str], used: set[str], found: list[dict[Slot, str]]
    ) -> None:
        if depth == len(query):
            found.append(dict(bound))
            return
        condition = query[depth]
        for types in self.subtypes(condition.types):
            signature = (condition.predicate, types)
            known = tuple([bound.get(slot, "") for slot in condition.slots])
            if all(known):
                if self.holds(signature, known):
                    self._answer(query, depth + 1, bound, used, found)
                continue
            for row in self.rows(signature):
                fresh = _bind(condition.slots, row, bound, used)
                if fresh is not None:
                    self._answer(query, depth + 1, bound, used, found)
                    for slot in fresh:
                        used.discard(bound.pop(slot))


def _bind(slots: Sequence[Slot], row: Row, bound: dict[Slot, str], used: set[str]) -> list[Slot] | None:
    """Binds the free slots to a row and returns them, or changes nothing and returns None where the row does not fit."""
    fresh: list[Slot] = []
    for slot, entity in zip(slots, row, strict=True):
        known = bound.get(slot)
        if known is None and entity not in used:
            bound[slot] = entity
            used.add(entity)
            fresh.append(slot)
        elif known != entity:
            for taken in fresh:
                used.discard(bound.pop(taken))
            return None
    return fresh


_PREDICATE = re.compile(r"\s*(!?[\w/]+)\s*\(([^()]*)\)\s*")


@lru_cache(maxsize=1024)
def parse_query(text: str) -> tuple[Condition, ...]:
    """The conditions of `holds(a: agent, o: object) & ...`; empty for an empty text."""
    conditions = []
    for part in text.split("&") if text.strip() else ():
        match = _PREDICATE.fullmatch(part)
        if not match:
            raise GrammarError(f"{text!r} is not a query of the form name(slot: type, ...) & ...")
        slots = [slot.partition(":") for slot in match[2].split(",") if slot.strip()]
        conditions.append(Condition(match[1], tuple((name.strip(), (kind or name).strip()) for name, _, kind in slots)))
    return tuple(conditions)
