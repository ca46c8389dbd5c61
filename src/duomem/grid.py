"""A run's arms on its games: puts the parts of every seed together, has them scored, and keeps results and report.

In: a run folder whose parts are made, and the games. Out: `evaluate/results.json` and the report, in the run folder or in one
of its own. Not here: playing and scoring (`duomem.evaluate`), the figures and the pages (`duomem.summary`, `duomem.report`).
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from duomem import evaluate as scoring
from duomem import parts, price, report, rundir
from duomem.agent import Player
from duomem.envs import Env
from duomem.errors import LeakError, UsageError
from duomem.journal import Journal
from duomem.rollout import Progress, Rollout
from duomem.rundir import RunFolder
from duomem.scores import Arm, Facts, Results, arms_named
from duomem.summary import summarise
from duomem.talk import Done, Talk
from duomem.types import Labels, StopReason, Task
from duomem.weights import stable_name

LIBRARIES = ("duomem", "alfworld", "textworld", "torch", "transformers", "peft", "numpy", "scipy")


@dataclass(frozen=True)
class Grid:
    """Everything that decides an evaluation of a run."""

    run: RunFolder
    env: Env
    tasks: Sequence[Task]
    games_of: int
    sample_seed: int | None
    seeds: Mapping[int, RunFolder]

    @classmethod
    def of(cls, run: RunFolder, data: Path | None, seeds: Sequence[RunFolder] = ()) -> Grid:
        """The seeded sample of the split's games; `seeds` in place of the run's own. Raises `LeakError` where one of the games
        was the teacher's."""
        table, env = run.settings.evaluate, parts.environment(run, data)
        found = env.tasks(table.split)
        tasks, sample_seed = scoring.sample(found, table.games, table.seed)
        grid = cls(run, env, tasks, len(found), sample_seed, {seed.settings.run.seed: seed for seed in seeds or run.seeds()})
        games = {(task.id, task.data_hash) for task in grid.taught}
        if shared := [task.id for task in tasks if (task.id, task.data_hash) in games]:
            raise LeakError(
                f"{len(shared)} games of {table.split!r} were the teacher's too (the first: {shared[0]}). Take another split."
            )
        return grid

    @cached_property
    def taught(self) -> list[Task]:
        """The tasks of the teacher's episodes, of all seeds."""
        wanted = {task for seed in self.seeds.values() for task in seed.result("collect")["tasks"]}
        tasks = self._teaching.tasks(self.run.settings.teacher.split)
        return [task for task in tasks if task.id in wanted]

    @cached_property
    def labels(self) -> dict[str, Labels]:
        # The games that are played come last: with another data root, ids of the two may coincide.
        return scoring.known_labels((self._teaching, self.taught), (self.env, self.tasks))

    @cached_property
    def _teaching(self) -> Env:
        # An environment of its own, so that the other's record names the evaluated split alone.
        return parts.environment(self.run)

    @cached_property
    def made(self) -> str:
        """A hash of what plays: student, memories and adapters of every seed, and how episodes are played."""
        settings = self.run.settings
        plain = settings.model_dump(mode="json", include={"student", "teacher", "memory", "rollout"})
        rollout = settings.rollout
        plain["rollout"] = {"max_steps": rollout.max_steps} | ({"repair": True} if rollout.repair else {})
        plain["rollout"] |= {"actions": rollout.actions} if rollout.held else {}
        options = [settings.options(table) for table in ("student", "teacher")]
        played = [parts.layout(settings).hash, parts.base_hash(settings)]
        return rundir.key(plain, options, played, [_parts_hash(seed) for seed in self.seeds.values()])

    @property
    def inputs(self) -> str:
        table = self.run.settings.evaluate.model_dump(mode="json", exclude={"also"})
        return rundir.key(self.made, table, [(task.id, task.data_hash) for task in self.tasks])

    def players(self, loaded: parts.Parts) -> dict[str, Callable[[int], Player]]:
        """Who plays each arm with a seed; arms that need a part which the run does not have are left out."""

        def seated(arm: Arm) -> Callable[[int], Player]:
            return lambda seed: scoring.seat(arm, self._parts(loaded, seed, arm), self.labels)

        settings = self.run.settings

        def has_parts(arm: Arm) -> bool:
            return (not arm.adapter or settings.tuning is not None) and (
                settings.remembers or arm.memories in ("none", "example")
            )

        return {arm.name: seated(arm) for arm in arms_named(settings.evaluate.arms) if has_parts(arm)}

    def _parts(self, loaded: parts.Parts, seed: int, arm: Arm) -> scoring.Parts:
        """Only the models that the arm needs are loaded."""
        run = self.seeds[seed]
        if arm.model == "teacher":
            teacher = loaded.teacher(run, self.env)
            return scoring.Parts(teacher, teacher=teacher)
        student = loaded.student(run, self.env, run.adapter if arm.adapter else None)
        return scoring.Parts(student, tuned=student if arm.adapter else None)


def evaluate(run: RunFolder, talk: Talk, data: Path | None = None, out: Path | None = None) -> Done:
    """Score the arms. Raises `Incomplete` where an episode has no outcome; what was played is kept and reported."""
    if data is not None and out is None:
        raise UsageError(f"--data {data}: name a folder for this evaluation too, with --out DIR; the run keeps its own.")
    target = RunFolder(out, run.settings) if out else run
    grid = Grid.of(run, data)
    if target.results.is_file() and target.done("evaluate", grid.inputs):
        talk.note(f"{target.root}: the evaluation is there already.")
        return write_report(run, target) if out else _told(Results.read(target.results))
    target.write_config()
    talk.note(scoring.plan(grid.env, grid.tasks, list(grid.seeds)))
    played = int((run.left("collect") or {}).get("episodes", 0))  # says how long an episode is
    price.tell(run, talk.note, games=len(grid.tasks), episodes=played, finished=played)
    results = score(grid, target, talk)
    rundir.replace(target.results, results.to_json())
    if results.complete:
        wins = {arm.name: sum(score.won for score in results.of(arm.name)) for arm in results.arms}
        target.record("evaluate", grid.inputs, {"split": results.split, "games": len(results.tasks), "won": wins})
    return _told(results) if results.complete and not out else write_report(run, target)


def _told(results: Results) -> Done:
    summary = summarise(results)
    return Done(json.loads(summary.to_json()), report.headline(summary))


def write_report(run: RunFolder, target: RunFolder) -> Done:
    """Write report.{json,md,html} beside the results. Raises `Incomplete` after that where an episode has no outcome."""
    results = Results.read(target.results)
    report.write(results, target.root)
    scoring.require_complete(results, f"duomem evaluate {run.root}")
    done = _told(results)
    words = [done.words, "", f"Look closer: {target.root / 'report.html'}", f"In the browser: duomem ui {target.root}"]
    words += [f"On other games: duomem evaluate {run.root} --data ROOT --split SPLIT --out DIR"] if target is run else []
    return Done(done.data, "\n".join(words))


def score(grid: Grid, target: RunFolder, talk: Talk) -> Results:
    """Play and score the arms that the run's config names; episodes are kept in the journal of `target`."""
    table = grid.run.settings.evaluate
    with Journal.open(target.journal) as journal, parts.Parts(grid.run, "evaluate") as loaded:
        results = scoring.score_arms(
            grid.env,
            grid.tasks,
            grid.players(loaded),
            list(grid.seeds),
            play=_play(grid.run, journal, talk),
            labels=grid.labels,
            split=table.split,
            games_of=grid.games_of,
            sample_seed=grid.sample_seed,
            key=grid.made,
        )
    return replace(results, facts=_facts(grid, results))


def _play(run: RunFolder, journal: Journal, talk: Talk) -> scoring.Play:
    """Play through the journal; Ctrl-C ends the command once the calls in flight are done."""

    def show(phase: str, now: Progress) -> None:
        _, _, arm, seed, *_ = phase.split("/")
        stage = f"{arm} {seed}" if run.settings.run.seeds else arm
        talk.progress(stage, now.done, now.total, f"won {now.won}" + (f", errors {now.errors}" if now.errors else ""))

    inner = scoring.plays(journal, concurrency=run.settings.rollout.concurrency, progress=show)

    def play(player: Player, tasks: Sequence[Task], phase: str) -> Rollout:
        played = inner(player, tasks, phase)
        if played.stopped is StopReason.INTERRUPTED:
            raise KeyboardInterrupt
        if played.why:
            talk.note(played.why)
        return played

    return play


def _parts_hash(run: RunFolder) -> list[str]:
    """What memories and adapter of one seed hold. Raises `UsageError` where one that the config names is not made yet."""
    settings = run.settings
    bank = run.result("remember")["content_hash"] if settings.remembers else ""
    adapter = run.result("tune")["content_hash"] if settings.tuning else ""
    return [bank, adapter]


def _facts(grid: Grid, results: Results) -> Facts:
    """What the report says beside the scores. Sums over seeds; the adapter's parameters are those of one."""
    settings = grid.run.settings
    steps = {verb: [_result(seed, verb) for seed in grid.seeds.values()] for verb in ("collect", "remember", "tune")}
    seconds = {verb: round(sum(step.get("seconds", 0.0) for step in found), 2) for verb, found in steps.items()}
    seconds["evaluate"] = round(sum(score.seconds for score in results.scores), 2)
    rooms = {grid.labels[task.id].room for task in grid.taught}
    played = set(results.rooms)
    first_tune, first_remember = steps["tune"][0], steps["remember"][0]
    return Facts(
        adapter_parameters=first_tune.get("parameters", 0),
        memory_bytes=first_remember.get("bytes", 0),
        memories=first_remember.get("memories", 0),
        seconds=seconds,
        versions=versions(),
        commit=commit(),
        data=grid.env.provenance(),
        hardware={"machine": platform.machine(), "system": platform.system(), "cores": str(os.cpu_count())},
        settings={
            "teacher": settings.teacher.model,
            "teacher_episodes": str(sum(step.get("episodes", 0) for step in steps["collect"])),
            "teacher_won": str(sum(step.get("won", 0) for step in steps["collect"])),
            "student": stable_name(str(settings.options("student").get("path", settings.student.model))),
            "layout": f"{settings.student.layout} {parts.layout(settings).hash}",
            "max_steps": str(settings.rollout.max_steps),
            "k": str(settings.memory.k if settings.memory else 0),
            "embedder": settings.memory.embedder if settings.memory else "none",
            "temperature": str(settings.student.temperature),
            "repair": "ON" if settings.rollout.repair else "off",
            "actions": settings.rollout.actions,
            "training_examples": str(first_tune.get("words", "none")),
            "rooms_shared_with_teaching": f"{len(played & rooms)} of {len(played)}",
        },
        config_hash=settings.hash,
        losses=tuple(first_tune.get("losses", ())),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _result(run: RunFolder, verb: str) -> dict[str, Any]:
    needed = {"remember": run.settings.remembers, "tune": run.settings.tuning}.get(verb, True)
    return run.result(verb) if needed else {}


def versions() -> dict[str, str]:
    """Versions of what decides results, as far as it is installed."""
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The commit of the source tree this runs from, with "+" where it was changed; empty for an installed package."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return ""
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], cwd=here, capture_output=True, text=True, timeout=10, check=True
        )
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--", "src"], cwd=here, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")
