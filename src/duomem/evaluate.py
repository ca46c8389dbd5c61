"""Plays the arms of an evaluation on the same games and seeds, and scores what came of it.

In: tasks, a player per arm and seed, and a way to play episodes. Out: `Results`, one score per arm, seed and game, each game
once. Only here and in the report are a task's labels read. It trains nothing, decides nothing and makes no page.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from duomem.agent import Player
from duomem.envs import Env
from duomem.errors import DataError, Incomplete, UsageError
from duomem.journal import Journal
from duomem.placebo import Decoys, OtherRooms
from duomem.rollout import Job, Progress, Rollout, rollout
from duomem.scores import ARMS, Arm, Facts, Results, Score, Shown
from duomem.stats import plan_words
from duomem.types import EpisodeView, Hit, Labels, Task, Trajectory

Play = Callable[[Player, Sequence[Task], str], Rollout]
"""Plays each task once under a phase name (see `plays`). One that was stopped early ends the evaluation there."""

SHOWN_GAMES = 3
"""So many games are kept in full, to be read side by side."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Who can play for one seed. `student` and `tuned` hold strategy, bank and budget; arms without memories drop them."""

    student: Player
    tuned: Player | None = None
    """The same student with the adapter; one adapter serves the adapter arm and the both arm."""
    teacher: Player | None = None


def playable(arm: Arm, parts: Parts) -> bool:
    """Whether the run has what the arm needs."""
    player = parts.teacher if arm.model == "teacher" else parts.tuned if arm.adapter else parts.student
    if player is None:
        return False
    return arm.memories in ("none", "example") or (
        player.strategy is not None and player.bank is not None and player.budget.k > 0
    )


def seat(arm: Arm, parts: Parts, labels: Mapping[str, Labels]) -> Player:
    """The player of an arm. `labels`, by task id, cover the games played and those memories came from. Raises `UsageError`."""
    player = parts.teacher if arm.model == "teacher" else parts.tuned if arm.adapter else parts.student
    if player is None or not playable(arm, parts):
        raise UsageError(f"Arm {arm.name!r} cannot be played: the run has no adapter, memories or teacher that it needs.")
    if arm.memories in ("none", "example"):
        return replace(player, strategy=None, bank=None, example=arm.memories == "example")
    if player.strategy and arm.memories == "decoy":
        return replace(player, strategy=Decoys(player.strategy, labels))
    if player.strategy and arm.memories == "other_rooms":
        return replace(player, strategy=OtherRooms(player.strategy, labels))
    return player


def known_labels(*sources: tuple[Env, Iterable[Task]]) -> dict[str, Labels]:
    """Labels by task id of several environments' tasks."""
    return {task.id: env.labels(task) for env, tasks in sources for task in tasks}


def sample(tasks: Sequence[Task], games: int, seed: int) -> tuple[list[Task], int | None]:
    """A seeded subset sorted by id and the seed that drew it; all tasks (and None) where `games` is 0 or covers them all.

    Raises `DataError` where an id is there twice: each game is played exactly once.
    """
    by_id = {task.id: task for task in tasks}
    if len(by_id) < len(tasks):
        ids = [task.id for task in tasks]
        twice = next(task for task in sorted(ids) if ids.count(task) > 1)
        raise DataError(f"The split has {twice} more than once. A game may be scored once only; mend the data root.")
    if games <= 0 or games >= len(by_id):
        return [by_id[key] for key in sorted(by_id)], None
    return [by_id[key] for key in sorted(random.Random(seed).sample(sorted(by_id), games))], seed


def plan(env: Env, tasks: Sequence[Task], seeds: Sequence[int]) -> str:
    """What this evaluation can detect, in words; to be printed before it starts."""
    return plan_words(len(tasks), len(seeds), len({env.labels(task).room for task in tasks}))


def plays(
    journal: Journal | None = None,
    *,
    concurrency: int = 8,
    retries: int = 2,
    backoff_s: float = 1.0,
    progress: Callable[[str, Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> Play:
    """Play through `rollout` and the journal; `progress` is told the phase too. What has an outcome is not played."""

    def play(player: Player, tasks: Sequence[Task], phase: str) -> Rollout:
        return rollout(
            [Job(task) for task in tasks],
            player,
            journal=journal,
            phase=phase,
            concurrency=concurrency,
            retries=retries,
            backoff_s=backoff_s,
            progress=partial(progress, phase) if progress else None,
            cancel=cancel,
        )

    return play


def score_arms(
    env: Env,
    tasks: Sequence[Task],
    players: Mapping[str, Callable[[int], Player]],
    seeds: Sequence[int],
    *,
    play: Play,
    labels: Mapping[str, Labels],
    split: str,
    games_of: int | None = None,
    sample_seed: int | None = None,
    facts: Facts | None = None,
    key: str = "",
) -> Results:
    """Play every arm on the same tasks and seeds. `players[arm](seed)` gives who plays an arm (see `seat`).

    `labels` must hold each task and, for retrieval figures, the tasks that memories came from. `key` becomes part of each phase
    name; make it a hash of what the run made (adapter, bank), so that a journal never answers for another run. Arms that no
    seed changes are played once, with the first seed, unless a player samples (temperature above 0). Errors are in the
    results; see `require_complete`.
    """
    tasks, _ = sample(tasks, 0, 0)
    if not seeds or len(set(seeds)) < len(seeds):
        raise UsageError(f"An evaluation needs one or more different seeds, not {list(seeds)}.")
    arms = tuple(arm for name, arm in ARMS.items() if name in players)
    repeats = any(players[arm.name](seeds[0]).sampling.temperature > 0 for arm in arms)
    results = Results(
        split=split,
        arms=arms,
        seeds=tuple(seeds),
        tasks=tuple(task.id for task in tasks),
        rooms=tuple(env.labels(task).room for task in tasks),
        scores=(),
        games_of=len(tasks) if games_of is None else games_of,
        sample_seed=sample_seed,
        repeats=repeats,
        facts=facts or Facts(),
    )
    scores: list[Score] = []
    episodes: dict[tuple[str, str], Shown] = {}
    stopped = False
    for arm in arms:
        for seed in results.seeds_of(arm):
            if stopped:
                break
            player = players[arm.name](seed)
            played = play(player, tasks, phase_of(split, arm.name, seed, key))
            stopped = played.stopped is not None
            for trajectory in (*played.trajectories, *played.errors):
                _same_game(trajectory.task, tasks)
                scores.append(score(arm, seed, player, trajectory, labels))
                if seed == results.seeds[0]:
                    episodes[arm.name, trajectory.task.id] = Shown(arm.name, seed, trajectory)
    scores.sort(key=lambda found: (list(ARMS).index(found.arm), results.seeds.index(found.seed), found.task))
    results = replace(results, scores=tuple(scores))
    games = games_to_show(results)
    shown = tuple(episodes[arm.name, game] for game in games for arm in arms if (arm.name, game) in episodes)
    return replace(results, shown=shown)


def _same_game(played: Task, tasks: Sequence[Task]) -> None:
    """A journal may hold an episode of a game that has been written anew under the same id."""
    if played not in tasks and any(played.id == task.id for task in tasks):
        raise DataError(
            f"The recorded episode of {played.id} is of another game with the same id: the data root has changed since. "
            "Use another --out folder, or restore the data."
        )


def phase_of(split: str, arm: str, seed: int, key: str = "") -> str:
    """The journal's name for the episodes of one arm and seed."""
    return "/".join(part for part in ("evaluate", split, arm, f"seed{seed}", key) if part)


def require_complete(results: Results, again: str) -> None:
    """Raises `Incomplete`, with the command `again` that resumes, unless every episode has its outcome."""
    problems = results.problems()
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise Incomplete(
            f"The evaluation is incomplete: {'; '.join(problems[:3])}{more}. None of them counts as a failure of the agent. "
            f"Play the missing episodes with: {again}"
        )


def score(arm: Arm, seed: int, player: Player, trajectory: Trajectory, labels: Mapping[str, Labels]) -> Score:
    """The score of one episode."""
    own = labels[trajectory.task.id]
    hits = _hits(player, trajectory)
    nearest = max(hits, key=lambda hit: (hit.score, hit.memory.id), default=None)
    source = labels.get(nearest.memory.provenance.task_id) if nearest else None
    turns = trajectory.turns
    return Score(
        arm=arm.name,
        seed=seed,
        task=trajectory.task.id,
        kind=own.kind,
        room=own.room,
        stop=trajectory.stop,
        steps=len(turns),
        invalid=sum(not turn.valid for turn in turns),
        unparsed=sum(turn.call is None for turn in turns),
        repaired=sum(turn.repaired for turn in turns),
        usage=trajectory.usage,
        seconds=trajectory.seconds,
        memories=len(trajectory.shown),
        memory_bytes=_bytes(player, trajectory),
        similarity=nearest.score if nearest else None,
        same_kind=source.kind == own.kind if source else None,
        same_object=source.object == own.object if source else None,
        error=trajectory.error if not trajectory.stop.is_outcome else "",
    )


def _hits(player: Player, trajectory: Trajectory) -> list[Hit]:
    """The memories shown at the start with their similarity: recall is pure, so it is asked again."""
    if not trajectory.shown or player.strategy is None or player.bank is None:
        return []
    view = EpisodeView(trajectory.goal, trajectory.scene, exclude_tasks=frozenset({trajectory.task.id}))
    recall = player.strategy.recall(view, player.bank, player.budget)
    return [hit for hit in recall.hits if hit.memory.id in trajectory.shown]


def _bytes(player: Player, trajectory: Trajectory) -> int:
    if player.example and trajectory.prompt:
        return len(player.layout.example.encode())
    bank = player.bank
    return sum(len(bank.get(memory).text.encode()) for memory in trajectory.shown) if bank else 0


def games_to_show(results: Results, games: int = SHOWN_GAMES) -> list[str]:
    """Games on which arms of the 2x2 differ most, of different task types first, by a fixed rule: not picked by hand."""
    first: dict[str, dict[str, bool]] = {}
    kinds: dict[str, str] = {}
    for found in results.scores:
        kinds[found.task] = found.kind
        if found.seed == results.seeds[0] and found.arm in ("none", "memory", "adapter", "both", "decoy"):
            first.setdefault(found.task, {})[found.arm] = found.won

    def spread(task: str) -> tuple[int, str]:
        wins = sum(first[task].values())
        return -min(wins, len(first[task]) - wins), task

    chosen: list[str] = []
    for fresh in (True, False):
        for task in sorted(first, key=spread):
            used = {kinds[game] for game in chosen}
            if len(chosen) < games and task not in chosen and (not fresh or kinds[task] not in used):
                chosen.append(task)
    return chosen
