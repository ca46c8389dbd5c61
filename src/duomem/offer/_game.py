"""One game of a text environment for a model that somebody else runs: the prompt, and what each reply did.

In: an environment's name and options, a split, a layout. Out: tasks, and per task a `Game` that turns replies into
observations. The renderer and the parser are those of every run here, so a score means the same. It asks no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from duomem import parts, prompts
from duomem._episode import NOTHING
from duomem.envs import ACT, Env
from duomem.errors import UsageError
from duomem.evaluate import sample
from duomem.types import Message, Reply, Task

MAX_STEPS = 30
"""Turns of an episode, invalid ones included: the setting of MemP, and of every run here."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a reply did. `text` is the next user message."""

    text: str
    done: bool
    won: bool


class Game:
    """One play. Not thread-safe; `close` may be called again. Raises `UsageError` for an environment with tools of its own."""

    def __init__(self, env: Env, task: Task, layout: str = "default") -> None:
        self._layout = prompts.load_layout(layout)
        self._episode = env.open(task)
        if tuple(self._episode.tools()) != (ACT,):
            self.close()
            raise UsageError(f"{task.env} has tools of its own; only text environments are offered.")
        first = self._episode.observe()
        self.prompt: tuple[Message, ...] = prompts.opening(self._layout, first.goal, first.text, [])
        self.steps, self.invalid, self.won = 0, 0, False

    def answer(self, reply: str) -> Answer:
        """Act on a model's reply; one without a command does nothing and is told so."""
        self.steps += 1
        call = prompts.parse(self._layout, Reply(Message.of("assistant", reply)))
        if call is None:
            self.invalid += 1
            return Answer(prompts.turn_message(self._layout, NOTHING).text, False, False)
        seen = self._episode.step(call)
        self.invalid += not seen.valid
        self.won = seen.won
        return Answer(prompts.turn_message(self._layout, seen.text).text, seen.done or seen.won, seen.won)

    def close(self) -> None:
        self._episode.close()


def environment(name: str, options: Mapping[str, Any], split: str, games: int, seed: int) -> tuple[Env, Sequence[Task]]:
    """An environment and a seeded sample of a split's tasks, all of them where `games` is 0."""
    env: Env = parts.build("envs", name, dict(options))
    tasks, _ = sample(env.tasks(split), games, seed)
    return env, tasks
