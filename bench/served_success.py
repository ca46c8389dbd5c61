"""Success over the server against the student in process: the same games, an agent with OpenAI's client on one side.

In: a run folder (`--run`, with `--split` and `--data` as `duomem evaluate` has them), else a small run of the household twin
that is made here. Out: one JSON line: `value` = success over the server less that in process, with its paired interval, and in
how many games every command was the same. The engine runs in its own process, as `duomem serve` has it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import openai

from _agent import commands_of, play
from _common import arguments, report
from duomem import parts, pipeline, stats
from duomem.config import settings_of
from duomem.rundir import RunFolder, open_run
from duomem.scores import ARMS
from duomem.serve.app import Setup
from duomem.serve.run import running
from duomem.serve.stand import Stand
from duomem.serve.student import Choice


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", type=Path, help="a run folder; none: a small household run is made")
    parser.add_argument("--arm", default="", help="none, memory, adapter or both")
    parser.add_argument("--engine", default="", help="hf or llamacpp for the server; in process it is the run's own")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--data", type=Path, help="the data root of the games")
    parser.add_argument("--games", type=int, default=100)
    parser.add_argument("--at-once", type=int, default=4)


@contextmanager
def _run(path: Path | None, games: int) -> Iterator[RunFolder]:
    if path:
        yield open_run(path, keep=False)
        return
    with TemporaryDirectory(prefix="duomem-bench-") as folder:
        tables = {
            "env": {"name": "household", "games": games},
            "teacher": {"model": "expert", "tasks": 60},
            "student": {"model": "llamacpp"},
            "memory": {"embedder": "lexical", "k": 2},
        }
        made = RunFolder(Path(folder) / "run", settings_of(tables, "bench"))
        made.write_config()
        pipeline.collect(made)
        pipeline.remember(made)
        yield made


def main() -> None:
    given = arguments(__doc__ or "", _options)
    with _run(given.run, given.games) as run:
        env = parts.environment(run, given.data)
        tasks = list(env.tasks(given.split))[: given.games]
        seed = run.seeds()[0]
        steps = seed.settings.rollout.max_steps
        choice = Choice(arm=given.arm, engine=given.engine)
        with Stand(run.root, choice, Setup()) as stand, running(stand.application) as url:
            arm, layout = ARMS[stand.student.facts["arm"]], stand.student.injector.layout
            client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
            with ThreadPoolExecutor(given.at_once) as pool:
                games = list(pool.map(lambda task: play(client, env, task, layout, steps), tasks))
        with parts.Parts(run, "bench") as loaded:
            bank = loaded.bank(seed) if arm.memories == "bank" else None
            player = loaded.student(seed, env, seed.adapter if arm.adapter else None, bank)
            with ThreadPoolExecutor(given.at_once) as pool:
                played = list(pool.map(player.play, tasks))
    gaps = np.array([[float(game.won) - float(each.won) for game, each in zip(games, played, strict=True)]])
    gap = stats.crossed_bootstrap(gaps)
    same = sum(game.commands == commands_of(each.turns) for game, each in zip(games, played, strict=True))
    report(
        "serve-success",
        value=gap.estimate,
        equal=same == len(tasks),
        low=gap.low,
        high=gap.high,
        games=len(tasks),
        served=sum(game.won for game in games) / len(tasks),
        in_process=sum(each.won for each in played) / len(tasks),
        same_games=same,
        arm=arm.name,
        engine=choice.engine or seed.settings.student.model,
        split=given.split,
    )


if __name__ == "__main__":
    main()
