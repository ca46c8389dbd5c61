"""Statistics of games, generated beside official: `python -m duomem.games.stats FOLDER [--games 2800] [--seed 5] [--play]`.

In: a folder of games in the official layout (the 140 of valid_seen). Out: a Markdown table of their means beside those of games
generated in training rooms with the same mix of task types, and of games generated for the same rooms and goals. It measures;
it changes nothing.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from duomem.games.measure import place_class
from duomem.games.read import read_games
from duomem.games.rooms import ROOM_KINDS, room_kind
from duomem.games.sample import fill_room, sample_game
from duomem.games.solver import plan_length
from duomem.games.spec import KINDS, TWO, GameSpec, Item
from duomem.games.tables import tables

Measure = Callable[[GameSpec], float]

CAP = 60
"""Steps after which the searcher is stopped."""


def goal_items(game: GameSpec) -> list[Item]:
    """Copies of the goal's object."""
    return [item for item in game.objects if item.type == game.goal.object]


def goal_spots(game: GameSpec) -> set[str]:
    """Receptacles with a copy of the goal's object."""
    return {place for item in goal_items(game) for place in item.receptacles}


def closed_share(game: GameSpec, goal: bool) -> float:
    """Share of objects (the goal's, or the others) in receptacles that must be opened."""
    openable = {place.id for place in game.receptacles if place.openable}
    lying = [item for item in game.objects if item.receptacles and (item.type == game.goal.object) == goal]
    return sum(bool(openable & set(item.receptacles)) for item in lying) / max(len(lying), 1)


def shared_share(game: GameSpec) -> float:
    """Share of receptacles whose location is another's too."""
    at = Counter(place.location for place in game.receptacles)
    return sum(number for number in at.values() if number > 1) / len(game.receptacles)


def random_search(game: GameSpec) -> float:
    """Expected receptacles to look into, in random order, until all copies that the task needs are seen (one, or two)."""
    spots = len(goal_spots(game))
    needed = min(2 if game.goal.kind == TWO else 1, spots)
    return needed * (len(game.receptacles) + 1) / (spots + 1)


def informed_search(game: GameSpec) -> float:
    """Expected receptacles to look into until the first copy, by falling chance for its type in training rooms."""
    weights = tables()["weights"][room_kind(game.scene)].get(game.goal.object, {})
    spots = goal_spots(game)
    groups: defaultdict[float, list[bool]] = defaultdict(list)
    for place in game.receptacles:
        groups[weights.get(place_class(place), 0.0)].append(place.id in spots)
    looked = 0.0
    for weight in sorted(groups, reverse=True):
        group = groups[weight]
        if any(group):
            return looked + (len(group) + 1) / (sum(group) + 1)
        looked += len(group)
    return looked


def _fullest(game: GameSpec) -> float:
    return float(max(Counter(place for item in game.objects for place in item.receptacles).values()))


MEASURES: dict[str, Measure] = {
    "objects": lambda game: len(game.objects),
    "receptacles": lambda game: len(game.receptacles),
    "receptacles that open": lambda game: sum(place.openable for place in game.receptacles),
    "receptacles that hold something": lambda game: len({place for item in game.objects for place in item.receptacles}),
    "objects on the fullest receptacle": _fullest,
    "locations of receptacles": lambda game: len({place.location for place in game.receptacles}),
    "share of receptacles at a shared location": shared_share,
    "copies of the goal's object": lambda game: len(goal_items(game)),
    "receptacles with such a copy": lambda game: len(goal_spots(game)),
    "share of such copies in closed receptacles": lambda game: closed_share(game, True),
    "share of other objects in closed receptacles": lambda game: closed_share(game, False),
    "receptacles of the target's type": lambda game: sum(place.type == game.goal.target for place in game.receptacles),
    "receptacles searched at random": random_search,
    "receptacles searched by likely places": informed_search,
    "steps of the shortest plan": plan_length,
}
"""Means over games that the comparison shows."""


def statistics(games: Sequence[GameSpec]) -> dict[str, float]:
    """Every measure's mean; shortest plans by task type; search in kitchens by task type; shares of kinds of rooms."""
    rows = {name: _mean(games, measure) for name, measure in MEASURES.items()}
    for kind in KINDS:
        rows[f"shortest plan, {kind}"] = _mean([game for game in games if game.goal.kind == kind], plan_length)
    kitchens = [game for game in games if room_kind(game.scene) == "kitchen"]
    for kind in KINDS:
        here = [game for game in kitchens if game.goal.kind == kind]
        if here:
            rows[f"searched at random in kitchens, {kind}"] = _mean(here, random_search)
    rooms = Counter(room_kind(game.scene) for game in games)
    rows |= {f"share of games in a {room}": rooms[room] / len(games) for room in ROOM_KINDS}
    return rows


def place_distance(games: Sequence[GameSpec], others: Sequence[GameSpec], least: int = 20) -> float:
    """Mean over object types of the total variation distance between the two P(receptacle type | object type, kind of room).

    Weighted by the first set's objects; types of which it has fewer than `least` in a kind of room are left out.
    """
    first, second = _place_counts(games), _place_counts(others)
    total = distance = 0.0
    for key, counts in first.items():
        number, other = sum(counts.values()), sum(second[key].values())
        if number >= least and other:
            kinds = {*counts, *second[key]}
            distance += number * sum(abs(counts[kind] / number - second[key][kind] / other) for kind in kinds) / 2
            total += number
    return distance / total if total else 0.0


def _place_counts(games: Iterable[GameSpec]) -> defaultdict[tuple[str, str], Counter[str]]:
    found: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for game in games:
        types = {place.id: place_class(place) for place in game.receptacles}
        for item in game.objects:
            found[room_kind(game.scene), item.type].update([types[place] for place in item.receptacles] or ["nowhere"])
    return found


def _mean(games: Sequence[GameSpec], measure: Measure) -> float:
    return sum(measure(game) for game in games) / len(games) if games else 0.0


def searcher_steps(game: GameSpec, cap: int = CAP) -> int:
    """Steps of the expert searcher in the pure-Python twin of the engine, acting on what it sees; `cap` if it has not won."""
    from duomem.envs.household import House, World
    from duomem.models.expert import decide, procedure

    house = House.from_pddl(game.pddl(), game.task_text)
    world = World(house)
    places = tuple(place.name for place in house.places if place.location)
    steps = procedure(game.task_text, places)
    history: list[tuple[str, str]] = []
    while not world.won and len(history) < cap:
        _, command = decide(places, steps, history)
        history.append((command, world.act(command)))
    return len(history)


def generated_like(official: Sequence[GameSpec], times: int, seed: int) -> tuple[list[GameSpec], list[GameSpec]]:
    """Generated games: for the same rooms and goals as `official`, and freely in training rooms for the same task types."""
    rng = random.Random(seed)
    same = [game for like in official for _ in range(times) if (game := fill_room(rng, like.scene, like.goal)) is not None]
    free = [sample_game(rng, "train", like.goal.kind) for like in official for _ in range(times)]
    return same, free


def table(columns: Mapping[str, Sequence[GameSpec]]) -> str:
    """A Markdown table of `statistics`, one column each."""
    measured = {name: statistics(games) for name, games in columns.items()}
    lines = ["| mean over games | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    lines.append("| games | " + " | ".join(str(len(games)) for games in columns.values()) + " |")
    for row in next(iter(measured.values())):
        lines.append(f"| {row} | " + " | ".join(f"{values.get(row, 0.0):.2f}" for values in measured.values()) + " |")
    return "\n".join(lines)


def main() -> None:
    """Prints the comparison as Markdown."""
    parser = argparse.ArgumentParser(description="Compare generated games with those of a folder in ALFWorld's layout.")
    parser.add_argument("official", type=Path)
    parser.add_argument("--games", type=int, default=2800, help="generated games a column, about")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--play", action="store_true", help="also let the expert searcher play every game (some minutes)")
    options = parser.parse_args()
    official = list(read_games(options.official))
    if not official:
        parser.error(f"no game.tw-pddl below {options.official}")
    same, free = generated_like(official, max(options.games // len(official), 1), options.seed)
    columns = {"official": official, "generated, same rooms and goals": same, "generated, training rooms": free}
    print(table(columns))
    if options.play:
        print(f"\nThe expert searcher's steps (mean, {CAP} where it has not won) and its success within 30 steps:")
        for name, games in columns.items():
            steps = [searcher_steps(game) for game in games]
            print(f"{name}: {sum(steps) / len(steps):.2f} steps, {sum(n <= 30 for n in steps) / len(steps):.3f}")
    again = generated_like(official, 1, options.seed + 1)[0]
    far, near = place_distance(official, same), place_distance(again, same)
    print("\nP(receptacle type | object type), mean total variation distance from the generated games:")
    print(f"official games {far:.3f}, as many other generated games {near:.3f}")


if __name__ == "__main__":
    main()
