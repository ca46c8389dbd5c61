"""The run's journal: every episode and turn, in one SQLite file, written and synced before it is used.

In: what happens while episodes are played, under a phase ("collect", "evaluate/none/seed0"). Out: finished trajectories, the
content hash of a phase, and what a cut episode had already paid for. A reply that was kept has been synced (WAL, FULL).
It doesn't play, retry or judge: an episode that ended for infrastructure reasons is kept, but is not finished.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from duomem._commits import Commits
from duomem._journal_file import JOURNAL
from duomem.errors import DataError, StoreError
from duomem.sqlitefile import claim, store_error
from duomem.types import (
    MemoryId,
    Message,
    Origin,
    Reply,
    StopReason,
    Task,
    Tool,
    ToolCall,
    Trajectory,
    Turn,
    dump,
    load,
    run_hash,
)

_UNKNOWN = Origin()
_OUTCOMES = ",".join(f"'{reason.value}'" for reason in StopReason if reason.is_outcome)
_LATEST = "try = (SELECT max(try) FROM episodes o WHERE (o.phase, o.task_id, o.attempt) = (e.phase, e.task_id, e.attempt))"


@dataclass(frozen=True, slots=True)
class Recorded:
    """One turn of a cut episode. `observation` is None where the run was killed between the reply and its effect."""

    reply: Reply
    call: ToolCall | None
    repaired: bool
    observation: str | None
    valid: bool
    recalled: str
    results: tuple[Message, ...] | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """One end of an episode that was no outcome: an error, an interruption or a spent budget, after `turns` turns."""

    task_id: str
    attempt: int
    turns: int
    stop: StopReason
    error: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The outcome of one task and attempt, and the memories it was shown."""

    task_id: str
    attempt: int
    won: bool
    shown: tuple[MemoryId, ...]


class Journal:
    """One open journal; use `Journal.open`. Safe for many threads; one process at a time may write."""

    def __init__(self, path: Path, db: sqlite3.Connection, lock_file: IO[str] | None) -> None:
        self.path = path
        self._db = db
        self._commits = Commits(db, path)
        self._rows = self._commits.rows
        self._lock_file = lock_file

    @classmethod
    def open(cls, path: Path | str, *, readonly: bool = False) -> Journal:
        """Open or create a journal and bring it to the newest schema. `readonly` needs an existing file and never writes rows.

        Raises `DataError` for a missing or foreign file or a newer schema, `StoreError` when it cannot be opened or another
        process writes it.
        """
        path = Path(path)
        if readonly and not path.is_file():
            raise DataError(f"No journal at {path}. Collect runs first, or point to another run directory.")
        lock_file = None if readonly else claim(path)
        try:
            if readonly and JOURNAL.is_old(path):
                cls.open(path).close()
            return cls(path, JOURNAL.connect(path, readonly=readonly), lock_file)
        except (sqlite3.Error, DataError, StoreError) as error:
            if lock_file:
                lock_file.close()
            if isinstance(error, sqlite3.Error):
                raise store_error(path, error) from error
            raise

    def close(self) -> None:
        """May be called again."""
        self._commits.close()
        if self._lock_file:
            self._lock_file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Writing. What these do has been synced when they return, but for `record_observation`.

    def begin(
        self,
        phase: str,
        task: Task,
        attempt: int,
        *,
        goal: str = "",
        scene: str = "",
        prompt: Sequence[Message] = (),
        shown: Sequence[MemoryId] = (),
        origin: Origin = _UNKNOWN,
        tools: Sequence[Tool] = (),
        fresh: bool = False,
    ) -> int:
        """The episode to write to: the cut one of this task and attempt where it began in the same way, else a new try.

        Without a prompt (the environment did not even open) it is the last try, whose turns stay for the next begin. `fresh`
        asks for a new try in any case. Raises `DataError` when the task and attempt already have an outcome.
        """
        head = (dump(task), goal, scene, _dump_all(prompt), dump(origin), json.dumps(list(shown)), _dump_all(tools))

        def work(db: sqlite3.Connection) -> int:
            last = db.execute(
                "SELECT task, goal, scene, prompt, origin, shown, id, try, stop FROM episodes"
                " WHERE phase = ? AND task_id = ? AND attempt = ? ORDER BY try DESC LIMIT 1",
                (phase, task.id, attempt),
            ).fetchone()
            if last and last["stop"] and StopReason(last["stop"]).is_outcome:
                raise DataError(f"{self.path}: {task.id}, attempt {attempt}, already has an outcome in phase {phase!r}.")
            if last and not fresh and (not prompt or last["prompt"] == "[]" or tuple(last)[:5] == head[:5]):
                db.execute("UPDATE episodes SET stop = NULL, error = '' WHERE id = ?", (last["id"],))
                if prompt:
                    columns = "(task, goal, scene, prompt, origin, shown, tools)"
                    db.execute(f"UPDATE episodes SET {columns} = (?, ?, ?, ?, ?, ?, ?) WHERE id = ?", (*head, last["id"]))
                return int(last["id"])
            row = (phase, task.id, attempt, last["try"] + 1 if last else 0, *head)
            cursor = db.execute(
                "INSERT INTO episodes(phase, task_id, attempt, try, task, goal, scene, prompt, origin, shown, tools)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                row,
            )
            assert cursor.lastrowid is not None
            return cursor.lastrowid

        return self._commits.now(work)

    def record_reply(self, episode: int, index: int, reply: Reply, call: ToolCall | None, *, repaired: bool = False) -> None:
        """Keep a reply and the call parsed from it. Call this before the call is acted on."""
        row = (episode, index, dump(reply), call and dump(call), repaired)
        insert = "INSERT INTO turns(episode, idx, reply, call, repaired) VALUES (?, ?, ?, ?, ?)"
        self._commits.now(lambda db: db.execute(insert, row))

    def record_observation(
        self,
        episode: int,
        index: int,
        observation: str,
        *,
        valid: bool = True,
        recalled: str = "",
        results: Sequence[Message] | None = None,
    ) -> None:
        """Keep what the environment answered at a turn whose reply is there.

        It is on disk with the next reply or end: a kill before that costs nothing, since a replay makes it again.
        """
        row = (observation, valid, recalled, None if results is None else _dump_all(results), episode, index)
        update = "UPDATE turns SET observation = ?, valid = ?, recalled = ?, results = ? WHERE episode = ? AND idx = ?"

        def work(db: sqlite3.Connection) -> None:
            db.execute(update, row)

        self._commits.later(work)

    def finish(
        self,
        episode: int,
        stop: StopReason,
        error: str = "",
        seconds: float = 0.0,
        *,
        shown: Sequence[MemoryId] | None = None,
    ) -> None:
        """Close an episode. One that is no outcome is also listed in `failures` and can begin again."""

        def work(db: sqlite3.Connection) -> None:
            db.execute(
                "UPDATE episodes SET stop = ?, error = ?, seconds = ?, shown = coalesce(?, shown) WHERE id = ?",
                (stop.value, error, seconds, None if shown is None else json.dumps(list(shown)), episode),
            )
            if not stop.is_outcome:
                turns = db.execute("SELECT count(*) FROM turns WHERE episode = ?", (episode,)).fetchone()[0]
                db.execute("INSERT INTO failures VALUES (?, ?, ?, ?)", (episode, turns, stop.value, error))
            db.execute("UPDATE episodes SET content_hash = ? WHERE id = ?", (self._trajectory(episode).content_hash, episode))

        self._commits.now(work)

    def add(self, phase: str, trajectory: Trajectory) -> None:
        """Keep a whole episode from elsewhere, in one transaction. Raises `DataError` when its task and attempt already have an
        outcome."""
        each = trajectory
        head = (phase, each.task.id, each.attempt)
        body = (dump(each.task), each.goal, each.scene, _dump_all(each.prompt), json.dumps(list(each.shown)), dump(each.origin))
        end = (each.stop.value, each.error, each.seconds, each.content_hash, _dump_all(each.tools))

        def work(db: sqlite3.Connection) -> None:
            tries = db.execute("SELECT stop FROM episodes WHERE phase = ? AND task_id = ? AND attempt = ? ORDER BY try", head)
            stops = [row["stop"] for row in tries]
            if any(stop and StopReason(stop).is_outcome for stop in stops):
                raise DataError(f"{self.path}: {head[1]}, attempt {head[2]}, already has an outcome in phase {phase!r}.")
            cursor = db.execute(
                "INSERT INTO episodes(phase, task_id, attempt, try, task, goal, scene, prompt, shown, origin, stop, error,"
                " seconds, content_hash, tools) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*head, len(stops), *body, *end),
            )
            db.executemany(
                "INSERT INTO turns(episode, idx, reply, call, repaired, observation, valid, recalled, results)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                ((cursor.lastrowid, index, *_turn_row(turn)) for index, turn in enumerate(each.turns)),
            )

        self._commits.now(work)

    # Reading.

    def recorded(self, episode: int) -> tuple[Recorded, ...]:
        """The turns of an episode so far, in order; the replies in it are paid for."""
        return tuple(
            Recorded(
                load(Reply, row["reply"]),
                row["call"] and load(ToolCall, row["call"]),
                bool(row["repaired"]),
                row["observation"],
                bool(row["valid"]),
                row["recalled"],
                row["results"] and load(tuple[Message, ...], row["results"]),
            )
            for row in self._rows("SELECT * FROM turns WHERE episode = ? ORDER BY idx", episode)
        )

    def finished(self, phase: str) -> set[tuple[str, int]]:
        """Task ids and attempts that have an outcome; the others are to be played on resume."""
        rows = self._rows(f"SELECT task_id, attempt FROM episodes WHERE phase = ? AND stop IN ({_OUTCOMES})", phase)
        return {(row["task_id"], row["attempt"]) for row in rows}

    def order(self, phase: str) -> list[tuple[str, int]]:
        """Task ids and attempts in the order in which they began (the last try of each)."""
        rows = self._rows("SELECT task_id, attempt FROM episodes WHERE phase = ? ORDER BY id", phase)
        return list(dict.fromkeys((row["task_id"], row["attempt"]) for row in reversed(rows)))[::-1]

    def phases(self) -> list[str]:
        return [row["phase"] for row in self._rows("SELECT DISTINCT phase FROM episodes ORDER BY phase")]

    def latest(self, beginning: str) -> str:
        """The phase that was begun last among those whose name begins so; empty where there is none."""
        query = "SELECT phase FROM episodes WHERE substr(phase, 1, ?) = ? ORDER BY id DESC LIMIT 1"
        return next((row["phase"] for row in self._rows(query, len(beginning), beginning)), "")

    def trajectories(self, phase: str, *, won: bool | None = None, errors: bool = False) -> Iterator[Trajectory]:
        """Trajectories by task id and attempt, each once. `errors` adds those that ended without an outcome."""
        stops = "e.stop IS NOT NULL" if errors else f"e.stop IN ({_OUTCOMES})"
        query = f"SELECT id FROM episodes e WHERE phase = ? AND {stops} AND {_LATEST} ORDER BY task_id, attempt"
        for row in self._rows(query, phase):
            trajectory = self._trajectory(row["id"])
            if won is None or trajectory.won is won:
                yield trajectory

    def ended(self, phase: str) -> list[Ended]:
        """How each task and attempt with an outcome ended, without what was said."""
        rows = self._rows(
            f"SELECT task_id, attempt, stop, shown FROM episodes WHERE phase = ? AND stop IN ({_OUTCOMES})", phase
        )
        return [Ended(row["task_id"], row["attempt"], row["stop"] == "won", tuple(json.loads(row["shown"]))) for row in rows]

    def failures(self, phase: str) -> list[Failure]:
        """Every end that was no outcome, in order, whether or not a later try made it good."""
        rows = self._rows(
            "SELECT e.task_id, e.attempt, f.turn, f.stop, f.error FROM failures f JOIN episodes e ON e.id = f.episode"
            " WHERE e.phase = ? ORDER BY f.rowid",
            phase,
        )
        return [Failure(row["task_id"], row["attempt"], row["turn"], StopReason(row["stop"]), row["error"]) for row in rows]

    def content_hash(self, phase: str) -> str:
        """Hash over the outcomes of a phase; equal for an interrupted and an uninterrupted run."""
        return run_hash(list(self.trajectories(phase)))

    def _trajectory(self, episode: int) -> Trajectory:
        (row,) = self._rows("SELECT * FROM episodes WHERE id = ?", episode)
        turns = (
            Turn(turn.reply, turn.call, turn.observation or "", turn.valid, turn.repaired, turn.recalled, turn.results)
            for turn in self.recorded(episode)
            if turn.observation is not None
        )
        return Trajectory(
            task=load(Task, row["task"]),
            attempt=row["attempt"],
            goal=row["goal"],
            scene=row["scene"],
            prompt=load(tuple[Message, ...], row["prompt"]),
            turns=tuple(turns),
            stop=StopReason(row["stop"]),
            shown=tuple(json.loads(row["shown"])),
            origin=load(Origin, row["origin"]),
            error=row["error"],
            seconds=row["seconds"],
            tools=load(tuple[Tool, ...], row["tools"]),
        )


def _turn_row(turn: Turn) -> tuple[Any, ...]:
    call, results = turn.call and dump(turn.call), None if turn.results is None else _dump_all(turn.results)
    return dump(turn.reply), call, turn.repaired, turn.observation, turn.valid, turn.recalled, results


def _dump_all(values: Sequence[Any]) -> str:
    return "[" + ",".join(dump(value) for value in values) + "]"
