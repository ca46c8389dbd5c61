"""Measures training games into the count tables that the sampler draws from: `python -m duomem.games.measure ROOT OUT.json`.

In: a folder of training games in the official layout. Out: counts per kind of room, nothing about any single room or game.
Only games of training rooms are read into the tables; all others are skipped, so nothing of an evaluation room gets in.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from duomem.games import package
from duomem.games.read import read_games, type_of
from duomem.games.rooms import ROOM_KINDS, ROOMS, RoomKind, room_kind
from duomem.games.spec import GameSpec, Item, Receptacle

NOWHERE = "nowhere"
Weights = dict[RoomKind, dict[str, dict[str, float]]]


def place_class(place: Receptacle) -> str:
    """Receptacle type, with "!" for a cabinet, drawer or safe that never opens: what lies in it can be taken as it is."""
    return place.type + "!" if place.type in package.openable_types() and not place.openable else place.type


def measure(games: Iterable[GameSpec]) -> dict[str, Any]:
    """All tables of the training games among `games`."""
    train = [game for game in games if game.scene in ROOMS["train"]]
    rooms = list({game.scene: game for game in train}.values())
    by_kind = {kind: [game for game in train if room_kind(game.scene) == kind] for kind in ROOM_KINDS}
    rooms_by_kind = {kind: [game for game in rooms if room_kind(game.scene) == kind] for kind in ROOM_KINDS}
    weights = {kind: _weights(part) for kind, part in by_kind.items()}
    return {
        "games": len(train),
        "copies": {kind: _copies(part) for kind, part in by_kind.items()},
        "goal_copies": _goal_copies(train),
        "goals": {kind: _goals(part) for kind, part in by_kind.items()},
        "weights": weights,
        **_crowds(train, weights),
        "goal_places": _goal_places(train, weights),
        "also": _also(train),
        "unplaced": {kind: _unplaced(part) for kind, part in rooms_by_kind.items()},
        "tilt": _nested((place.type, place.location.rsplit("|", 1)[1]) for room in rooms for place in room.receptacles),
        "shares": _shares(rooms),
        "offsets": _offsets(train),
    }


def _nested(pairs: Iterable[tuple[str, object]]) -> dict[str, dict[str, int]]:
    table: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for key, value in pairs:
        table[key][str(value)] += 1
    return {key: dict(sorted(table[key].items())) for key in sorted(table)}


def _copies(games: Sequence[GameSpec]) -> dict[str, dict[str, int]]:
    """Object type -> number of copies -> games, over types present and not the goal's."""
    return _nested(
        (kind, number)
        for game in games
        for kind, number in Counter(item.type for item in game.objects).items()
        if kind != game.goal.object
    )


def _goal_copies(games: Sequence[GameSpec]) -> dict[str, dict[str, int]]:
    """Task type -> copies of the goal's object type -> games."""
    return _nested((game.goal.kind, sum(item.type == game.goal.object for item in game.objects)) for game in games)


def _goals(games: Sequence[GameSpec]) -> dict[str, list[list[Any]]]:
    """Task type -> [object, target, toggle, games]."""
    counts = Counter((game.goal.kind, game.goal.object, game.goal.target, game.goal.toggle) for game in games)
    table: dict[str, list[list[Any]]] = {}
    for (kind, *rest), number in sorted(counts.items()):
        table.setdefault(kind, []).append([*rest, number])
    return table


def _weights(games: Sequence[GameSpec]) -> dict[str, dict[str, float]]:
    """Object type -> receptacle class -> weight of one such receptacle, so that P(receptacle) is weight / sum of weights.

    Maximum likelihood of this choice model (Hunter's MM algorithm for Luce models). Goal objects are left out: their places are
    conditioned on the goal.
    """
    rooms = {game.scene: Counter(place_class(place) for place in game.receptacles) | Counter({NOWHERE: 1}) for game in games}
    seen: defaultdict[str, Counter[str]] = defaultdict(Counter)
    trials: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for game in games:
        classes = {place.id: place_class(place) for place in game.receptacles}
        for item in game.objects:
            if item.type != game.goal.object:
                seen[item.type][min((classes[place] for place in item.receptacles), key=_rank, default=NOWHERE)] += 1
                trials[item.type][game.scene] += 1
    return {kind: _luce(seen[kind], [(rooms[room], n) for room, n in sorted(trials[kind].items())]) for kind in sorted(seen)}


def _luce(seen: Counter[str], trials: Sequence[tuple[Counter[str], int]], rounds: int = 60) -> dict[str, float]:
    weight = dict.fromkeys(seen, 1.0)
    for _ in range(rounds):
        exposure: Counter[str] = Counter()
        for places, number in trials:
            total = sum(weight[kind] * places[kind] for kind in weight)
            for kind in weight:
                exposure[kind] += number * places[kind] / total  # type: ignore[assignment]
        weight = {kind: seen[kind] / exposure[kind] for kind in weight}
        scale = max(weight.values())
        weight = {kind: value / scale for kind, value in weight.items()}
    return {kind: round(value, 5) for kind, value in sorted(weight.items())}


def _rank(kind: str) -> tuple[bool, str]:
    """Order in which an object's several receptacles are named: surfaces that surround others come last."""
    return kind in ("CounterTop", "DiningTable", "Desk"), kind


def _also(games: Sequence[GameSpec]) -> dict[str, dict[str, int]]:
    """First receptacle type of an object -> type of a second one that holds it too ("" for none) -> objects; from 2%."""
    pairs = []
    for game in games:
        types = {place.id: place.type for place in game.receptacles}
        for item in game.objects:
            kinds = sorted((types[place] for place in item.receptacles), key=_rank)
            if kinds:
                pairs.append((kinds[0], kinds[1] if len(kinds) > 1 else ""))
    tables = {
        first: {second: number for second, number in table.items() if not second or number >= 0.02 * sum(table.values())}
        for first, table in _nested(pairs).items()
    }
    return {first: table for first, table in tables.items() if set(table) != {""}}


def _unplaced(rooms: Sequence[GameSpec]) -> dict[str, dict[str, int]]:
    """Receptacles that the layout names by type but does not place: "Type" or "Type+" (some are placed) -> number -> rooms."""
    pairs = []
    for game in rooms:
        layout = package.layout(game.scene)
        placed = {type_of(name) for name in layout.poses}
        extra = Counter(place.type for place in game.receptacles if place.id not in layout.poses)
        pairs += [
            (kind + "+" * (kind in placed), extra[kind]) for kind in package.object_types().receptacles if kind in layout.types
        ]
    return {key: table for key, table in _nested(pairs).items() if set(table) != {"0"}}


def _shares(rooms: Sequence[GameSpec]) -> dict[str, float]:
    """Receptacle type -> share of its unplaced receptacles that stand at a location which an earlier receptacle has."""
    total: Counter[str] = Counter()
    shared: Counter[str] = Counter()
    for game in rooms:
        poses = package.layout(game.scene).poses
        taken = {place.location for place in game.receptacles if place.id in poses}
        for place in game.receptacles:
            if place.id not in poses:
                total[place.type] += 1
                shared[place.type] += place.location in taken
                taken.add(place.location)
    return {kind: round(shared[kind] / total[kind], 3) for kind in sorted(total)}


def _chances(game: GameSpec, kind: str, weights: Weights, barred: str = "") -> dict[str, float]:
    """Receptacle id ("" for nowhere) -> chance that an object of a type lies there, by the weights; barred types left out."""
    of = weights[room_kind(game.scene)].get(kind, {})
    chance = {place.id: of.get(place_class(place), 0.0) for place in game.receptacles if place.type != barred}
    chance = {place: weight for place, weight in chance.items() if weight} | {"": of.get(NOWHERE, 0.0)}
    total = sum(chance.values())
    return {place: weight / total for place, weight in chance.items()} if total else {}


def _first(item: Item, classes: dict[str, str]) -> str:
    """The receptacle that counts as the object's, "" where it lies nowhere."""
    return min(item.receptacles, key=lambda place: _rank(classes[place]), default="")


def _crowds(games: Sequence[GameSpec], weights: Weights) -> dict[str, dict[str, float]]:
    """How single receptacles differ from what the weights expect of their class; goal objects are left out.

    `uneven`: class -> standard deviation over receptacles of (objects in it / expected), sampling noise taken off; receptacles
    with at least 5 expected objects. `crowd`: class -> pairs of objects sharing a receptacle in a game / pairs expected if
    objects did not mind one another; at most 1.
    """
    found: defaultdict[tuple[int, str], list[tuple[int, float]]] = defaultdict(list)
    classes: dict[tuple[int, str], str] = {}
    for game in games:
        here = {place.id: place_class(place) for place in game.receptacles}
        classes |= {(game.scene, place): kind for place, kind in here.items()}
        seen: Counter[str] = Counter()
        expected: defaultdict[str, float] = defaultdict(float)
        for item in game.objects:
            if item.receptacles and item.type != game.goal.object:
                seen[_first(item, here)] += 1
                for place, chance in _chances(game, item.type, weights).items():
                    expected[place] += chance
        for place in here:
            found[game.scene, place].append((seen[place], expected[place]))
    ratios: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    pairs: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for key, games_here in found.items():
        expect = sum(number for _, number in games_here)
        if expect >= 5:
            ratio = sum(number for number, _ in games_here) / expect
            ratios[classes[key]].append((ratio, 1 / expect))
            pairs[classes[key]] += [(number * (number - 1), (ratio * mean) ** 2) for number, mean in games_here]
    return {
        "uneven": {kind: _excess(values) for kind, values in sorted(ratios.items()) if len(values) >= 4},
        "crowd": {kind: _share(values) for kind, values in sorted(pairs.items())},
    }


def _share(pairs: Sequence[tuple[float, float]]) -> float:
    """Ratio of the sums, at most 1."""
    expected = sum(number for _, number in pairs)
    return round(min(sum(number for number, _ in pairs) / expected, 1.0), 3) if expected else 1.0


def _excess(values: Sequence[tuple[float, float]]) -> float:
    """Standard deviation of the ratios after the noise variance beside each is taken off."""
    mean = sum(ratio for ratio, _ in values) / len(values)
    variance = sum((ratio - mean) ** 2 - noise for ratio, noise in values) / len(values)
    return round(math.sqrt(max(variance, 0.0)), 3)


def _goal_places(games: Sequence[GameSpec], weights: Weights, rounds: int = 30) -> dict[str, float]:
    """Receptacle class -> factor on its weight for copies of the goal's object, by maximum likelihood given the weights.

    ALFRED lays them out with other rules than the rest (fewer end up in closed places).
    """
    seen: Counter[str] = Counter()
    chances: list[list[tuple[str, float]]] = []
    for game in games:
        classes = {place.id: place_class(place) for place in game.receptacles} | {"": NOWHERE}
        chance = [
            (classes[place], share) for place, share in _chances(game, game.goal.object, weights, game.goal.barred).items()
        ]
        for item in game.objects:
            if item.type == game.goal.object and chance:
                seen[classes[_first(item, classes)]] += 1
                chances.append(chance)
    factor = dict.fromkeys(seen, 1.0)
    for _ in range(rounds):
        expected: defaultdict[str, float] = defaultdict(float)
        for chance in chances:
            total = sum(share * factor.get(kind, 0.0) for kind, share in chance)
            for kind, share in chance:
                expected[kind] += share * factor.get(kind, 0.0) / total
        factor = {kind: value * seen[kind] / expected[kind] for kind, value in factor.items() if expected[kind]}
    return {kind: round(value, 3) for kind, value in sorted(factor.items())}


def _offsets(games: Sequence[GameSpec]) -> dict[str, list[float]]:
    """Receptacle type -> spread in x, mean in y, spread in z of its objects around it, metres."""
    table: defaultdict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for game in games:
        centres = {place.id: (place.type, _centre(place.id)) for place in game.receptacles}
        for item in game.objects:
            if item.receptacles:
                kind, centre = centres[item.receptacles[0]]
                here = _centre(item.id)
                table[kind].append((here[0] - centre[0], here[1] - centre[1], here[2] - centre[2]))
    return {
        kind: [_spread([d[0] for d in ds]), round(sum(d[1] for d in ds) / len(ds), 3), _spread([d[2] for d in ds])]
        for kind, ds in sorted(table.items())
    }


def _centre(identifier: str) -> tuple[float, float, float]:
    x, y, z = identifier.split("|")[1:4]
    return float(x), float(y), float(z)


def _spread(values: Sequence[float]) -> float:
    return round(math.sqrt(sum(value * value for value in values) / len(values)), 3)


def main(arguments: Sequence[str]) -> None:
    """Writes the tables of the games below the first argument to the file named by the second."""
    root, out = Path(arguments[0]), Path(arguments[1])
    tables = measure(read_games(root))
    rows = ",\n".join(f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}" for key, value in tables.items())
    out.write_text("{\n" + rows + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
