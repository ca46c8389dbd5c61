"""The turns of one episode while it is played, and the replay of what a cut episode had already paid for.

In: a player, a task, a journal. Out: why the episode stopped, and its trajectory. Each reply is journalled before it is acted
on. On resume the recorded replies go to a fresh episode, and the model is asked only once they run out; where the episode
answers otherwise than it did, it starts again as a new try. Errors are not caught here.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from duomem import prompts
from duomem.envs import ACT, Episode
from duomem.errors import LeakError
from duomem.journal import Journal, Recorded
from duomem.models import ContextFull
from duomem.safetext import whole
from duomem.types import (
    EpisodeView,
    Memory,
    MemoryId,
    Message,
    Observation,
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

if TYPE_CHECKING:
    from duomem.agent import Player

NOTHING = "Nothing happens."
"""What the student sees after a reply without a command: the words that ALFWorld has for a command without effect."""


class Gate(Protocol):
    """Whether an episode may go on. Asked before each call of the model, told what each call cost. Thread-safe."""

    def halt(self) -> StopReason | None: ...
    def paid(self, usage: Usage) -> None: ...


def episode_seed(seed: int, task_id: str, attempt: int) -> int:
    """The sampling seed of an episode: 31 bits of sha256 of the run's seed, the task and the attempt."""
    return int.from_bytes(hashlib.sha256(f"{seed}\n{task_id}\n{attempt}".encode()).digest()[:4]) >> 1


def _seen(given: Observation) -> Observation:
    """What an environment says, as text that a journal and a tokenizer can hold."""
    return replace(given, text=whole(given.text), goal=whole(given.goal))


def _said(given: Reply) -> Reply:
    """The same of a model's reply."""
    message = given.message
    parts = tuple(replace(part, text=whole(part.text)) for part in message.parts)
    calls = tuple(replace(call, name=whole(call.name), arguments=whole(call.arguments)) for call in message.tool_calls)
    return replace(given, message=replace(message, parts=parts, tool_calls=calls, reasoning=whole(message.reasoning)))


class _Diverged(Exception):
    """A fresh episode did not answer recorded replies as the cut one did."""


class Running:
    """The state of one episode while it is played."""

    def __init__(
        self,
        player: Player,
        task: Task,
        attempt: int,
        journal: Journal | None,
        phase: str,
        exclude: frozenset[str],
        gate: Gate | None,
    ) -> None:
        self.player, self.task, self.attempt = player, task, attempt
        self.journal, self.phase, self.exclude, self.gate = journal, phase, exclude, gate
        self.sampling = replace(player.sampling, seed=episode_seed(player.sampling.seed, task.id, attempt))
        self.id: int | None = None
        self._reset()

    def _reset(self) -> None:
        self.started = time.monotonic()
        self.seconds_before = self.lost = 0.0
        self.goal = self.scene = ""
        self.seen = Observation("")
        self.prompt: tuple[Message, ...] = ()
        self.messages: list[Message] = []
        self.tools: tuple[Tool, ...] = ()
        self.turns: list[Turn] = []
        self.shown: list[MemoryId] = []
        self.recorded: tuple[Recorded, ...] = ()

    def play(self) -> StopReason:
        try:
            return self._episode(fresh=False)
        except _Diverged:
            self._reset()
            return self._episode(fresh=True)

    def _episode(self, *, fresh: bool) -> StopReason:
        episode = self.player.env.open(self.task)
        try:
            self.tools = tuple(tool for tool in episode.tools() if tool != ACT)
            self._start(_seen(episode.observe()), fresh)
            return self._loop(episode)
        finally:
            episode.close()

    def _start(self, first: Observation, fresh: bool) -> None:
        self.goal, self.scene, self.seen = first.goal, first.text, first
        texts = [memory.text for memory in self._recall()]
        if self.player.example:
            texts = [self.player.layout.example]
        self.prompt = prompts.opening(self.player.layout, self.goal, self.scene, texts)
        self.messages = list(self.prompt)
        if self.journal:
            self.id = self.journal.begin(
                self.phase,
                self.task,
                self.attempt,
                goal=self.goal,
                scene=self.scene,
                prompt=self.prompt,
                shown=self.shown,
                origin=self.player.origin,
                tools=self.tools,
                fresh=fresh,
            )
            self.recorded = self.journal.recorded(self.id)
            self.seconds_before = sum(turn.reply.seconds for turn in self.recorded)
        if len(self.recorded) > self.player.max_steps:
            raise _Diverged

    def _loop(self, episode: Episode) -> StopReason:
        while len(self.turns) < self.player.max_steps:
            if len(self.turns) >= len(self.recorded):
                if halt := self._halt():
                    return halt
                asked = time.monotonic()
                try:
                    reply = _said(self.player.model.reply(self.messages, episode.tools(), self._held()))
                except ContextFull:
                    return StopReason.CONTEXT
                if reply.seconds:
                    self.lost += max(0.0, time.monotonic() - asked - reply.seconds)
                if self.gate:
                    self.gate.paid(reply.usage)
                seen = self._act(episode, reply, None)
            else:
                recorded = self.recorded[len(self.turns)]
                seen = self._act(episode, recorded.reply, recorded)
            if seen.done or seen.won:
                return StopReason.WON if seen.won else StopReason.LOST
        return StopReason.STEP_CAP

    def _held(self) -> Sampling:
        """How the next reply is sampled, with the grammar it is held to."""
        constrain = self.player.constrain
        return replace(self.sampling, grammar=constrain(self.seen)) if constrain else self.sampling

    def _halt(self) -> StopReason | None:
        if self.gate and (reason := self.gate.halt()):
            return reason
        return StopReason.TIMEOUT if self._seconds() - self.lost > self.player.timeout_s else None

    def _act(self, episode: Episode, reply: Reply, recorded: Recorded | None) -> Observation:
        """Take one turn: keep the reply, act on it, keep what came of it. With `recorded`, check that all is as it was."""
        index = len(self.turns)
        call, repaired = self._call(reply)
        if recorded is not None and recorded.call != call:
            raise _Diverged
        if recorded is None and self.journal and self.id is not None:
            self.journal.record_reply(self.id, index, reply, call, repaired=repaired)
        # A reply without a command changes nothing: what was legal still is.
        seen = _seen(episode.step(call)) if call else Observation(NOTHING, valid=False, admissible=self.seen.admissible)
        self.seen = seen
        turn = Turn(reply, call, seen.text, seen.valid, repaired)
        self.turns.append(turn)
        if not (seen.done or seen.won) and index + 1 < self.player.max_steps:
            turn = replace(turn, recalled=self._recall_later())
            self.turns[-1] = turn
        self.messages.extend(prompts.turn_messages(self.player.layout, turn))
        if recorded is not None and recorded.observation is not None:
            if (recorded.observation, recorded.valid, recorded.recalled) != (turn.observation, turn.valid, turn.recalled):
                raise _Diverged
        elif self.journal and self.id is not None:
            self.journal.record_observation(self.id, index, turn.observation, valid=turn.valid, recalled=turn.recalled)
        return seen

    def _call(self, reply: Reply) -> tuple[ToolCall | None, bool]:
        """The call to act on, and whether repair changed it. Arguments that are no JSON object are as good as no call."""
        call = prompts.parse(self.player.layout, reply)
        if call is None or not _is_object(call.arguments):
            return None, False
        command = call.command.strip().removesuffix(".").rstrip().lower()
        if not self.player.repair or call.name != "act" or command == call.command:
            return call, False
        return ToolCall.act(command, call.id), True

    def _recall(self) -> list[Memory]:
        """Memories that the strategy wants to show now and that are not in the prompt yet."""
        player = self.player
        if player.example or player.strategy is None or player.bank is None or player.budget.k == 0:
            return []
        tasks = frozenset({self.task.id})
        view = EpisodeView(self.goal, self.scene, tuple(self.turns), self.exclude, tasks)
        memories = player.strategy.recall(view, player.bank, player.budget).memories
        for memory in memories:
            if memory.provenance.task_id in tasks or memory.provenance.trajectory in self.exclude:
                raise LeakError(f"The memory strategy showed memory {memory.id} to the task it was made from ({self.task.id}).")
        new = [memory for memory in memories if memory.id not in self.shown]
        self.shown.extend(memory.id for memory in new)
        return new

    def _recall_later(self) -> str:
        return prompts.memory_block(self.player.layout, [memory.text for memory in self._recall()])

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started

    def finish(self, stop: StopReason, error: str = "") -> Trajectory:
        """Close the episode in the journal and hand it back. One that did not even open is journalled all the same."""
        seconds = self._seconds()
        if self.journal:
            if self.id is None:
                self.id = self.journal.begin(self.phase, self.task, self.attempt)
            self.journal.finish(self.id, stop, error, seconds, shown=self.shown if self.prompt else None)
        return Trajectory(
            task=self.task,
            attempt=self.attempt,
            goal=self.goal,
            scene=self.scene,
            prompt=self.prompt,
            turns=tuple(self.turns),
            stop=stop,
            shown=tuple(self.shown),
            origin=self.player.origin if self.prompt else Origin(),
            error=error,
            seconds=seconds,
            tools=self.tools,
        )


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except json.JSONDecodeError:
        return False
