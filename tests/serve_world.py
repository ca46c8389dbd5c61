"""For the tests of the server: a small run with memories, and an agent's loop that knows nothing but a client of an API.

The run is of the household twin: the expert collects, rules remember, the student is the small model that ships.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from duomem import pipeline
from duomem.config import settings_of
from duomem.models.scripted import Scripted
from duomem.prompts import load_layout
from duomem.rundir import RunFolder
from duomem.serve.app import Setup, application
from duomem.serve.desk import Desk
from duomem.serve.engine import LocalEngine
from duomem.serve.inject import Injector
from duomem.serve.run import running
from duomem.serve.service import Alone, Service
from duomem.serve.student import ModelSpec, Student
from duomem.types import Message, Reply, Sampling, Usage

sys.path.append(str(Path(__file__).resolve().parents[1] / "bench"))
from _agent import commands_of as commands_of
from _agent import play as play


def make_run(folder: Path, tasks: int = 24, **student: Any) -> RunFolder:
    """A run with a bank and no adapter."""
    tables: dict[str, Any] = {
        "env": {"name": "household"},
        "teacher": {"model": "expert", "tasks": tasks},
        "student": {"model": "hf", "threads": 1} | student,
        "memory": {"embedder": "lexical", "k": 2},
        "evaluate": {"split": "valid_unseen"},
    }
    made = RunFolder(folder, settings_of(tables, "test"))
    made.write_config()
    pipeline.collect(made)
    pipeline.remember(made)
    return made


def scripted_student(layout: str = "default", name: str = "toy") -> Student:
    """A student without a bank, whose engine a test chooses."""
    return Student(f"duomem-{name}", f"revision-{name}", Injector(load_layout(layout)), ModelSpec("scripted", {}), Sampling())


@contextmanager
def serving(
    engine: Any, student: Student | None = None, close: Callable[[], None] = lambda: None, **setup: Any
) -> Iterator[tuple[str, Desk]]:
    """A server in this process; gives its URL and its desk."""
    if not hasattr(engine, "context"):
        engine = LocalEngine(engine)
    desk = Desk(Service(student or scripted_student(), Alone(engine), close=close))
    with running(application(desk, Setup(**setup))) as url:
        yield url, desk


def saying(text: str = "Thought: go\nAction: look", **usage: int) -> Scripted:
    """A model that always says the same."""
    return Scripted(lambda messages: Reply(Message.of("assistant", text), usage=Usage(**usage)))
