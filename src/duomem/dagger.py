"""DAgger: the tuned student plays tasks of the log, the teacher labels the states it visited, and both are learned.

In: a run whose teacher has played, and the examples of its log. Out: further examples: the student's own turns where the
teacher would have said the same, and the teacher's reply where it would not (Ross, Gordon and Bagnell 2011). Episodes are
journalled and labels kept, so a killed command pays for neither twice. Not here: the second training.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from pydantic import ValidationError

from duomem import parts, prompts
from duomem.agent import Player
from duomem.errors import ConfigError
from duomem.evaluate import sample
from duomem.journal import Journal
from duomem.models import Model
from duomem.paid import Paid
from duomem.prompts import Layout
from duomem.rollout import Job, Progress, rollout
from duomem.rundir import RunFolder, key
from duomem.talk import Talk
from duomem.types import Example, Sampling, Task, Trajectory

CORRECTIONS = 3
"""So many corrected states of an episode are learned, the first and others at random: each is a sequence of its own."""
LABELS = "labels.sqlite"
"""The teacher's replies in a run's folder, by what it was asked."""


def labelled(run: RunFolder, first: Sequence[Example], talk: Talk) -> tuple[list[Example], str]:
    """Train on `first`, play, label: the examples to add, and one sentence about them."""
    settings, table = run.settings, run.settings.tuning
    assert table is not None
    folder = run.adapter.with_name("first")
    base = parts.trainable(settings)
    progress = partial(_tuned, talk)
    parts.tuner(settings).tune(first, base, folder, seed=settings.run.seed, progress=progress)
    sampling = Sampling(settings.teacher.temperature, settings.teacher.max_tokens, seed=settings.run.seed)
    with parts.Parts(run, "tune") as loaded:
        trajectories = _play(run, loaded.student(run, parts.environment(run), folder), parts.adapter_hash(folder), talk)
        with Paid(_teacher(run, loaded), run.root / LABELS) as teacher:
            made: list[Example] = []
            for number, trajectory in enumerate(trajectories, 1):
                made += _examples(trajectory, parts.layout(settings), teacher, sampling, settings.run.seed)
                talk.progress("label", number, len(trajectories), "")
    turns = sum(len(trajectory.turns) for trajectory in trajectories)
    won = sum(trajectory.won for trajectory in trajectories)
    corrected = sum("/" in example.source for example in made)
    words = (
        f"DAgger: the student won {won} of {len(trajectories)} tasks of the log; the teacher labelled {turns} states, "
        f"{corrected} corrections are learned."
    )
    return made, words


def inputs(run: RunFolder) -> list[Any]:
    """What decides the labels beside the first adapter; nothing where there are none."""
    settings, table = run.settings, run.settings.tuning
    if table is None or not table.dagger:
        return []
    return [table.dagger, settings.options("teacher"), table.dagger_labels, CORRECTIONS, settings.rollout.max_steps]


def _play(run: RunFolder, student: Player, adapter: str, talk: Talk) -> list[Trajectory]:
    """Episodes of the log's tasks by the student, with memories in as many prompts as in training, by task id."""
    from duomem.pipeline import ended

    settings, table = run.settings, run.settings.tuning
    assert table is not None
    names, seed = set(run.result("collect")["tasks"]), settings.run.seed
    tasks, _ = sample([task for task in student.env.tasks(settings.teacher.split) if task.id in names], table.dagger, seed)
    shown = parts.example_options(settings).memories
    bank = student.bank and (run.left("remember") or {}).get("content_hash")
    phase = f"dagger/{key(adapter, shown, bank, parts.recalled(settings), seed, settings.rollout.max_steps)}"

    def reads(task: Task) -> bool:
        return shown == "all" or (shown == "half" and random.Random(f"{seed} {task.id}").random() < 0.5)

    def show(now: Progress) -> None:
        talk.progress("dagger", now.done, now.total, f"won {now.won}")

    found: list[Trajectory] = []
    with Journal.open(run.journal) as journal:
        for player, with_memories in ((student, True), (replace(student, strategy=None, bank=None), False)):
            jobs = [Job(task) for task in tasks if reads(task) is with_memories]
            played = rollout(
                jobs, player, journal=journal, phase=phase, concurrency=settings.rollout.concurrency, progress=show
            )
            ended(played, f"duomem tune {run.home or run.root}")
            found += played.trajectories
    return sorted(found, key=lambda trajectory: trajectory.task.id)


def _teacher(run: RunFolder, loaded: parts.Parts) -> Model:
    table = run.settings.tuning
    assert table is not None
    try:
        return loaded.model(run.settings.teacher.model, run.settings.options("teacher") | table.dagger_labels)
    except ValidationError as error:
        raise ConfigError(f"tuning.dagger_labels: {error.errors(include_url=False)[0]['msg']}") from error


def _examples(trajectory: Trajectory, layout: Layout, teacher: Model, sampling: Sampling, seed: int) -> list[Example]:
    """The episode with its agreeing turns learned, and some of its other states with the teacher's reply."""
    messages = prompts.conversation(layout, trajectory)
    learn = [0.0] * len(messages)
    differing = []
    for index, message in enumerate(messages):
        if message.role == "assistant":
            label = teacher.reply(messages[:index], trajectory.tools, sampling).message
            if (label.text, label.tool_calls) == (message.text, message.tool_calls):
                learn[index] = 1.0
            else:
                differing.append((index, label))
    chosen = differing[:1]
    rest = differing[1:]
    chosen += random.Random(f"{seed} {trajectory.content_hash}").sample(rest, min(CORRECTIONS - 1, len(rest)))
    source = trajectory.content_hash
    made = [Example(messages, tuple(learn), source, trajectory.shown, trajectory.tools)] if any(learn) else []
    for index, label in sorted(chosen, key=lambda pair: pair[0]):
        sequence = (*messages[:index], label)
        weights = (*(0.0 for _ in messages[:index]), 1.0)
        made.append(Example(sequence, weights, f"{source}/{index}", trajectory.shown, trajectory.tools))
    return made


def _tuned(talk: Talk, step: int, total: int, loss: float) -> None:
    talk.progress("dagger tune", step, total, f"loss {loss:.3f}")
