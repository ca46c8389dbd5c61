"""The log of a sweep: taken over from a finished run where there is one, cut to fewer runs, and its adapters where they fit.

In: run folders. Out: collections in other run folders, without a teacher playing again. What a finished run made is taken only
where it is made from the very same inputs; everything else is made anew. Not here: collecting (`pipeline`).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from duomem import rundir
from duomem.each import copy_database, share
from duomem.errors import UsageError
from duomem.journal import Journal
from duomem.rundir import RunFolder
from duomem.types import digest, run_hash

_ADAPTER = ("tune", "tune.begun")


def take_over(source: Path, log: RunFolder) -> None:
    """The games and the teacher's episodes of a finished run, for the seeds that it has; a log that is there stays.

    Raises `UsageError` where `source` is no run with episodes.
    """
    given = rundir.open_run(source, keep=False)
    seeds = {seed.settings.run.seed: seed for seed in given.seeds()}
    if not any(seed.journal.is_file() for seed in seeds.values()):
        raise UsageError(f"{source} holds no teacher's episodes. Run first: duomem collect {source}")
    for split in sorted((given.games / "json_2.1.1").glob("*")):
        wanted = log.settings.games.get(split.name) == given.settings.games.get(split.name)
        target = log.games / "json_2.1.1" / split.name
        if wanted and not target.exists():
            shutil.copytree(split, target)
    for seed in log.seeds():
        if seed.settings.run.seed in seeds:
            share(seeds[seed.settings.run.seed], seed)


def adapter_of(source: Path, made: RunFolder) -> None:
    """The finished run's adapter of this seed, as a start: `tune` keeps it where it would train the very same, else begins
    anew."""
    given = rundir.open_run(source, keep=False)
    found = next((seed for seed in given.seeds() if seed.settings.run.seed == made.settings.run.seed), None)
    if found is None or not found.adapter.is_dir() or made.adapter.exists():
        return
    steps = json.loads((found.root / "steps.json").read_text(encoding="utf-8"))
    shutil.copytree(found.adapter.parent, made.adapter.parent, dirs_exist_ok=True)
    for verb in _ADAPTER:
        if verb in steps:
            made.record(verb, steps[verb]["inputs"], steps[verb]["result"])


def cut(log: RunFolder, target: RunFolder, runs: int) -> None:
    """The log, or a seeded sample of so many of its tasks, as the target's collection. Smaller samples are parts of larger
    ones."""
    collected = log.result("collect")
    inputs = rundir.key(collected["content_hash"], runs)
    if target.done("collect", inputs) and target.journal.is_file():
        return
    target.write_config()
    if runs:
        seed = log.settings.run.seed
        chosen = set(sorted(collected["tasks"], key=lambda task: digest([seed, task]))[:runs])
        with Journal.open(log.journal, readonly=True) as journal:
            found = [each for each in journal.trajectories(collected["phase"]) if each.task.id in chosen]
        collected |= {
            "tasks": sorted(chosen),
            "episodes": len(found),
            "won": sum(each.won for each in found),
            "content_hash": run_hash(found),
        }
    copy_database(log.journal, target.journal)
    target.record("collect", inputs, collected)
