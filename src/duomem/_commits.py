"""Writes of many threads to one SQLite connection, synced together: one commit for all that came while the last one ran.

In: a connection in autocommit mode, and pieces of work that take it. Out: their results, once they are on disk. A piece that
fails is undone alone. It doesn't know what is written.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from duomem.errors import DuomemError
from duomem.sqlitefile import store_error

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]


class _Piece:
    """One piece of work. `awaited` is False where nobody waits for it: then it may not be lost, and is tried until it holds."""

    def __init__(self, work: Work[Any], awaited: bool) -> None:
        self.work, self.awaited = work, awaited
        self.done = False
        self.result: Any = None
        self.error: Exception | None = None


class Commits:
    """The connection of one open file. Sync costs milliseconds on a busy disk; sixteen episodes share it."""

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self.db, self._path = db, path
        db.row_factory = sqlite3.Row
        self._waiting: list[_Piece] = []
        self._queue = threading.Lock()
        self._mutex = threading.RLock()

    def now(self, work: Work[T]) -> T:
        """Do the work and return when it is on disk. Raises what the work raises, `StoreError` for SQLite's errors."""
        piece = self._enqueue(work, True)
        with self._mutex:
            if not piece.done:
                self._commit()
        if isinstance(piece.error, sqlite3.Error):
            raise store_error(self._path, piece.error) from piece.error
        if piece.error:
            raise piece.error
        result: T = piece.result
        return result

    def later(self, work: Work[None]) -> None:
        """Do the work in the next commit, before all work that is given later. Loss by a kill must not matter."""
        self._enqueue(work, False)

    def rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        """The rows of a query, what waits for the next commit included."""
        with self._mutex:
            try:
                if self._waiting and not self.db.in_transaction:
                    self._commit()
                return self.db.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise store_error(self._path, error) from error

    def close(self) -> None:
        with self._mutex, suppress(sqlite3.Error):
            if self._waiting:
                self._commit()
            self.db.close()

    def _enqueue(self, work: Work[Any], awaited: bool) -> _Piece:
        piece = _Piece(work, awaited)
        with self._queue:
            self._waiting.append(piece)
        return piece

    def _commit(self) -> None:
        """Do and sync all that waits. Called with the mutex held."""
        with self._queue:
            batch, self._waiting = self._waiting, []
        committed = False
        try:
            self.db.execute("BEGIN IMMEDIATE")
            for piece in batch:
                self._do(piece)
            self.db.execute("COMMIT")
            committed = True
        except sqlite3.Error as error:
            for piece in batch:
                piece.error = piece.error or error
                piece.done = piece.awaited
        finally:
            if committed:
                for piece in batch:
                    piece.done = True
            else:
                # Nothing of the batch is on disk. Who waits has been told; the rest comes first in the next commit.
                with suppress(sqlite3.Error):
                    self.db.execute("ROLLBACK")
                with self._queue:
                    self._waiting = [piece for piece in batch if not piece.done] + self._waiting

    def _do(self, piece: _Piece) -> None:
        self.db.execute("SAVEPOINT piece")
        try:
            piece.result, piece.error = piece.work(self.db), None
        except (sqlite3.Error, DuomemError, ValueError) as error:
            # After some errors SQLite has undone the whole transaction by itself; then the whole batch has failed.
            if not piece.awaited or not self.db.in_transaction:
                raise
            self.db.execute("ROLLBACK TO piece")
            piece.error = error
        self.db.execute("RELEASE piece")
