"""A collection in a process of its own, for tests that kill it: `collect_child.py JOURNAL LOG EPISODES CONCURRENCY`.

Out: the journal, and in LOG one line per call of the model, written before the model answers. It prints how the rollout ended.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

from corridor import Corridor, walker
from duomem.agent import Player
from duomem.journal import Journal
from duomem.models.scripted import Scripted
from duomem.prompts import load_layout
from duomem.rollout import Job, rollout
from duomem.types import Message


def main(journal: str, log: str, episodes: int, concurrency: int) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def paid(messages: Sequence[Message]) -> str:
        # The scene names the task, by the number on its sign.
        os.write(file, f"{messages[1].text!r} {len(messages)}\n".encode())
        time.sleep(0.002)
        return walker(messages)

    env = Corridor(episodes, numbered=True)
    player = Player(env, Scripted(paid), load_layout("default"), max_steps=12)
    jobs = [Job(task) for task in env.tasks("train")]
    with Journal.open(journal) as opened:
        result = rollout(jobs, player, journal=opened, phase="collect", concurrency=concurrency)
    print(len(result.trajectories), len(result.undone), result.stopped)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
