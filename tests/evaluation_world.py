"""A tiny world for tests of evaluation and report: doors to open by the right word, which memories and the adapter may know."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from duomem.agent import Player
from duomem.envs import ACT
from duomem.errors import InfraError
from duomem.evaluate import Play, plays
from duomem.memory import BankView
from duomem.models import Model
from duomem.prompts import load_layout
from duomem.rollout import Rollout
from duomem.types import (
    BankEdit,
    Budget,
    EpisodeView,
    Hit,
    Labels,
    Memory,
    MemoryId,
    Message,
    Observation,
    Outcome,
    Provenance,
    Recall,
    Reply,
    Sampling,
    Task,
    Tool,
    ToolCall,
    Trajectory,
    Usage,
)

KINDS = ("secretkind_a", "secretkind_b", "secretkind_c")
WORDS = {"secretkind_a": "sesame", "secretkind_b": "mellon", "secretkind_c": "alohomora"}
COLOURS = {"secretkind_a": "red", "secretkind_b": "green", "secretkind_c": "blue"}


class Door:
    def __init__(self, word: str, colour: str, delay: float) -> None:
        self.word, self.colour, self.delay = word, colour, delay

    def observe(self) -> Observation:
        return Observation("You stand in front of a door.", goal=f"open the {self.colour} door")

    def step(self, call: ToolCall) -> Observation:
        time.sleep(self.delay)
        won = call.command == f"say {self.word}"
        known = call.command in {f"say {word}" for word in WORDS.values()}
        return Observation("It opens." if won else "Nothing happens.", done=won, won=won, valid=won or known)

    def tools(self) -> Sequence[Tool]:
        return (ACT,)

    def close(self) -> None:
        pass


@dataclass
class Doors:
    """`n` doors of three kinds in four rooms; ids, kinds and rooms are words that must never be seen in a prompt."""

    n: int
    split: str = "unseen"
    jitter: float = 0.0
    opened: list[str] = field(default_factory=list)

    def tasks(self, split: str = "") -> list[Task]:
        return [Task(f"{self.split}/secretpath-{number:03}", self.split, "doors") for number in range(self.n)]

    def labels(self, task: Task) -> Labels:
        number = int(task.id[-3:])
        return Labels(KINDS[number % 3], f"secretroom{number % 4}", object="door" if number % 2 else "hatch")

    def open(self, task: Task) -> Door:
        self.opened.append(task.id)
        kind = self.labels(task).kind
        return Door(WORDS[kind], COLOURS[kind], random.random() * self.jitter)

    def provenance(self) -> dict[str, str]:
        return {"env": "doors"}


@dataclass
class Student:
    """Says the words of memories in its prompt; with the adapter it knows those of two kinds. Raises when `broken(goal)`."""

    adapter: bool = False
    broken: Callable[[str], bool] = lambda goal: False

    def reply(self, messages: Sequence[Message], tools: Sequence[Tool], sampling: Sampling) -> Reply:
        text = "\n".join(message.text for message in messages)
        if self.broken(text):
            raise InfraError("the socket is gone")
        turn = sum(message.role == "assistant" for message in messages)
        words = [word for word in WORDS.values() if word in text]
        if self.adapter and "red" in text:
            words.append(WORDS["secretkind_a"])
        if self.adapter and "green" in text:
            words.append(WORDS["secretkind_b"])
        word = words[turn % len(words)] if words else "please"
        message = Message.of("assistant", f"Thought: {word}\nAction: say {word}")
        return Reply(message, usage=Usage(prompt=len(text), cached=len(text) // 2, completion=len(message.text)))

    def provenance(self) -> dict[str, str]:
        return {"model": "student"}

    def close(self) -> None:
        pass


class Shelf:
    """A bank in a list; similarity is the share of common words."""

    def __init__(self, memories: Sequence[Memory]) -> None:
        self._memories = list(memories)

    def search(self, query: str, k: int, *, floor: float = -1.0, allow: Callable[[Memory], bool] | None = None) -> list[Hit]:
        asked = set(query.split())
        hits = [
            Hit(memory, len(asked & set(memory.key.split())) / len(asked))
            for memory in self._memories
            if allow is None or allow(memory)
        ]
        return sorted((hit for hit in hits if hit.score >= floor), key=lambda hit: (-hit.score, hit.memory.id))[:k]

    def get(self, memory: MemoryId) -> Memory:
        return next(found for found in self._memories if found.id == memory)

    def memories(self) -> Sequence[Memory]:
        return self._memories


class Nearest:
    """The plain strategy: the k most similar memories, at the first turn."""

    def write(self, trajectory: Trajectory, bank: BankView, teacher: Model | None) -> Sequence[BankEdit]:
        return ()

    def recall(self, view: EpisodeView, bank: BankView, budget: Budget) -> Recall:
        if view.turns:
            return Recall()
        hits = bank.search(view.goal, budget.k, allow=lambda memory: memory.provenance.task_id not in view.exclude_tasks)
        return Recall(tuple(sorted(hits, key=lambda hit: hit.memory.id)))

    def feedback(self, outcome: Outcome, shown: Sequence[MemoryId]) -> Sequence[BankEdit]:
        return ()


def shelf(source: Doors) -> Shelf:
    """One memory for each of the source's doors; some are wordier than others."""
    memories = []
    for task in source.tasks():
        kind = source.labels(task).kind
        text = f"The {COLOURS[kind]} one wants {WORDS[kind]}" + f", told {task.id[-3:]}" + " indeed" * (int(task.id[-3:]) % 5)
        provenance = Provenance(task.id, 0, f"trajectory of {task.id}", "teacher", "rules")
        memories.append(Memory(f"open the {COLOURS[kind]} door", text, "script", provenance))
    return Shelf(memories)


def player(env: Doors, source: Doors, model: Student | None = None) -> Player:
    return Player(
        env=env,
        model=model or Student(),
        layout=load_layout("default"),
        strategy=Nearest(),
        bank=shelf(source),
        budget=Budget(k=2),
        max_steps=4,
    )


def threads(concurrency: int = 1) -> Play:
    """Real rollouts, with the one thing taken out that differs between runs: time."""
    plain = plays(concurrency=concurrency, retries=0)

    def play(player: Player, tasks: Sequence[Task], phase: str) -> Rollout:
        played = plain(player, tasks, phase)
        timeless = tuple(replace(trajectory, seconds=1.0) for trajectory in played.trajectories)
        return replace(played, trajectories=timeless, errors=tuple(replace(found, seconds=1.0) for found in played.errors))

    return play
