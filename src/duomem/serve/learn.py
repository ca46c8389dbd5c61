"""Learning while serving: verified successes become memories in a bank beside the signed one, which stays as it is.

In: outcomes. Out: the overlay bank (`overlay.sqlite` in the state folder), its counts of what each memory was good for, and an
injector that searches both. Verified means that whoever reported the outcome showed the admin key: nothing that an end user
types becomes a memory by itself. Secrets are taken out before a text is kept. Not here: HTTP, merging (`merge`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from duomem.bank import Bank, pins
from duomem.bankview import View, joined
from duomem.errors import DataError, MismatchError, UsageError
from duomem.logs import Place, Record
from duomem.logs._episode import Options, trajectory
from duomem.record.redact import Redactor
from duomem.serve.inject import Injector
from duomem.serve.outcomes import Reported
from duomem.serve.student import Student
from duomem.types import BankEdit, MemoryId, Message, Outcome, TextPart, ToolCall, Trajectory

OVERLAY = "overlay.sqlite"
REASON = "verified success while serving"


class Learner:
    """One overlay bank. Safe for many threads. Close it."""

    def __init__(self, folder: Path, student: Student, *, writes: bool, licence: str = "unknown") -> None:
        """`writes`: new memories, else only counts. Raises `UsageError` for a student without memories."""
        if student.bank is None or student.injector.strategy is None or not isinstance(student.injector.bank, View):
            raise UsageError("This student has no memories to count or to add to. Serve one whose bundle holds a bank.")
        self._student, self._writes, self._licence = student, writes, licence
        self._base: View = student.injector.bank
        self._lock = threading.Lock()
        self._redactor = Redactor()
        self.bank = overlay_of(folder / OVERLAY, student.bank)

    def injector(self) -> Injector:
        """The student's, with the memories learned so far beside its own; its version is both banks' versions."""
        ours = self._student.injector
        if not self.bank.version:
            return ours
        view = joined(self._base, self.bank.view())
        return replace(ours, bank=view, version=f"{ours.version}+{self.bank.version}")

    def take(self, reported: Reported, changed: Callable[[], None]) -> dict[str, Any]:
        """Count an outcome, and learn from it what may be learned; `changed` is called where the memories are others now."""
        with self._lock:
            before = self.bank.version
            self.bank.record(reported.shown, reported.won)
            learned: list[MemoryId] = []
            if self._writes and reported.verified:
                learned = self._learn(reported)
            if self.bank.version != before:
                changed()
        return {"learned": learned}

    def _learn(self, reported: Reported) -> list[MemoryId]:
        strategy = self._student.injector.strategy
        assert strategy is not None
        alive = {memory.id for memory in self.bank.view().memories()}
        told = strategy.feedback(Outcome(reported.answered.asked.injected.key.id, reported.won, reported.steps), reported.shown)
        edits = [edit for edit in told if edit.op == "retire" and edit.target in alive]
        if reported.won:
            known = {memory.id for memory in self._base.memories()}
            written = strategy.write(self._episode(reported), joined(self._base, self.bank.view()), None)
            new = [edit for edit in written if edit.memory and edit.memory.id not in known | alive]
            edits += [BankEdit("add", f"{REASON}: {edit.reason}", edit.memory) for edit in new]
        if edits:
            self.bank.apply(edits)
        return [edit.memory.id for edit in edits if edit.memory]

    def _episode(self, reported: Reported) -> Trajectory:
        """The conversation as a trajectory of the run's own split, without secrets. Raises `DataError` without a task."""
        answered = reported.answered
        request, injected = answered.asked.request, answered.asked.injected
        if not injected.key.goal:
            raise DataError("The episode's task was not found in its messages: nothing can be learned from it.")
        told = tuple(self._clean(message) for message in (*request.messages, answered.answer.message))
        record = Record(
            told, Place("served", 0), tools=request.tools, id=injected.key.id, model=self._student.name, success=True
        )
        split = self.bank.pins.splits[0]
        made = trajectory(record, Options(self._licence), self._student.injector.layout, "serve", split)
        goal, scene = self._redactor.text(injected.key.goal), self._redactor.text(injected.key.scene)
        return replace(made, goal=goal, scene=scene)

    def _clean(self, message: Message) -> Message:
        clean = self._redactor.text
        calls = tuple(ToolCall(call.name, clean(call.arguments), call.id) for call in message.tool_calls)
        parts = tuple(TextPart(clean(part.text)) for part in message.parts)
        return Message(message.role, parts, calls, message.tool_call_id, "")

    def close(self) -> None:
        self.bank.close()


def overlay_of(path: Path, base: Bank) -> Bank:
    """The overlay of a bank, made the first time. Raises `MismatchError` for one of another embedder, layout or splits."""
    wanted = base.pins
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return Bank.create(path, base.embedder, wanted.layout, wanted.splits)
    if pins(path) != wanted:
        raise MismatchError(f"{path} was learned beside another bank. Fold it in with `duomem merge`, or use another --state.")
    return Bank.open(path, base.embedder, wanted.layout)
