"""Measures training games into the count tables that the sampler draws from: `python -m duomem.games.measure ROOT OUT.json`.

In: a folder of training games in the official layout. Out: counts per kind of room, nothing about any single room or game.
Only games of training rooms are read into the tables; all others are skipped, so nothing of an evaluation room gets in.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from duomem.games import package
from duomem.games.read import read_games, type_of
from duomem.games.rooms import ROOM_KINDS, ROOMS, room_kind
from duomem.games.spec import GameSpec, Receptacle

NOWHERE = "nowhere"


def place_class(place: Receptacle) -> str:
    """Receptacle type, with "!" for a cabinet, drawer or safe that never opens: what lies in it can be taken as it is."""
    return place.type + "!" if place.type in package.openable_types() and not place.openable else place.type


def measure(games: Iterable[GameSpec]) -> dict[str, Any]:
    """All tables of the training games among `games`."""
    train = [game for game in games if game.scene in ROOMS["train"]]
    rooms = list({game.scene: game for game in train}.values())
    by_kind = {kind: [game for game in train if room_kind(game.scene) == kind] for kind in ROOM_KINDS}
    rooms_by_kind = {kind: [game for game in rooms if room_kind(game.scene) == kind] for kind in ROOM_KINDS}
    return {
        "games": len(train),
        "copies": {kind: _copies(part) for kind, part in by_kind.items()},
        "goal_copies": _goal_copies(train),
        "goals": {kind: _goals(part) for kind, part in by_kind.items()},
        "weights": {kind: _weights(part) for kind, part in by_kind.items()},
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
    """First receptacle type of an object -> type of a second one that holds it too ("" for none) -> objects; 2% and more only."""
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
    """Receptacle type -> share of its unplaced receptacles whose location is another receptacle's too."""
    total: Counter[str] = Counter()
    shared: Counter[str] = Counter()
    for game in rooms:
        poses = package.layout(game.scene).poses
        at = Counter(place.location for place in game.receptacles)
        for place in game.receptacles:
            if place.id not in poses:
                total[place.type] += 1
                shared[place.type] += at[place.location] > 1
    return {kind: round(shared[kind] / total[kind], 3) for kind in sorted(total)}


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
    return round((sum(value * value for value in values) / len(values)) ** 0.5, 3)


def main(arguments: Sequence[str]) -> None:
    """Writes the tables of the games below the first argument to the file named by the second."""
    root, out = Path(arguments[0]), Path(arguments[1])
    tables = measure(read_games(root))
    rows = ",\n".join(f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}" for key, value in tables.items())
    out.write_text("{\n" + rows + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
