"""Which of our models writes scripts from episodes that it has not seen: usable ones, and ones equal to the rules'.

    python bench/writers.py --run runs/alfworld-pocket --model pocket --model pocket/teacher [--json]

In: models, a run whose won episodes they read (real tasks), and as many invented ones, of another seed than any corpus has.
Out: for each model and source the share that the writer's checks accept, and the share that is word for word what the
rules write. Not here: what such memories are worth to a student (`configs/sweeps/writers.toml`).
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from _common import arguments, report
from duomem import pipeline
from duomem.memory._answers import Unusable
from duomem.memory._prompts import load_prompts
from duomem.memory._script import events, script
from duomem.memory._writer import Writer
from duomem.models import hf
from duomem.pocket.play import Recipe
from duomem.pocket.teacher_corpus import invented
from duomem.prompts import load_layout
from duomem.rundir import open_run
from duomem.types import Sampling, Trajectory

SEED = 90_001
AT_ONCE = 16


def recorded(run: Path, number: int) -> list[Trajectory]:
    """A seeded sample of the run's won episodes."""
    won = [each for folder in open_run(run).seeds() for each in pipeline.successes(folder)]
    won.sort(key=lambda each: each.content_hash)
    return random.Random(SEED).sample(won, min(number, len(won)))


def imagined(number: int) -> list[Trajectory]:
    layout = load_layout("pocket")
    return [invented(random.Random(f"{SEED}/{index}"), layout, Recipe(), f"{index}") for index in range(number)]


def measure(model: str, source: str, trajectories: Sequence[Trajectory], words: int, *, verbose: bool) -> None:
    loaded = hf.build(hf.Config(path=model, max_batch=AT_ONCE))
    writer = Writer(loaded, load_prompts("pocket"), Sampling(0.0, 200), tries=1, words=words)

    def answer(trajectory: Trajectory) -> tuple[str, str]:
        wanted = script(trajectory.goal, events(trajectory))
        try:
            said = writer.script(trajectory, trajectory.turns).text
        except Unusable as why:
            return "refused", f"{why}"
        return ("exact" if said == wanted else "other"), f"{said}\n--- rules:\n{wanted}"

    started = time.perf_counter()
    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            answers = list(pool.map(answer, trajectories))
    finally:
        loaded.close()
    if verbose:
        print(*(f"[{kind}] {text}" for kind, text in answers if kind != "exact"), sep="\n\n", file=sys.stderr)
    kinds = Counter(kind for kind, _ in answers)
    report(
        "writers",
        value=round(kinds["exact"] / len(answers), 3),
        model=model,
        source=source,
        episodes=len(answers),
        usable=round(1 - kinds["refused"] / len(answers), 3),
        exact=round(kinds["exact"] / len(answers), 3),
        words=words,
        seconds=round(time.perf_counter() - started, 1),
    )


def main() -> None:
    options = arguments(
        __doc__ or "",
        lambda parser: [
            parser.add_argument("--run", type=Path, help="run folder with won episodes"),
            parser.add_argument("--model", action="append", required=True, help='"pocket", "pocket/teacher" or a folder'),
            parser.add_argument("--episodes", type=int, default=100),
            parser.add_argument("--words", type=int, default=40, help="memory.writer_words"),
            parser.add_argument("--show", action="store_true", help="print answers that differ, on standard error"),
        ],
    )
    sources = {"invented": imagined(options.episodes)}
    if options.run:
        sources["recorded"] = recorded(options.run, options.episodes)
    for model in options.model:
        for source, trajectories in sources.items():
            measure(model, source, trajectories, options.words, verbose=options.show)


if __name__ == "__main__":
    main()
