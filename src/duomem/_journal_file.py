"""The file behind a journal: who may write it, how it is opened, and its tables, one script per schema version.

In: a path. Out: a connection to a file at schema `VERSION`, or a `DataError` or `StoreError`. Each migration step is one
transaction together with its version number, so that a kill leaves the old schema or the new one. Rows are not its matter.
"""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path
from typing import IO

from duomem.errors import DataError, StoreError

if sys.platform != "win32":
    import fcntl

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
    ("ALTER TABLE turns ADD COLUMN results TEXT",),
    ("ALTER TABLE episodes ADD COLUMN tools TEXT NOT NULL DEFAULT '[]'",),
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


def connect(path: Path, readonly: bool) -> sqlite3.Connection:
    """A connection in autocommit mode for many threads. For writing it syncs every commit, and the schema is the newest."""
    uri = f"{path.resolve().as_uri()}?mode={'ro' if readonly else 'rwc'}"
    db = sqlite3.connect(uri, uri=True, check_same_thread=False, isolation_level=None, timeout=30)
    try:
        db.row_factory = sqlite3.Row
        version(db, path)
        if not readonly:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA foreign_keys = ON")
            migrate(db, path)
    except BaseException:
        db.close()
        raise
    return db


def is_old(path: Path) -> bool:
    """Whether the file has a schema older than `VERSION`."""
    db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    try:
        return version(db, path) < VERSION
    finally:
        db.close()


def claim(path: Path) -> IO[str]:
    """Make sure that one process writes. A record lock goes with the process, however that ends."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock_file = path.with_name(path.name + ".lock").open("a")
    except OSError as error:
        raise StoreError(f"The journal {path} cannot be opened for writing: {error}.") from error
    if sys.platform != "win32":
        try:
            fcntl.lockf(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock_file.close()
            raise StoreError(f"Another process is writing {path}. Wait for it to end, or use another run directory.") from error
    return lock_file


def store_error(path: Path, error: sqlite3.Error) -> StoreError:
    """What a user reads when SQLite fails."""
    return StoreError(
        f"The journal {path} failed: {error}. What was recorded before is intact. "
        "Check disk space and permissions, then run the same command again to resume."
    )
