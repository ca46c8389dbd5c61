"""Rooms as places to put objects: receptacles with locations, and for every object type the weights of its places.

In: a room number; the package's layout files; the count tables. Out: a cached, deterministic `Room`. The layouts do not place
every receptacle (no stove burners, few bins, no cabinets that cannot be opened): those are added by the counts of training
rooms, in all rooms alike, with a seed made from the room number.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from functools import cache

from duomem.games import package
from duomem.games.measure import NOWHERE, place_class
from duomem.games.read import type_of
from duomem.games.rooms import RoomKind, room_kind
from duomem.games.spec import Receptacle
from duomem.games.tables import Draw, tables

Point = tuple[float, float]
FALLBACK_COPIES = {"1": 1}


@dataclass(frozen=True)
class Room:
    """A room ready to be filled. `places` gives, per object type, weights over receptacle ids ("" is nowhere)."""

    number: int
    kind: RoomKind
    receptacles: tuple[Receptacle, ...]
    floor: tuple[Point, ...]
    copies: dict[str, Draw[int]]
    places: dict[str, dict[str, float]]

    @property
    def types(self) -> frozenset[str]:
        """Receptacle types present."""
        return frozenset(place.type for place in self.receptacles)


@cache
def room(number: int) -> Room:
    """The room of a number; the same on every machine and in every process."""
    kind = room_kind(number)
    receptacles = _receptacles(number, kind)
    objects = [name for name in package.layout(number).types if name in _known_objects()]
    copies = {name: Draw({int(n): float(c) for n, c in _copies(kind, name).items()}) for name in sorted(objects)}
    size = _sizes(number, receptacles)
    places = {name: _places(kind, name, receptacles, size) for name in copies}
    return Room(number, kind, receptacles, package.layout(number).floor, copies, places)


@cache
def _known_objects() -> frozenset[str]:
    """Object types that games contain: those that some training game has and the package declares."""
    seen = {name for table in tables()["copies"].values() for name in table}
    return frozenset(seen) & frozenset(package.object_types().objects)


def _copies(kind: RoomKind, name: str) -> dict[str, int]:
    """Counts of copies for a type in a kind of room, or in all rooms where that kind never had it."""
    here: dict[str, int] | None = tables()["copies"][kind].get(name)
    if here:
        return here
    pooled: Counter[str] = Counter()
    for table in tables()["copies"].values():
        pooled.update(table.get(name, {}))
    return dict(pooled) or FALLBACK_COPIES


def _sizes(number: int, receptacles: tuple[Receptacle, ...]) -> dict[str, float]:
    """How much a receptacle attracts beside the mean of its class: gamma distributed, as uneven as in training rooms."""
    rng = random.Random(f"sizes {number}")
    uneven = {place.id: tables()["uneven"].get(place_class(place), 0.3) for place in receptacles}
    return {place: rng.gammavariate(1 / sd**2, sd**2) if sd else 1.0 for place, sd in uneven.items()}


def _places(kind: RoomKind, name: str, receptacles: tuple[Receptacle, ...], size: dict[str, float]) -> dict[str, float]:
    weights = tables()["weights"][kind].get(name) or _pooled_weights(name)
    found = {place.id: weights.get(place_class(place), 0.0) * size[place.id] for place in receptacles}
    found = {place: weight for place, weight in found.items() if weight}
    return found | {"": weights.get(NOWHERE, 0.0 if found else 1.0)}


def _pooled_weights(name: str) -> dict[str, float]:
    pooled: Counter[str] = Counter()
    for table in tables()["weights"].values():
        for place, weight in table.get(name, {}).items():
            pooled[place] = max(pooled[place], weight)
    return dict(pooled)


def _receptacles(number: int, kind: RoomKind) -> tuple[Receptacle, ...]:
    rng = random.Random(f"room {number}")
    layout = package.layout(number)
    found: list[Receptacle] = []
    for name, (x, z, turn, _) in sorted(layout.poses.items()):
        place_type = type_of(name)
        spot = f"loc|{round(x * 4)}|{round(z * 4)}|{turn // 90 % 4}|{_tilt(rng, place_type)}"
        found.append(Receptacle(name, place_type, place_type in package.openable_types(), spot))
    placed = {place.type for place in found}
    for key, counts in sorted(tables()["unplaced"][kind].items()):
        place_type = key.rstrip("+")
        if place_type in layout.types and key.endswith("+") == (place_type in placed):
            number_missing = Draw({int(n): float(c) for n, c in counts.items()})(rng)
            found += _unplaced(rng, place_type, number_missing, found, layout.floor)
    return tuple(sorted(found, key=lambda place: place.id))


def _unplaced(
    rng: random.Random, kind: str, number: int, there: list[Receptacle], floor: tuple[Point, ...]
) -> list[Receptacle]:
    """`number` receptacles of a type that the layout does not place: near one another, some sharing a location."""
    made: list[Receptacle] = []
    x, z = rng.choice(floor)
    for _ in range(number):
        centre = (x + rng.gauss(0, 0.3), z + rng.gauss(0, 0.3))
        name = object_id(kind, centre[0], rng.choice((0.2, 0.5, 0.9, 1.4)), centre[1])
        if kind == "SinkBasin":
            name = f"Sink{name.removeprefix(kind)}|{kind}"
        near = made or [place for place in there if place.type == kind] or there
        share = near and rng.random() < tables()["shares"].get(kind, 0.0)
        spot = rng.choice(near).location if share else new_location(rng, floor, _tilt(rng, kind))
        made.append(Receptacle(name, kind, False, spot))
    return made


def _tilt(rng: random.Random, kind: str) -> int:
    counts = tables()["tilt"].get(kind, {"60": 1})
    return Draw({int(tilt): float(count) for tilt, count in counts.items()})(rng)


def new_location(rng: random.Random, floor: tuple[Point, ...], tilt: int) -> str:
    """A location at a random floor point, facing a random way."""
    x, z = rng.choice(floor)
    return f"loc|{round(x * 4)}|{round(z * 4)}|{rng.randrange(4)}|{tilt}"


def object_id(kind: str, x: float, y: float, z: float) -> str:
    """A simulator id: type and coordinates in metres, as `Mug|+01.00|+00.90|-02.10`."""
    return f"{kind}|{_number(x)}|{_number(y)}|{_number(z)}"


def _number(value: float) -> str:
    text = f"{value:+06.2f}"
    return text[1:] if text[1:] == "00.00" else text
