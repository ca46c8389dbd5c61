"""One episode: recall, ask, journal, act, and stop with a reason.

In: a `Player` (environment, model, layout, memory, limits) and a task. Out: a trajectory, the same one that the journal keeps.
The turns themselves are in `_episode.py`; here is the edge, with the one broad handler. It doesn't retry and doesn't score.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property

from duomem._episode import Gate, Running
from duomem.constrain import Constrain
from duomem.envs import Env
from duomem.errors import BudgetSpent, DuomemError, StoreError
from duomem.journal import Journal
from duomem.memory import BankView, MemoryStrategy
from duomem.models import Model
from duomem.prompts import Layout
from duomem.types import (
    Budget,
    Origin,
    Sampling,
    StopReason,
    Task,
    Trajectory,
)


@dataclass(frozen=True, slots=True)
class Played:
    """How an episode ended, and the exception behind an ERROR."""

    trajectory: Trajectory
    failure: Exception | None = None

    @property
    def bug(self) -> bool:
        """True where the exception is none of ours: a programming error, which must surface."""
        return self.failure is not None and not isinstance(self.failure, DuomemError)


@dataclass(frozen=True)
class Player:
    """Who plays and how. Safe for many threads as far as its parts are."""

    env: Env
    model: Model
    layout: Layout
    strategy: MemoryStrategy | None = None
    """With `bank` and a `budget.k` above 0, decides which memories are shown."""
    bank: BankView | None = None
    budget: Budget = field(default_factory=Budget)
    sampling: Sampling = field(default_factory=Sampling)
    """`sampling.seed` is the run's seed; each episode samples with `episode_seed` of it."""
    max_steps: int = 30
    """Turns, invalid ones included. 30 is the setting of MemP."""
    timeout_s: float = 120.0
    """Wall-clock seconds, less what a model lost to an endpoint that did not answer (a reply's own seconds count); looked at
    before each call of the model, so a call that hangs is the model's to end."""
    repair: bool = False
    """Strip a trailing period and lower-case commands. Counted in `Turn.repaired`."""
    constrain: Constrain | None = None
    """Gives the grammar that the next reply is held to, from the last observation; None: replies are free."""
    example: bool = False
    """The format-only control: the layout's fixed example stands in the memories' place and no bank is asked."""

    @cached_property
    def origin(self) -> Origin:
        """Where this player's trajectories come from. A model's provenance may name `model`, `revision` and `licence`."""
        model = self.model.provenance()
        return Origin(
            model=model.get("model", ""),
            revision=model.get("revision", ""),
            layout=self.layout.hash,
            env=json.dumps(self.env.provenance(), sort_keys=True),
            seed=self.sampling.seed,
            licence=model.get("licence", ""),
        )

    def play(
        self,
        task: Task,
        attempt: int = 0,
        journal: Journal | None = None,
        phase: str = "",
        *,
        exclude: frozenset[str] = frozenset(),
        gate: Gate | None = None,
    ) -> Trajectory:
        """Play one episode. A programming error is journalled as an ERROR and raised; see `run` for the rest."""
        played = self.run(task, attempt, journal, phase, exclude=exclude, gate=gate)
        if played.bug:
            assert played.failure is not None
            raise played.failure
        return played.trajectory

    def run(
        self,
        task: Task,
        attempt: int = 0,
        journal: Journal | None = None,
        phase: str = "",
        *,
        exclude: frozenset[str] = frozenset(),
        gate: Gate | None = None,
    ) -> Played:
        """Play one episode; whatever goes wrong in it is in the result.

        `exclude` holds content hashes of trajectories whose memories must not be shown; memories of the task itself never are.
        Raises `StoreError` alone, when the journal cannot be written: then nothing more may be played. `DataError` when the
        journal already has this outcome.
        """
        running = Running(self, task, attempt, journal, phase, exclude, gate)
        try:
            return Played(running.finish(running.play()))
        except StoreError:
            raise
        except BudgetSpent as spent:
            return Played(running.finish(StopReason.BUDGET, str(spent)), spent)
        except KeyboardInterrupt:
            running.finish(StopReason.INTERRUPTED)
            raise
        except Exception as failure:  # noqa: BLE001 - the episode's edge: one broken episode never takes the others with it
            return Played(running.finish(StopReason.ERROR, f"{type(failure).__name__}: {failure}"), failure)
