"""Samples one game: a goal that occurs in such rooms, the room's objects, and where each of them lies.

In: a random generator, a split, perhaps a task type. Out: a solvable `GameSpec`, about a millisecond each, without the engine.
Statistics come from the training games' count tables; solvability is proven by `solver.solve`, never by an expert's success.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

from duomem.errors import DataError, UsageError
from duomem.games import package
from duomem.games.layouts import Room, new_location, object_id, room
from duomem.games.measure import NOWHERE, place_class
from duomem.games.rooms import ROOM_KINDS, goal_allowed, room_kind, rooms_of
from duomem.games.solver import can_solve
from duomem.games.spec import APPLIANCE, KINDS, LOOK, TWO, GameSpec, Goal, Item, Receptacle
from duomem.games.tables import Draw, tables

PROPORTIONS = dict(zip(KINDS, (35, 13, 27, 16, 25, 24), strict=True))
"""Games of each task type in the 140 official valid_seen games: the default mix."""

NOVEL = 1.0
"""Weight, in training games, of a goal whose object and target occur with its task type in such rooms, never together."""

_TRIES = 200


@dataclass(frozen=True, slots=True)
class _Choices:
    """What a split offers for a task type: rooms, and the goals of each."""

    rooms: Draw[int]
    goals: dict[int, Draw[Goal]]


def check_kind(kind: str) -> str:
    """The task type itself; UsageError with the known ones otherwise."""
    if kind not in KINDS:
        raise UsageError(f"unknown task type {kind!r}: it is one of {', '.join(KINDS)}")
    return kind


def sample_game(rng: random.Random, split: str, kind: str | None = None) -> GameSpec:
    """One solvable game of a split, of a given task type or of one drawn by `PROPORTIONS`.

    Raises UsageError for an unknown split or task type, MissingExtra without the alfworld package.
    """
    rooms_of(split)
    kind = check_kind(kind) if kind is not None else Draw(PROPORTIONS)(rng)
    choices = _choices(split, kind)
    for _ in range(_TRIES):
        number = choices.rooms(rng)
        game = fill_room(rng, number, choices.goals[number](rng))
        if game is not None:
            return game
    raise DataError(f"no solvable {kind} game found in the {split} rooms in {_TRIES} tries")


def possible_goals(split: str, kind: str) -> dict[int, tuple[Goal, ...]]:
    """Room number -> goals that the sampler may set there."""
    rooms_of(split)
    return {number: draw.values for number, draw in _choices(split, check_kind(kind)).goals.items()}


def fill_room(rng: random.Random, number: int, goal: Goal) -> GameSpec | None:
    """A room filled for a given goal; None where the room does not allow it or the draw is not solvable."""
    game = _fill(rng, room(number), goal) if _possible(goal, room(number)) else None
    return game if game is not None and can_solve(game) else None


@cache
def _choices(split: str, kind: str) -> _Choices:
    goals = {number: _goals(split, kind, room(number)) for number in rooms_of(split)}
    goals = {number: draw for number, draw in goals.items() if draw}
    weights: dict[int, float] = {}
    for room_type in ROOM_KINDS:
        here = [number for number in goals if room_kind(number) == room_type]
        games = sum(row[3] for row in tables()["goals"][room_type].get(kind, []))
        weights |= {number: games / len(here) for number in here}
    if not goals:
        raise DataError(f"no room of {split} allows a {kind} goal")
    return _Choices(Draw(weights), goals)


def _goals(split: str, kind: str, place: Room) -> Draw[Goal]:
    """The goals of a room: what training games of such rooms ask for, where object, target and appliance are here."""
    rows = tables()["goals"][place.kind].get(kind, [])
    weights = {Goal(kind, item, target, lamp): float(games) for item, target, lamp, games in rows}
    for item in {row[0] for row in rows}:
        for target in {row[1] for row in rows}:
            if item in package.compatibility().get(target, ()):
                weights.setdefault(Goal(kind, item, target, rows[0][2]), NOVEL)
    return Draw(
        {
            goal: weight
            for goal, weight in sorted(weights.items(), key=lambda pair: pair[0].key)
            if _possible(goal, place) and goal_allowed(split, place.number, goal.key)
        }
    )


def _possible(goal: Goal, place: Room) -> bool:
    appliance = APPLIANCE.get(goal.kind)
    if goal.object not in place.copies or (appliance and appliance not in place.types):
        return False
    if goal.kind == LOOK:
        return any(place.places.get(goal.toggle, {"": 1.0}).keys() - {""})
    return goal.target in place.types and any(place.places[goal.object].keys() - {""} - _barred(goal, place))


def _barred(goal: Goal, place: Room) -> frozenset[str]:
    """Receptacles where no copy of the goal's object lies at the start."""
    return frozenset(spot.id for spot in place.receptacles if spot.type == goal.barred)


def _fill(rng: random.Random, place: Room, goal: Goal) -> GameSpec | None:
    """A room with objects for a goal, or None if too few copies of the goal's object can be had."""
    barred = _barred(goal, place)
    crowds = _crowds(place.number)
    items: dict[str, Item] = {}
    held: dict[str, int] = {}
    for kind, copies in place.copies.items():
        is_goal = kind == goal.object
        number = _goal_copies(rng, goal, copies) if is_goal else copies(rng)
        spots = _spots(place, kind, is_goal, barred if is_goal else frozenset())
        for _ in range(number):
            spot = _spot(rng, spots, crowds, held)
            held[spot] = held.get(spot, 0) + 1
            item = _item(rng, place, kind, spot, barred if is_goal else frozenset(), is_goal)
            items[item.id] = item
    if sum(bool(item.receptacles) for item in items.values() if item.type == goal.object) < 1 + (goal.kind == TWO):
        return None
    trial = f"trial_G{rng.getrandbits(64):016x}"
    start = new_location(rng, place.floor, 30)
    template = rng.randrange(len(package.templates(goal.kind)))
    return GameSpec(trial, place.number, place.receptacles, tuple(items[i] for i in sorted(items)), start, goal, template)


def _goal_copies(rng: random.Random, goal: Goal, usual: Draw[int]) -> int:
    """Copies of the goal's object; never more than its type ever has, except that ALFRED adds one to what it duplicates."""
    most = max(usual.values)
    drawn = int(_goal_copy_draw(goal.kind)(rng))
    return max(min(drawn, most + 1 if most > 1 else 1), 2 if goal.kind == TWO else 1)


def _spot(rng: random.Random, spots: Draw[str], crowds: dict[str, float], held: dict[str, int]) -> str:
    """A receptacle; one that holds something already is taken less readily, by the crowding of its class."""
    spot = spots(rng)
    for _ in range(8):
        if spot not in held or rng.random() < crowds[spot]:
            break
        spot = spots(rng)
    return spot


@cache
def _crowds(number: int) -> dict[str, float]:
    return {spot: tables()["crowd"].get(place_class(place), 1.0) for spot, place in _by_id(number).items()} | {"": 1.0}


@cache
def _goal_copy_draw(kind: str) -> Draw[str]:
    return Draw({number: float(games) for number, games in tables()["goal_copies"][kind].items() if int(number) <= 4})


_SPOTS: dict[tuple[int, str, bool, frozenset[str]], Draw[str]] = {}


def _spots(place: Room, kind: str, is_goal: bool, barred: frozenset[str]) -> Draw[str]:
    key = (place.number, kind, is_goal, barred)
    if key not in _SPOTS:
        left = {spot: weight for spot, weight in place.places[kind].items() if spot not in barred}
        if is_goal:
            factor = tables()["goal_places"]
            classes = {spot: place_class(at) for spot, at in _by_id(place.number).items()} | {"": NOWHERE}
            left = {spot: weight * factor.get(classes[spot], 1.0) for spot, weight in left.items()}
        _SPOTS[key] = Draw(left if any(left.values()) else {"": 1.0})
    return _SPOTS[key]


def _item(rng: random.Random, place: Room, kind: str, spot: str, barred: frozenset[str], is_goal: bool) -> Item:
    if not spot:
        floor_x, floor_z = rng.choice(place.floor)
        tilt = 30 if kind in package.FIXED else 60
        name = object_id(kind, floor_x + rng.uniform(-0.5, 0.5), rng.uniform(0, 2), floor_z + rng.uniform(-0.5, 0.5))
        return Item(name, kind, (), new_location(rng, place.floor, tilt))
    at = _by_id(place.number)[spot]
    x, y, z = spot.split("|")[1:4]
    dx, dy, dz = _offsets(at.type)
    item_id = object_id(kind, float(x) + rng.gauss(0, dx), float(y) + dy + rng.gauss(0, 0.02), float(z) + rng.gauss(0, dz))
    second = _second(rng, place, kind, spot, barred)
    return Item(item_id, kind, (spot, second) if second else (spot,), at.location, is_goal and at.type == "Fridge")


def _second(rng: random.Random, place: Room, kind: str, spot: str, barred: frozenset[str]) -> str:
    """A second receptacle that counts the object as its own (a mug in the coffee machine is on the counter too), or ""."""
    draw = _also(_by_id(place.number)[spot].type)
    also = draw(rng) if draw else ""
    if not also or (also != "StoveBurner" and kind not in package.compatibility().get(also, ())):
        return ""
    others = [other.id for other in place.receptacles if other.type == also and other.id != spot and other.id not in barred]
    return rng.choice(others) if others else ""


@cache
def _also(kind: str) -> Draw[str] | None:
    table = tables()["also"].get(kind)
    return Draw({other: float(count) for other, count in table.items()}) if table else None


@cache
def _offsets(kind: str) -> tuple[float, float, float]:
    dx, dy, dz = tables()["offsets"].get(kind, (0.2, 0.0, 0.2))
    return dx, dy, dz


@cache
def _by_id(number: int) -> dict[str, Receptacle]:
    return {place.id: place for place in room(number).receptacles}
