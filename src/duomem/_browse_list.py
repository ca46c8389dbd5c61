"""Lists a run's episodes: filters become SQL, and one page of rows comes back with how many match.

In: a `Run`, `Filters`, an offset. Out: an `EpisodePage`, or the `Facets` to filter by. Only the rows of the page are read in
full; the rest is counted over an index. Not here: single episodes.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any

from duomem import _browse_db as journals
from duomem._browse_db import IN_OUTCOMES, LATEST, reading, whole
from duomem._browse_runs import Run
from duomem._browse_types import EpisodePage, EpisodeRow, Facets, Filters, Part
from duomem.errors import UsageError
from duomem.scores import ARMS
from duomem.types import Usage

MOST = 500
"""Rows of one page, at most."""
_OUTCOME = {
    "won": "e.stop = 'won'",
    "lost": f"e.stop IN {IN_OUTCOMES} AND e.stop <> 'won'",
    "running": "e.stop IS NULL",
    "error": f"e.stop NOT IN {IN_OUTCOMES}",
}


def facets(run: Run) -> Facets:
    """What the episodes of a run can be filtered by."""
    found = run.parts
    current = [part for part in found if part.current]
    order = [*ARMS, *(part.arm for part in current)]
    stops: set[str] = set()
    for path, _ in run.journals.values():
        with reading(path) as db:
            stops |= {row[0] for row in db.execute("SELECT DISTINCT stop FROM episodes WHERE stop IS NOT NULL")}
    return Facets(
        parts=tuple(found),
        arms=tuple(sorted({part.arm for part in current}, key=order.index)),
        splits=tuple(dict.fromkeys(part.split for part in current if part.split)),
        seeds=tuple(sorted({part.seed for part in current if part.seed is not None})),
        kinds=tuple(sorted({kind for kind, _ in run.labels.values() if kind})),
        stops=tuple(sorted(stops)),
        total=sum(part.episodes for part in current),
    )


def episodes(run: Run, filters: Filters | None = None, offset: int = 0, limit: int = 50) -> EpisodePage:
    """One page of the episodes that match, in the order in which they began: teacher's first, then each arm's.

    Raises `UsageError` for a filter that means nothing (an unknown arm, task type or outcome).
    """
    filters, limit = filters or Filters(), max(0, min(limit, MOST))
    parts, labels = run.parts, run.labels
    _known(filters, parts, labels)
    rows: list[EpisodeRow] = []
    total, skip = 0, max(0, offset)
    # A run's own journal goes last where its seeds have theirs: the teacher plays before the arms do.
    for label in sorted(run.journals, key=lambda name: (name == "", name)):
        chosen = [part for part in parts if part.journal == label and _fits(part, filters)]
        if not chosen:
            continue
        where, values = _where(filters, chosen, [part for part in parts if part.journal == label], labels)
        with reading(run.journals[label][0]) as db:
            count = int(db.execute(f"SELECT count(*) FROM episodes e WHERE {where}", values).fetchone()[0])
            if (left := limit - len(rows)) > 0 and skip < count:
                query = f"SELECT e.id FROM episodes e WHERE {where} ORDER BY e.id LIMIT ? OFFSET ?"
                numbers = [row[0] for row in db.execute(query, [*values, left, skip])]
                rows += rows_of(run, db, label, numbers, labels)
        total, skip = total + count, max(0, skip - count)
    return EpisodePage(total, max(0, offset), tuple(rows))


def rows_of(
    run: Run, db: sqlite3.Connection, label: str, numbers: Sequence[int], labels: dict[str, tuple[str, str]]
) -> list[EpisodeRow]:
    """The rows of these episodes of one journal, in the order given."""
    marks = ",".join("?" * len(numbers))
    turns = {
        row["episode"]: row
        for row in db.execute(
            "SELECT episode, count(*) AS steps, sum(valid = 0) AS invalid,"
            " sum(json_extract(reply, '$.usage.prompt')) AS prompt, sum(json_extract(reply, '$.usage.cached')) AS cached,"
            f" sum(json_extract(reply, '$.usage.completion')) AS completion FROM turns WHERE episode IN ({marks})"
            " GROUP BY episode",
            numbers,
        )
    }
    columns = "id, phase, task_id, attempt, goal, shown, stop, error, seconds"
    found = {row["id"]: row for row in db.execute(f"SELECT {columns} FROM episodes WHERE id IN ({marks})", numbers)}
    return [_row(run, label, found[number], turns.get(number), labels) for number in numbers]


def _row(run: Run, label: str, row: sqlite3.Row, turns: sqlite3.Row | None, labels: dict[str, tuple[str, str]]) -> EpisodeRow:
    verb, split, arm, seed, _ = journals.parsed(row["phase"])
    kind, room = labels.get(row["task_id"], ("", ""))
    sums = {name: int(turns[name] or 0) if turns else 0 for name in ("steps", "invalid", "prompt", "cached", "completion")}
    return EpisodeRow(
        ref=f"{label}:{row['id']}" if label else str(row["id"]),
        verb=verb,
        split=split,
        arm=arm,
        seed=run.journals[label][1] if seed is None else seed,
        task=whole(row["task_id"]),
        goal=whole(row["goal"]),
        kind=kind,
        room=room,
        attempt=row["attempt"],
        stop=row["stop"] or "",
        won=row["stop"] == "won",
        steps=sums["steps"],
        invalid=sums["invalid"],
        usage=Usage(sums["prompt"], sums["cached"], sums["completion"]),
        seconds=row["seconds"],
        memories=tuple(journals.decoded(row["shown"], f"episode {row['id']}") or ()),
        error=whole(row["error"]),
    )


def _known(filters: Filters, parts: Sequence[Part], labels: dict[str, tuple[str, str]]) -> None:
    """Raises `UsageError` for a value that no episode can have, with those that there are."""
    arms = dict.fromkeys(part.arm for part in parts)
    kinds = dict.fromkeys(sorted(kind for kind, _ in labels.values()))
    splits = dict.fromkeys(part.split for part in parts if part.split)
    seeds = dict.fromkeys(str(part.seed) for part in parts if part.seed is not None)
    for name, value, there in (
        ("arm", filters.arm, arms),
        ("arm", filters.lost_in, arms),
        ("arm", filters.won_in, arms),
        ("task type", filters.kind, kinds),
        ("split", filters.split, splits),
        ("seed", "" if filters.seed is None else str(filters.seed), seeds),
        ("outcome", filters.outcome, dict.fromkeys(_OUTCOME)),
    ):
        if value and value not in there:
            raise UsageError(f"No episode here has the {name} {value!r}. There are: {', '.join(there) or 'none'}.")


def _fits(part: Part, filters: Filters) -> bool:
    return (
        (part.current or filters.earlier)
        and filters.arm in ("", part.arm)
        and filters.split in ("", part.split)
        and filters.seed in (None, part.seed)
    )


def _where(
    filters: Filters, chosen: Sequence[Part], parts: Sequence[Part], labels: dict[str, tuple[str, str]]
) -> tuple[str, list[Any]]:
    """The condition on `episodes e` and its values."""
    terms = [f"e.phase IN ({','.join('?' * len(chosen))})", LATEST]
    values: list[Any] = [part.phase for part in chosen]
    if filters.outcome:
        terms.append(_OUTCOME[filters.outcome])
    for column, value in (("stop", filters.stop), ("task_id", filters.task)):
        if value:
            terms.append(f"e.{column} = ?")
            values.append(value)
    if filters.kind:
        terms.append("e.task_id IN (SELECT value FROM json_each(?))")
        values.append(json.dumps([task for task, (kind, _) in labels.items() if kind == filters.kind]))
    if filters.memory:
        terms.append("EXISTS (SELECT 1 FROM json_each(e.shown) WHERE substr(value, 1, ?) = ?)")
        values += [len(filters.memory), filters.memory.lower()]
    if filters.text:
        like = "%" + filters.text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
        terms.append("(e.goal LIKE ? ESCAPE '\\' OR e.task_id LIKE ? ESCAPE '\\')")
        values += [like, like]
    for arm, sign in ((filters.lost_in, "<>"), (filters.won_in, "=")):
        if arm:
            pairs = [(part.phase, other) for part in chosen for other in opposite(part, arm, parts)]
            given = ",".join(["(?, ?)"] * len(pairs)) or "(NULL, NULL)"
            terms.append(
                f"EXISTS (SELECT 1 FROM episodes o WHERE (e.phase, o.phase) IN (VALUES {given}) AND o.task_id = e.task_id"
                f" AND o.stop IN {IN_OUTCOMES} AND o.stop {sign} 'won')"
            )
            values += [value for pair in pairs for value in pair]
    return " AND ".join(terms), values


def opposite(part: Part, arm: str, parts: Sequence[Part]) -> list[str]:
    """The phases in which another arm played the games of a part: with the same seed, or the one seed it was played with."""
    there = [each for each in parts if each.verb == part.verb and each.split == part.split and each.arm == arm]
    of = [each for each in there if each.phase.rpartition("/")[2] == part.phase.rpartition("/")[2]]
    same = [each.phase for each in of if each.seed == part.seed]
    return same or ([of[0].phase] if len(of) == 1 else [])
