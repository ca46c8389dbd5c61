"""Verbatim memories: the goal and the transcript as it happened, cut to a token budget. The trivial second strategy.

In: won trajectories; goals of new episodes. Out: one memory per trajectory, keyed by its goal; the nearest at the first turn.
It changes no word, drops no mistake and learns nothing from outcomes.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from duomem.memory import BankView
from duomem.memory._common import Counter, count_tokens, provenance, recall
from duomem.memory._prompts import command_of
from duomem.models import Model
from duomem.types import BankEdit, Budget, EpisodeView, Memory, MemoryId, Outcome, Recall, Trajectory


class Config(BaseModel):
    """How transcripts are kept."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    tokens: int = Field(default=400, gt=0)
    """Longest memory, in tokens; whole turns are left off at the end."""


class Verbatim:
    """The strategy; see the contract in `duomem.memory`."""

    def __init__(self, config: Config, count: Counter = count_tokens) -> None:
        self._config = config
        self._count = count

    def write(self, trajectory: Trajectory, bank: BankView, teacher: Model | None) -> Sequence[BankEdit]:
        if not trajectory.won:
            return []
        lines = [trajectory.goal.strip()]
        for turn in trajectory.turns:
            called = command_of(turn) if turn.reply.message.tool_calls else ""
            said = "\n".join(part for part in (turn.reply.message.text.strip(), called) if part)
            spoken = f"{said}\n{turn.observation.strip()}"
            if self._count("\n".join([*lines, spoken])) > self._config.tokens:
                break
            lines.append(spoken)
        memory = Memory(lines[0], "\n".join(lines), "verbatim", provenance(trajectory, "rules:verbatim-1"))
        return [BankEdit("add", f"won in {len(trajectory.turns)} turns", memory)]

    def recall(self, view: EpisodeView, bank: BankView, budget: Budget) -> Recall:
        if view.turns:
            return Recall()
        return recall(view, bank, budget, view.goal.strip(), distinct=False, count=self._count)

    def feedback(self, outcome: Outcome, shown: Sequence[MemoryId]) -> Sequence[BankEdit]:
        return []


def build(config: Config, count: Counter = count_tokens) -> Verbatim:
    """`count` gives the tokens of a text, for the budgets; the default is an upper estimate without a tokenizer."""
    return Verbatim(config, count)
