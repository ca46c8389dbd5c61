"""Merges near duplicates when memories are written: one memory for what several trajectories taught alike.

In: the memories of a bank, and edits that would add more. Out: the edits, in which a near duplicate is the older memory
with the new one's source, so that the bank notes it and no second text is stored. It writes nothing and joins no texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from difflib import SequenceMatcher

import numpy as np

from duomem.embed import Embedder
from duomem.memory._common import steps_of
from duomem.types import BankEdit, Memory, MemoryId

_WORD = re.compile(r"\w+")


class Merger:
    """The memories of one batch and of the bank before it. `count` is how many edits were merged."""

    def __init__(self, memories: Iterable[Memory], embedder: Embedder, threshold: float) -> None:
        """Two memories of a kind are alike when the cosine of their keys and the likeness of their steps reach `threshold`."""
        self._embedder, self._threshold = embedder, threshold
        self._known: dict[str, dict[str, list[Memory]]] = {}
        self.count = 0
        for memory in memories:
            self._keep(memory)

    def merged(self, edits: Sequence[BankEdit]) -> list[BankEdit]:
        return [self._one(edit) for edit in edits]

    def _one(self, edit: BankEdit) -> BankEdit:
        if edit.op == "retire" or edit.memory is None:
            self._drop(edit.target)
            return edit
        older, likeness = self._nearest(edit.memory)
        if edit.op != "add" or older is None or older.id == edit.memory.id:
            self._drop(edit.target)
            self._keep(edit.memory)
            return edit
        self.count += 1
        same = replace(older, provenance=edit.memory.provenance)
        return BankEdit("add", f"{edit.reason}; {likeness:.2f} like {older.id}, merged into it", same)

    def _keep(self, memory: Memory) -> None:
        self._known.setdefault(memory.kind, {}).setdefault(memory.key, []).append(memory)

    def _drop(self, memory: MemoryId | None) -> None:
        for keys in self._known.values():
            for key in [key for key, known in keys.items() if any(each.id == memory for each in known)]:
                keys[key] = [each for each in keys[key] if each.id != memory]

    def _nearest(self, memory: Memory) -> tuple[Memory | None, float]:
        """The most alike memory of the same kind that reaches the threshold, the first of equal ones, and its likeness."""
        keys = self._known.get(memory.kind, {})
        best: tuple[Memory | None, float] = (None, 0.0)
        if not keys:
            return best
        # Rounded, so that a threshold of 1 means equal and no decision hangs on a last bit.
        cosines = np.round(self._embedder.embed(list(keys)) @ self._embedder.embed([memory.key])[0], 5)
        for cosine, known in zip(cosines, keys.values(), strict=True):
            for older in known if cosine >= self._threshold else ():
                likeness = min(float(cosine), steps_alike(older.text, memory.text))
                if likeness >= self._threshold and likeness > best[1]:
                    best = (older, likeness)
        return best


def steps_alike(one: str, other: str) -> float:
    """How alike two memories' steps are in words and order: twice the matching words over all, 0 to 1 (difflib's ratio)."""
    first, second = (_WORD.findall(steps_of(text).lower()) for text in (one, other))
    return SequenceMatcher(None, first, second, autojunk=False).ratio()
