"""A collection from an endpoint in a process of its own, for tests that kill it: `paid_child.py JOURNAL URL EPISODES`."""

from __future__ import annotations

import sys

from duomem.agent import Player
from duomem.envs import household
from duomem.journal import Journal
from duomem.models import openai_api
from duomem.prompts import load_layout
from duomem.rollout import Job, rollout

CONCURRENCY = 3


def main(journal: str, url: str, episodes: int) -> None:
    env = household.build(household.Config(games=episodes, seed=5))
    model = openai_api.build(openai_api.Config(base_url=url, remote_model="tiny", key_env="", backoff_s=0.01))
    player = Player(env, model, load_layout("pocket"), max_steps=6)
    jobs = [Job(task) for task in env.tasks("train")]
    with Journal.open(journal) as opened:
        done = rollout(jobs, player, journal=opened, phase="collect", concurrency=CONCURRENCY)
        print(len(done.trajectories), len(done.undone), opened.content_hash("collect"))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
