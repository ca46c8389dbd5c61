"""Practice: the student plays training tasks with the memories of a draft, and the bank learns from each group (MemP's loop).

In: a run, and the work on its bank. Out: new versions of the bank: memories of practised episodes, corrected and retired
ones. The episodes are journalled like any others, so a killed command goes on. It plays training tasks only; how a memory
is written, corrected and retired is the strategy's matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from duomem import parts
from duomem.evaluate import sample
from duomem.journal import Journal
from duomem.rollout import Job, Progress, rollout
from duomem.rundir import RunFolder, key
from duomem.types import Outcome, StopReason, Task, Trajectory

if TYPE_CHECKING:
    from duomem.remember import Work


def practise(work: Work, loaded: parts.Parts) -> dict[str, Any]:
    """Play `memory.practice` training tasks in groups; after each group the bank gets new versions. Counts what came of it."""
    from duomem.pipeline import ended

    run, table = work.run, work.table
    env = parts.environment(run)
    tasks = practice_tasks(run, env.tasks(run.settings.teacher.split))
    counts = {"episodes": 0, "won": 0, "merged": 0, "revised": 0, "retired": 0}
    student = loaded.student(run, env, bank=work.bank)
    with Journal.open(run.journal) as journal:
        for start in range(0, len(tasks), table.group):
            group, view = tasks[start : start + table.group], work.bank.view()
            phase = f"practice/{key(view.content_hash, start, *_how(run))}"

            def show(now: Progress, start: int = start) -> None:
                work.talk.progress("practice", start + now.done, len(tasks), f"won {now.won}")

            played = rollout(
                [Job(task) for task in group],
                replace(student, bank=view),
                journal=journal,
                phase=phase,
                concurrency=run.settings.rollout.concurrency,
                progress=show,
            )
            ended(played, f"duomem remember {run.home or run.root}")
            learn(work, played.trajectories, counts)
    return counts


def learn(work: Work, trajectories: tuple[Trajectory, ...], counts: dict[str, int]) -> None:
    """What a group teaches: its won episodes together, then the others one by one, so that a memory that several of them failed
    with is corrected once; then what the strategy makes of their outcomes."""
    won = [found for found in trajectories if found.stop is StopReason.WON]
    lost = [found for found in trajectories if found.stop is not StopReason.WON]
    counts["episodes"] += len(trajectories)
    counts["won"] += len(won)
    counts["merged"] += work.write(won, "practice writes")
    for trajectory in lost if getattr(work.strategy, "takes_failures", False) else ():
        before = work.bank.version
        counts["merged"] += work.write([trajectory], "practice writes")
        counts["revised"] += sum(entry.op == "revise" for entry in work.bank.history() if entry.version > before)
    for trajectory in trajectories:
        outcome = Outcome(trajectory.task.id, trajectory.won, len(trajectory.turns))
        work.bank.record(trajectory.shown, trajectory.won)
        alive = {memory.id for memory in work.bank.view().memories()}
        edits = [edit for edit in work.strategy.feedback(outcome, trajectory.shown) if edit.target in alive]
        counts["retired"] += sum(edit.op == "retire" for edit in edits)
        work.apply(edits)


def _how(run: RunFolder) -> list[Any]:
    """Who plays and how, beside the bank: other settings are another phase of the journal."""
    settings, budget = run.settings, parts.budget(run.settings)
    student = [
        settings.options("student"),
        settings.student.max_tokens,
        settings.student.temperature,
        parts.base_hash(settings),
    ]
    memory = [settings.options("memory"), budget.k, budget.floor, budget.tokens]
    return [student, memory, parts.layout(settings).hash, settings.run.seed, *settings.rollout.decides, *settings.rollout.held]


def practice_tasks(run: RunFolder, tasks: Sequence[Task]) -> list[Task]:
    """The tasks to practise: a seeded sample of those that the teacher did not play; of all, where these are too few."""
    played, wanted = set(run.result("collect")["tasks"]), run.settings.memory.practice if run.settings.memory else 0
    fresh = [task for task in tasks if task.id not in played]
    found, _ = sample(fresh if len(fresh) >= wanted else tasks, wanted, run.settings.run.seed)
    return found
