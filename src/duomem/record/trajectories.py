"""Recorded episodes with an outcome as trajectories, and into a run's journal, where `remember` and `tune` find them.

In: a recording, a run. Out: `Trajectory`s whose prompt is the agent's own, and the run's `collect` step. One that was continued
after a change of its history is several, since a student will see each part alone. Episodes with a problem are left out, and
counted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from duomem.errors import DataError, LeakError
from duomem.journal import Journal
from duomem.logs._episode import SAY
from duomem.prompts import AS_RECORDED
from duomem.record import episodes
from duomem.record.episodes import LOST, UNLOCATED, Episode, Tree
from duomem.record.store import FILE, RecordStore
from duomem.rundir import RunFolder, key
from duomem.talk import Talk
from duomem.types import Message, Origin, Reply, StopReason, Task, ToolCall, Trajectory, Turn, digest, run_hash


def recording(run: RunFolder) -> Path:
    """Where a run's recording lies; the seeds of a run share it."""
    return (run.home or run.root) / FILE


def collect(run: RunFolder, talk: Talk, forbidden: Iterable[str]) -> None:
    """Put the recorded episodes that ended well or badly into the run's journal, and make them its collection. Does nothing
    where there is no recording, or nothing new in it.

    Raises `LeakError` where the run's teacher has one of the splits `forbidden`, `DataError` where no episode was won.
    """
    if not recording(run).is_file():
        return
    split = run.settings.teacher.split
    if split in forbidden:
        raise LeakError(f"teacher.split = {split!r} is for evaluation. Recorded episodes get it: set it to training tasks.")
    with RecordStore.open(recording(run)) as store:
        found = episodes.read_all(store)
        licence, upstream = store.declared("licence"), store.declared("upstream")
    made = trajectories(found, split, licence=licence, revision=upstream)
    problems = Counter(kind(episode.problem) for episode in found if episode.problem)
    left = ", ".join(f"{count} {problem}" for problem, count in sorted(problems.items())) or "none"
    if not any(each.won for each in made):
        raise DataError(
            f"No recorded episode can be learned from ({left}). See: duomem episodes {run.home or run.root} --recorded"
        )
    content = run_hash(made)
    phase, inputs = f"record/{content[:16]}", key("record", content)
    if run.done("collect", inputs):
        return
    with run.clock("collect", inputs) as clock, Journal.open(run.journal) as journal:
        present = journal.finished(phase)
        for number, each in enumerate(made):
            if (each.task.id, each.attempt) not in present:
                journal.add(phase, each)
            talk.progress("collect", number + 1, len(made), "")
    result = {
        "episodes": len(made),
        "won": sum(each.won for each in made),
        "recorded": len(found),
        "left_out": dict(sorted(problems.items())),
        "phase": phase,
        "content_hash": content,
        "seconds": clock(),
        "tasks": sorted({each.task.id for each in made}),
    }
    run.record("collect", inputs, result)


def kind(problem: str) -> str:
    """A problem without the numbers of its exchanges."""
    if problem.startswith(UNLOCATED):
        return UNLOCATED
    return "ambiguous" if problem.startswith("ambiguous") else "cut" if "cut" in problem else problem


def trajectories(
    found: Iterable[Episode], split: str, *, licence: str = "", revision: str = "", lost: bool = True
) -> list[Trajectory]:
    """Trajectories of the episodes that can be used, in order; those of the same task are attempts at it."""
    made: list[Trajectory] = []
    attempts: Counter[str] = Counter()
    for episode in found:
        if not (episode.usable or (lost and episode.problem == LOST)):
            continue
        task = Task(f"{split}/{digest([episode.task])[:16]}", split, "recorded")
        for tree in episode.main:
            made.append(_trajectory(episode, tree, task, attempts[task.id], licence, revision))
            attempts[task.id] += 1
    return made


def _trajectory(episode: Episode, tree: Tree, task: Task, attempt: int, licence: str, revision: str) -> Trajectory:
    assert episode.outcome is not None
    first, last = tree.line[0], tree.line[-1]
    source = json.dumps({"episode": episode.id, "exchange": first.id}, sort_keys=True)
    return Trajectory(
        task=task,
        attempt=attempt,
        goal=episode.task,
        scene="",
        prompt=first.messages,
        turns=tuple(_turn(tree, index) for index in range(len(tree.line))),
        stop=StopReason.WON if episode.outcome.won else StopReason.LOST,
        origin=Origin(model=first.model, revision=revision, layout=AS_RECORDED, env=source, licence=licence),
        seconds=last.started + last.seconds - first.started,
        tools=first.tools,
    )


def _turn(tree: Tree, index: int) -> Turn:
    """A reply and what the agent told the model after it."""
    exchange, reply = tree.line[index], tree.reply(index)
    after: tuple[Message, ...] = ()
    if index + 1 < len(tree.line):
        following = tree.line[index + 1]
        after = following.messages[len(following.messages) - following.fresh :]
    timed = Reply(reply.message, reply.finish, reply.usage, exchange.seconds)
    return Turn(timed, _call(reply.message), "\n".join(message.text for message in after), results=after)


def _call(message: Message) -> ToolCall:
    """The first call; a reply that only speaks is an act, too."""
    if message.tool_calls:
        return message.tool_calls[0]
    return ToolCall(SAY, json.dumps({"text": message.text}, ensure_ascii=False))
