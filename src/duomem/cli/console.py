"""What the commands share in talking to a person or a program: progress and errors on stderr, results on stdout.

In: progress calls, results, errors. Out: bars with rate and time left, words or one line of JSON. Not here: any command.
"""

from __future__ import annotations

import json
import os
import shlex
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from duomem import safetext
from duomem.errors import DuomemError

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""
WIDE = 160
"""Columns of a table that nobody's terminal bounds."""


def safe(words: str, style: str = "") -> Text:
    """Recorded text for rich, whole: harmless, and neither markup nor names of emoji mean anything in it."""
    return Text(safetext.plain(words, None), style)


class Terminal:
    """The streams of one command. `json` asks for one JSON object on stdout, `debug` for tracebacks.

    Words pass through `safetext`, since they may hold what models and environments wrote; JSON is ASCII, so it needs no care.
    """

    def __init__(self) -> None:
        self.json = False
        self.debug = False
        self.out = Console(highlight=False, soft_wrap=True)
        self.err = Console(stderr=True, highlight=False, soft_wrap=True)

    def result(self, data: Mapping[str, Any], words: str | Sequence[RenderableType] = "") -> None:
        """Print a command's result: `data` as JSON where asked for, else `words` (or the data, a line a key). What is not a
        string has been made safe by its maker."""
        if self.json:
            print(json.dumps(data, sort_keys=True, default=str))
        elif not isinstance(words, str):
            out = Console(highlight=False, width=self.width)
            for part in words:
                least = (part.min_width or 0) if isinstance(part, Table) else 0
                out.width = max(self.width, least)  # a terminal that is too narrow breaks lines, rather than cut figures off
                out.print(part, soft_wrap=isinstance(part, Text))  # a line, unlike a table, is whole for whoever copies it
        else:
            self.out.print(safe(words or "\n".join(f"{key}: {value}" for key, value in data.items())))

    @property
    def width(self) -> int:
        """Columns for tables: the terminal's; where results go into a file or a pipe, `WIDE` unless COLUMNS says otherwise."""
        if self.out.is_terminal:
            return self.out.width
        said = os.environ.get("COLUMNS", "")
        return int(said) if said.isdigit() and int(said) else WIDE

    def note(self, words: str) -> None:
        self.err.print(safe(words, "dim"))

    def error(self, words: str) -> None:
        self.err.print(safe(f"Error: {words}", "red"))


terminal = Terminal()


class RateColumn(ProgressColumn):
    """Steps per second, or seconds per step where that is the readable one."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each", style="dim")


class Bars:
    """Progress by stage: call with (stage, done, total, note). A stage's bar appears at its first call."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total, completed=done, note=note)
        self._progress.update(self._tasks[stage], completed=done, total=total, note=note)


@contextmanager
def bars() -> Iterator[Bars]:
    """Live bars on stderr; nothing where stderr is no terminal."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        RateColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim"),
    )
    with Progress(*columns, console=terminal.err, disable=not terminal.err.is_terminal) as progress:
        yield Bars(progress)


def failed(error: DuomemError) -> int:
    """Show an error that the user can solve, as one red line; returns its exit code."""
    if terminal.debug:
        traceback.print_exception(error)
    terminal.error(" ".join(str(error).split()))
    return error.exit_code


def interrupted(argv: list[str]) -> int:
    """Say how to go on after Ctrl-C."""
    terminal.err.print(Text("Interrupted. What was finished is kept; the same command goes on from there:", style="yellow"))
    terminal.err.print(f"  {shlex.join(['duomem', *argv])}", markup=False)
    return INTERRUPTED
