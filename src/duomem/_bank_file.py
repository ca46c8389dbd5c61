"""What a bank file says of itself without an embedder: what it was made for, and its journal of edits.

In: the path of a bank. Out: its pins and its history. Not here: memories, searches and edits (`duomem.bank`).
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duomem._bank_schema import BANK
from duomem.errors import DataError
from duomem.types import MemoryId

REBUILD = "Make the bank again with: duomem remember --rebuild"


@dataclass(frozen=True, slots=True)
class Pins:
    """What a bank was made for. `splits` are those whose trajectories may stand in it."""

    embedder: str
    revision: str
    dim: int
    layout: str
    splits: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One journalled edit. `time` is Unix seconds."""

    version: int
    op: str
    memory: MemoryId | None
    target: MemoryId | None
    reason: str
    time: float


def history(path: Path | str) -> list[Entry]:
    """Every edit of an existing bank, oldest first, without an embedder. Raises `DataError` when there is no bank."""
    pins(path)
    db = BANK.connect(Path(path), migrate=False)
    try:
        return entries(db)
    finally:
        db.close()


def entries(db: sqlite3.Connection) -> list[Entry]:
    """Every edit of an open bank, oldest first."""
    rows = db.execute("SELECT version, op, memory, target, reason, time FROM edits ORDER BY seq").fetchall()
    return [Entry(row[0], row[1], row[2] and row[2].hex(), row[3] and row[3].hex(), row[4], row[5]) for row in rows]


def pins(path: Path | str) -> Pins:
    """What an existing bank was made for, without an embedder. Raises `DataError` when there is no bank."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"No bank at {path}. Write memories first with: duomem remember")
    db = BANK.connect(path, migrate=False)
    try:
        found = db.execute("SELECT value FROM meta WHERE name = 'pins'").fetchone() if BANK.version(db, path) else None
    finally:
        db.close()
    if found is None:
        raise DataError(f"{path} is an unfinished bank. {REBUILD}")
    values: dict[str, Any] = json.loads(found[0])
    return Pins(**values | {"splits": tuple(values["splits"])})
