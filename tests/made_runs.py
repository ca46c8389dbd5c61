"""Run folders as the verbs leave them, without playing: for the tests of what shows runs, and for bench/ui.py.

In: trajectories by arm and seed, memories. Out: a folder with config, steps, journal, bank, results and report, written by the
project's own code. `many` makes one of as many episodes as are asked for; nothing in it was played, but it has the form and
about the sizes of a real run.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

from duomem import report
from duomem.bank import Bank
from duomem.embed import build
from duomem.evaluate import games_to_show, phase_of
from duomem.journal import Journal
from duomem.rundir import RunFolder, open_run, replace
from duomem.scores import ARMS, Facts, Results, Score, Shown, arms_named
from duomem.types import (
    BankEdit,
    Memory,
    Message,
    Origin,
    Provenance,
    Reply,
    StopReason,
    Task,
    ToolCall,
    Trajectory,
    Turn,
    Usage,
)

SPLIT = "valid_unseen"
KEY = "0123456789abcdef"
KINDS = ("pick_and_place", "pick_clean_then_place", "pick_cool_then_place", "pick_heat_then_place", "pick_two", "look_at")
ROOMS = ("9", "10", "219", "226", "308", "424")
CHANCES = {"none": 0.05, "format_only": 0.08, "memory": 0.62, "adapter": 0.8, "both": 0.86, "decoy": 0.06, "teacher": 0.97}

CONFIG = """
[run]
name = "{name}"

[env]
name = "household"

[teacher]
model = "expert"

[student]
model = "scripted"
replies = ["1. look > look"]

[memory]
embedder = "lexical"

[evaluate]
split = "{split}"
games = 0
arms = {arms}
"""


@dataclass
class Made:
    """What goes into a run. `played` holds the trajectories of each arm and seed, `labels` the type and room of each task."""

    played: dict[tuple[str, int], list[Trajectory]]
    labels: dict[str, tuple[str, str]]
    memories: Sequence[Memory] = ()
    taught: Sequence[Trajectory] = ()
    facts: Facts = field(default_factory=Facts)


def write(root: Path, made: Made, threads: int = 1) -> RunFolder:
    """A finished run in a new folder. With several threads, which share commits, the episodes of a phase stand in any order."""
    arms = [name for name in ARMS if any(arm == name for arm, _ in made.played)]
    root.mkdir(parents=True, exist_ok=True)
    (root / "given.toml").write_text(CONFIG.format(name=root.name, split=SPLIT, arms=list(arms)).replace("'", '"'))
    run = open_run(root, root / "given.toml")
    (root / "given.toml").unlink()
    phases = {f"collect/{KEY}": made.taught, **{phase_of(SPLIT, *who, KEY): found for who, found in made.played.items()}}
    with Journal.open(run.journal) as journal, ThreadPoolExecutor(threads) as pool:
        for phase, found in phases.items():
            list(pool.map(partial(journal.add, phase), found))
    won = sum(each.won for each in made.taught)
    run.record(
        "collect", KEY, {"episodes": len(made.taught), "won": won, "phase": f"collect/{KEY}", "tasks": [], "seconds": 1.0}
    )
    if made.memories:
        run.record("remember", KEY, _bank(run, made.memories))
    results = _results(made, arms)
    replace(run.results, results.to_json())
    wins = {arm: sum(score.won for score in results.of(arm)) for arm in arms}
    run.record("evaluate", KEY, {"split": SPLIT, "games": len(results.tasks), "won": wins})
    report.write(results, run.root)
    return run


def _bank(run: RunFolder, memories: Sequence[Memory]) -> dict[str, object]:
    with Bank.create(run.bank, build("lexical")) as bank:
        bank.apply([BankEdit("add", "won", memory) for memory in memories])
        view = bank.view()
        return {"memories": len(view), "content_hash": view.content_hash, "bytes": bank.stats().bytes, "seconds": 1.0}


def _results(made: Made, arms: Sequence[str]) -> Results:
    tasks = sorted(made.labels)
    scores = [
        _score(arm, seed, each, *made.labels[each.task.id]) for (arm, seed), found in made.played.items() for each in found
    ]
    scores.sort(key=lambda score: (list(ARMS).index(score.arm), score.seed, score.task))
    results = Results(
        split=SPLIT,
        arms=arms_named(arms),
        seeds=tuple(sorted({seed for _, seed in made.played})),
        tasks=tuple(tasks),
        rooms=tuple(made.labels[task][1] for task in tasks),
        scores=tuple(scores),
        games_of=len(tasks),
        facts=made.facts,
    )
    games = games_to_show(results)
    first = {(arm, each.task.id): each for (arm, seed), found in made.played.items() if seed == 0 for each in found}
    shown = tuple(Shown(arm, 0, first[arm, game]) for game in games for arm in arms if (arm, game) in first)
    return Results(**{name: getattr(results, name) for name in Results.__slots__ if name != "shown"}, shown=shown)


def _score(arm: str, seed: int, each: Trajectory, kind: str, room: str) -> Score:
    return Score(
        arm=arm,
        seed=seed,
        task=each.task.id,
        kind=kind,
        room=room,
        stop=each.stop,
        steps=len(each.turns),
        invalid=sum(not turn.valid for turn in each.turns),
        unparsed=sum(turn.call is None for turn in each.turns),
        repaired=0,
        usage=each.usage,
        seconds=each.seconds,
        memories=len(each.shown),
        memory_bytes=300 * len(each.shown),
        error=each.error,
    )


# ------------------------------------------------------------------------------------------------------------ one episode


def task(number: int, kind: str = "", split: str = SPLIT) -> Task:
    return Task(
        f"{split}/{kind or KINDS[number % 6]}-Mug-None-Shelf-{ROOMS[number % 6]}/trial_T{number:05}", split, "household"
    )


def turn(thought: str, action: str, observation: str, *, valid: bool = True, usage: Usage | None = None) -> Turn:
    """A turn in the default layout, with its reply as a model wrote it."""
    reply = Reply(Message.of("assistant", f"{thought} > {action}"), usage=usage or Usage(200, 180, 12), seconds=0.05)
    return Turn(reply, ToolCall.act(action), observation, valid)


def played(
    number: int, turns: Sequence[Turn], *, won: bool, shown: Sequence[str] = (), model: str = "pocket", split: str = SPLIT
) -> Trajectory:
    own = task(number, split=split)
    goal = f"put a mug {number} in shelf."
    scene = "You are in the middle of a room. Looking quickly around you, you see a cabinet 1, a countertop 1, and a shelf 1."
    return Trajectory(
        task=own,
        attempt=0,
        goal=goal,
        scene=scene,
        prompt=(Message.of("user", f"{scene}\nTask: {goal}"),),
        turns=tuple(turns),
        stop=StopReason.WON if won else StopReason.STEP_CAP,
        shown=tuple(shown),
        origin=Origin(model=model, layout="pocket"),
        seconds=round(0.06 * len(turns), 3),
    )


def memory(number: int, text: str = "") -> Memory:
    goal = f"put a mug {number} in shelf."
    text = text or f"{goal}\n1. mug: take from countertop {number}\n2. mug: move to shelf"
    return Memory(goal, text, "script", Provenance(task(number, split="train").id, 0, f"{number:064x}", "expert", "rules:test"))


# --------------------------------------------------------------------------------------------------------------- many


@cache
def _turns(places: int, won: bool) -> tuple[Turn, ...]:
    """An episode that looks at so many places; a lost one never finds the mug."""
    steps = [
        turn(f"{at}. mug: find countertop", f"go to countertop {at}", f"You arrive at countertop {at}. You see a knife {at}.")
        for at in range(1, places)
    ]
    if won:
        steps.append(turn("1. mug: take", f"take mug 1 from countertop {places}", "You pick up the mug 1."))
        return (*steps, turn("2. mug: move to shelf", "move mug 1 to shelf 1", "You move the mug 1 to the shelf 1."))
    return (
        *steps,
        *(turn("2. mug: move", "move mug 1 to shelf 1", "Nothing happens.", valid=False) for _ in range(12 - places)),
    )


def many(root: Path, episodes: int = 10_000, chances: Mapping[str, float] = CHANCES, memories: int = 300) -> RunFolder:
    """A run of so many episodes: the arms on as many games as fill it, one seed, the rest collected."""
    dice = random.Random(7)
    games = episodes // (len(chances) + 1)
    bank = [memory(number) for number in range(memories)]
    labels = {task(number).id: (KINDS[number % 6], ROOMS[number % 6]) for number in range(games)}
    found: dict[tuple[str, int], list[Trajectory]] = {}
    for arm, chance in chances.items():
        for number in range(games):
            won = dice.random() < chance
            shown = [bank[(number + step) % memories].id for step in (0, 1)] if ARMS[arm].memories == "bank" else []
            found.setdefault((arm, 0), []).append(played(number, _turns(2 + number % 7, won), won=won, shown=shown))
    taught = [
        played(number, _turns(2 + number % 5, True), won=True, model="expert", split="train")
        for number in range(episodes - games * len(chances))
    ]
    return write(root, Made(found, labels, bank, taught), threads=64)
