"""The tables of `record.sqlite`, one script per schema version, and how the file is opened.

In: a path. Out: a connection at schema `VERSION`. Content that repeats from request to request (messages, tools) is kept once,
in `items`, by its hash. Rows are not its matter.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from duomem.errors import DataError

APPLICATION = 0x44754D52
"""SQLite's application id: tells this file from a journal or a bank."""

STEPS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE meta(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
        "CREATE TABLE items(hash TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
        """CREATE TABLE exchanges(
            id INTEGER PRIMARY KEY, episode TEXT NOT NULL, named TEXT NOT NULL, api TEXT NOT NULL, path TEXT NOT NULL,
            model TEXT NOT NULL, stream INTEGER NOT NULL, started REAL NOT NULL, request TEXT NOT NULL, messages TEXT NOT NULL,
            fresh INTEGER NOT NULL, tools TEXT NOT NULL, before TEXT NOT NULL, conversation TEXT NOT NULL, task TEXT NOT NULL,
            parent INTEGER REFERENCES exchanges(id), choice INTEGER NOT NULL, doubt INTEGER NOT NULL DEFAULT 0,
            gap TEXT NOT NULL, state TEXT NOT NULL, status INTEGER NOT NULL DEFAULT 0, reply TEXT NOT NULL DEFAULT '',
            answer TEXT NOT NULL DEFAULT '', reply_id TEXT NOT NULL DEFAULT '', delivered INTEGER NOT NULL DEFAULT 1,
            first_byte REAL NOT NULL DEFAULT 0, seconds REAL NOT NULL DEFAULT 0, error TEXT NOT NULL DEFAULT '')""",
        "CREATE INDEX exchange_episode ON exchanges(episode)",
        "CREATE INDEX exchange_before ON exchanges(before)",
        "CREATE INDEX exchange_parent ON exchanges(parent)",
        "CREATE INDEX exchange_reply ON exchanges(reply_id) WHERE reply_id != ''",
        "CREATE INDEX exchange_conversation ON exchanges(conversation) WHERE conversation != ''",
        "CREATE TABLE states(hash TEXT, exchange INTEGER REFERENCES exchanges(id), choice INTEGER)",
        "CREATE INDEX state_hash ON states(hash)",
        """CREATE TABLE outcomes(
            id INTEGER PRIMARY KEY, episode TEXT NOT NULL, won INTEGER NOT NULL, score REAL, note TEXT NOT NULL,
            source TEXT NOT NULL, at REAL NOT NULL)""",
        "CREATE INDEX outcome_episode ON outcomes(episode)",
    ),
)
"""Step i leads from version i to version i + 1. A released step is never edited."""

VERSION = len(STEPS)


def connect(path: Path, readonly: bool) -> sqlite3.Connection:
    """A connection in autocommit mode for many threads. Raises `DataError` for a file that is something else or too new."""
    if not readonly and not path.exists():
        path.touch(mode=0o600)  # an agent's conversations are their owner's alone
    uri = f"{path.resolve().as_uri()}?mode={'ro' if readonly else 'rw'}"
    db = sqlite3.connect(uri, uri=True, check_same_thread=False, isolation_level=None, timeout=30)
    try:
        db.row_factory = sqlite3.Row
        _check(db, path)
        if not readonly:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            _migrate(db)
    except BaseException:
        db.close()
        raise
    return db


def _check(db: sqlite3.Connection, path: Path) -> None:
    try:
        found, mark = (int(db.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("user_version", "application_id"))
        empty = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        raise DataError(f"{path} is not a recording: {error}. Point to another run, or move the file away.") from error
    if not empty and mark != APPLICATION:
        raise DataError(f"{path} is a database, but not a recording. Point to another run, or move the file away.")
    if found > VERSION:
        raise DataError(f"{path} has schema version {found}; this duomem knows up to {VERSION}. Update duomem to read it.")


def _migrate(db: sqlite3.Connection) -> None:
    db.execute("BEGIN IMMEDIATE")
    try:
        begun = int(db.execute("PRAGMA user_version").fetchone()[0])
        for number in range(begun, VERSION):
            for statement in STEPS[number]:
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {VERSION}")
        db.execute(f"PRAGMA application_id = {APPLICATION}")
        db.execute("COMMIT")
    except sqlite3.Error:
        db.execute("ROLLBACK")
        raise
