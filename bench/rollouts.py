"""P3: wall-clock of 64 rollouts of unequal length, against lock-step batches of the same size.

In: nothing; episodes of the household played by the expert, each call of the model taking the time of a served one (log-normal,
median 40 ms, sigma 0.5, fixed by the conversation). Out: one JSON line: `ratio` = lock-step seconds / ours, `equal` = the same
trajectories. Lock-step is a batch whose turns wait for each other and whose slots stay empty until the batch has ended.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from tempfile import TemporaryDirectory

from _common import arguments, median_of, report
from duomem.agent import Player
from duomem.envs import Env, Episode, household
from duomem.journal import Journal
from duomem.models import expert
from duomem.prompts import load_layout
from duomem.rollout import Job, rollout
from duomem.types import Labels, Message, Reply, Sampling, Task, Tool, run_hash

EPISODES, SLOTS = 64, 16


class Served(expert.Expert):
    """The expert behind a service that answers any number of callers at once."""

    def reply(self, messages: Sequence[Message], tools: Sequence[Tool], sampling: Sampling) -> Reply:
        time.sleep(0.04 * math.exp(random.Random(f"{sampling.seed} {len(messages)}").gauss(0, 0.5)))
        return super().reply(messages, tools, sampling)


class LockStep(Served):
    """Hands out replies only when all running episodes of the batch have theirs."""

    def __init__(self, config: expert.Config) -> None:
        super().__init__(config)
        self.running = self.waiting = self.turn = 0
        self.change = threading.Condition()

    def reply(self, messages: Sequence[Message], tools: Sequence[Tool], sampling: Sampling) -> Reply:
        reply = super().reply(messages, tools, sampling)
        with self.change:
            turn = self.turn
            self.waiting += 1
            self._advance()
            self.change.wait_for(lambda: self.turn != turn)
        return reply

    def ended(self) -> None:
        with self.change:
            self.running -= 1
            self._advance()

    def _advance(self) -> None:
        if self.waiting == self.running:
            self.turn, self.waiting = self.turn + 1, 0
            self.change.notify_all()


class Told:
    """An environment that says when an episode has ended."""

    def __init__(self, env: Env, ended: Callable[[], None]) -> None:
        self.env, self.ended = env, ended

    def tasks(self, split: str) -> Sequence[Task]:
        return self.env.tasks(split)

    def labels(self, task: Task) -> Labels:
        return self.env.labels(task)

    def provenance(self) -> dict[str, str]:
        return self.env.provenance()

    def open(self, task: Task) -> Episode:
        episode = self.env.open(task)
        close = episode.close

        def close_and_tell() -> None:
            close()
            self.ended()

        episode.close = close_and_tell  # type: ignore[method-assign]
        return episode


def main() -> None:
    options = arguments(__doc__ or "")
    env = household.build(household.Config(games=EPISODES, seed=1))
    teacher = expert.Config(layout="pocket", slip=0.2)
    player = Player(env, Served(teacher), load_layout("pocket"))
    jobs = [Job(task) for task in env.tasks("train")]
    hashes: dict[str, set[str]] = {"ours": set(), "lock-step": set()}
    lengths: list[int] = []

    def ours() -> None:
        with TemporaryDirectory() as folder, Journal.open(f"{folder}/journal.sqlite") as journal:
            found = rollout(jobs, player, journal=journal, concurrency=SLOTS).trajectories
        lengths[:] = [len(item.turns) for item in found]
        hashes["ours"].add(run_hash(found))

    def lock_step() -> None:
        model = LockStep(teacher)
        batched = replace(player, env=Told(env, model.ended), model=model)
        found = []
        with TemporaryDirectory() as folder, Journal.open(f"{folder}/journal.sqlite") as journal:
            for start in range(0, EPISODES, SLOTS):
                batch = jobs[start : start + SLOTS]
                model.running = len(batch)
                found += rollout(batch, batched, journal=journal, concurrency=SLOTS).trajectories
        hashes["lock-step"].add(run_hash(found))

    slow, fast = median_of(3, lock_step, ours)
    equal = hashes["ours"] == hashes["lock-step"] and len(hashes["ours"]) == 1
    if not options.json:
        print(f"{EPISODES} episodes of {min(lengths)}-{max(lengths)} turns: lock-step {slow:.2f} s, ours {fast:.2f} s")
    report("P3", ratio=slow / fast, equal=equal, episodes=EPISODES, slots=SLOTS, lock_step_s=slow, ours_s=fast)


if __name__ == "__main__":
    main()
