"""Turns the scores of an evaluation into the figures of a report.

In: `Results`. Out: a `Summary`, whose JSON is report.json. A pure function of the results: the same results, the same
bytes. It plays nothing, reads no file and makes no page.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from duomem import stats
from duomem.decision import ORDER, Decision, Pair, best_of, decide, undecided
from duomem.scores import Arm, Facts, Results, Score
from duomem.types import dump

SCHEMA = 1
"""Version of report.json."""

VERBS = ("games", "collect", "remember", "tune", "evaluate")
PAIRS = (
    ("memory", "decoy"),
    ("both", "adapter"),
    ("both", "memory"),
    ("both", "none"),
    ("memory", "none"),
    ("adapter", "none"),
    ("adapter", "memory"),
    ("memory", "format_only"),
    ("format_only", "none"),
    ("decoy", "none"),
    ("teacher", "both"),
    ("memory", "no_same_room"),
    ("both", "both_decoy"),
)
"""The comparisons of every report; memory's effect, real less decoy, comes first."""


@dataclass(frozen=True, slots=True)
class Group:
    """Success on some of the games: a fraction, the games, and Wilson's interval."""

    success: float
    n: int
    wilson: tuple[float, float]


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """One arm. Fractions for shares; tokens, bytes and seconds are means per episode; `n` counts games.

    `interval` is the one to quote: Wilson's for one seed, the crossed bootstrap's for several. `errors` are episodes without an
    outcome; they are in none of the other figures.
    """

    success: float | None
    n: int
    wilson: tuple[float, float]
    interval: tuple[float, float]
    mean_steps: float
    steps_to_success: float | None
    seeds: int
    success_by_seed: dict[str, float]
    episodes: int
    errors: int
    truncated: int
    invalid_rate: float
    unparsed_rate: float
    repaired: int
    prompt_tokens: float
    cached_tokens: float
    completion_tokens: float
    seconds_per_task: float
    memories: float
    memory_bytes: float
    stops: dict[str, int]
    by_type: dict[str, Group]
    by_room: dict[str, Group]


@dataclass(frozen=True, slots=True)
class Retrieval:
    """How good the nearest memory was in the memory arm: shares of the right type and object, cosine at 10, 50 and 90%."""

    arm: str
    n: int
    top1_type: float | None
    top1_object: float | None
    similarity: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Summary:
    """report.json, field by field."""

    complete: bool
    problems: tuple[str, ...]
    split: str
    games: int
    games_of: int
    sample_seed: int | None
    seeds: tuple[int, ...]
    rooms: tuple[str, ...]
    arms: dict[str, ArmSummary]
    pairs: dict[str, Pair]
    decision: Decision
    detectable_difference: float
    retrieval: Retrieval | None
    adapter_parameters: int
    memory_bytes: int
    memories: int
    seconds: dict[str, float]
    versions: dict[str, str]
    commit: str
    data: dict[str, str]
    hardware: dict[str, str]
    settings: dict[str, str]
    config_hash: str
    made: str
    schema: int = SCHEMA

    def to_json(self) -> str:
        """Canonical text, floats to six decimals, arms and pairs in report order."""
        return json.dumps(_rounded(json.loads(dump(self))), indent=1, ensure_ascii=False) + "\n"


def summarise(results: Results) -> Summary:
    """The figures and the decision of a report."""
    problems = tuple(results.problems())
    arms = {arm.name: summarise_arm(results, arm) for arm in results.arms}
    pairs = _pairs(results, PAIRS)
    facts: Facts = results.facts
    return Summary(
        complete=not problems,
        problems=problems,
        split=results.split,
        games=len(results.tasks),
        games_of=results.games_of,
        sample_seed=results.sample_seed,
        seeds=results.seeds,
        rooms=tuple(sorted(set(results.rooms), key=_natural)),
        arms=arms,
        pairs=pairs,
        decision=_decision(results, arms, pairs, problems),
        detectable_difference=results.detectable,
        retrieval=_retrieval(results),
        adapter_parameters=facts.adapter_parameters,
        memory_bytes=facts.memory_bytes,
        memories=facts.memories,
        seconds={verb: facts.seconds[verb] for verb in sorted(facts.seconds, key=_verb)},
        versions=dict(sorted(facts.versions.items())),
        commit=facts.commit,
        data=dict(sorted(facts.data.items())),
        hardware=dict(sorted(facts.hardware.items())),
        settings=dict(sorted(facts.settings.items())),
        config_hash=facts.config_hash,
        made=facts.made,
    )


def _decision(results: Results, arms: dict[str, ArmSummary], pairs: dict[str, Pair], problems: Sequence[str]) -> Decision:
    if problems:
        return undecided(f"the evaluation is incomplete ({len(problems)} episodes are missing or have no outcome).")
    success = {name: arm.success for name, arm in arms.items() if arm.success is not None}
    return decide(success, pairs | _pairs(results, [(best_of(success), arm) for arm in ORDER]), results.detectable)


def summarise_arm(results: Results, arm: Arm) -> ArmSummary:
    """The figures of one arm."""
    scores = results.of(arm.name)
    played = [score for score in scores if score.stop.is_outcome]
    wins = results.matrix(arm.name)
    seen = ~np.isnan(wins)
    games = int(seen.any(axis=0).sum())
    success = float(np.nanmean(wins)) if seen.any() else None
    wilson = stats.wilson((success or 0.0) * games, games)
    quoted = wilson
    if len(wins) > 1 and seen.any():
        clustered = stats.interval(wins, results.rooms)
        quoted = (clustered.low, clustered.high)
    turns = sum(score.steps for score in played)
    return ArmSummary(
        success=success,
        n=games,
        wilson=wilson,
        interval=quoted,
        mean_steps=_mean([score.steps for score in played]),
        steps_to_success=_mean([score.steps for score in played if score.won]) if any(s.won for s in played) else None,
        seeds=len(wins),
        success_by_seed={
            str(seed): _mean([float(score.won) for score in played if score.seed == seed]) for seed in results.seeds_of(arm)
        },
        episodes=len(played),
        errors=len(scores) - len(played),
        truncated=sum(score.stop.truncated for score in played),
        invalid_rate=sum(score.invalid for score in played) / max(1, turns),
        unparsed_rate=sum(score.unparsed for score in played) / max(1, turns),
        repaired=sum(score.repaired for score in played),
        prompt_tokens=_mean([score.usage.prompt for score in played]),
        cached_tokens=_mean([score.usage.cached for score in played]),
        completion_tokens=_mean([score.usage.completion for score in played]),
        seconds_per_task=_mean([score.seconds for score in played]),
        memories=_mean([score.memories for score in played]),
        memory_bytes=_mean([score.memory_bytes for score in played]),
        stops=dict(sorted(Counter(score.stop.value for score in scores).items())),
        by_type=_groups(played, lambda score: score.kind),
        by_room=_groups(played, lambda score: score.room),
    )


def _groups(scores: Sequence[Score], key: Callable[[Score], str]) -> dict[str, Group]:
    groups = {}
    for name in sorted({key(score) for score in scores}, key=_natural):
        members = [score for score in scores if key(score) == name]
        games = len({score.task for score in members})
        success = _mean([float(score.won) for score in members])
        groups[name] = Group(success, games, stats.wilson(success * games, games))
    return groups


def _pairs(results: Results, wanted: Sequence[tuple[str, str]]) -> dict[str, Pair]:
    pairs = {}
    for first, second in wanted:
        if first != second and results.has(first) and results.has(second):
            differences = results.differences(first, second)
            if not np.isnan(differences).all():
                pairs[f"{first}-{second}"] = paired(differences, results.rooms)
    return pairs


def paired(differences: stats.Array, rooms: Sequence[str]) -> Pair:
    """Differences of wins (seeds x games, a room for each game) as a `Pair`."""
    interval = stats.interval(differences, rooms)
    test = stats.paired_test(differences)
    return Pair(
        interval.estimate, (interval.low, interval.high), test.p, test.wins, test.losses, test.games, differences.shape[0]
    )


def _retrieval(results: Results) -> Retrieval | None:
    arm = next((name for name in ("memory", "both") if results.has(name)), "")
    scores = [score for score in results.of(arm) if score.similarity is not None]
    if not scores:
        return None
    low, middle, high = np.percentile([score.similarity or 0.0 for score in scores], [10, 50, 90])
    kinds = [float(score.same_kind) for score in scores if score.same_kind is not None]
    objects = [float(score.same_object) for score in scores if score.same_object is not None]
    similarity = (float(low), float(middle), float(high))
    return Retrieval(arm, len(scores), _mean(kinds) if kinds else None, _mean(objects) if objects else None, similarity)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0


def _verb(name: str) -> tuple[int, str]:
    """Verbs in the order of the pipeline, others after them."""
    return (VERBS.index(name) if name in VERBS else len(VERBS), name)


def _natural(name: str) -> tuple[int, str]:
    """Rooms are numbers as text: sort 9 before 10."""
    return (int(name), "") if name.isdigit() else (1 << 30, name)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value
