"""A model whose replies are kept before they are used, so that the same question is never paid for twice.

In: a model and a file. Out: the same contract (`duomem.models.Model`): a question that was answered before is answered from
the file, a new one goes to the model, and its answer is synced (SQLite, WAL, FULL) before it is handed back. After a kill
at most the calls in flight are paid again. Answers are kept by what was asked of which model; it judges none of them.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from duomem._commits import Commits
from duomem.models import Model
from duomem.spending import Meter, Metered
from duomem.sqlitefile import Form, store_error
from duomem.types import Message, Reply, Sampling, Tool, Usage, digest, dump, load

KEPT = Form(
    "a file of kept replies",
    "Move it away; replies are then paid again.",
    (
        (
            """CREATE TABLE IF NOT EXISTS calls(
            key TEXT PRIMARY KEY, model TEXT NOT NULL, request TEXT NOT NULL, reply TEXT NOT NULL, time REAL NOT NULL)""",
        ),
    ),
    tables=frozenset({"calls"}),
)
_NOTHING = Usage()


@dataclass(frozen=True, slots=True)
class Spent:
    """What answers cost: `calls` new ones with their tokens, `kept` ones that were there already with theirs."""

    calls: int = 0
    kept: int = 0
    usage: Usage = _NOTHING
    kept_usage: Usage = _NOTHING

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens of the new calls."""
        return self.usage.prompt + self.usage.completion


class Paid:
    """The model. Safe for many threads: equal questions at the same time are asked once. One process at a time."""

    def __init__(self, model: Model, path: Path) -> None:
        """Raises `DataError` for a file that is something else, `StoreError` for one that cannot be written."""
        self._model, self._path = model, path
        self._said = model.provenance()
        self._lock = threading.Lock()
        self._asking: dict[str, threading.Lock] = {}
        self._spent = Spent()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._commits = Commits(KEPT.connect(path), path)
        except sqlite3.Error as error:
            raise store_error(path, error) from error

    @property
    def spent(self) -> Spent:
        """By this object so far."""
        with self._lock:
            return self._spent

    def reply(self, messages: Sequence[Message], tools: Sequence[Tool], sampling: Sampling) -> Reply:
        request = "[" + ",".join(dump(value) for value in (*messages, *tools, sampling)) + "]"
        key = digest([sorted(self._said.items()), request])
        with self._lock:
            asking = self._asking.setdefault(key, threading.Lock())
        with asking:
            rows = self._commits.rows("SELECT reply FROM calls WHERE key = ?", key)
            reply = load(Reply, rows[0][0]) if rows else self._pay(key, request, messages, tools, sampling)
        with self._lock:
            now = self._spent
            if rows:
                self._spent = Spent(now.calls, now.kept + 1, now.usage, now.kept_usage + reply.usage)
            else:
                self._spent = Spent(now.calls + 1, now.kept, now.usage + reply.usage, now.kept_usage)
        return reply

    def _pay(self, key: str, request: str, messages: Sequence[Message], tools: Sequence[Tool], sampling: Sampling) -> Reply:
        reply = self._model.reply(messages, tools, sampling)
        row = (key, self._said.get("model", ""), request, dump(reply), time.time())
        self._commits.now(lambda db: db.execute("INSERT OR IGNORE INTO calls VALUES (?, ?, ?, ?, ?)", row))
        return reply

    def provenance(self) -> dict[str, str]:
        return self._said

    @property
    def meter(self) -> Meter | None:
        """What counts the run's money, where the model is one that is paid for (`duomem.spending`)."""
        return self._model.meter if isinstance(self._model, Metered) else None

    def close(self) -> None:
        """Closes the file; the model is its owner's to close."""
        self._commits.close()

    def __enter__(self) -> Paid:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
