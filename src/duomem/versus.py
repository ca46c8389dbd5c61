"""Two arms on the same games, of one evaluation or of two: the paired difference, and on which games it comes about.

In: two `Results` with an arm each. Out: a `Versus`. The statistics are those of a report (`duomem.stats`); it plays nothing,
reads no file, and makes no table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from duomem import stats
from duomem.decision import Pair
from duomem.errors import UsageError
from duomem.scores import Results, Score
from duomem.summary import paired
from duomem.types import Usage


@dataclass(frozen=True, slots=True)
class Side:
    """One arm on the games that both sides played: means per episode, over all its seeds."""

    arm: str
    success: float
    steps: float
    invalid: float
    seconds: float
    usage: Usage
    """Rounded to whole tokens."""
    memories: float


@dataclass(frozen=True, slots=True)
class KindLine:
    """Success of both on the games of one task type."""

    kind: str
    games: int
    first: float
    second: float


@dataclass(frozen=True, slots=True)
class Versus:
    """`pair` is first less second. `gained` are games that the first does better on, `lost` those of the second, by task id and
    how far apart they are; `left_out` games were played by one side only."""

    first: Side
    second: Side
    pair: Pair
    kinds: tuple[KindLine, ...]
    gained: tuple[str, ...]
    lost: tuple[str, ...]
    left_out: int


def versus(first: Results, arm: str, second: Results, other: str) -> Versus:
    """Compare two arms on the games of both. Raises `UsageError` where an arm was not played or no game was played by both.

    Seeds meet as they do in a report: an arm of one seed meets every seed of the other, else equal seeds meet. Where no seed is
    in both, they meet in order.
    """
    for results, name in ((first, arm), (second, other)):
        if not results.has(name):
            known = ", ".join(each.name for each in results.arms)
            raise UsageError(f"No arm {name!r} was played there. There are: {known}.")
    games = sorted(set(first.tasks) & set(second.tasks))
    if not games:
        raise UsageError(f"No game is in both: the one played {first.split}, the other {second.split}. Play the same split.")
    differences = _differences(first, arm, second, other, games)
    if np.isnan(differences).all():
        raise UsageError("No game has an outcome on both sides. Play the missing episodes with: duomem evaluate RUN")
    room = dict(zip(first.tasks, first.rooms, strict=True))
    sums = np.nansum(differences, axis=0)
    order = np.argsort(-np.abs(sums), kind="stable")
    return Versus(
        first=_side(first, arm, games),
        second=_side(second, other, games),
        pair=paired(differences, [room[game] for game in games]),
        kinds=_kinds(first, arm, second, other, games),
        gained=tuple(games[at] for at in order if sums[at] > 0),
        lost=tuple(games[at] for at in order if sums[at] < 0),
        left_out=len(set(first.tasks) ^ set(second.tasks)),
    )


def _differences(first: Results, arm: str, second: Results, other: str, games: Sequence[str]) -> stats.Array:
    rows = [list(results.seeds_of(results.arm(name))) for results, name in ((first, arm), (second, other))]
    one, two = (_on(results, name, games) for results, name in ((first, arm), (second, other)))
    if len(one) > 1 and len(two) > 1 and rows[0] != rows[1]:
        shared = [seed for seed in rows[0] if seed in rows[1]]
        pairs = [(rows[0].index(seed), rows[1].index(seed)) for seed in shared] or list(
            zip(range(len(one)), range(len(two)), strict=False)
        )
        one, two = one[[at for at, _ in pairs]], two[[at for _, at in pairs]]
    differences: stats.Array = one - two
    return differences


def _on(results: Results, arm: str, games: Sequence[str]) -> stats.Array:
    column = {task: number for number, task in enumerate(results.tasks)}
    wins: stats.Array = results.matrix(arm)[:, [column[game] for game in games]]
    return wins


def _played(results: Results, arm: str, games: Sequence[str]) -> list[Score]:
    wanted = set(games)
    return [score for score in results.of(arm) if score.stop.is_outcome and score.task in wanted]


def _side(results: Results, arm: str, games: Sequence[str]) -> Side:
    scores = _played(results, arm, games)
    usage = sum((score.usage for score in scores), Usage())
    count = max(1, len(scores))
    turns = max(1, sum(score.steps for score in scores))
    return Side(
        arm=arm,
        success=sum(score.won for score in scores) / count,
        steps=sum(score.steps for score in scores) / count,
        invalid=sum(score.invalid for score in scores) / turns,
        seconds=sum(score.seconds for score in scores) / count,
        usage=Usage(round(usage.prompt / count), round(usage.cached / count), round(usage.completion / count)),
        memories=sum(score.memories for score in scores) / count,
    )


def _kinds(first: Results, arm: str, second: Results, other: str, games: Sequence[str]) -> tuple[KindLine, ...]:
    one, two = _played(first, arm, games), _played(second, other, games)
    found = []
    for kind in sorted({score.kind for score in one} & {score.kind for score in two}):
        own, theirs = ([score for score in scores if score.kind == kind] for scores in (one, two))
        found.append(
            KindLine(
                kind,
                len({score.task for score in own}),
                sum(score.won for score in own) / len(own),
                sum(score.won for score in theirs) / len(theirs),
            )
        )
    return tuple(found)
