"""For the tests of the server: a small run with memories, and an agent's loop that knows nothing but a client of an API.

The run is of the household twin: the expert collects, rules remember, the student is the small model that ships.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duomem import pipeline
from duomem.config import settings_of
from duomem.envs import Env
from duomem.models.scripted import Scripted
from duomem.prompts import Layout, load_layout, opening, parse, turn_message
from duomem.rundir import RunFolder
from duomem.serve.app import Setup, application
from duomem.serve.desk import Desk
from duomem.serve.engine import LocalEngine
from duomem.serve.inject import Injector
from duomem.serve.run import running
from duomem.serve.service import Alone, Service
from duomem.serve.student import ModelSpec, Student
from duomem.types import Message, Reply, Sampling, Task, ToolCall, Usage


def make_run(folder: Path, tasks: int = 24, **student: Any) -> RunFolder:
    """A run with a bank and no adapter."""
    tables: dict[str, Any] = {
        "env": {"name": "household"},
        "teacher": {"model": "expert", "tasks": tasks},
        "student": {"model": "hf", "threads": 1, **student},
        "memory": {"embedder": "lexical", "k": 2},
        "evaluate": {"split": "valid_unseen"},
    }
    made = RunFolder(folder, settings_of(tables, "test"))
    made.write_config()
    pipeline.collect(made)
    pipeline.remember(made)
    return made


@dataclass(frozen=True)
class Game:
    """How an agent's game went."""

    won: bool
    commands: tuple[str, ...]


def play(client: Any, env: Env, task: Task, layout: Layout, steps: int = 30, **asked: Any) -> Game:
    """An agent's loop as people write it: OpenAI's client, its own list of messages, the command read out of the reply."""
    episode = env.open(task)
    first = episode.observe()
    messages = [{"role": each.role, "content": each.text} for each in opening(layout, first.goal, first.text, ())]
    commands: list[str] = []
    try:
        for _ in range(steps):
            done = client.chat.completions.create(model="any", messages=messages, **asked)
            said = done.choices[0].message.content or ""
            finish = done.choices[0].finish_reason
            call = parse(layout, Reply(Message.of("assistant", said), finish))
            seen = episode.step(call) if call else None
            commands.append(call.command if call else "")
            if seen and (seen.done or seen.won):
                return Game(seen.won, tuple(commands))
            text = seen.text if seen else "Nothing happens."
            messages += [{"role": "assistant", "content": said}]
            messages += [{"role": "user", "content": turn_message(layout, text).text}]
        return Game(False, tuple(commands))
    finally:
        episode.close()


def commands_of(turns: Any) -> tuple[str, ...]:
    """The commands of a trajectory's turns."""
    return tuple(turn.call.command if isinstance(turn.call, ToolCall) else "" for turn in turns)


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
