"""SQLite files of the project: how one is recognised, opened, brought to its newest schema and claimed by one writer.

In: a path and the `Form` of the file. Out: a connection in autocommit mode at the newest schema, or a `DataError` or
`StoreError` that says what to do. Each step of a migration is one transaction together with its version number, so that a kill
leaves the old schema or the new one. Rows are not its matter.
"""

from __future__ import annotations

import sqlite3
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from duomem.errors import DataError, StoreError

if sys.platform != "win32":
    import fcntl


@dataclass(frozen=True, slots=True)
class Form:
    """One kind of file, named in errors by `what` ("a journal") with its `way_out`.

    It is recognised by SQLite's application id, or, where that is 0, by tables that it has in every version.
    """

    what: str
    way_out: str
    steps: tuple[tuple[str, ...], ...]
    """Step i leads from version i to version i + 1. A released step is never edited."""
    application: int = 0
    tables: frozenset[str] = frozenset()
    pragmas: tuple[str, ...] = ()
    """What a writer sets beside WAL and a sync at every commit."""

    def version(self, db: sqlite3.Connection, path: Path) -> int:
        """The schema version of a file; 0 for an empty one. Raises `DataError` for another kind of file or a newer version."""
        try:
            found, mark = (int(db.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("user_version", "application_id"))
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            raise DataError(f"{path} is not {self.what}: {error}. {self.way_out}") from error
        ours = mark == self.application and self.tables <= tables
        if (found or tables) and not ours:
            raise DataError(f"{path} is a database, but not {self.what}. {self.way_out}")
        if found > len(self.steps):
            known = len(self.steps)
            raise DataError(f"{path} has schema version {found}; this duomem knows up to {known}. Update duomem to read it.")
        return found

    def connect(self, path: Path, *, readonly: bool = False, migrate: bool = True) -> sqlite3.Connection:
        """A connection in autocommit mode for many threads. For writing it syncs every commit and makes a missing file.

        `migrate` brings what is opened for writing to the newest version. Raises `sqlite3.Error` as well as `version`'s errors.
        """
        uri = f"{path.resolve().as_uri()}?mode={'ro' if readonly else 'rwc'}"
        db = sqlite3.connect(uri, uri=True, check_same_thread=False, isolation_level=None, timeout=30)
        try:
            self.version(db, path)
            if not readonly:
                for pragma in ("journal_mode = WAL", "synchronous = FULL", *self.pragmas):
                    db.execute(f"PRAGMA {pragma}")
                if migrate:
                    self._migrate(db, path)
        except BaseException:
            db.close()
            raise
        return db

    def is_old(self, path: Path) -> bool:
        """Whether an existing file has a schema older than the newest."""
        db = self.connect(path, readonly=True)
        try:
            return self.version(db, path) < len(self.steps)
        finally:
            db.close()

    def _migrate(self, db: sqlite3.Connection, path: Path) -> None:
        while (found := self.version(db, path)) < len(self.steps):
            db.execute("BEGIN IMMEDIATE")
            try:
                if self.version(db, path) == found:  # else another process took this step meanwhile
                    for statement in self.steps[found]:
                        db.execute(statement)
                    db.execute(f"PRAGMA application_id = {self.application}")
                    db.execute(f"PRAGMA user_version = {found + 1}")
                db.execute("COMMIT")
            except (sqlite3.Error, DataError):
                db.execute("ROLLBACK")
                raise


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
