"""P30: what a task costs the student in seconds, against the teacher, on the same games.

In: nothing; the pocket student with the expert's memories and the pocket teacher without, both in transformers on one thread,
dev games of the household twin. Out: one JSON line: `ratio` = the student's seconds a task / the teacher's, of the processor
(a busy machine moves them least); `wall_ratio` beside it. Games alternate between the two. Where no trained teacher is in the
package, an untrained one of its size is grown from the base: `teacher` says which. The pocket teacher is half as large again as
the student: a ratio near 1/3 is not to be expected of this pair.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from _common import arguments, report
from duomem import parts, weights
from duomem.agent import Player
from duomem.envs import household
from duomem.models import hf
from duomem.pocket import teacher
from duomem.prompts import load_layout
from duomem.types import Budget, Sampling, Task
from engines import make_run

LAYOUT = load_layout("pocket")


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--games", type=int, default=12, help="dev games")
    parser.add_argument("--grown", action="store_true", help="an untrained teacher even where a trained one is there")


class Clock:
    """Seconds, turns and wins of one player."""

    def __init__(self, player: Player) -> None:
        self.player = player
        self.wall = self.processor = 0.0
        self.turns = self.won = 0

    def play(self, task: Task) -> None:
        wall, processor = time.perf_counter(), time.process_time()
        episode = self.player.play(task)
        self.wall += time.perf_counter() - wall
        self.processor += time.process_time() - processor
        self.turns += len(episode.turns)
        self.won += episode.won

    def figures(self, games: int) -> dict[str, float]:
        seconds = {"processor_s": self.processor / games, "wall_s": self.wall / games, "turns": self.turns / games}
        return {name: round(value, 4) for name, value in seconds.items()} | {"won": self.won}


def main() -> None:
    given = arguments(__doc__ or "", options)
    trained = "teacher" in weights.pocket_names() and not given.grown
    with TemporaryDirectory(prefix="duomem-bench-") as name:
        run = make_run(Path(name) / "run", tasks=40, model="hf", threads=1)
        grown = Path(name) / "teacher"
        path = "pocket/teacher" if trained else str(teacher.grown("pocket", grown, teacher.LAYERS, teacher.INNER, 0))
        student, large = (hf.build(hf.Config(path=each, threads=1)) for each in ("pocket", path))
        world = household.build(household.Config(games=given.games + 1))
        with parts.Parts(run, "bench") as opened:
            bank = opened.bank(run)
            assert bank is not None
            strategy, sampling = parts.strategy(run.settings), Sampling(max_tokens=48)
            small = Player(world, student, LAYOUT, strategy, bank.view(), Budget(k=2), sampling, max_steps=20)
            both = [Clock(small), Clock(Player(world, large, LAYOUT, sampling=sampling, max_steps=20))]
            first, *tasks = world.tasks("dev")
            for clock in both:
                clock.player.play(first)  # kernels are made in the first game
            for index, task in enumerate(tasks):
                for clock in both if index % 2 else both[::-1]:
                    clock.play(task)
        for model in (student, large):
            model.close()
    less, more = both
    arms = {"student": less.figures(len(tasks)), "teacher": more.figures(len(tasks))}
    ratio, wall = less.processor / more.processor, round(less.wall / more.wall, 3)
    said = "trained" if trained else "grown, not trained"
    report("P30", ratio=ratio, wall_ratio=wall, games=len(tasks), teacher=said, arms=arms)


if __name__ == "__main__":
    main()
