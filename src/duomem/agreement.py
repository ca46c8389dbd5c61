"""The decision without a simulator: how often the student, put where the agent was, does what the agent did.

In: a run whose journal holds recorded (or played) episodes. Out: for each arm the agreement of its next action or tool call
with that of successful episodes it has not seen, with intervals, in RUN/log/agreement.json. Episodes are split by time:
memories and adapter are made from the earlier ones, in RUN/log, and the later ones are asked. No environment is opened.
Agreement is no success: another action may be as good. Not here: success itself (`duomem.evaluate`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from duomem import log_split, parts, stats
from duomem.errors import UsageError
from duomem.logs._episode import SAY
from duomem.models import ContextFull, Model
from duomem.prompts import AS_RECORDED, Layout, opening, parse, turn_messages, with_memories
from duomem.rundir import RunFolder, key, replace
from duomem.scores import ARMS, Arm, Results, arms_named
from duomem.talk import Done, Talk
from duomem.types import Budget, EpisodeView, Message, Reply, Sampling, ToolCall, Trajectory

ASKED = ("none", "format_only", "memory", "adapter", "both")
"""Arms that need no environment."""
PAIRS = (("memory", "none"), ("adapter", "none"), ("both", "adapter"), ("both", "memory"))
"""Differences that a decision rests on."""


Rows = dict[str, list[float]]
"""Shares by an episode's hash: of same actions, of same tools, of answers without an action."""


@dataclass(frozen=True, slots=True)
class Agreed:
    """One arm's share of agreeing actions, the mean over episodes of each one's share. `tool` is that of the tool's name alone,
    `unreadable` the share of answers without any action."""

    same: float
    low: float
    high: float
    tool: float
    unreadable: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """What an evaluation on a log found. `pairs`: difference of two arms on the same episodes, with its interval."""

    arms: dict[str, Agreed]
    pairs: dict[str, stats.Interval]
    seeds: tuple[int, ...]
    learned_from: int
    episodes: int
    actions: int
    success: dict[str, float]
    """Share of games that an arm won in the run's own evaluation, where there is one."""

    @property
    def correlation(self) -> float | None:
        """Spearman's rank correlation of agreement and success over the arms that have both; None below three of them."""
        from scipy import stats as scipy_stats

        both = [arm for arm in self.arms if arm in self.success]
        pairs = [(self.arms[arm].same, self.success[arm]) for arm in both]
        if len(pairs) < 3 or any(len({pair[side] for pair in pairs}) < 2 for side in (0, 1)):
            return None
        return float(scipy_stats.spearmanr(*zip(*pairs, strict=True)).statistic)


def evaluate_log(
    run: RunFolder,
    talk: Talk,
    *,
    remember: Callable[[RunFolder, Talk], Any],
    tune: Callable[[RunFolder, Talk], Any],
    share: float = 0.25,
    arms: Sequence[str] = (),
) -> Done:
    """Split the log, make the parts from its earlier episodes, ask about the later ones. What was asked is not asked again.

    `share` of the episodes, the latest, are asked. Raises `UsageError` for arms that need an environment, `DataError` where a
    part of the log holds no success.
    """
    chosen = _arms(run, arms)
    asked: dict[str, list[Rows]] = {arm.name: [] for arm in chosen}
    held: dict[str, Trajectory] = {}
    learned = 0
    for seed in run.seeds():
        log, later, earlier = log_split.split(seed, share)
        remember(log, talk)
        tune(log, talk)
        learned += earlier
        held |= {each.content_hash: each for each in later}
        for arm in chosen:
            asked[arm.name].append(_ask(log, arm, later, talk))
    found = Agreement(
        {name: _agreed(rows) for name, rows in asked.items()},
        {
            f"{first} - {second}": stats.crossed_bootstrap(_table(asked[first], 0) - _table(asked[second], 0))
            for first, second in PAIRS
            if first in asked and second in asked
        },
        tuple(seed.settings.run.seed for seed in run.seeds()),
        learned,
        len(held),
        sum(len(_places(each)) for each in held.values()),
        _success(run),
    )
    data = asdict(found) | {"correlation": found.correlation}
    replace(run.root / "log" / "agreement.json", json.dumps(data, indent=1) + "\n")
    return Done(data, words(found))


def _arms(run: RunFolder, names: Sequence[str]) -> list[Arm]:
    settings = run.settings
    if other := [name for name in names if name not in ASKED]:
        raise UsageError(f"Arm {other[0]!r} cannot be asked about a log. There are: {', '.join(ASKED)}.")
    wanted = arms_named(tuple(names) or ASKED)
    return [
        arm
        for arm in wanted
        if (not arm.adapter or settings.tuning is not None) and (arm.memories != "bank" or settings.remembers)
    ]


def _ask(log: RunFolder, arm: Arm, held: Sequence[Trajectory], talk: Talk) -> Rows:
    """Per episode, by its hash: the shares of same actions, same tools and unreadable answers. Kept in the log's steps."""
    settings = log.settings
    made = [log.result("remember")["content_hash"] if arm.memories == "bank" else ""]
    made += [log.result("tune")["content_hash"] if arm.adapter else ""]
    how = [settings.options("student"), parts.layout(settings).hash, parts.base_hash(settings), parts.recalled(settings)]
    inputs = key(arm.name, made, how, settings.student.max_tokens, [each.content_hash for each in held])
    if known := log.done(f"agreement.{arm.name}", inputs):
        return dict(known["rows"])
    with parts.Parts(log, "evaluate") as loaded:
        adapter = {"adapter": str(log.adapter)} if arm.adapter else {}
        model = loaded.model(settings.student.model, settings.options("student") | adapter, "student")
        show = _shown(log, arm, loaded, model)
        question = partial(_episode, model, parts.layout(settings), Sampling(max_tokens=settings.student.max_tokens), show)
        rows: Rows = {}
        with ThreadPoolExecutor(settings.rollout.concurrency) as pool:
            for each, row in zip(held, pool.map(question, held), strict=True):
                rows[each.content_hash] = row
                so_far = np.mean([shares[0] for shares in rows.values()])
                talk.progress(f"agreement {arm.name}", len(rows), len(held), f"{so_far:.0%}")
    log.record(f"agreement.{arm.name}", inputs, {"rows": rows})
    return rows


def _shown(log: RunFolder, arm: Arm, loaded: parts.Parts, model: Model) -> Callable[[Trajectory], list[str]]:
    """What stands in the memories' place for an episode."""
    if arm.memories == "example":
        return lambda trajectory: [parts.layout(log.settings).example]
    strategy = parts.strategy(log.settings, getattr(model, "count", None))
    bank = loaded.bank(log)
    if arm.memories != "bank" or strategy is None or bank is None:
        return lambda trajectory: []
    view, budget = bank.view(), parts.budget(log.settings) or Budget()

    def recall(trajectory: Trajectory) -> list[str]:
        tasks = frozenset((trajectory.task.id,))
        return [memory.text for memory in strategy.recall(_view(trajectory, tasks), view, budget).memories]

    return recall


def _view(trajectory: Trajectory, tasks: frozenset[str]) -> EpisodeView:
    return EpisodeView(trajectory.goal, trajectory.scene, exclude_tasks=tasks)


def _places(trajectory: Trajectory) -> list[int]:
    """Turns that are asked: those whose action was read and understood; of an agent with tools, its calls alone."""
    return [
        index
        for index, turn in enumerate(trajectory.turns)
        if turn.call is not None and turn.valid and not (turn.call.name == SAY and trajectory.tools)
    ]


def _episode(
    model: Model, layout: Layout, sampling: Sampling, show: Callable[[Trajectory], list[str]], trajectory: Trajectory
) -> list[float]:
    """Asked turn by turn with what the agent itself had done before: one wrong answer does not spoil the next."""
    if trajectory.origin.layout == AS_RECORDED:
        messages: list[Message] = list(with_memories(layout, trajectory.prompt, show(trajectory)))
    else:
        messages = list(opening(layout, trajectory.goal, trajectory.scene, show(trajectory)))
    places = set(_places(trajectory))
    rows: list[tuple[bool, bool, bool]] = []
    for index, turn in enumerate(trajectory.turns):
        if index in places and turn.call is not None:
            try:
                rows.append(_compare(layout, turn.call, model.reply(messages, trajectory.tools, sampling)))
            except ContextFull:
                rows.append((False, False, True))
        messages.extend(turn_messages(layout, turn))
    return [float(np.mean([row[side] for row in rows])) for side in range(3)]


def _compare(layout: Layout, wanted: ToolCall, reply: Reply) -> tuple[bool, bool, bool]:
    """Whether action and tool are the same, and whether there was no action to be read."""
    if wanted.name == SAY:
        text = str(json.loads(wanted.arguments)["text"])
        said = reply.message.text
        return _action(layout, said) == _action(layout, text), not reply.message.tool_calls, not said.strip()
    call = parse(layout, reply)
    if call is None:
        return False, False, True
    same_tool = call.name == wanted.name
    return same_tool and _arguments(call) == _arguments(wanted), same_tool, False


def _action(layout: Layout, text: str) -> str:
    """The action in an answer that is only text: the layout's pattern where it finds one, else all of it."""
    call = parse(layout, Reply(Message.of("assistant", text)))
    return " ".join((call.command if call else text).casefold().split())


def _arguments(call: ToolCall) -> Any:
    """Arguments to compare; a text command's spelling apart from case and white space does not count."""
    if call.name == "act":
        return " ".join(call.command.casefold().split())
    try:
        return json.loads(call.arguments)
    except ValueError:
        return call.arguments


def _table(rows: Sequence[Rows], side: int) -> stats.Array:
    """Seeds x episodes, NaN where a seed's log has other episodes."""
    episodes = sorted({episode for seed in rows for episode in seed})
    nothing = (np.nan, np.nan, np.nan)
    return np.array([[seed.get(episode, nothing)[side] for episode in episodes] for seed in rows], dtype=np.float64)


def _agreed(rows: Sequence[Rows]) -> Agreed:
    interval = stats.crossed_bootstrap(_table(rows, 0))
    return Agreed(
        interval.estimate, interval.low, interval.high, float(np.nanmean(_table(rows, 1))), float(np.nanmean(_table(rows, 2)))
    )


def _success(run: RunFolder) -> dict[str, float]:
    """Share of games won by each arm in the run's own evaluation; empty where it has none."""
    if not run.results.is_file():
        return {}
    results = Results.read(run.results)
    found = {arm: [score.won for score in results.scores if score.arm == arm and score.stop.is_outcome] for arm in ARMS}
    return {arm: float(np.mean(won)) for arm, won in found.items() if won}


def words(found: Agreement) -> str:
    """The result to read."""
    lines = [
        f"Agreement with {found.actions} actions of {found.episodes} later episodes; "
        f"memories and adapter are made from {found.learned_from} earlier ones:",
        f"  {'arm':<12}{'same action':>12}  {'95% interval':<14}{'same tool':>10}{'unreadable':>12}"
        + (f"{'games won':>11}" if found.success else ""),
    ]
    for arm, each in found.arms.items():
        won = f"{100 * found.success[arm]:>10.1f}%" if arm in found.success else ""
        interval = f"{100 * each.low:.1f}–{100 * each.high:.1f}"
        lines.append(
            f"  {arm:<12}{100 * each.same:>11.1f}%  {interval:<14}{100 * each.tool:>9.1f}%{100 * each.unreadable:>11.1f}%{won}"
        )
    for pair, gap in found.pairs.items():
        verdict = "nothing measurable" if gap.includes_zero else "more" if gap.estimate > 0 else "less"
        lines.append(f"  {pair}: {100 * gap.estimate:+.1f} points [{100 * gap.low:+.1f}, {100 * gap.high:+.1f}], {verdict}")
    if (rank := found.correlation) is not None:
        lines.append(
            f"  Rank correlation of agreement and games won over {len(set(found.arms) & set(found.success))} arms: {rank:.2f}"
        )
    lines.append(
        "  Agreement is no success: another action may be as good. What it is worth: docs/decide-without-a-simulator.md"
    )
    return "\n".join(lines)
