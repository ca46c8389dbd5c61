"""Turns what a model writes about a trajectory into bank edits, and keeps count of what it could not write.

In: a trajectory, the bank (for corrections), a model. Out: edits: procedures, parts, actions, lessons, corrected memories. An
answer that is no memory gives no edit and a `Refusal`. It never falls back on rules; they only cut the reference trajectory
beside a script that a model wrote at once (`stages`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from duomem.memory import BankView, Refusal
from duomem.memory._answers import Unusable
from duomem.memory._common import provenance
from duomem.memory._keys import key_of
from duomem.memory._prompts import PromptSet
from duomem.memory._script import events, plain_transcript, transcript
from duomem.memory._writer import Writer
from duomem.models import Model
from duomem.types import BankEdit, Memory, MemoryId, Provenance, Sampling, Trajectory, Turn

if TYPE_CHECKING:
    from duomem.memory.procedure import Config

T = TypeVar("T")

LESSON = "lesson"
"""Kind of a memory of a failed attempt. The other kinds are the builds and the levels below the task."""


class Composer:
    """Thread-safe. `refusals` are by trajectory and question, so an answer at a later try takes its refusal away."""

    def __init__(self, config: Config, prompts: PromptSet) -> None:
        self._config, self._prompts = config, prompts
        self._lock = threading.Lock()
        self._refused: dict[tuple[str, str, str], Refusal] = {}

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        with self._lock:
            return tuple(self._refused[key] for key in sorted(self._refused))

    def edits(self, trajectory: Trajectory, bank: BankView, model: Model) -> list[BankEdit]:
        """What the model writes of a trajectory; what it does not write usably is kept in `refusals`."""
        config = self._config
        if not trajectory.turns or not trajectory.stop.is_outcome:
            return []
        sampling = Sampling(config.writer_temperature, config.writer_tokens)
        writer = Writer(model, self._prompts, sampling, tries=config.writer_tries, words=config.writer_words)
        edits: list[BankEdit] = []
        if trajectory.won or config.update == "add":
            edits += self._procedures(trajectory, writer)
        if not trajectory.won and config.update == "reflect":
            edits += [edit for memory in trajectory.shown for edit in self._reflect(trajectory, bank, memory, writer)]
        if not trajectory.won and config.lessons:
            edits += self._asked(trajectory, "lesson", lambda: [self._lesson(trajectory, writer)])
        return edits

    def _procedures(self, trajectory: Trajectory, writer: Writer) -> list[BankEdit]:
        """One question for each level; a level that is refused leaves the others alone."""
        turns: Sequence[Turn] = trajectory.turns
        edits: list[BankEdit] = []
        if self._config.stages == "staged" or self._config.build == "trajectory":
            turns = self._asked(trajectory, "pick", lambda: writer.needed(trajectory))
            if not turns:
                return []
        for level in self._config.levels:
            edits += self._asked(trajectory, level, partial(self._level, trajectory, level, turns, writer))
        return edits

    def _level(self, trajectory: Trajectory, level: str, turns: Sequence[Turn], writer: Writer) -> list[BankEdit]:
        config = self._config
        if level != "task":
            found = writer.parts("action" if level == "action" else "subtask", trajectory, turns)
            return [self._edit(trajectory, part.title, part.text, level, writer) for part in found]
        text = trajectory.goal.strip() if config.build == "trajectory" else writer.script(trajectory, turns).text
        if config.build != "script":
            text += "\n" + self._reference(trajectory, turns)
        return [self._edit(trajectory, trajectory.goal, text, config.build, writer)]

    def _reference(self, trajectory: Trajectory, turns: Sequence[Turn]) -> str:
        """The useful steps: those that the model picked, else those that rules leave of the commands."""
        found = events(trajectory)
        if len(turns) == len(trajectory.turns) and any(event.object for event in found):
            return transcript(found, self._config.observation_words)
        return plain_transcript(turns, self._config.observation_words)

    def _lesson(self, trajectory: Trajectory, writer: Writer) -> BankEdit:
        return self._edit(trajectory, trajectory.goal, writer.lesson(trajectory).text, LESSON, writer)

    def _reflect(self, trajectory: Trajectory, bank: BankView, shown: MemoryId, writer: Writer) -> list[BankEdit]:
        """The memory, rewritten, in place of the one that did not help. One that is no longer there was rewritten already."""
        old = next((memory for memory in bank.memories() if memory.id == shown), None)
        if old is None or old.kind != self._config.build:
            return []

        def corrected() -> list[BankEdit]:
            goal = old.text.partition("\n")[0]
            steps, reference = _apart(old.text)
            text = writer.corrected(trajectory, goal, steps).text + reference
            new = Memory(old.key, text, old.kind, self._source(trajectory, writer))
            return [BankEdit("revise", f"rewritten after {reason(trajectory)}", new, shown)] if new.id != shown else []

        return self._asked(trajectory, f"reflect {shown}", corrected)

    def _edit(self, trajectory: Trajectory, title: str, text: str, kind: str, writer: Writer) -> BankEdit:
        key = key_of(self._config.key, title, trajectory.scene if kind in (self._config.build, LESSON) else "")
        return BankEdit("add", reason(trajectory), Memory(key, text, kind, self._source(trajectory, writer)))

    def _source(self, trajectory: Trajectory, writer: Writer) -> Provenance:
        prompt = f"{self._prompts.id} {self._config.stages}"
        return provenance(trajectory, writer.written_by, prompt=prompt, licence=writer.licence)

    def _asked(self, trajectory: Trajectory, question: str, ask: Callable[[], list[T]]) -> list[T]:
        """What a question brought; nothing and a refusal that is kept where the answer is no memory."""
        place = (trajectory.task.id, f"{trajectory.attempt:04d} {trajectory.content_hash}", question)
        try:
            found = ask()
        except Unusable as why:
            with self._lock:
                self._refused[place] = Refusal(trajectory.task.id, trajectory.attempt, question.split()[0], str(why))
            return []
        with self._lock:
            self._refused.pop(place, None)
        return found


def reason(trajectory: Trajectory) -> str:
    return f"{'won' if trajectory.won else 'lost'} in {len(trajectory.turns)} turns"


def _apart(text: str) -> tuple[str, str]:
    """A memory's script, and its reference trajectory with the line break before it."""
    at = text.find("\n> ")
    return (text, "") if at < 0 else (text[:at], text[at:])
