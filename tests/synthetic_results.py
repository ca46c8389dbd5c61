"""Results as a real evaluation would leave them, without playing: wins drawn with given chances, or given outright."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from duomem.scores import ARMS, Facts, Results, Score, Shown, arms_named
from duomem.types import Message, Reply, StopReason, Task, ToolCall, Trajectory, Turn, Usage

KINDS = (
    "look_at_obj_in_light",
    "pick_and_place_simple",
    "pick_clean_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_two_obj_and_place",
)
ROOMS = ("9", "29", "215", "226", "315", "325", "404", "425")
CHANCES = {"none": 0.06, "format_only": 0.09, "memory": 0.66, "adapter": 0.77, "both": 0.88, "decoy": 0.41, "teacher": 0.97}


def results(
    wins: Mapping[str, Sequence[Sequence[bool]]],
    *,
    seeds: Sequence[int] = (0,),
    facts: Facts | None = None,
    shown: bool = False,
) -> Results:
    """Results from wins, by arm as seeds x games. Loss and win lengths are made up, but always the same."""
    games = len(next(iter(wins.values()))[0])
    tasks = tuple(f"second_unseen/game-{number:04}" for number in range(games))
    rooms = tuple(ROOMS[number % 8] for number in range(games))
    scores, episodes = [], []
    for arm in arms_named(list(wins)):
        for seed, row in zip(seeds if arm.seeded else seeds[:1], wins[arm.name], strict=False):
            for number, won in enumerate(row):
                score = _score(arm.name, seed, tasks[number], number, won)
                scores.append(score)
                if shown and number < 3 and seed == seeds[0]:
                    episodes.append(Shown(arm.name, seed, _trajectory(score)))
    return Results(
        split="second_unseen",
        arms=arms_named(list(wins)),
        seeds=tuple(seeds),
        tasks=tasks,
        rooms=rooms,
        scores=tuple(scores),
        games_of=max(games, 240),
        sample_seed=0 if games < 240 else None,
        facts=facts or FACTS,
        shown=tuple(sorted(episodes, key=lambda entry: entry.trajectory.task.id)),
    )


def drawn(games: int = 120, seeds: Sequence[int] = (0, 1, 2), chances: Mapping[str, float] = CHANCES) -> Results:
    """A typical evaluation: a game has its own difficulty, which all arms share."""
    dice = random.Random(3)
    ease = [dice.gauss(0, 0.18) + (0.12 if number % 6 < 2 else -0.08 if number % 6 == 5 else 0) for number in range(games)]
    wins = {
        name: [
            [dice.random() < chance + ease[number] for number in range(games)] for _ in (seeds if ARMS[name].seeded else [0])
        ]
        for name, chance in chances.items()
    }
    return results(wins, seeds=seeds, shown=True)


def split(games: int, won: int) -> list[bool]:
    """The first `won` games won."""
    return [number < won for number in range(games)]


def _score(arm: str, seed: int, task: str, number: int, won: bool) -> Score:
    steps = 6 + (number * 7 + len(arm)) % 17 if won else 30
    remembers = ARMS[arm].memories in ("bank", "decoy")
    return Score(
        arm=arm,
        seed=seed,
        task=task,
        kind=KINDS[number % 6],
        room=ROOMS[number % 8],
        stop=StopReason.WON if won else StopReason.STEP_CAP,
        steps=steps,
        invalid=0 if won else 4 + number % 9,
        unparsed=0 if won else number % 2,
        repaired=0,
        usage=Usage(40 * steps * steps, 36 * steps * steps, 14 * steps),
        seconds=0.21 * steps,
        memories=2 if remembers else 0,
        memory_bytes=310 + number % 40 if remembers else 0,
        similarity=0.55 + (number % 40) / 100 if remembers else None,
        same_kind=number % 12 != 0 if arm != "decoy" else False,
        same_object=number % 3 == 0 if remembers else None,
    )


def _trajectory(score: Score) -> Trajectory:
    turns = [
        Turn(
            Reply(Message.of("assistant", f"mug find countertop: go to countertop {number} > go to countertop {number}")),
            ToolCall.act(f"go to countertop {number}"),
            f"You arrive at countertop {number}. On the countertop {number}, you see a <b>knife 1</b> & a mug {number}.",
            valid=number % 4 != 0 or score.won,
        )
        for number in range(1, min(score.steps, 8))
    ]
    return Trajectory(
        task=Task(score.task, "second_unseen", "alfworld"),
        attempt=0,
        goal=f"put a clean mug in coffeemachine. <script>alert({score.task[-1]})</script>",
        scene="You are in the middle of a room.",
        prompt=(Message.of("user", "You are in the middle of a room. Looking quickly around you, you see a cabinet 1."),),
        turns=tuple(turns),
        stop=score.stop,
        shown=("a" * 16, "b" * 16) if score.memories else (),
    )


FACTS = Facts(
    adapter_parameters=233_472,
    memory_bytes=412_345,
    memories=431,
    seconds={"collect": 81.2, "remember": 4.1, "tune": 62.9, "evaluate": 301.5},
    versions={"python": "3.11.9", "torch": "2.13.0", "alfworld": "0.4.2", "textworld": "1.7.0"},
    commit="0123456789abcdef0123456789abcdef01234567",
    data={"second_unseen.games": "240", "second_unseen.skipped": "0", "admissible": "false", "data_hash": "9f8e7d6c"},
    hardware={"cpu": "2 cores", "memory": "8 GB"},
    settings={"base": "pocket", "layout": "pocket", "max_steps": "30", "repair": "off", "admissible": "off", "k": "2"},
    config_hash="5f2c9a1b2c3d4e5f",
    losses=tuple(0.2 + 2.1 * 0.9**number for number in range(36)),
    made="2030-01-01",
)
