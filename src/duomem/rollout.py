"""Many episodes at once, without lock-step: a slot whose episode ends takes the next job at once.

In: jobs (task and attempt), a player, a journal and its phase, limits. Out: a `Rollout`: trajectories sorted by task id and
attempt, the same whatever the concurrency, with infrastructure errors apart and the jobs that are left. What the journal has an
outcome for is not played again. It doesn't play (agent.py does) and doesn't score.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from duomem.agent import Played, Player
from duomem.errors import BudgetSpent, DuomemError, InfraError, UsageError
from duomem.journal import Journal
from duomem.types import StopReason, Task, Trajectory, Usage

GRACE_S = 10.0
"""Seconds that a cancelled rollout waits for calls in flight; what they cut stays resumable."""
_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Job:
    """One episode to play."""

    task: Task
    attempt: int = 0

    @property
    def key(self) -> tuple[str, int]:
        return self.task.id, self.attempt


@dataclass(frozen=True, slots=True)
class Limits:
    """What one call of `rollout` may spend; None: no limit. Replayed replies are free.

    `episodes` bounds how many are started. `tokens` (prompt and completion) and `seconds` are looked at before each call of the
    model, so that they are passed by at most the calls in flight.
    """

    episodes: int | None = None
    tokens: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a rollout is. `done` counts outcomes, those that the journal had (`kept`) included; seconds are wall-clock."""

    done: int
    total: int
    kept: int
    won: int
    errors: int
    usage: Usage
    seconds: float


@dataclass(frozen=True, slots=True)
class Rollout:
    """What came of a rollout. Only `trajectories` say something about the agent."""

    trajectories: tuple[Trajectory, ...]
    """Outcomes, those of earlier calls included."""
    errors: tuple[Trajectory, ...]
    """Episodes that still failed after the retries; they are among `undone`."""
    undone: tuple[Job, ...]
    """Jobs without an outcome. The same call with the same journal goes on with them."""
    stopped: StopReason | None
    """INTERRUPTED or BUDGET where that ended it early."""
    usage: Usage
    """What this call spent."""
    seconds: float
    why: str = ""
    """What a model's own limit said, where that stopped it."""

    @property
    def complete(self) -> bool:
        return not self.undone


def rollout(
    jobs: Sequence[Job],
    player: Player,
    *,
    journal: Journal | None = None,
    phase: str = "",
    concurrency: int = 16,
    budget: Limits | None = None,
    retries: int = 2,
    backoff_s: float = 1.0,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
    grace_s: float = GRACE_S,
) -> Rollout:
    """Play the jobs that have no outcome yet, `concurrency` at a time.

    An episode that ends with an `InfraError` is played again up to `retries` times, `backoff_s` * 2^n seconds apart. Ctrl-C or
    `cancel` stops it after the calls in flight (waited for `grace_s` at most) and returns what there is; a second Ctrl-C does
    not wait. `progress` is called in the caller's thread. Raises `StoreError` when the journal cannot be written, `UsageError`
    for a job given twice, and, after all episodes have been played, the first programming error.
    """
    if len({job.key for job in jobs}) < len(jobs):
        raise UsageError("A task and attempt is in the jobs twice. Give each once, or number the attempts.")
    kept = _kept(jobs, journal, phase)
    todo = [job for job in jobs if job.key not in kept]
    pool = _Pool(todo, player, journal, phase, budget or Limits(), retries, backoff_s, cancel or threading.Event())
    tally = _Tally(len(jobs), kept, pool.gate, progress)
    pool.start(min(concurrency, len(todo)))
    try:
        try:
            pool.drain(tally.add, grace_s)
        except KeyboardInterrupt:
            pool.gate.cancel.set()
            pool.drain(tally.add, grace_s)
    except KeyboardInterrupt:
        pass
    return tally.result(jobs)


def _kept(jobs: Sequence[Job], journal: Journal | None, phase: str) -> dict[tuple[str, int], Trajectory]:
    if journal is None:
        return {}
    wanted = {job.key for job in jobs}
    found = {(trajectory.task.id, trajectory.attempt): trajectory for trajectory in journal.trajectories(phase)}
    return {key: trajectory for key, trajectory in found.items() if key in wanted}


class _Gate:
    """Says whether episodes may go on, and counts what they cost."""

    def __init__(self, limits: Limits, cancel: threading.Event) -> None:
        self.limits, self.cancel = limits, cancel
        self.started = time.monotonic()
        self.usage = Usage()
        self.spent = ""
        """What a model said that may not be asked again for its price."""
        self._lock = threading.Lock()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def paid(self, usage: Usage) -> None:
        with self._lock:
            self.usage += usage

    def halt(self) -> StopReason | None:
        if self.cancel.is_set():
            return StopReason.INTERRUPTED
        tokens, seconds = self.limits.tokens, self.limits.seconds
        spent = tokens is not None and self.usage.prompt + self.usage.completion >= tokens
        late = seconds is not None and self.seconds >= seconds
        return StopReason.BUDGET if spent or late or self.spent else None


class _Pool:
    """Threads that take jobs until there are none.

    They are daemons: a call of the model that never returns must not keep a cancelled process alive.
    """

    def __init__(
        self,
        todo: Sequence[Job],
        player: Player,
        journal: Journal | None,
        phase: str,
        limits: Limits,
        retries: int,
        backoff_s: float,
        cancel: threading.Event,
    ) -> None:
        self.gate = _Gate(limits, cancel)
        self._jobs = deque(todo[: limits.episodes])
        self._player, self._journal, self._phase = player, journal, phase
        self._retries, self._backoff_s = retries, backoff_s
        self._ends: queue.SimpleQueue[Played | DuomemError | None] = queue.SimpleQueue()
        self._running = 0
        self._fatal: DuomemError | None = None

    def start(self, threads: int) -> None:
        for number in range(threads):
            self._running += 1
            threading.Thread(target=self._work, name=f"rollout-{number}", daemon=True).start()

    def drain(self, add: Callable[[Played], None], grace_s: float) -> None:
        """Take the ends of episodes as they come, until every thread has ended or `grace_s` seconds after a cancel."""
        deadline = math.inf
        while self._running and time.monotonic() < deadline:
            if self.gate.cancel.is_set() and deadline == math.inf:
                deadline = time.monotonic() + grace_s
            try:
                end = self._ends.get(timeout=_POLL_S)
            except queue.Empty:
                continue
            if end is None:
                self._running -= 1
            elif isinstance(end, DuomemError):
                self._fatal = self._fatal or end
                self.gate.cancel.set()
            else:
                add(end)
        if self._fatal:
            raise self._fatal

    def _work(self) -> None:
        try:
            while not self.gate.halt():
                try:
                    job = self._jobs.popleft()
                except IndexError:
                    return
                self._ends.put(self._play(job))
        except DuomemError as error:
            # What `run` raises is the journal's: it cannot be written, so that nothing more may be played.
            self._ends.put(error)
        finally:
            self._ends.put(None)

    def _play(self, job: Job) -> Played:
        for number in range(self._retries + 1):
            played = self._player.run(job.task, job.attempt, self._journal, self._phase, gate=self.gate)
            again = isinstance(played.failure, InfraError) and number < self._retries
            if isinstance(played.failure, BudgetSpent):
                self.gate.spent = str(played.failure)
            if not again or self.gate.halt() or self.gate.cancel.wait(self._backoff_s * 2**number):
                break
        return played


class _Tally:
    """Gathers what came of the episodes."""

    def __init__(
        self,
        total: int,
        kept: dict[tuple[str, int], Trajectory],
        gate: _Gate,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self.total, self.kept, self.gate, self.progress = total, len(kept), gate, progress
        self.outcomes = dict(kept)
        self.errors: dict[tuple[str, int], Trajectory] = {}
        self.bugs: list[Played] = []
        self._report()

    def add(self, played: Played) -> None:
        trajectory = played.trajectory
        key = (trajectory.task.id, trajectory.attempt)
        if trajectory.stop.is_outcome:
            self.outcomes[key] = trajectory
        elif trajectory.stop is StopReason.ERROR:
            self.errors[key] = trajectory
        if played.bug:
            self.bugs.append(played)
        self._report()

    def _report(self) -> None:
        if self.progress:
            won = sum(trajectory.won for trajectory in self.outcomes.values())
            done, errors = len(self.outcomes), len(self.errors)
            self.progress(Progress(done, self.total, self.kept, won, errors, self.gate.usage, self.gate.seconds))

    def result(self, jobs: Sequence[Job]) -> Rollout:
        if self.bugs:
            first = self.bugs[0]
            assert first.failure is not None
            first.failure.add_note(f"In {first.trajectory.task.id}; {len(self.bugs)} episodes ended with a programming error.")
            raise first.failure
        undone = tuple(sorted((job for job in jobs if job.key not in self.outcomes), key=lambda job: job.key))
        stopped = self.gate.halt()
        if stopped is None and len(undone) > len(self.errors):
            if self.gate.limits.episodes is None:
                raise RuntimeError("A thread of the rollout died; its traceback is above.")
            stopped = StopReason.BUDGET
        return Rollout(
            trajectories=tuple(self.outcomes[key] for key in sorted(self.outcomes)),
            errors=tuple(self.errors[key] for key in sorted(self.errors)),
            undone=undone,
            stopped=stopped if undone else None,
            usage=self.gate.usage,
            seconds=self.gate.seconds,
            why=self.gate.spent,
        )
