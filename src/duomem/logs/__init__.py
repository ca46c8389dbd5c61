"""The contract of a log format: what other tools wrote comes in, what they read goes out. One file per format beside this one.

A format's file defines `knows(body) -> bool` (does this record look like mine?) and `read(rows) -> records`; one that can be
written also `SUFFIX` and `write(trajectories, path, layout, bare)`. Files that start with an underscore are not formats.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

from duomem.errors import DataError, UsageError
from duomem.prompts import Layout
from duomem.types import Message, StopReason, Tool, Trajectory

Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record stands: the file's name and the line on which it starts, from 1 (in a Parquet file: the row)."""

    file: str
    line: int
    stem: str = ""
    """The file's name without its ending: some formats keep one episode a file and name the task by it."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Row:
    """One JSON object of a file."""

    body: Body
    place: Place


@dataclass(frozen=True, slots=True)
class Bad:
    """A record that could not be used: where it is, the field that is wrong (empty: the record as a whole), and why."""

    place: Place
    field: str
    why: str

    def __str__(self) -> str:
        return f"{self.place}: {self.field or 'record'}: {self.why}"


class BadField(DataError):
    """Raised while one record is read; it becomes a `Bad`, and the reading goes on."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"{field or 'record'}: {why}")
        self.field, self.why = field, why


@dataclass(frozen=True, slots=True)
class Record:
    """One recorded conversation, as its format tells it.

    `opening` is how many messages stand before the first reply (None: all before the first assistant message). `success` and
    `reward` are the format's own word for the outcome, `stop` its word for how a failure ended, `error` an infrastructure error
    that ended the episode. `id` names the task, not the recording. `single` marks one call of a model: such records are put
    together to episodes by their growing prefix. `body` is what `--outcome`, `--task` and `--task-id` look into.
    """

    messages: tuple[Message, ...]
    place: Place
    body: Body = field(default_factory=dict)
    tools: tuple[Tool, ...] = ()
    opening: int | None = None
    id: str = ""
    model: str = ""
    success: bool | None = None
    reward: float | None = None
    stop: StopReason | None = None
    error: str = ""
    single: bool = False
    group: str = ""
    """Only calls of one group (a trace) are put together."""
    branched: bool = False
    """One of several ends that grew from the same reply: which of them an outcome is about cannot be told."""


class Reader(Protocol):
    """A format that can be read. `read` never raises for a record's content: a record that is wrong comes out as a `Bad`."""

    def knows(self, body: Body) -> bool: ...
    def read(self, rows: Iterable[Row | Bad]) -> Iterator[Record | Bad]: ...


class Writer(Protocol):
    """A format that can be written. `bare` leaves out every key that is not the format's own; returns the records written.

    Raises `OSError` when the file cannot be written and `MismatchError` for a trajectory of another layout.
    """

    SUFFIX: str

    def write(self, trajectories: Sequence[Trajectory], path: Path, layout: Layout, bare: bool) -> int: ...


def names() -> list[str]:
    """The formats, sorted; the file name is the registry."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def writable() -> list[str]:
    """The formats that can be written."""
    return [name for name in names() if hasattr(_module(name), "write")]


def reader(name: str) -> Reader:
    """Raises `UsageError` for a format that does not exist."""
    return cast(Reader, _known(name, names()))


def writer(name: str) -> Writer:
    """Raises `UsageError` for a format that does not exist or cannot be written."""
    return cast(Writer, _known(name, writable()))


def guess(body: Body) -> str:
    """The format of a record by its keys; empty where none knows it."""
    return next((name for name in names() if reader(name).knows(body)), "")


def _known(name: str, known: Sequence[str]) -> object:
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"No log format {name!r}.{hint} There are: {', '.join(known)}.")
    return _module(name)


def _module(name: str) -> object:
    return importlib.import_module(f"duomem.logs.{name}")
