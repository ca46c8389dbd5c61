"""What the commands share in talking to a person or a program: progress and errors on stderr, results on stdout.

In: progress calls, results, errors. Out: bars with rate and time left, words or one line of JSON. Not here: any command.
"""

from __future__ import annotations

import json
import shlex
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
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
from rich.text import Text

from duomem.errors import DuomemError

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


class Terminal:
    """The streams of one command. `json` asks for one JSON object on stdout, `debug` for tracebacks."""

    def __init__(self) -> None:
        self.json = False
        self.debug = False
        self.out = Console(highlight=False, soft_wrap=True)
        self.err = Console(stderr=True, highlight=False, soft_wrap=True)

    def result(self, data: Mapping[str, Any], words: str = "") -> None:
        """Print a command's result: `data` as JSON where asked for, else `words` (or the data, a line a key)."""
        if self.json:
            print(json.dumps(data, sort_keys=True, default=str))
        elif words:
            self.out.print(words, markup=False)
        else:
            for key, value in data.items():
                self.out.print(f"{key}: {value}", markup=False)

    def note(self, words: str) -> None:
        self.err.print(words, style="dim", markup=False)

    def error(self, words: str) -> None:
        self.err.print(Text(f"Error: {words}", style="red"))


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
