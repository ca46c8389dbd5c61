"""The tables of `journal.sqlite`, one script per schema version, and the step from any older version to the newest.

In: an open connection. Out: the same file at `VERSION`, or a `DataError`. Each step is one transaction together with its
version number, so that a kill leaves either the old schema or the new one. It doesn't read or write rows.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from duomem.errors import DataError

STEPS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE episodes(
            id INTEGER PRIMARY KEY, phase TEXT NOT NULL, task_id TEXT NOT NULL, attempt INTEGER NOT NULL, try INTEGER NOT NULL,
            task TEXT NOT NULL, goal TEXT NOT NULL, scene TEXT NOT NULL, prompt TEXT NOT NULL, shown TEXT NOT NULL,
            origin TEXT NOT NULL, stop TEXT, error TEXT NOT NULL DEFAULT '', seconds REAL NOT NULL DEFAULT 0, content_hash TEXT,
            UNIQUE(phase, task_id, attempt, try))""",
        """CREATE TABLE turns(
            episode INTEGER NOT NULL REFERENCES episodes(id), idx INTEGER NOT NULL, reply TEXT NOT NULL, call TEXT,
            repaired INTEGER NOT NULL, observation TEXT, valid INTEGER, PRIMARY KEY(episode, idx)) WITHOUT ROWID""",
    ),
    (
        "ALTER TABLE turns ADD COLUMN recalled TEXT NOT NULL DEFAULT ''",
        """CREATE TABLE failures(
            episode INTEGER NOT NULL REFERENCES episodes(id), turn INTEGER NOT NULL,
            stop TEXT NOT NULL, error TEXT NOT NULL)""",
    ),
)
"""Step i leads from version i to version i + 1. A released step is never edited."""

VERSION = len(STEPS)


def version(db: sqlite3.Connection, path: Path) -> int:
    """The schema version of a file; 0 for an empty one. Raises `DataError` for what is no journal or too new."""
    try:
        found = int(db.execute("PRAGMA user_version").fetchone()[0])
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise
        raise DataError(f"{path} is not a journal: {error}. Point to a run directory, or move the file away.") from error
    if found > VERSION:
        raise DataError(f"{path} has schema version {found}; this duomem knows up to {VERSION}. Update duomem to read it.")
    if (tables or found) and not {"episodes", "turns"} <= tables:
        raise DataError(f"{path} is a database, but not a journal. Point to a run directory, or move the file away.")
    return found


def migrate(db: sqlite3.Connection, path: Path) -> None:
    """Bring the file to `VERSION`. The connection must be in autocommit mode."""
    for number in range(version(db, path), VERSION):
        db.execute("BEGIN IMMEDIATE")
        try:
            for statement in STEPS[number]:
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {number + 1}")
            db.execute("COMMIT")
        except sqlite3.Error:
            db.execute("ROLLBACK")
            raise
