"""Rows of a bank file: memories, their sources and keys, packed; and the journal replayed.

In: an open connection; calls that write run inside the caller's transaction. Out: memories and ids. Not here: transactions,
locks, and what may enter a bank.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import astuple

from duomem import _bank_schema as schema
from duomem.bankview import Row
from duomem.errors import DataError
from duomem.types import Memory, MemoryId, Provenance


class Rows:
    """Reads and writes the tables of one connection; the caller holds its lock."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._common: bytes | None = None
        self._numbers: dict[str, int] | None = None

    def forget(self) -> None:
        """Drop what was read in a transaction; called at its end, whichever way it ended."""
        self._common = self._numbers = None

    def start_dictionary(self, memories: Sequence[Memory]) -> None:
        """The first memories of a bank give the text that all are packed with."""
        if memories and not self._dictionary():
            common = schema.dictionary(part for memory in memories for part in (_json(memory.provenance), memory.text))
            self._db.execute("INSERT INTO meta VALUES ('dictionary', ?)", (common,))
            self._common = common

    def _dictionary(self) -> bytes:
        if self._common is None:
            found = self._db.execute("SELECT value FROM meta WHERE name = 'dictionary'").fetchone()
            self._common = bytes(found[0]) if found else None
        return self._common or b""

    def store(self, version: int, memory: Memory, code: bytes) -> None:
        """Store a memory once, and its source if it is a new one."""
        common, blob = self._dictionary(), blob_of(memory.id)
        key = self._key(memory.key, code)
        text = schema.pack(memory.text.encode(), common + memory.key.encode())
        self._db.execute("INSERT OR IGNORE INTO memories VALUES (?, ?, ?, ?)", (blob, key, memory.kind, text))
        stored = self._db.execute("SELECT provenance FROM sources WHERE memory = ? ORDER BY seq", (blob,))
        known = [schema.unpack(packed, common).decode() for (packed,) in stored]
        source = _json(memory.provenance)
        if source not in known:
            row = (blob, len(known), version, schema.pack(source.encode(), common))
            self._db.execute("INSERT INTO sources VALUES (?, ?, ?, ?)", row)

    def inherit(self, memory: bytes, target: bytes, version: int) -> None:
        """Note the sources of a memory for the one that takes its place: it was made from them as well."""
        common = self._dictionary()
        query = "SELECT provenance FROM sources WHERE memory = ? ORDER BY seq"
        known, older = (
            [schema.unpack(packed, common) for (packed,) in self._db.execute(query, (blob,))] for blob in (memory, target)
        )
        for source in older:
            if source not in known:
                row = (memory, len(known), version, schema.pack(source, common))
                self._db.execute("INSERT INTO sources VALUES (?, ?, ?, ?)", row)
                known.append(source)

    def erase(self, memory: bytes) -> None:
        """Remove a memory's text, key and sources for good; the others are packed anew, since the text may stand in the
        dictionary that they share."""
        old = self._dictionary()
        self._db.execute("DELETE FROM sources WHERE memory = ?", (memory,))
        self._db.execute("DELETE FROM memories WHERE id = ?", (memory,))
        self._db.execute("DELETE FROM keys WHERE id NOT IN (SELECT key FROM memories)")
        keys = {number: schema.unpack(packed, old) for number, packed in self._db.execute("SELECT id, key FROM keys")}
        texts = [
            (blob, keys[key], schema.unpack(packed, old + keys[key]))
            for blob, key, packed in self._db.execute("SELECT id, key, text FROM memories ORDER BY id")
        ]
        sources = [
            (blob, seq, schema.unpack(packed, old))
            for blob, seq, packed in self._db.execute("SELECT memory, seq, provenance FROM sources ORDER BY memory, seq")
        ]
        new = schema.dictionary(part.decode() for part in [source for _, _, source in sources] + [text for _, _, text in texts])
        self._db.execute("INSERT OR REPLACE INTO meta VALUES ('dictionary', ?)", (new,))
        self._db.executemany("UPDATE keys SET key = ? WHERE id = ?", [(schema.pack(key, new), n) for n, key in keys.items()])
        for blob, key, text in texts:
            self._db.execute("UPDATE memories SET text = ? WHERE id = ?", (schema.pack(text, new + key), blob))
        for blob, seq, source in sources:
            row = (schema.pack(source, new), blob, seq)
            self._db.execute("UPDATE sources SET provenance = ? WHERE memory = ? AND seq = ?", row)
        self.forget()

    def stored(self) -> list[MemoryId]:
        """The ids of all memories whose text is in the file, alive or not."""
        return [blob.hex() for (blob,) in self._db.execute("SELECT id FROM memories ORDER BY id")]

    def _key(self, key: str, code: bytes) -> int:
        """The number of a key, stored once. The map is read in the transaction: another process may have added keys."""
        if self._numbers is None:
            rows = self._db.execute("SELECT id, key FROM keys")
            self._numbers = {schema.unpack(packed, self._dictionary()).decode(): number for number, packed in rows}
        if key not in self._numbers:
            row = (schema.pack(key.encode(), self._dictionary()), schema.pack(code))
            self._numbers[key] = int(self._db.execute("INSERT INTO keys(key, code) VALUES (?, ?)", row).lastrowid or 0)
        return self._numbers[key]

    def alive(self, version: int) -> dict[MemoryId, None]:
        """The ids alive at a version, in the order they came: the journal replayed."""
        alive: dict[MemoryId, None] = {}
        edits = self._db.execute("SELECT memory, target FROM edits WHERE version <= ? ORDER BY seq", (version,))
        for memory, target in edits:
            if target:
                alive.pop(target.hex(), None)
            if memory:
                alive[memory.hex()] = None
        return alive

    def memories(self, wanted: Collection[MemoryId]) -> list[Row]:
        common = self._dictionary()
        first = dict(self._db.execute("SELECT memory, provenance FROM sources WHERE seq = 0"))
        query = "SELECT m.id, k.id, k.key, k.code, m.kind, m.text FROM memories m JOIN keys k ON k.id = m.key"
        rows = []
        for blob, number, packed, code, kind, text in self._db.execute(query):
            if blob.hex() in wanted:
                key = schema.unpack(packed, common).decode()
                provenance = _provenance(schema.unpack(first[blob], common))
                memory = Memory(key, schema.unpack(text, common + key.encode()).decode(), kind, provenance)
                rows.append(Row(blob.hex(), memory, number, schema.unpack(code)))
        return rows

    def sources(self, version: int) -> dict[MemoryId, tuple[Provenance, ...]]:
        common = self._dictionary()
        found: dict[MemoryId, tuple[Provenance, ...]] = {}
        query = "SELECT memory, provenance FROM sources WHERE version <= ? ORDER BY memory, seq"
        for blob, packed in self._db.execute(query, (version,)):
            found[blob.hex()] = (*found.get(blob.hex(), ()), _provenance(schema.unpack(packed, common)))
        return found


def blob_of(memory: MemoryId) -> bytes:
    try:
        return bytes.fromhex(memory)
    except ValueError:
        raise DataError(f"{memory!r} is not the id of a memory: it must be hexadecimal.") from None


def _json(provenance: Provenance) -> str:
    return json.dumps(astuple(provenance), separators=(",", ":"), ensure_ascii=False)


def _provenance(packed: bytes) -> Provenance:
    return Provenance(*json.loads(packed))
