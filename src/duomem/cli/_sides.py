"""Two episodes side by side, from the first step on where they differ.

In: a `Comparison`. Out: rich renderables. Not here: which episodes, and where they differ (`duomem.browse`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from rich import box
from rich.table import Table
from rich.text import Text

from duomem.cli import show, tables
from duomem.cli.episodes import ending

if TYPE_CHECKING:
    from duomem.browse import Comparison, EpisodeFull, Step


def side_by_side(names: tuple[str, str], found: Comparison, whole: bool) -> list[Any]:
    parts: list[Any] = []
    for name, episode in zip(names, (found.left, found.right), strict=True):
        parts += [Text.assemble("\n", (tables.cell(name, 400).plain, "bold")), show.head(episode.row, episode.model)]
    if not found.same_task:
        parts.append(Text("\nThese are two different games.", "yellow"))
    for title, only, episode in (
        (f"Memories that only {names[0]} was shown", found.only_left, found.left),
        (f"Memories that only {names[1]} was shown", found.only_right, found.right),
    ):
        parts += show.injected(tuple(each for each in episode.injected if each.id in only), title)
    return [*parts, Text(), _verdict(found), *_steps(names, found, whole)]


def _verdict(found: Comparison) -> Text:
    if found.first_difference is None:
        return Text("Both did and saw the same, step by step.", "bold")
    what = {"action": "other actions", "observation": "other answers to the same action", "end": "one of them had ended"}
    return Text(f"First difference at step {found.first_difference + 1}: {what[found.differs]}.", "bold")


def _steps(names: tuple[str, str], found: Comparison, whole: bool) -> list[Any]:
    first = found.first_difference
    start = 0 if whole else first if first is not None else len(found.left.steps)
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    made.add_column("step", justify="right")
    for name, episode in zip(names, (found.left, found.right), strict=True):
        made.add_column(tables.cell(f"{episode.row.arm} ({name.rpartition(':')[2]})"), ratio=1, max_width=76)
    for index in range(start, max(len(found.left.steps), len(found.right.steps))):
        sides = [_at(episode, index) for episode in (found.left, found.right)]
        cells: list[Any] = list(_cells(sides[0], sides[1]))
        for number, episode in enumerate((found.left, found.right)):
            if index == len(episode.steps):
                cells[number] = Text(f"({ending(episode.row)})", "dim")
        made.add_row(Text(f"{index + 1}", "bold" if index == first else "dim"), *cells)
    same = [Text(f"Steps 1 to {start} are the same in both (--all shows them).", "dim")] if start else []
    return [*same, made] if made.row_count else same


def _at(episode: EpisodeFull, index: int) -> Step | None:
    return episode.steps[index] if index < len(episode.steps) else None


def _cells(left: Step | None, right: Step | None) -> tuple[Table, Table]:
    """A step of both, with the words set off that only one of them has."""
    both = tables.grid(1), tables.grid(1)
    signs: dict[Literal["thought", "action", "answer"], str] = {"thought": "?", "action": ">", "answer": ""}
    for name, sign in signs.items():
        values = [_part(step, name) for step in (left, right)]
        texts = tables.changed(values[0], values[1]) if left and right else tuple(tables.block(value) for value in values)
        for made, text in zip(both, texts, strict=True):
            if text.plain:
                made.add_row(Text(sign, "dim"), text)
    for made, step in zip(both, (left, right), strict=True):
        if step and show.marks(step):
            made.add_row("", Text(f"({show.marks(step)})", "yellow"))
    return both


def _part(step: Step | None, name: Literal["thought", "action", "answer"]) -> str:
    if step is None:
        return ""
    if name == "answer":
        left = step.observation_chars - len(step.observation)
        return step.observation + (f" [... {left:,} more characters]" if left > 0 else "")
    return step.thought if name == "thought" else step.action or step.reply
