"""Proves a game solvable: the shortest plan, as text commands, from the hidden state.

In: a `GameSpec`. Out: a shortest plan, or None if there is none. It is exact for the six task types: the hands hold one object
and every move costs one step wherever it leads, so a shortest plan is a fixed sequence of stops (take, change, put, or use),
and all choices of object, receptacle and appliance are tried. It proves solvability and nothing else; no teacher may use it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations
from typing import NamedTuple

from duomem.games import package
from duomem.games.spec import APPLIANCE, CLEAN, COOL, HEAT, LOOK, TWO, GameSpec, Item, Receptacle

_VERB = {CLEAN: "clean", HEAT: "heat", COOL: "cool"}
_FACT = {CLEAN: "cleanable", HEAT: "heatable", COOL: "coolable"}


class Stop(NamedTuple):
    """One thing done at a receptacle: its verb, the object, and whether a closed receptacle must be opened for it."""

    verb: str
    item: Item
    place: Receptacle
    opens: bool


Plan = tuple[Stop, ...]


def solve(game: GameSpec) -> tuple[str, ...] | None:
    """The commands of a shortest plan, the first of equals by the order of ids.

    () if the goal holds already, None if it never can.
    """
    best = min(_plans(game), key=lambda plan: _cost(game, plan), default=None)
    return None if best is None else tuple(_commands(game, best))


def plan_length(game: GameSpec) -> int:
    """Steps of a shortest plan; 0 where the goal holds already or can never be reached."""
    return min((_cost(game, plan) for plan in _plans(game)), default=0)


def can_solve(game: GameSpec) -> bool:
    """True if the goal does not hold yet and some plan reaches it."""
    first = next(_plans(game), None)
    return first is not None and not any(not plan for plan in _plans(game))


def _plans(game: GameSpec) -> Iterator[Plan]:
    """Every candidate for a shortest plan; the empty plan if the goal holds already."""
    if game.goal.kind == LOOK:
        yield from _look(game)
    elif game.goal.kind == TWO:
        yield from _two(game)
    else:
        yield from _one(game)


def _takes(game: GameSpec) -> list[Stop]:
    places = {place.id: place for place in game.receptacles}
    if game.goal.object not in package.able("pickupable"):
        return []
    return [
        Stop("take", item, places[spot], True)
        for item in game.objects
        if item.type == game.goal.object
        for spot in item.receptacles
    ]


def _targets(game: GameSpec) -> list[Receptacle]:
    """Receptacles that satisfy the goal and can take its object."""
    goal = game.goal
    if goal.object not in package.compatibility().get(goal.target, ()):
        return []
    return [place for place in game.receptacles if place.type == goal.target]


def _look(game: GameSpec) -> Iterator[Plan]:
    places = {place.id: place for place in game.receptacles}
    lamps = [(item, places[spot]) for item in game.objects if item.type == game.goal.toggle for spot in item.receptacles]
    if game.goal.toggle in package.able("toggleable"):
        for take in _takes(game):
            for lamp, place in lamps:
                yield take, Stop("use", lamp, place, False)


def _one(game: GameSpec) -> Iterator[Plan]:
    kind = game.goal.kind
    targets = {place.id for place in game.receptacles if place.type == game.goal.target}
    for take in _takes(game):
        item = take.item
        if kind in _FACT and item.type not in package.able(_FACT[kind]):
            continue
        done = kind not in _FACT or (kind == COOL and item.cool)
        if done and targets & set(item.receptacles):
            yield ()
        changes: Sequence[Plan] = [()]
        if not done:
            changes = [(Stop(_VERB[kind], item, place, False),) for place in game.receptacles if place.type == APPLIANCE[kind]]
        for change in changes:
            if targets & (set(item.receptacles) - {take.place.id}):
                yield take, *change  # the simulator still counts it in its second receptacle, which is a target
            for target in _targets(game):
                yield take, *change, Stop("move", item, target, True)


def _two(game: GameSpec) -> Iterator[Plan]:
    takes = _takes(game)
    for target in (place for place in game.receptacles if place.type == game.goal.target):
        inside = {take.item.id for take in takes if target.id in take.item.receptacles}
        if len(inside) >= 2:
            yield ()
        if target not in _targets(game):
            continue
        outside = [take for take in takes if take.item.id not in inside]
        if inside:
            for take in outside:
                yield take, Stop("move", take.item, target, True)
        for first, second in permutations(outside, 2):
            if first.item.id != second.item.id:
                yield first, Stop("move", first.item, target, True), second, Stop("move", second.item, target, True)


def _cost(game: GameSpec, plan: Plan) -> int:
    at, opened, steps = game.start, set[str](), 0
    for stop in plan:
        if stop.place.location != at:
            at = stop.place.location
            steps += 1
        if stop.opens and stop.place.openable and stop.place.id not in opened:
            opened.add(stop.place.id)
            steps += 1
        steps += 1
    return steps


def _commands(game: GameSpec, plan: Plan) -> Iterator[str]:
    at, opened = game.start, set[str]()
    for stop in plan:
        item, place = game.names[stop.item.id], game.names[stop.place.id]
        if stop.place.location != at:
            at = stop.place.location
            yield f"go to {place}"
        if stop.opens and stop.place.openable and stop.place.id not in opened:
            opened.add(stop.place.id)
            yield f"open {place}"
        yield {"take": f"take {item} from {place}", "move": f"move {item} to {place}", "use": f"use {item}"}.get(
            stop.verb, f"{stop.verb} {item} with {place}"
        )
