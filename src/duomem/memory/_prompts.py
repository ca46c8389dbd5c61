"""The prompts of the model writer, as hashed data: one TOML file in `prompts/` holds every text that a writer is asked with.

In: the name of a shipped set or the path of a file, and a trajectory. Out: one user message per question. A prompt holds the
goal, the scene and the turns, never a task's id, path or type. Not here: asking, and reading answers (`_writer`).
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from duomem.errors import ConfigError
from duomem.prompts import fill
from duomem.types import Message, Trajectory, Turn, digest

Question = Literal["task", "subtask", "action", "lesson", "pick", "reflect"]

NO_ACTION = "(no action)"
"""Stands in a transcript for a reply that held no action."""


class PromptSet(BaseModel):
    """Every text of a writer. `version` grows with every change; `hash` covers all of it. Slots are named in default.toml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    version: int
    step: str
    """One step of a transcript. Slots: number, command, observation."""
    task: str
    subtask: str
    action: str
    lesson: str
    pick: str
    reflect: str
    again: str
    """After an answer that cannot be used; empty: a model is not asked again. Slot: reason."""
    lesson_text: str
    """How a lesson reads when it is shown. Slots: goal, lines."""

    @field_validator("*", mode="before")
    @classmethod
    def _strip(cls, value: object) -> object:
        return value.strip() if isinstance(value, str) else value

    @property
    def id(self) -> str:
        """Name, version and hash, as they stand in a memory's provenance."""
        return f"{self.name}-{self.version}:{digest(self.model_dump())[:12]}"

    def ask(self, question: Question, trajectory: Trajectory, transcript: str, *, memory: str = "") -> Message:
        """A question about a trajectory as one user message; one message, because not every chat template has a system role."""
        template: str = getattr(self, question)
        slots = {"goal": trajectory.goal.strip(), "scene": trajectory.scene.strip(), "transcript": transcript, "memory": memory}
        return Message.of("user", fill(template, **slots))

    def transcript(self, turns: Sequence[Turn], words: int) -> str:
        """Turns as numbered steps, from 1; each observation cut to its first `words` words."""
        return "\n".join(
            fill(self.step, number=str(number), command=command_of(turn), observation=cut(turn.observation, words)).strip()
            for number, turn in enumerate(turns, 1)
        )


def prompt_sets() -> list[str]:
    """The sets that ship with the package."""
    folder = resources.files("duomem.memory").joinpath("prompts")
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_prompts(name: str) -> PromptSet:
    """A set by its name in the package or by the path of a TOML file. Raises `ConfigError`."""
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise ConfigError(f"memory.writer_prompts: the file {name} does not exist.")
        text = path.read_text(encoding="utf-8")
    elif name in prompt_sets():
        text = resources.files("duomem.memory").joinpath("prompts", f"{name}.toml").read_text(encoding="utf-8")
    else:
        known = ", ".join(prompt_sets())
        raise ConfigError(f"memory.writer_prompts: no set {name!r}. There are: {known}, or the path of a .toml file.")
    try:
        return PromptSet(**tomllib.loads(text))
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise ConfigError(f"memory.writer_prompts = {name!r}: {error}") from error


def command_of(turn: Turn) -> str:
    """What was done at a turn: the command of a text environment, else the tools' names and their arguments."""
    calls = turn.reply.message.tool_calls or ((turn.call,) if turn.call else ())
    return "; ".join(call.command or f"{call.name} {call.arguments}" for call in calls) or NO_ACTION


def cut(text: str, words: int) -> str:
    """The first `words` words of a text on one line, with "..." where some are left off."""
    parts = text.split()
    return " ".join(parts[:words]) + (" ..." if len(parts) > words else "")
