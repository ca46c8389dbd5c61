"""One version of a bank in memory: what strategies read and search.

In: the memories alive at that version with their keys' codes. Out: exact top-k by cosine, by BM25 or by both, in one order
on every machine.
Immutable, so any number of threads may search it, and what is written later does not move it. It never touches the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from functools import cached_property

import numpy as np

from duomem.bankwords import Retrieval, Words, fused
from duomem.embed import Embedder
from duomem.errors import DataError
from duomem.types import Hit, Memory, MemoryId, Provenance, digest
from duomem.vectors import Floats, Index, best, quantise


@dataclass(frozen=True, slots=True)
class Row:
    """A memory with its id, the number of its key and the key's int8 code as bytes. Memories with one key share both."""

    id: MemoryId
    memory: Memory
    key: int
    code: bytes


class View:
    """The `BankView` of `duomem.memory`. `version` is the bank's."""

    def __init__(
        self,
        version: int,
        rows: Sequence[Row],
        sources: Mapping[MemoryId, tuple[Provenance, ...]],
        embedder: Embedder,
        retrieval: Retrieval = "dense",
    ) -> None:
        self.rows = rows = sorted(rows, key=lambda row: row.id)
        codes = {row.key: row.code for row in rows}
        place = {key: index for index, key in enumerate(codes)}
        self.version = version
        self._memories = tuple(row.memory for row in rows)
        self._ids = tuple(row.id for row in rows)
        self._by_id = {row.id: row.memory for row in rows}
        self._sources = sources
        self.embedder = embedder
        self.retrieval: Retrieval = retrieval
        self._keys = tuple({row.key: row.memory.key for row in rows}.values())
        self._key_of = np.array([place[row.key] for row in rows], dtype=np.intp)
        self._index = Index(np.frombuffer(b"".join(codes.values()), dtype=np.int8).reshape(len(codes), embedder.dim))

    def __len__(self) -> int:
        return len(self._memories)

    def memories(self) -> tuple[Memory, ...]:
        """All of them, by id."""
        return self._memories

    def get(self, memory: MemoryId) -> Memory:
        if memory not in self._by_id:
            raise DataError(f"No memory {memory!r} in version {self.version} of the bank.")
        return self._by_id[memory]

    def known_sources(self, memory: MemoryId) -> tuple[Provenance, ...]:
        """The same; none of a memory that is not here."""
        return self.sources(memory) if memory in self._by_id else ()

    def sources(self, memory: MemoryId) -> tuple[Provenance, ...]:
        """Every trajectory that gave this very memory, the memory's own provenance first."""
        return self._sources.get(memory) or (self.get(memory).provenance,)

    def search(self, query: str, k: int, *, floor: float = -1.0, allow: Callable[[Memory], bool] | None = None) -> list[Hit]:
        """The k memories whose keys score highest, best first, equal ones by id; none whose cosine is below `floor`.

        Exact: every key is compared. The score is the cosine, for other retrievals that of `bankwords`; the floor is one of
        cosines in all of them, and BM25 finds nothing that shares no word. `allow` says which memories may be found at all
        (exclusions, decoys); a memory that several trajectories gave is asked for with each source, and all must be allowed.
        """
        if k <= 0 or not self._memories:
            return []
        cosines = self._index.cosines(quantise(self.embedder.embed([query]))[0])
        scores = self._scores(query, cosines)[self._key_of]
        enough = (cosines >= floor)[self._key_of] & (scores > 0.0 if self.retrieval == "bm25" else True)
        reach = k
        while True:
            rows = best(scores, reach)
            allowed = [row for row in rows if enough[row] and (allow is None or self._allowed(row, allow))][:k]
            below = self.retrieval == "dense" and not enough[rows[-1]]  # and so is all that comes after
            if len(allowed) == k or len(rows) < reach or below:
                return [Hit(self._memories[row], float(scores[row])) for row in allowed]
            reach *= 4  # the filter refused some: look further

    def _scores(self, query: str, cosines: Floats) -> Floats:
        if self.retrieval == "dense":
            return cosines
        words = self._words.scores(query)
        return words if self.retrieval == "bm25" else fused(cosines, words)

    @cached_property
    def _words(self) -> Words:
        return Words(self._keys)

    def _allowed(self, row: int, allow: Callable[[Memory], bool]) -> bool:
        memory = self._memories[row]
        return all(allow(replace(memory, provenance=source)) for source in self.sources(self._ids[row]))

    @cached_property
    def content_hash(self) -> str:
        """sha256 over the memories, their sources and the embedder that placed them; no times, no usefulness counts."""
        sources = [[astuple(source) for source in self.sources(memory)] for memory in self._ids]
        return digest([list(self._ids), sources, self.embedder.name, self.embedder.revision])


def joined(first: View, second: View) -> View:
    """Two banks' views as one, searched as the first is; a memory that is in both counts once. Both must have one embedder."""
    numbers = {row.memory.key: row.key for row in first.rows}
    above = 1 + max(numbers.values(), default=0)
    known = {row.id for row in first.rows}
    added = [replace(row, key=numbers.get(row.memory.key, above + row.key)) for row in second.rows if row.id not in known]
    sources = {
        row.id: tuple(dict.fromkeys((*first.known_sources(row.id), *second.known_sources(row.id))))
        for row in (*first.rows, *added)
    }
    return View(first.version, [*first.rows, *added], sources, first.embedder, first.retrieval)
