"""The tables of a bank file, one script per schema version, and how texts are packed in them.

In: values. Out: packed and unpacked values. Not here: how such a file is opened (`duomem.sqlitefile`), edits and searches.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from duomem.sqlitefile import Form

_STEPS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE meta(name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
        "CREATE TABLE keys(id INTEGER PRIMARY KEY, key BLOB NOT NULL, code BLOB NOT NULL)",
        """CREATE TABLE memories(
            id BLOB PRIMARY KEY, key INTEGER NOT NULL REFERENCES keys(id), kind TEXT NOT NULL,
            text BLOB NOT NULL) WITHOUT ROWID""",
        """CREATE TABLE sources(
            memory BLOB NOT NULL REFERENCES memories(id), seq INTEGER NOT NULL, version INTEGER NOT NULL,
            provenance BLOB NOT NULL, PRIMARY KEY(memory, seq)) WITHOUT ROWID""",
        """CREATE TABLE edits(
            seq INTEGER PRIMARY KEY, version INTEGER NOT NULL, op TEXT NOT NULL, memory BLOB, target BLOB,
            reason TEXT NOT NULL, time REAL NOT NULL)""",
        "CREATE TABLE usefulness(memory BLOB PRIMARY KEY, shown INTEGER NOT NULL, won INTEGER NOT NULL) WITHOUT ROWID",
    ),
)

BANK = Form(
    "a bank",
    "Point to another file, or write memories with: duomem remember",
    _STEPS,
    application=0x44754D65,  # "DuMe"
)

DICTIONARY_BYTES = 2048
"""Length of the dictionary that packs a bank's texts; it is cut from the first memories. 4 kB packed no better."""


def dictionary(texts: Iterable[str]) -> bytes:
    """Common text to pack with: the end of the first texts, because deflate reaches the end of a dictionary most cheaply."""
    return "\n".join(dict.fromkeys(texts)).encode()[-DICTIONARY_BYTES:]


def pack(value: bytes, common: bytes = b"") -> bytes:
    """Raw deflate with a shared dictionary; what doesn't shrink stays as it is. The first byte says which."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, *([common] if common else []))
    packed = packer.compress(value) + packer.flush()
    return b"z" + packed if len(packed) < len(value) else b"=" + value


def unpack(value: bytes, common: bytes = b"") -> bytes:
    if value[:1] == b"=":
        return value[1:]
    return zlib.decompressobj(-15, **({"zdict": common} if common else {})).decompress(value[1:])
