"""Reads a game file in the official layout back into a `GameSpec`.

In: `game.tw-pddl` with `traj_data.json` beside it, whoever wrote them. Out: the game as a value, for statistics and for the
solver. It keeps the facts that a `GameSpec` holds; objects inside movable receptacles count as lying nowhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from duomem.errors import DataError
from duomem.games import package
from duomem.games.spec import GameSpec, Goal, Item, Receptacle

_FACT = re.compile(r"\((\w+) ([^()]*)\)")
_TASK = re.compile(r"Your task is to: (.*?)\.?\"")


def type_of(identifier: str) -> str:
    """Type of a simulator id: `Sink|+00.10|+00.90|-01.00|SinkBasin` is a SinkBasin."""
    parts = identifier.split("|")
    return parts[-1] if len(parts) == 5 else parts[0]


def simulator_id(symbol: str) -> str:
    """The simulator's id of a PDDL symbol."""
    for spelled, sign in (("_minus_", "-"), ("_bar_", "|"), ("_plus_", "+"), ("_dot_", "."), ("_comma_", ",")):
        symbol = symbol.replace(spelled, sign)
    return symbol


def read_game(path: Path) -> GameSpec:
    """The game in a `game.tw-pddl`; DataError if it or its traj_data.json is broken."""
    try:
        game = json.loads(path.read_text(encoding="utf-8"))
        about = json.loads((path.parent / "traj_data.json").read_text(encoding="utf-8"))
        params, problem = about["pddl_params"], game["pddl_problem"]
        goal = Goal(about["task_type"], params["object_target"], params["parent_target"], params["toggle_target"])
        sentence = _TASK.search(game["grammar"])
        template = _template(goal, sentence.group(1) if sentence else "")
        return _spec(about["task_id"], int(about["scene"]["scene_num"]), problem, goal, template)
    except (OSError, ValueError, KeyError, StopIteration) as error:
        raise DataError(f"{path} is not a game in ALFWorld's format: {error!r}") from error


def read_games(folder: Path) -> Iterator[GameSpec]:
    """All games below a folder, in sorted order."""
    for path in sorted(folder.rglob("game.tw-pddl")):
        yield read_game(path)


def _template(goal: Goal, sentence: str) -> int:
    for index, words in enumerate(package.templates(goal.kind)):
        if words.format(obj=goal.object.lower(), recep=goal.target.lower(), toggle=goal.toggle.lower()) == sentence:
            return index
    return 0


def _spec(trial: str, room: int, problem: str, goal: Goal, template: int) -> GameSpec:
    body = problem[problem.index("(:init") + 6 : problem.index("(:goal")]
    facts: dict[str, list[list[str]]] = {}
    for name, arguments in _FACT.findall(body):
        facts.setdefault(name, []).append([simulator_id(argument) for argument in arguments.split()])
    at = _pairs(facts["receptacleAtLocation"])
    openable = {place for (place,) in facts.get("openable", [])}
    lies: dict[str, list[str]] = {}
    for item, place in facts.get("inReceptacle", []):
        lies.setdefault(item, []).append(place)
    item_at = _pairs(facts["objectAtLocation"])
    cool = {item for (item,) in facts.get("isCool", [])}
    places = [
        Receptacle(p, kind.removesuffix("Type"), p in openable, at[p]) for p, kind in sorted(facts["receptacleType"]) if p in at
    ]
    items = [
        Item(i, kind.removesuffix("Type"), tuple(lies.get(i, ())), item_at.get(i, ""), i in cool)
        for i, kind in sorted(facts["objectType"])
    ]
    start = next(location for _, location in facts["atLocation"])
    return GameSpec(trial, room, tuple(places), tuple(items), start, goal, template)


def _pairs(facts: list[list[str]]) -> dict[str, str]:
    return {first: second for first, second in facts}  # noqa: C416 - lists of two, not tuples
