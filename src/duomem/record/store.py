"""`record.sqlite`: every exchange of a recorded agent, synced before it is handed back, and the outcomes of its episodes.

In: requests as they begin and what became of them, redacted. Out: exchanges in order, with the exchange each goes on from. Many
threads; one process records, others may add outcomes and read meanwhile. Which episodes can be used is not its matter.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

from duomem._commits import Commits
from duomem.errors import DataError, StoreError, UsageError
from duomem.record import _links
from duomem.record._rows import Begun, Ended, Exchange, Outcome, exchanges
from duomem.record._tables import RECORDING
from duomem.sqlitefile import claim, store_error
from duomem.types import dump

FILE = "record.sqlite"
LISTS = ("messages", "input", "tools", "system", "output")
"""Fields of bodies whose parts repeat from request to request."""


class RecordStore:
    """One open recording; use `RecordStore.open`."""

    def __init__(self, path: Path, db: sqlite3.Connection, lock: IO[str] | None) -> None:
        self.path = path
        self._commits = Commits(db, path)
        self._lock = lock

    @classmethod
    def open(cls, path: Path, mode: Literal["record", "add", "read"] = "read") -> RecordStore:
        """`record` makes the file and is for one process at a time; `add` may add outcomes to it meanwhile.

        With `record`, what an earlier recorder left open is marked as broken. Raises `DataError` for a missing or foreign file,
        `StoreError` where it cannot be opened or another process records.
        """
        if mode != "record" and not path.is_file():
            raise DataError(f"No recording at {path}. Record an agent first: duomem record --run {path.parent} --upstream URL")
        lock = claim(path) if mode == "record" else None
        try:
            if mode == "record":
                path.touch(mode=0o600)  # an agent's conversations are their owner's alone
            if mode == "read" and RECORDING.is_old(path):
                RECORDING.connect(path).close()
            store = cls(path, RECORDING.connect(path, readonly=mode == "read"), lock)
            if mode == "record":
                store._mark_cut()
            return store
        except (sqlite3.Error, OSError, DataError, StoreError) as error:
            if lock:
                lock.close()
            if isinstance(error, sqlite3.Error):
                raise store_error(path, error) from error
            raise

    def close(self) -> None:
        """May be called again."""
        self._commits.close()
        if self._lock:
            self._lock.close()

    def __enter__(self) -> RecordStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _mark_cut(self) -> None:
        words = "the recorder ended before the reply did"
        sql = "UPDATE exchanges SET state = 'broken', error = ? WHERE state = 'open'"
        self._commits.now(lambda db: db.execute(sql, (words,)))

    # What holds for the whole recording.

    def declare(self, name: str, value: str) -> None:
        """Set once what the recording was declared with. Raises `UsageError` when it was declared otherwise before."""

        def work(db: sqlite3.Connection) -> str:
            db.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (name, value))
            return str(db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()[0])

        if (found := self._commits.now(work)) != value:
            raise UsageError(
                f"{self.path} was recorded with {name} {found!r}, not {value!r}. Keep it, or record into another run."
            )

    def note(self, name: str, value: str) -> None:
        """Keep what may change from one recording to the next; an empty value changes nothing."""
        if value:
            self._commits.now(lambda db: db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value)))

    def declared(self, name: str) -> str:
        rows = self._commits.rows("SELECT value FROM meta WHERE name = ?", name)
        return str(rows[0]["value"]) if rows else ""

    # Writing. What these do has been synced when they return.

    def begin(self, begun: Begun) -> tuple[int, str]:
        """Keep a request before it is sent on. The exchange's id, and the episode that it belongs to."""

        def work(db: sqlite3.Connection) -> tuple[int, str]:
            link = _links.find(db, begun)
            row = {
                "named": begun.named,
                "api": begun.api,
                "path": begun.path,
                "model": begun.model,
                "stream": begun.stream,
                "started": time.time(),
                "request": _pack(db, begun.body),
                "messages": json.dumps([_keep(db, dump(message)) for message in link.messages]),
                "fresh": link.fresh,
                "tools": _keep(db, json.dumps([json.loads(dump(tool)) for tool in begun.tools])),
                "before": link.before,
                "conversation": begun.conversation,
                "task": begun.task,
                "task_error": begun.task_error,
                "parent": link.parent,
                "choice": link.choice,
                "gap": link.gap,
                "episode": link.episode,
                "state": "open",
            }
            columns, marks = ", ".join(row), ", ".join("?" * len(row))
            cursor = db.execute(f"INSERT INTO exchanges({columns}) VALUES ({marks})", tuple(row.values()))
            assert cursor.lastrowid is not None
            if not link.episode:
                db.execute("UPDATE exchanges SET episode = ? WHERE id = ?", (f"auto-{cursor.lastrowid:06d}", cursor.lastrowid))
            doubtful = (*link.doubts, *([cursor.lastrowid] if link.doubts else ()))
            db.executemany("UPDATE exchanges SET doubt = 1 WHERE id = ?", [(each,) for each in doubtful])
            return cursor.lastrowid, link.episode or f"auto-{cursor.lastrowid:06d}"

        return self._commits.now(work)

    def end(self, number: int, ended: Ended) -> None:
        """Keep what became of an exchange. The first word counts: later ones change nothing."""

        def work(db: sqlite3.Connection) -> None:
            row = db.execute("SELECT before, state FROM exchanges WHERE id = ?", (number,)).fetchone()
            if row["state"] != "open":
                return
            values = {
                "state": ended.state,
                "status": ended.status,
                "reply": _pack(db, ended.body) if ended.body is not None else "",
                "answer": dump(ended.answer) if ended.answer else "",
                "reply_id": ended.answer.id if ended.answer else "",
                "delivered": ended.delivered,
                "first_byte": ended.first_byte,
                "seconds": ended.seconds,
                "error": ended.error,
            }
            sets = ", ".join(f"{name} = ?" for name in values)
            db.execute(f"UPDATE exchanges SET {sets} WHERE id = ?", (*values.values(), number))
            for choice, reply in enumerate(ended.answer.replies if ended.answer else ()):
                state = _links.fingerprint(row["before"], reply.message)
                db.execute("INSERT INTO states VALUES (?, ?, ?)", (state, number, choice))

        self._commits.now(work)

    def judge(self, episode: str, won: bool, source: str, score: float | None = None, note: str = "") -> None:
        """Add an outcome; the last one counts. Raises `DataError` for an episode that was never recorded."""
        if not self._commits.rows("SELECT 1 FROM exchanges WHERE episode = ? LIMIT 1", episode):
            raise DataError(
                f"{self.path} has no episode {episode!r}. List them with: duomem episodes {self.path.parent} --recorded"
            )
        sql = "INSERT INTO outcomes(episode, won, score, note, source, at) VALUES (?, ?, ?, ?, ?, ?)"
        self._commits.now(lambda db: db.execute(sql, (episode, won, score, note, source, time.time())))

    # Reading.

    def episodes(self) -> list[str]:
        """Names of the episodes, in the order in which they began."""
        return [row["episode"] for row in self._commits.rows("SELECT episode FROM exchanges GROUP BY episode ORDER BY min(id)")]

    def exchanges(self, episode: str) -> list[Exchange]:
        """The exchanges of an episode, in the order in which they began."""
        rows = self._commits.rows("SELECT * FROM exchanges WHERE episode = ? ORDER BY id", episode)
        return exchanges(rows, self._items)

    def bodies(self, number: int) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """Request and reply of an exchange as JSON, redacted; None where there is none."""
        (row,) = self._commits.rows("SELECT request, reply FROM exchanges WHERE id = ?", number)
        request, reply = (self._unpack(json.loads(row[name])) if row[name] else None for name in ("request", "reply"))
        return request, reply

    def outcomes(self) -> dict[str, Outcome]:
        """The outcome that counts, by episode."""
        rows = self._commits.rows("SELECT * FROM outcomes ORDER BY id")
        return {row["episode"]: Outcome(bool(row["won"]), row["score"], row["note"], row["source"], row["at"]) for row in rows}

    def episode_of(self, reply_id: str) -> str:
        """The episode that holds a reply, "" where none does."""
        rows = self._commits.rows("SELECT episode FROM exchanges WHERE reply_id = ? ORDER BY id DESC LIMIT 1", reply_id)
        return str(rows[0]["episode"]) if rows else ""

    def idle(self, seconds: float) -> list[str]:
        """Episodes without an outcome in which nothing has happened for so long and nothing is under way."""
        sql = (
            "SELECT episode FROM exchanges WHERE episode NOT IN (SELECT episode FROM outcomes) GROUP BY episode"
            " HAVING max(started + seconds) < ? AND sum(state = 'open') = 0 ORDER BY min(id)"
        )
        return [row["episode"] for row in self._commits.rows(sql, time.time() - seconds)]

    def _items(self, hashes: Sequence[str]) -> dict[str, str]:
        wanted = sorted(set(hashes))
        rows = self._commits.rows(f"SELECT * FROM items WHERE hash IN ({', '.join('?' * len(wanted))})", *wanted)
        return {row["hash"]: row["value"] for row in rows}

    def _unpack(self, body: Mapping[str, Any]) -> dict[str, Any]:
        fields = {name: value[REFERENCES] for name, value in body.items() if isinstance(value, dict) and REFERENCES in value}
        found = self._items([each for value in fields.values() for each in value])
        lists = {name: [json.loads(found[each]) for each in value] for name, value in fields.items()}
        return {name: lists.get(name, value) for name, value in body.items()}


REFERENCES = "duomem:items"


def _pack(db: sqlite3.Connection, body: Mapping[str, Any]) -> str:
    """A body as JSON text whose lists point to items."""
    packed = {
        name: {REFERENCES: [_keep(db, json.dumps(each)) for each in value]}
        if name in LISTS and isinstance(value, list)
        else value
        for name, value in body.items()
    }
    return json.dumps(packed)


def _keep(db: sqlite3.Connection, value: str) -> str:
    name = _links.short(value)
    db.execute("INSERT OR IGNORE INTO items VALUES (?, ?)", (name, value))
    return name
