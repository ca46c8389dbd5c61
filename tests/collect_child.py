"""A collection in a process of its own, for tests that kill it: `collect_child.py JOURNAL LOG EPISODES CONCURRENCY`.

Out: the journal, and in LOG one line per call of the model, written before the model answers. It prints how the rollout ended.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

from duomem.agent import Player
from duomem.envs import household
from duomem.journal import Journal
from duomem.models import expert
from duomem.prompts import load_layout
from duomem.rollout import Job, rollout
from duomem.types import Message, Reply, Sampling, Tool


class Paid(expert.Expert):
    """The expert, slow and paid for by the call; an episode's sampling seed is its own, so it names the episode."""

    def __init__(self, log: int | None) -> None:
        super().__init__(expert.Config(layout="pocket", slip=0.2))
        self._log = log

    def reply(self, messages: Sequence[Message], tools: Sequence[Tool], sampling: Sampling) -> Reply:
        if self._log is not None:
            os.write(self._log, f"{sampling.seed} {len(messages)}\n".encode())
            time.sleep(0.002)
        return super().reply(messages, tools, sampling)


def collection(episodes: int, log: int | None = None) -> tuple[list[Job], Player]:
    env = household.build(household.Config(games=episodes, seed=5))
    return [Job(task) for task in env.tasks("train")], Player(env, Paid(log), load_layout("pocket"), max_steps=15)


def main(journal: str, log: str, episodes: int, concurrency: int) -> None:
    jobs, player = collection(episodes, os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND))
    with Journal.open(journal) as opened:
        result = rollout(jobs, player, journal=opened, phase="collect", concurrency=concurrency)
    print(len(result.trajectories), len(result.undone), result.stopped)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
