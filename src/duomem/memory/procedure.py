"""Procedural memories: a short script of what worked, the reference trajectory, or both (the three builds of MemP).

In: won trajectories; goals of new episodes. Out: one memory per trajectory, keyed by its goal; the nearest ones at an
episode's first turn. Rules write them from the trajectory's text alone (`_script`); a teacher model is not asked.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from duomem.memory import BankView
from duomem.memory._common import Counter, Tally, count_tokens, provenance, recall
from duomem.memory._script import RULES, events, script, transcript
from duomem.models import Model
from duomem.types import BankEdit, Budget, EpisodeView, Memory, MemoryId, Outcome, Recall, Trajectory, digest


class Config(BaseModel):
    """How procedural memories are written and shown."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    build: Literal["script", "trajectory", "both"] = "script"
    """What a memory says: numbered steps without instance numbers, the winning commands, or both."""
    key: Literal["goal", "goal+scene"] = "goal"
    """What is embedded to find it: the task's words, or these and the first observation."""
    fit: float = Field(default=0.5, ge=0)
    """What a memory's similarity gains, at most, for naming things that the present goal and scene have; 0: nothing."""
    distinct: bool = True
    """Pass over a memory whose steps equal those of a nearer one, so that k memories are k different procedures."""
    observation_words: int = Field(default=16, ge=0)
    """Words kept of each observation in a reference trajectory."""
    retire_after: int = Field(default=0, ge=0)
    """Retire a memory that was shown so many times and won too rarely (MemP: 3); 0: never."""
    retire_below: float = Field(default=0.5, ge=0, le=1)
    """The share of won episodes below which it is retired."""


class Procedure:
    """The strategy; see the contract in `duomem.memory`."""

    def __init__(self, config: Config, count: Counter = count_tokens) -> None:
        self._config = config
        self._count = count
        self._written_by = f"rules:{digest([RULES, config.build, config.key, config.observation_words])[:12]}"
        self._tally = Tally(config.retire_after, config.retire_below)
        self._lock = threading.Lock()

    def write(self, trajectory: Trajectory, bank: BankView, teacher: Model | None) -> Sequence[BankEdit]:
        """One memory of a won trajectory in which anything was done, else none."""
        text = self._text(trajectory) if trajectory.won else ""
        if not text:
            return []
        key = self._key(trajectory.goal, trajectory.scene)
        memory = Memory(key, text, self._config.build, provenance(trajectory, self._written_by))
        return [BankEdit("add", f"won in {len(trajectory.turns)} turns", memory)]

    def _text(self, trajectory: Trajectory) -> str:
        found = events(trajectory)
        if not any(event.object for event in found):
            return ""
        lines = script(trajectory.goal, found)
        if self._config.build == "script":
            return lines
        shown = transcript(found, self._config.observation_words)
        return f"{lines if self._config.build == 'both' else trajectory.goal.strip()}\n{shown}"

    def _key(self, goal: str, scene: str) -> str:
        return goal.strip() if self._config.key == "goal" else f"{goal.strip()}\n{scene.strip()}"

    def recall(self, view: EpisodeView, bank: BankView, budget: Budget) -> Recall:
        """The nearest memories at the first turn, nothing later: the prompt only ever grows at its end."""
        if view.turns:
            return Recall()
        query = self._key(view.goal, view.scene)
        return recall(view, bank, budget, query, distinct=self._config.distinct, count=self._count, fit=self._config.fit)

    def feedback(self, outcome: Outcome, shown: Sequence[MemoryId]) -> Sequence[BankEdit]:
        """Retires what did not help often enough, where the config asks for it."""
        with self._lock:
            reasons = {memory: self._tally.count(memory, outcome.won) for memory in shown}
        return [BankEdit("retire", reason, target=memory) for memory, reason in reasons.items() if reason]


def build(config: Config, count: Counter = count_tokens) -> Procedure:
    """`count` gives the tokens of a text, for the budget; the default is an upper estimate without a tokenizer."""
    return Procedure(config, count)
