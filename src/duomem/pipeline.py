"""The pipeline, a line per arrow: games, collect, remember, tune, evaluate, report, bundle; `distill` is all of them.

In: a run folder and somewhere to talk to. Out: per verb a folder or file of the run and a `Done`. A verb whose inputs are those
of last time is not done again; a cut one goes on where it stopped. Not here: how any of it works.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from duomem import dagger, examples, parts, price
from duomem.agent import Player
from duomem.envs import Env
from duomem.errors import BudgetSpent, Incomplete, LeakError
from duomem.evaluate import sample
from duomem.journal import Journal
from duomem.remember import recorded
from duomem.remember import remember as write_bank
from duomem.rollout import Job, Progress, Rollout, rollout
from duomem.rundir import RunFolder, key
from duomem.talk import SILENT, Done, Talk
from duomem.types import StopReason, Task, Trajectory, run_hash

EVALUATION_SPLITS = ("dev", "valid_seen", "valid_unseen", "second_unseen")
"""No memory, training run or teacher's episode comes from these."""

Result = dict[str, Any]


def distill(run: RunFolder, talk: Talk = SILENT) -> Done:
    """The whole job. What is done already is not done again."""
    games(run, talk)
    collect(run, talk)
    remember(run, talk)
    if run.settings.each:
        from duomem.each import distill_each

        return distill_each(run, talk, distill)
    tune(run, talk)
    evaluate(run, talk)
    done = report(run, talk)
    for split in run.settings.evaluate.also or ():
        other = evaluate(run.on(split), talk, out=run.root / split)
        done = Done(done.data | {split: other.data}, f"{done.words}\n\n{split}:\n{other.words}")
    if run.settings.bundle:
        made = bundle(run, talk)
        done = Done(done.data | {"bundle": made.data}, f"{done.words}\n\n{made.words}")
    return done


def games(run: RunFolder, talk: Talk = SILENT) -> Done:
    """Write the games that the config asks for into the run folder."""
    specs = run.settings.games
    write_games, how = parts.games_writer(run.settings)
    inputs = key({split: spec.model_dump() for split, spec in specs.items()}, *how)
    if not specs or run.done("games", inputs):
        return Done()
    for split, spec in specs.items():
        write_games(run.games, split, spec.n, spec.seed, progress=partial(_count, talk, f"games {split}"))
    return Done(run.record("games", inputs, {split: spec.n for split, spec in specs.items()}))


def collect(run: RunFolder, talk: Talk = SILENT) -> Done:
    """The teacher's episodes, in the journal: played, recorded or imported."""
    games(run, talk)
    return _each_seed(run, talk, _collect, "{won} of {episodes} teacher episodes were won")


def remember(run: RunFolder, talk: Talk = SILENT, *, rebuild: bool = False) -> Done:
    """Memories from the teacher's successes, in the bank."""
    return _each_seed(
        run, talk, partial(write_bank, rebuild=rebuild), "{memories} memories from {trajectories} episodes, {bytes} bytes"
    )


def tune(run: RunFolder, talk: Talk = SILENT) -> Done:
    """An adapter from the teacher's successes."""
    return _each_seed(run, talk, _tune, "{parameters} trained parameters, {examples} examples, {seconds} s")


def evaluate(run: RunFolder, talk: Talk = SILENT, *, data: Path | None = None, out: Path | None = None) -> Done:
    """The arms on the same games; with `data`, on another root. `out` gets the results and a report of its own."""
    from duomem import grid

    return grid.evaluate(run, talk, data, out)


def agree(run: RunFolder, talk: Talk = SILENT, *, share: float = 0.25, arms: Sequence[str] = ()) -> Done:
    """Agreement with held-out episodes of the log; needs no environment."""
    from duomem.agreement import evaluate_log

    return evaluate_log(run, talk, remember=remember, tune=tune, share=share, arms=arms)


def command(run: RunFolder, talk: Talk = SILENT, *, line: str, tasks: Path | None, arms: Sequence[str] = ()) -> Done:
    """The user's own agent, once per task and arm."""
    from duomem.own_agent import Order, evaluate_command

    return evaluate_command(run, talk, order=Order.of(line, tasks), arms=arms)


def report(run: RunFolder, talk: Talk = SILENT) -> Done:
    """report.json, report.md and report.html of the run's evaluation."""
    from duomem import grid

    return grid.write_report(run, run)


def bundle(run: RunFolder, talk: Talk = SILENT) -> Done:
    """One artefact of what the decision ships, as the config's [bundle] table says."""
    from duomem.bundle.write import bundle_as_configured

    return bundle_as_configured(run, talk)


def teacher_tasks(run: RunFolder, env: Env) -> list[Task]:
    """The tasks the teacher gets: the seeded sample of its split. Raises `LeakError` for an evaluation split."""
    table = run.settings.teacher
    if table.split in (*EVALUATION_SPLITS, run.settings.evaluate.split):
        raise LeakError(
            f"teacher.split = {table.split!r} is for evaluation: memories and adapters made from it would know the answers. "
            "Set teacher.split to training tasks, or evaluate on another split."
        )
    tasks, _ = sample(env.tasks(table.split), table.tasks, run.settings.run.seed)
    return tasks


def _each_seed(run: RunFolder, talk: Talk, work: Callable[[RunFolder, Talk], Result], words: str) -> Done:
    folders = {seed.root.name if seed.home else "": seed for seed in run.seeds()}
    results = {name: work(seed, talk.under(name)) for name, seed in folders.items()}
    lines = [
        (f"{name}: " if name else "") + (words.format(**data) if data else "nothing to do") for name, data in results.items()
    ]
    shown = {name: {key: value for key, value in data.items() if key not in _LONG} for name, data in results.items()}
    return Done(shown.get("", shown), "\n".join(lines))


_LONG = ("tasks", "losses", "words", "reasons")
"""Results that programs find in steps.json and that are too long to print."""


PLAYED = "collect"
"""How the phase of episodes begins that a teacher played here. Those of any other phase came from elsewhere."""


def _collect(run: RunFolder, talk: Talk) -> Result:
    """What came from elsewhere is the run's collection; else the teacher plays."""
    from duomem.record.trajectories import collect as from_recording

    from_recording(run, talk, (*EVALUATION_SPLITS, run.settings.evaluate.split))
    found = run.left("collect")
    if found and str(found["phase"]).partition("/")[0] != PLAYED:
        talk.note(f"{run.root}: its episodes came from elsewhere ({found['phase']}); no teacher plays.")
        return found
    return _played(run, talk)


def _played(run: RunFolder, talk: Talk) -> Result:
    settings, env = run.settings, parts.environment(run)
    tasks, attempts = teacher_tasks(run, env), range(settings.teacher.attempts)
    phase = f"{PLAYED}/{_how_collected(run)}"
    inputs = key(phase, [(task.id, task.data_hash) for task in tasks], len(attempts))
    if found := run.done("collect", inputs):
        talk.note(f"{run.root}: the teacher's episodes are there already.")
        return found
    jobs = [Job(task, attempt) for task in tasks for attempt in attempts]
    with run.clock("collect", inputs) as clock, Journal.open(run.journal) as journal, parts.Parts(run, "collect") as loaded:
        price.tell(run, talk.note, episodes=len(jobs), finished=len(journal.finished(phase)))
        played = play(run, jobs, loaded.teacher(run, env), journal, phase, talk)
    ended(played, f"duomem collect {run.home or run.root}")
    result = {
        "episodes": len(played.trajectories),
        "won": sum(trajectory.won for trajectory in played.trajectories),
        "phase": phase,
        "content_hash": run_hash(played.trajectories),
        "seconds": clock(),
        "tasks": [task.id for task in tasks],
    }
    return run.record("collect", inputs, result)


def _how_collected(run: RunFolder) -> str:
    """A hash of what decides a teacher's episode, beside the task: other settings are another phase of the journal."""
    settings = run.settings
    teacher = settings.teacher.model_dump(mode="json", exclude={"split", "tasks", "attempts"}) | settings.options("teacher")
    env = {name: value for name, value in settings.options("env").items() if name != "data_root"}
    return key(teacher, env, parts.layout(settings).hash, settings.run.seed, *settings.rollout.decides)


def successes(run: RunFolder) -> list[Trajectory]:
    """The teacher's won episodes on the tasks of the present sample."""
    return recorded(run, won=True)


def play(run: RunFolder, jobs: Sequence[Job], player: Player, journal: Journal, phase: str, talk: Talk) -> Rollout:
    """Play jobs as the run's config says and show how far it is."""

    def show(now: Progress) -> None:
        talk.progress(
            phase.split("/")[0], now.done, now.total, f"won {now.won}" + (f", errors {now.errors}" if now.errors else "")
        )

    return rollout(jobs, player, journal=journal, phase=phase, concurrency=run.settings.rollout.concurrency, progress=show)


def ended(played: Rollout, again: str) -> None:
    """Raises `KeyboardInterrupt` after Ctrl-C and `Incomplete` where an episode has no outcome."""
    if played.stopped is StopReason.INTERRUPTED:
        raise KeyboardInterrupt
    if played.why:
        raise BudgetSpent(f"{len(played.undone)} episodes have no outcome yet. {played.why}")
    if played.undone:
        first = f" The first said: {played.errors[0].error}" if played.errors else ""
        raise Incomplete(f"{len(played.undone)} episodes have no outcome yet.{first} Play them with: {again}")


def _count(talk: Talk, stage: str, done: int, total: int) -> None:
    talk.progress(stage, done, total, "")


def _tune(run: RunFolder, talk: Talk) -> Result:
    settings, table = run.settings, run.settings.tuning
    if table is None:
        return {}
    base, options, layout = parts.trainable(settings), settings.options("tuning"), parts.layout(settings)
    chosen = parts.example_options(settings)
    needs = [run.result("collect")["content_hash"], run.result("remember")["content_hash"] if chosen.memories != "none" else ""]
    how = [table.name, options, parts.base_hash(settings), layout.hash, settings.run.seed]
    how += [parts.recalled(settings)] if chosen.memories != "none" else []
    how += dagger.inputs(run)
    inputs = key(*needs, *how)
    if run.adapter.is_dir() and (found := run.done("tune", inputs)):
        talk.note(f"{run.root}: the adapter is there already.")
        return found
    if not run.done("tune.begun", inputs):  # checkpoints of other inputs are no start for these
        shutil.rmtree(run.adapter.parent, ignore_errors=True)
        run.record("tune.begun", inputs, {"begun": True})
    with run.clock("tune", inputs) as clock, parts.Parts() as loaded:
        bank = loaded.bank(run) if chosen.memories != "none" else None
        prepared = examples.prepare(
            successes(run),
            layout,
            chosen,
            strategy=parts.strategy(settings, parts.counter(settings) if bank else None),  # as long as when it is served
            bank=bank.view() if bank else None,
            budget=parts.budget(settings),
            seed=settings.run.seed,
        )
        learned, words = list(prepared.examples), prepared.words
        if table.dagger:
            more, said = dagger.labelled(run, learned, talk)
            learned, words = learned + more, f"{words} {said}"
        talk.note(words)
        adapter = parts.tuner(settings).tune(learned, base, run.adapter, seed=settings.run.seed, progress=partial(_loss, talk))
    made = {"parameters": adapter.parameters, "examples": adapter.examples, "tokens": adapter.tokens, "losses": adapter.losses}
    result = made | {"words": words, "content_hash": parts.adapter_hash(run.adapter), "seconds": clock()}
    return run.record("tune", inputs, result)


def _loss(talk: Talk, step: int, total: int, loss: float) -> None:
    talk.progress("tune", step, total, f"loss {loss:.3f}")
