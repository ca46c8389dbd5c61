"""A journal, opened for looking: connections that never write, and which groups of episodes it holds.

In: the path of a journal, also one that another process writes. Out: read-only connections, groups (`Part`), and whether
somebody writes it now. Bytes that are no UTF-8 are read as U+FFFD. Not here: runs and single episodes.
"""

from __future__ import annotations

import json
import sqlite3
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from duomem._browse_types import Part
from duomem.errors import DataError, StoreError
from duomem.journal import Journal
from duomem.safetext import whole as whole
from duomem.types import StopReason

if sys.platform != "win32":
    import fcntl

OUTCOMES = tuple(reason.value for reason in StopReason if reason.is_outcome)
IN_OUTCOMES = "(" + ", ".join(f"'{each}'" for each in OUTCOMES) + ")"
LATEST = "e.try = (SELECT max(try) FROM episodes o WHERE (o.phase, o.task_id, o.attempt) = (e.phase, e.task_id, e.attempt))"


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A read-only connection at the newest schema. Raises `DataError` for a missing or foreign file."""
    _checked(path.resolve())
    db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=30, isolation_level=None)
    try:
        db.row_factory = sqlite3.Row
        db.text_factory = lambda raw: raw.decode("utf-8", "replace")
        yield db
    except sqlite3.DatabaseError as error:
        raise StoreError(f"{path} cannot be read: {error}.") from error
    finally:
        db.close()


@cache
def _checked(path: Path) -> None:
    """Once for each file: that it is a journal, and of the newest schema."""
    Journal.open(path, readonly=True).close()


def parts(path: Path, journal: str, seed: int | None) -> list[Part]:
    """The groups of episodes in a journal, in the order in which they began. `seed` is that of a seed's own journal."""
    if not path.is_file():
        return []
    with reading(path) as db:
        counts: dict[str, dict[str | None, int]] = {}
        for phase, stop, count in db.execute("SELECT phase, stop, count(*) FROM episodes GROUP BY phase, stop"):
            counts.setdefault(phase, {})[stop] = count
        begun = dict(db.execute("SELECT phase, max(id) FROM episodes GROUP BY phase").fetchall())
        failed = dict(
            db.execute(
                f"SELECT phase, count(*) FROM episodes e WHERE stop NOT IN {IN_OUTCOMES} AND {LATEST} GROUP BY phase"
            ).fetchall()
        )
    newest: dict[tuple[str, str], str] = {}
    for phase in sorted(begun, key=begun.__getitem__):
        verb, split, _, _, key = parsed(phase)
        newest[verb, split] = key
    made = []
    for phase in sorted(begun, key=begun.__getitem__):
        verb, split, arm, own, key = parsed(phase)
        found = counts[phase]
        won = found.get("won", 0)
        ended = sum(found.get(stop, 0) for stop in OUTCOMES)
        current = verb not in ("evaluate", "collect") or newest[verb, split] == key
        running, errors = found.get(None, 0), failed.get(phase, 0)
        made.append(
            Part(
                journal, phase, verb, split, arm, seed if own is None else own,
                ended + running + errors, won, ended - won, running, errors, current,
            )
        )  # fmt: skip
    return made


def parsed(phase: str) -> tuple[str, str, str, int | None, str]:
    """Verb, split, arm, seed and key of a phase. Where no arm played, the verb stands for it."""
    verb, *rest = phase.split("/")
    if verb == "evaluate" and len(rest) >= 3:
        split, arm, seed = rest[:3]
        return verb, split, arm, int(seed[4:]) if seed[4:].isdigit() else None, "/".join(rest[3:])
    return verb, "", verb, None, "/".join(rest)


def written_now(path: Path) -> bool:
    """Whether a process holds the journal for writing. Asks without taking the lock, so that it is in nobody's way."""
    lock = path.with_name(path.name + ".lock")
    if sys.platform == "win32" or not lock.is_file():
        return False
    form = "qqihh" if sys.platform == "darwin" else "hhqqi"
    asked = (0, 0, 0, fcntl.F_WRLCK, 0) if sys.platform == "darwin" else (fcntl.F_WRLCK, 0, 0, 0, 0)
    try:
        with lock.open("rb") as file:
            answer = struct.unpack(form, fcntl.fcntl(file, fcntl.F_GETLK, struct.pack(form, *asked)))
    except OSError:
        return False
    return bool(answer[3 if sys.platform == "darwin" else 0] != fcntl.F_UNLCK)


def decoded(text: str | None, what: str) -> Any:
    """The JSON in a row. Raises `DataError` for a damaged one."""
    try:
        return json.loads(text or "null")
    except ValueError as error:
        raise DataError(f"{what} is damaged in the journal: {error}.") from error
