"""For tests of memories: trajectories by hand, a model that writes what it is told to, and an empty bank."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from duomem.types import (
    Memory,
    Message,
    Origin,
    Reply,
    Sampling,
    StopReason,
    Task,
    Tool,
    ToolCall,
    Trajectory,
    Turn,
    Usage,
)

SCENE = (
    "You are in the middle of a room. Looking quickly around you, you see a cabinet 1, a cabinet 2, a countertop 1,"
    " a desk 1, a drawer 1, a sidetable 1, and a sinkbasin 1."
)
SECRET = "train/secretpath-Plate-None-Cabinet-77/trial_T1"
"""The task of these trajectories; its words may stand in no memory."""
CLEAN = [
    "go to countertop 1",
    "go to cabinet 2",
    "open cabinet 2",
    "take plate 1 from cabinet 2",
    "go to sinkbasin 1",
    "clean plate 1 with sinkbasin 1",
    "go to cabinet 1",
    "open cabinet 1",
    "move plate 1 to cabinet 1",
]
SCRIPT = "1. plate: take from countertop, cabinet\n2. plate: clean with sinkbasin\n3. plate: move to cabinet"


def played(
    commands: Sequence[str] = tuple(CLEAN),
    goal: str = "put a clean plate in cabinet.",
    *,
    scene: str = SCENE,
    task: str = SECRET,
    stop: StopReason = StopReason.WON,
    invalid: Sequence[int] = (),
    shown: Sequence[str] = (),
) -> Trajectory:
    turns = tuple(
        Turn(
            Reply(Message.of("assistant", f"Thought: on\nAction: {command}")),
            ToolCall.act(command),
            "Nothing happens." if index in invalid else f"You {command}.",
            valid=index not in invalid,
        )
        for index, command in enumerate(commands)
    )
    origin = Origin(model="teacher-x", licence="licence-y")
    return Trajectory(Task(task, task.split("/")[0], "test"), 0, goal, scene, (), turns, stop, tuple(shown), origin)


class Author:
    """Answers by the first key that stands in the question; counts what it was asked. Thread-safe."""

    def __init__(self, answers: dict[str, str] | Callable[[str], str], *, finish: Any = "stop", name: str = "author") -> None:
        self._answers, self._finish, self._name = answers, finish, name
        self._lock = threading.Lock()
        self.asked: list[tuple[Message, ...]] = []

    def reply(self, messages: Sequence[Message], tools: Sequence[Tool], sampling: Sampling) -> Reply:
        with self._lock:
            self.asked.append(tuple(messages))
        text = messages[-1].text
        if callable(self._answers):
            said = self._answers(text)
        else:
            said = next((answer for key, answer in self._answers.items() if key in text), "")
        return Reply(Message.of("assistant", said), finish=self._finish, usage=Usage(len(text.split()), 0, len(said.split())))

    def provenance(self) -> dict[str, str]:
        return {"model": self._name, "revision": "7", "licence": "author-licence"}

    def close(self) -> None:
        pass


class Nothing:
    """A bank without memories."""

    def search(self, query: str, k: int, *, floor: float = -1.0, allow: Any = None) -> list[Any]:
        return []

    def get(self, memory: str) -> Memory:
        raise KeyError(memory)

    def memories(self) -> list[Memory]:
        return []
