"""A tiny world for tests of the loop: walk a corridor of some length and take the prize at its end.

In: switches that break it on purpose. Out: an environment with `n` tasks, and a script that plays it by what it reads. Every
fifth task is one that the script cannot solve. It holds no state between episodes but counts of what was opened and closed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from duomem.envs import ACT
from duomem.types import Labels, Message, Observation, Task, Tool, ToolCall


class Corridor:
    def __init__(
        self,
        n: int = 10,
        *,
        on_open: Callable[[Task], None] = lambda task: None,
        on_step: Callable[[Task, int, str], None] = lambda task, step, command: None,
        drift: str = "",
        numbered: bool = False,
    ) -> None:
        self.n, self.on_open, self.on_step, self.drift, self.numbered = n, on_open, on_step, drift, numbered
        self.opened = self.closed = 0

    def tasks(self, split: str) -> Sequence[Task]:
        return [Task(f"{split}/{number:03d}", split, "corridor", f"hash{number}") for number in range(self.n)]

    def open(self, task: Task) -> Walk:
        self.on_open(task)
        self.opened += 1
        return Walk(self, task)

    def labels(self, task: Task) -> Labels:
        return Labels("walk", "corridor")

    def provenance(self) -> dict[str, str]:
        return {"env": "corridor", "version": "1"}


class Walk:
    def __init__(self, env: Corridor, task: Task) -> None:
        number = int(task.id.rsplit("/", 1)[1])
        self.env, self.task, self.number = env, task, number
        self.length = 2 + number * 3 % 7
        self.dark = number % 5 == 4
        self.at = self.steps = 0
        self.over = False

    def observe(self) -> Observation:
        goal = "find the dark prize." if self.dark else "take the prize."
        sign = f" A sign says {self.number}." if self.env.numbered else ""
        return Observation(f"You are in a corridor of {self.length} steps.{sign}{self.env.drift}", goal=goal)

    def step(self, call: ToolCall) -> Observation:
        if self.over:
            raise RuntimeError("This episode is over.")
        self.env.on_step(self.task, self.steps, call.command)
        self.steps += 1
        if call.command == "walk" and self.at < self.length:
            self.at += 1
            return Observation(f"You are at step {self.at} of {self.length}.{self.env.drift}")
        if call.command == "take prize" and self.at == self.length:
            self.over = True
            return Observation("You take the prize.", done=True, won=True)
        if call.command == "jump out":
            self.over = True
            return Observation("You fall.", done=True)
        return Observation("Nothing happens.", valid=False)

    def tools(self) -> Sequence[Tool]:
        return (ACT,)

    def close(self) -> None:
        self.env.closed += 1


def walker(messages: Sequence[Message]) -> str:
    """The reply of one who reads: walks to the end and takes the prize; searches the dark in vain."""
    last = messages[-1].text
    if any("dark prize" in message.text for message in messages):
        return "Thought: it is dark\nAction: search"
    words = last.rstrip(".").split()
    arrived = "at step" in last and words[-1] == words[-3]
    return f"Thought: {'here it is' if arrived else 'go on'}\nAction: {'take prize' if arrived else 'walk'}"
