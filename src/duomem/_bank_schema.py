"""The tables of a bank file, one script per schema version, and how texts are packed in them.

In: a path or an open connection. Out: the same file at the newest version, packed and unpacked values. Each step is one
transaction together with its version number. Not here: edits and searches.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterable
from pathlib import Path

from duomem.errors import DataError

STEPS: tuple[tuple[str, ...], ...] = (
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
"""Step i leads from version i to version i + 1. A released step is never edited."""

APPLICATION_ID = 0x44754D65
"""Marks a SQLite file as a bank ("DuMe")."""

DICTIONARY_BYTES = 2048
"""Length of the dictionary that packs a bank's texts; it is cut from the first memories. 4 kB packed no better."""


def connect(path: Path) -> sqlite3.Connection:
    """A connection in autocommit mode, for any thread; commits are synced. Raises `DataError` for what is no bank."""
    db = sqlite3.connect(path, timeout=30.0, isolation_level=None, check_same_thread=False)
    try:
        version(db, path)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
    except (sqlite3.Error, DataError):
        db.close()
        raise
    return db


def version(db: sqlite3.Connection, path: Path) -> int:
    """The schema version of a file; 0 for an empty one. Raises `DataError` for what is no bank or too new."""
    try:
        found = int(db.execute("PRAGMA user_version").fetchone()[0])
        marked = int(db.execute("PRAGMA application_id").fetchone()[0])
        tables = int(db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        raise DataError(
            f"{path} is not a bank: {error}. Point to another file, or write memories with: duomem remember"
        ) from error
    if (found or tables) and marked != APPLICATION_ID:
        raise DataError(f"{path} is a database, but not a bank. Point to another file, or write memories with: duomem remember")
    if found > len(STEPS):
        raise DataError(f"{path} has schema version {found}; this duomem knows up to {len(STEPS)}. Update duomem to read it.")
    return found


def migrate(db: sqlite3.Connection, path: Path) -> None:
    """Bring the file to the newest version. The connection must be in autocommit mode."""
    while (found := version(db, path)) < len(STEPS):
        db.execute("BEGIN IMMEDIATE")
        try:
            if version(db, path) == found:
                for statement in STEPS[found]:
                    db.execute(statement)
                db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                db.execute(f"PRAGMA user_version = {found + 1}")
            db.execute("COMMIT")
        except sqlite3.Error:
            db.execute("ROLLBACK")
            raise


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
