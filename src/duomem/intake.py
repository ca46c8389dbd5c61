"""Episodes and memories that others hand in: nothing of them is learned from before it has been proved here.

In: submissions with who sent them, an environment to replay in. Out: proved trajectories without the steps that the task did
not need, and refusals with reasons. A text that somebody wants shown is never taken: memories are written here, from what was
proved. Not here: the bank, the rules that write memories.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from duomem.envs import ACT, Env
from duomem.memory._script import events
from duomem.prompts import Layout, opening, reply_text
from duomem.types import Memory, Message, Origin, Reply, StopReason, Task, ToolCall, Trajectory, Turn

LONGEST = 60
"""Turns of a submitted episode that are replayed at most."""


@dataclass(frozen=True, slots=True)
class Submission:
    """One record. `source` is the host's name for who sent it (an API key, an account), never the sender's own word."""

    source: str
    trajectory: Trajectory | None = None
    memory: Memory | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """How much strangers may change, whatever they prove."""

    per_source: int = 8
    """Episodes of one source that are taken."""
    per_goal: int = 4
    """Episodes of one goal that are taken, of all sources together."""


_USUAL = Limits()


@dataclass(frozen=True, slots=True)
class Refused:
    """A submission that is not learned from, and why."""

    submission: Submission
    reason: str


@dataclass(frozen=True, slots=True)
class Taken:
    """What came of a batch: `proved` may be learned from, `refused` stays in quarantine."""

    proved: tuple[Trajectory, ...]
    refused: tuple[Refused, ...]


def vet(submissions: Sequence[Submission], env: Env, tasks: Sequence[Task], layout: Layout, limits: Limits = _USUAL) -> Taken:
    """Replay what was handed in, in order, on `tasks` (training tasks; no other is opened). What it claims counts for nothing.

    What is taken speaks in `layout`, without the sender's words. The environment's own errors are raised.
    """
    known = {task.id: task for task in tasks}
    proved: list[Trajectory] = []
    refused: list[Refused] = []
    sources: Counter[str] = Counter()
    goals: Counter[str] = Counter()
    for each in submissions:
        full = sources[each.source] >= limits.per_source
        found, reason = (None, "its source has reached its limit") if full else _judge(each, env, known, layout)
        if found is not None and goals[found.goal] >= limits.per_goal:
            found, reason = None, f"there are {limits.per_goal} episodes of its goal already"
        if found is None:
            refused.append(Refused(each, reason))
            continue
        sources[each.source] += 1
        goals[found.goal] += 1
        proved.append(found)
    return Taken(tuple(proved), tuple(refused))


def _judge(each: Submission, env: Env, known: Mapping[str, Task], layout: Layout) -> tuple[Trajectory | None, str]:
    if each.trajectory is None:
        return None, "a memory without an episode that could be replayed"
    task = known.get(each.trajectory.task.id)
    if task is None:
        return None, "its task is none of the training tasks"
    found = prove(env, task, each.trajectory, layout)
    if found is None:
        return None, "the environment does not say won when its actions are replayed"
    licence = each.trajectory.origin.licence
    origin = Origin(f"submitted by {each.source}", layout=layout.hash, env=json.dumps(env.provenance()), licence=licence)
    return replace(found, attempt=each.trajectory.attempt, origin=origin), ""


def prove(env: Env, task: Task, told: Trajectory, layout: Layout) -> Trajectory | None:
    """The episode as the environment plays it, less the steps on objects without which it is won as well; None unless won.

    A step that the task does not need is where a won episode can still carry something of its sender's. Steps that only move
    about are kept: they say where things were looked for. One replay a step at most.
    """
    calls = [turn.call for turn in told.turns if turn.call is not None][:LONGEST]
    found = _replay(env, task, calls, layout)
    if not found.won:
        return None
    place = len(calls) - 1
    while place >= 0:
        if _handles(found, calls[place]):
            shorter = _replay(env, task, [*calls[:place], *calls[place + 1 :]], layout)
            if shorter.won:
                calls = [turn.call for turn in shorter.turns if turn.call is not None and turn.valid]
                found, place = _replay(env, task, calls, layout), min(place, len(calls))
        place -= 1
    return found


def _handles(found: Trajectory, call: ToolCall) -> bool:
    """Whether a step does something to an object; any call of a tool that is not the text world's does."""
    return call.name != "act" or any(event.object and event.command == call.command for event in events(found))


def _replay(env: Env, task: Task, calls: Sequence[ToolCall], layout: Layout) -> Trajectory:
    """Actions in a fresh episode; observations and outcome are the environment's, replies hold the action alone."""
    episode = env.open(task)
    try:
        first = episode.observe()
        turns: list[Turn] = []
        won = False
        for call in calls:
            seen = episode.step(call)
            turns.append(Turn(_reply(layout, call), call, seen.text, seen.valid))
            won = seen.won
            if seen.done or won:
                break
        stop = StopReason.WON if won else StopReason.LOST
        tools = tuple(tool for tool in episode.tools() if tool != ACT)
        prompt = opening(layout, first.goal, first.text, ())
        return Trajectory(task, 0, first.goal, first.text, prompt, tuple(turns), stop, tools=tools)
    finally:
        episode.close()


def _reply(layout: Layout, call: ToolCall) -> Reply:
    if call.name != ACT.name:
        return Reply(Message("assistant", tool_calls=(call,)), "tool_calls")
    return Reply(Message.of("assistant", reply_text(layout, "", call.command)))
