"""The bank: memories, their journal of edits and their vectors in one SQLite file; opens views that search one version.

In: edits, and queries as text. Out: versions, and `View`s (the `BankView` of a strategy) that stay as they are whatever is
written later. A batch of edits is one transaction (WAL, synchronous=FULL) and one version; nothing is deleted but by `erase`,
so every version can be seen and returned to. It decides neither what a memory says nor when it is shown.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from duomem._bank_file import REBUILD, Pins, entries
from duomem._bank_file import Entry as Entry
from duomem._bank_file import history as history
from duomem._bank_file import pins as pins
from duomem._bank_rows import Rows, blob_of
from duomem._bank_schema import BANK
from duomem.bankview import View
from duomem.bankwords import Retrieval, require
from duomem.embed import Embedder
from duomem.errors import DataError, LeakError, MismatchError, StoreError
from duomem.types import BankEdit, Memory, MemoryId, Provenance
from duomem.vectors import quantise


@dataclass(frozen=True, slots=True)
class Usefulness:
    """How often a memory was shown, and how many of those episodes were won. Not part of a bank's content hash."""

    shown: int = 0
    won: int = 0


@dataclass(frozen=True, slots=True)
class Stats:
    """`memories` alive, `stored` ever, distinct `keys`, and the file's size in bytes (journal and index included)."""

    version: int
    memories: int
    stored: int
    keys: int
    bytes: int


class Bank:
    """An open bank file. Safe for many threads, and for several processes (SQLite's own locks, 30 s wait)."""

    def __init__(
        self, path: Path, db: sqlite3.Connection, embedder: Embedder, pins: Pins, retrieval: Retrieval = "dense"
    ) -> None:
        require(retrieval)
        self.path = path
        self.pins = pins
        self._db = db
        self._embedder = embedder
        self._retrieval: Retrieval = retrieval
        self._rows = Rows(db)
        self._lock = threading.RLock()
        self._latest: View | None = None
        self._wrote = False

    @classmethod
    def create(
        cls,
        path: Path | str,
        embedder: Embedder,
        layout_hash: str = "",
        splits: Collection[str] = ("train",),
        *,
        replace: bool = False,
        retrieval: Retrieval = "dense",
    ) -> Bank:
        """A new, empty bank at version 0; `replace` removes the one that is there (`--rebuild`). `retrieval` is how its views
        search; the file does not hold it.

        Raises `DataError` if the file exists, `StoreError` if it cannot be written.
        """
        path = Path(path)
        if path.exists() and not replace:
            raise DataError(f"{path} exists already. Open it. {REBUILD}")
        pins = Pins(embedder.name, embedder.revision, embedder.dim, layout_hash, tuple(sorted(splits)))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            for suffix in ("", "-wal", "-shm"):
                Path(f"{path}{suffix}").unlink(missing_ok=True)
            db = BANK.connect(path)
            db.execute("INSERT OR REPLACE INTO meta VALUES ('pins', ?)", (json.dumps(asdict(pins)),))
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"No bank can be made at {path}: {error}. Free space there or choose another place.") from error
        return cls(path, db, embedder, pins, retrieval)

    @classmethod
    def open(
        cls, path: Path | str, embedder: Embedder, layout_hash: str | None = None, *, retrieval: Retrieval = "dense"
    ) -> Bank:
        """An existing bank. Raises `MismatchError` for another embedder or layout than it was made with (None: any layout)."""
        path = Path(path)
        found = pins(path)
        ours, theirs = f"{embedder.name} {embedder.revision}", f"{found.embedder} {found.revision}"
        if ours != theirs:
            raise MismatchError(f"{path} was made with the embedder {theirs}, not {ours}. {REBUILD}")
        if layout_hash is not None and layout_hash != found.layout:
            raise MismatchError(f"{path} was made for the layout {found.layout}, not {layout_hash}. {REBUILD}")
        return cls(path, BANK.connect(path), embedder, found, retrieval)

    def close(self) -> None:
        """Leaves one packed file, without side files, if no other process has it open. May be called again."""
        with self._lock, suppress(sqlite3.ProgrammingError):
            with suppress(sqlite3.OperationalError):
                if self._wrote:
                    self._db.execute("VACUUM")
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._db.close()

    def __enter__(self) -> Bank:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def embedder(self) -> Embedder:
        """What turns keys and queries into vectors here."""
        return self._embedder

    @property
    def version(self) -> int:
        """Number of batches applied; 0 for a new bank."""
        with self._lock:
            return int(self._db.execute("SELECT coalesce(max(version), 0) FROM edits").fetchone()[0])

    def apply(self, edits: Sequence[BankEdit]) -> int:
        """Apply a batch in one transaction, all or nothing; returns the new version (the same one for an empty batch).

        A memory that is there already is not stored again; its source is noted. Raises `LeakError` for a memory of a split that
        the bank doesn't allow, `DataError` for a malformed edit or an unknown target, `StoreError` when the disk refuses.
        """
        for edit in edits:
            self._check(edit)
        codes = self._codes([edit.memory.key for edit in edits if edit.memory])
        with self._transaction() as db:
            version = self.version
            if not edits:
                return version
            version += 1
            self._rows.start_dictionary([edit.memory for edit in edits if edit.memory])
            for edit in edits:
                self._journal(db, version, edit, codes)
        return version

    def rollback(self, version: int, reason: str = "") -> int:
        """Make the memories of an earlier version the present ones, as a new version; the history stays."""
        with self._lock:
            now, then = self._rows.alive(self.version), self._rows.alive(self._known(version))
            words = reason or f"rollback to version {version}"
            edits = [BankEdit("retire", words, target=memory) for memory in now if memory not in then]
            edits += [BankEdit("add", words, row.memory) for row in self._rows.memories(then) if row.id not in now]
            return self.apply(edits)

    def erase(self, memory: MemoryId, reason: str) -> int:
        """Retire a memory and remove its text, key and sources from the file, from every version; the journal keeps that it was
        there. Raises `DataError` for an unknown one."""
        with self._transaction() as db:
            db.execute("PRAGMA secure_delete = ON")
            version = self.version + 1
            self._journal(db, version, BankEdit("retire", reason, target=memory), {})
            self._rows.erase(blob_of(memory))
            self._latest = None
        return version

    def stored(self) -> dict[MemoryId, Memory]:
        """Every memory whose text is in the file, alive or not."""
        with self._lock:
            return {row.id: row.memory for row in self._rows.memories(self._rows.stored())}

    def sources(self, memory: MemoryId) -> tuple[Provenance, ...]:
        """Every trajectory that a stored memory was made from, alive or not, the first one first."""
        return self.all_sources().get(memory, ())

    def all_sources(self) -> dict[MemoryId, tuple[Provenance, ...]]:
        """The same of every stored memory; they are unpacked together."""
        with self._lock:
            return self._rows.sources(self.version)

    def view(self, version: int | None = None, *, retrieval: Retrieval | None = None) -> View:
        """The bank at a version (None: the newest), searched as the bank is (None) or otherwise. Raises `DataError` for
        a version that does not exist, `MissingExtra` for a retrieval whose library is missing."""
        require(retrieval or self._retrieval)
        with self._lock:
            wanted = self.version if version is None else self._known(version)
            how = retrieval or self._retrieval
            if how == self._retrieval and self._latest is not None and self._latest.version == wanted:
                return self._latest
            alive = self._rows.alive(wanted)
            view = View(wanted, self._rows.memories(alive), self._rows.sources(wanted), self._embedder, how)
            if version is None and how == self._retrieval:
                self._latest = view
            return view

    def record(self, shown: Sequence[MemoryId], won: bool) -> None:
        """Count an episode for the memories it was shown."""
        with self._transaction() as db:
            for memory in shown:
                db.execute(
                    "INSERT INTO usefulness VALUES (?, 1, ?) ON CONFLICT(memory) DO UPDATE"
                    " SET shown = shown + 1, won = won + excluded.won",
                    (blob_of(memory), int(won)),
                )

    def usefulness(self) -> dict[MemoryId, Usefulness]:
        with self._lock:
            rows = self._db.execute("SELECT memory, shown, won FROM usefulness ORDER BY memory").fetchall()
        return {memory.hex(): Usefulness(shown, won) for memory, shown, won in rows}

    def history(self) -> list[Entry]:
        """Every edit, oldest first."""
        with self._lock:
            return entries(self._db)

    def stats(self) -> Stats:
        with self._lock:
            version = self.version
            stored, keys, pages, size = (
                int(self._db.execute(query).fetchone()[0])
                for query in (
                    "SELECT count(*) FROM memories",
                    "SELECT count(*) FROM keys",
                    "PRAGMA page_count",
                    "PRAGMA page_size",
                )
            )
            return Stats(version, len(self._rows.alive(version)), stored, keys, pages * size)

    # Below: one edit, one row.

    def _check(self, edit: BankEdit) -> None:
        needs_memory, needs_target = edit.op in ("add", "revise"), edit.op in ("revise", "retire")
        if (edit.memory is not None, edit.target is not None, bool(edit.reason)) != (needs_memory, needs_target, True):
            raise DataError(
                f"A malformed edit for {self.path}: {edit.op!r} with {edit}. Give it its memory, target and reason."
            )
        if edit.memory is not None:
            task_id = edit.memory.provenance.task_id
            split = task_id.split("/", 1)[0]
            if split not in self.pins.splits:
                raise LeakError(
                    f"A memory made from task {task_id} of split {split!r} must not enter {self.path}, which holds memories of"
                    f" {', '.join(self.pins.splits)}. Collect from one of those; evaluation tasks never become memories."
                )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                    self._db.execute("COMMIT")
                    self._wrote = True
                except BaseException:
                    with suppress(sqlite3.Error):
                        self._db.execute("ROLLBACK")
                    raise
                finally:
                    self._rows.forget()
            except sqlite3.OperationalError as error:
                raise StoreError(f"The bank {self.path} cannot be written: {error}. Nothing of this batch was kept.") from error

    def _journal(self, db: sqlite3.Connection, version: int, edit: BankEdit, codes: dict[str, bytes]) -> None:
        memory, target = edit.memory and blob_of(edit.memory.id), edit.target and blob_of(edit.target)
        if target and not db.execute("SELECT 1 FROM memories WHERE id = ?", (target,)).fetchone():
            raise DataError(f"No memory {edit.target!r} in {self.path} to {edit.op}.")
        if edit.memory and memory:
            self._rows.store(version, edit.memory, codes[edit.memory.key])
            if target:
                self._rows.inherit(memory, target, version)
        db.execute(
            "INSERT INTO edits(version, op, memory, target, reason, time) VALUES (?, ?, ?, ?, ?, ?)",
            (version, edit.op, memory, target, edit.reason, time.time()),
        )

    def _codes(self, keys: Sequence[str]) -> dict[str, bytes]:
        """The codes of keys, embedded before the write lock is taken."""
        distinct = list(dict.fromkeys(keys))
        rows = quantise(self._embedder.embed(distinct)) if distinct else ()
        return {key: row.tobytes() for key, row in zip(distinct, rows, strict=True)}

    def _known(self, version: int) -> int:
        newest = self.version
        if not 0 <= version <= newest:
            raise DataError(f"{self.path} has no version {version}; it has 0 to {newest}.")
        return version
