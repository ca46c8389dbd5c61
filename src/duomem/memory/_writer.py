"""A model that writes memories: asks it about one trajectory, reads the answer, refuses what is no memory.

In: a trajectory and a model. Out: texts of memories, or `Unusable` with the reason. Every call goes through the model it is
given, so a journalled one (`duomem.paid`) makes it free the second time. Rules never stand in for an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from duomem.memory._answers import About, Unusable, numbers_in, parts_in, steps_in
from duomem.memory._prompts import PromptSet, Question, command_of
from duomem.models import ContextFull, Model
from duomem.prompts import fill
from duomem.types import Message, Reply, Sampling, Trajectory, Turn

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Written:
    """One memory's text without its reference trajectory. `title` is what it is about: the goal, a part, an action."""

    title: str
    text: str


class Writer:
    """One model, one set of prompts. Stateless and thread-safe."""

    def __init__(self, model: Model, prompts: PromptSet, sampling: Sampling, *, tries: int, words: int) -> None:
        self._model, self._prompts, self._sampling = model, prompts, sampling
        self._tries, self._words = tries if prompts.again else 1, words

    @property
    def written_by(self) -> str:
        """For a memory's provenance: "model:NAME@REVISION"."""
        said = self._model.provenance()
        return "model:" + "@".join(part for part in (said.get("model", "unnamed"), said.get("revision", "")) if part)

    @property
    def licence(self) -> str:
        return self._model.provenance().get("licence", "")

    def needed(self, trajectory: Trajectory) -> list[Turn]:
        """The turns that did the work, as the model picks them by number. Raises `Unusable`."""
        turns = trajectory.turns
        numbers = self._ask("pick", trajectory, turns, lambda text: numbers_in(text, len(turns)))
        return [turns[number - 1] for number in numbers]

    def script(self, trajectory: Trajectory, turns: Sequence[Turn]) -> Written:
        """The goal and numbered steps. Raises `Unusable`."""
        return self._steps("task", trajectory, turns)

    def corrected(self, trajectory: Trajectory, goal: str, memory: str) -> Written:
        """A memory, rewritten after a failed trajectory that had it. It keeps the goal that it is about."""
        steps = self._ask("reflect", trajectory, trajectory.turns, self._read(trajectory, memory), memory=memory)
        return Written(goal, _numbered(goal, steps))

    def lesson(self, trajectory: Trajectory) -> Written:
        steps = self._ask("lesson", trajectory, trajectory.turns, self._read(trajectory))
        goal = trajectory.goal.strip()
        lines = _numbered("", steps).strip()
        return Written(goal, fill(self._prompts.lesson_text, goal=goal, lines=lines))

    def parts(self, question: Question, trajectory: Trajectory, turns: Sequence[Turn]) -> list[Written]:
        """One text per part ("subtask") or kind of action ("action"). Raises `Unusable`."""
        about = _about(trajectory)
        found = self._ask(question, trajectory, turns, lambda text: parts_in(text, about))
        return [Written(title, _numbered(title, steps)) for title, steps in found]

    def _steps(self, question: Question, trajectory: Trajectory, turns: Sequence[Turn]) -> Written:
        goal = trajectory.goal.strip()
        return Written(goal, _numbered(goal, self._ask(question, trajectory, turns, self._read(trajectory))))

    def _read(self, trajectory: Trajectory, *more: str) -> Callable[[str], list[str]]:
        about = _about(trajectory, *more)
        return lambda text: steps_in(text, about)

    def _ask(
        self,
        question: Question,
        trajectory: Trajectory,
        turns: Sequence[Turn],
        read: Callable[[str], T],
        *,
        memory: str = "",
    ) -> T:
        """Ask, read, and where it cannot be read say why and ask again, up to `tries` times."""
        transcript = self._prompts.transcript(turns, self._words)
        messages = [self._prompts.ask(question, trajectory, transcript, memory=memory)]
        for left in reversed(range(self._tries)):
            try:
                reply = self._model.reply(messages, (), self._sampling)
            except ContextFull as full:
                raise Unusable(f"the trajectory is too long for the model: {full}") from full
            try:
                return read(_text(reply))
            except Unusable as why:
                if not left:
                    raise
                messages += [reply.message, Message.of("user", fill(self._prompts.again, reason=str(why)))]
        raise AssertionError("tries is at least 1")


def _text(reply: Reply) -> str:
    """A reply's text. One that was cut off at its token limit is half a memory."""
    if reply.finish == "length":
        raise Unusable("it was cut off at the token limit (memory.writer_tokens)")
    return reply.message.text


def _about(trajectory: Trajectory, *more: str) -> About:
    return About.of([trajectory.goal, trajectory.scene, *(command_of(turn) for turn in trajectory.turns), *more])


def _numbered(title: str, steps: Sequence[str]) -> str:
    return "\n".join([title, *(f"{number}. {step}" for number, step in enumerate(steps, 1))])
