"""One episode in full, and two of them side by side.

In: a `Run` and refs ("17", "seed0:17"). Out: `EpisodeFull` and `Comparison`, texts cut at `LONG` characters with their whole
length beside them. An episode that is being played is shown as far as it is. Not here: lists.
"""

from __future__ import annotations

import sqlite3
from functools import lru_cache
from typing import Any, Literal

from duomem import _browse_db as journals
from duomem import prompts
from duomem._browse_db import LATEST, reading, whole
from duomem._browse_list import rows_of
from duomem._browse_memories import texts_of
from duomem._browse_runs import Run
from duomem._browse_types import Comparison, EpisodeFull, EpisodeRow, Injected, Said, Step
from duomem.errors import ConfigError, UsageError
from duomem.types import Usage

LONG = 20_000
"""Characters of one text that are sent unless the whole is asked for."""


def episode(run: Run, ref: str, limit: int = LONG) -> EpisodeFull:
    """One episode. Raises `UsageError` for a ref that the run has not."""
    label, number = _place(run, ref)
    with reading(run.journals[label][0]) as db:
        found = db.execute("SELECT * FROM episodes WHERE id = ?", (number,)).fetchone()
        if found is None:
            raise UsageError(f"{run.id} has no episode {ref!r}. List them with: duomem episodes {run.root}")
        (row,) = rows_of(run, db, label, [number], run.labels)
        turns = db.execute("SELECT * FROM turns WHERE episode = ? ORDER BY idx", (number,)).fetchall()
        beside = _beside(run, db, label, row)
    origin = journals.decoded(found["origin"], f"episode {ref}") or {}
    layout = _layout(run.settings.student.layout)
    return EpisodeFull(
        row=row,
        scene=_cut(found["scene"], limit)[0],
        model=str(origin.get("model", "")),
        layout=str(origin.get("layout", "")),
        prompt=tuple(_said(message, limit) for message in journals.decoded(found["prompt"], f"episode {ref}") or ()),
        steps=tuple(_step(turn, layout, limit) for turn in turns),
        injected=_injected(run, row),
        beside=beside,
        bank_seed=row.seed if run.seeds else None,
    )


def observation(run: Run, ref: str, index: int) -> str:
    """What the environment answered at one step, whole. Raises `UsageError` for a step that is not there."""
    label, number = _place(run, ref)
    with reading(run.journals[label][0]) as db:
        found = db.execute("SELECT observation FROM turns WHERE episode = ? AND idx = ?", (number, index)).fetchone()
    if found is None or found[0] is None:
        raise UsageError(f"Episode {ref} of {run.id} has no answer at step {index}.")
    return whole(found[0])


def compare(run: Run, left: str, right: str, other: Run | None = None, limit: int = LONG) -> Comparison:
    """Two episodes aligned at the first step where they differ; the right one may be of another run."""
    one, two = episode(run, left, limit), episode(other or run, right, limit)
    first, differs = _difference(one.steps, two.steps)
    shown, against = dict.fromkeys(one.row.memories), dict.fromkeys(two.row.memories)
    return Comparison(
        left=one,
        right=two,
        same_task=one.row.task == two.row.task,
        first_difference=first,
        differs=differs,
        only_left=tuple(memory for memory in shown if memory not in against),
        only_right=tuple(memory for memory in against if memory not in shown),
    )


def _difference(
    left: tuple[Step, ...], right: tuple[Step, ...]
) -> tuple[int | None, Literal["", "action", "observation", "end"]]:
    for index, (one, two) in enumerate(zip(left, right, strict=False)):
        if (one.action or one.reply) != (two.action or two.reply):
            return index, "action"
        if (one.observation, one.observation_chars) != (two.observation, two.observation_chars):
            return index, "observation"
    if len(left) != len(right):
        return min(len(left), len(right)), "end"
    return None, ""


def _place(run: Run, ref: str) -> tuple[str, int]:
    """The journal's label and the number in it."""
    label, _, number = ref.rpartition(":")
    if label not in run.journals or not number.isdecimal():
        raise UsageError(f"{run.id} has no episode {ref!r}. List them with: duomem episodes {run.root}")
    return label, int(number)


def _beside(run: Run, db: sqlite3.Connection, label: str, row: EpisodeRow) -> tuple[EpisodeRow, ...]:
    """The same game in the other arms and seeds, with the settings that are current; this episode left out."""
    if row.verb != "evaluate":
        return ()
    current = [part.phase for part in run.parts if part.journal == label and part.current and part.split == row.split]
    query = f"SELECT e.id FROM episodes e WHERE e.phase IN ({','.join('?' * len(current))}) AND e.task_id = ? AND {LATEST}"
    numbers = [found[0] for found in db.execute(f"{query} ORDER BY e.id", (*current, row.task))]
    return tuple(each for each in rows_of(run, db, label, numbers, run.labels) if each.ref != row.ref)


def _injected(run: Run, row: EpisodeRow) -> tuple[Injected, ...]:
    if not row.memories:
        return ()
    known = texts_of(run, row.seed if run.seeds else None)
    return tuple(known.get(memory, Injected(memory, "", "", "")) for memory in row.memories)


def _step(turn: sqlite3.Row, layout: prompts.Layout | None, limit: int) -> Step:
    what = f"turn {turn['idx']} of episode {turn['episode']}"
    reply, call = journals.decoded(turn["reply"], what), journals.decoded(turn["call"], what)
    message, usage = reply["message"], reply.get("usage", {})
    said, chars = _cut("".join(part.get("text", "") for part in message.get("parts", ())), limit)
    seen, seen_chars = _cut(turn["observation"] or _results(turn), limit)
    return Step(
        index=turn["idx"],
        thought=_cut(prompts.thought_of(layout, said) if layout else "", limit)[0],
        action=_cut(_action(call), limit)[0],
        reply=said,
        reply_chars=chars,
        reasoning=_cut(message.get("reasoning", ""), limit)[0],
        observation=seen,
        observation_chars=seen_chars,
        recalled=_cut(turn["recalled"], limit)[0],
        valid=bool(turn["valid"]) if turn["observation"] is not None else True,
        repaired=bool(turn["repaired"]),
        waiting=turn["observation"] is None,
        usage=Usage(usage.get("prompt", 0), usage.get("cached", 0), usage.get("completion", 0)),
        seconds=reply.get("seconds", 0.0),
        finish=reply.get("finish", "stop"),
    )


def _results(turn: sqlite3.Row) -> str:
    """Results that are messages of their own, of calls of tools."""
    found = journals.decoded(turn["results"], f"turn {turn['idx']}") or ()
    return "\n".join("".join(part.get("text", "") for part in each.get("parts", ())) for each in found)


def _action(call: dict[str, Any] | None) -> str:
    """A call as it is read: the command of a text environment, or a tool with its arguments."""
    if not call:
        return ""
    arguments = journals.decoded(call.get("arguments") or "{}", "a call")
    if call["name"] == "act" and isinstance(arguments, dict) and isinstance(arguments.get("command"), str):
        return str(arguments["command"])
    return f"{call['name']}({call.get('arguments', '')})"


def _said(message: dict[str, Any], limit: int) -> Said:
    text, chars = _cut("".join(part.get("text", "") for part in message.get("parts", ())), limit)
    return Said(str(message.get("role", "")), text, chars)


def _cut(text: str, limit: int) -> tuple[str, int]:
    """The first characters, and how many there are."""
    return whole(text[:limit]), len(text)


@lru_cache(maxsize=16)
def _layout(name: str) -> prompts.Layout | None:
    """The layout that splits thought and action; None for a file that is not here any more."""
    try:
        return prompts.load_layout(name)
    except ConfigError:
        return None
