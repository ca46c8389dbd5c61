"""A text house in pure Python: a twin of ALFWorld's text layer, for tests and for making pretraining text.

In: a seed, or an ALFWorld game's PDDL. Out: the observations that the real engine gives, word for word (a test plays
both side by
side), about a hundred times faster and without any library. It is never the source of a result that is shown: those
come from the
real engine. The rules are in `_world`, the nouns in `_house`; this file makes houses, proves them solvable and plays them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import permutations

from pydantic import BaseModel, ConfigDict, Field

from duomem.envs import ACT
from duomem.envs._house import Goal, House, Place, Thing, listing
from duomem.envs._world import COMMANDS, NOTHING, PROCESS, World
from duomem.errors import UsageError
from duomem.types import Labels, Observation, Task, Tool, ToolCall, digest

__all__ = [
    "COMMANDS",
    "NOTHING",
    "Config",
    "Goal",
    "House",
    "Household",
    "Place",
    "Thing",
    "World",
    "build",
    "listing",
    "make_house",
    "solve",
]

REVISION = "1"
"""Raise when the same seed gives another house."""


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    games: int = Field(default=24, ge=1)
    """Games in each split; each split has its own."""
    seed: int = 0
    """Seed of the houses."""
    admissible: bool = False
    """Show the commands that do something (a strong hint, always reported)."""


SPLITS = ("dev", "second_unseen", "train", "valid_seen", "valid_unseen")


def build(config: Config) -> Household:
    return Household(config)


class Household:
    """Houses made from a seed; see the contract in `duomem.envs`."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def tasks(self, split: str) -> Sequence[Task]:
        if split not in SPLITS:
            raise UsageError(f"The household has no split {split!r}. There are: {', '.join(SPLITS)}.")
        names = [f"{split}/{number:04d}" for number in range(self._config.games)]
        return [Task(name, split, "household", digest([REVISION, self._config.seed, name])) for name in names]

    def house(self, task: Task) -> House:
        return make_house(random.Random(f"{self._config.seed}/{task.id}"), int(task.id.rpartition("/")[2]))

    def open(self, task: Task) -> HouseholdEpisode:
        return HouseholdEpisode(self.house(task), self._config.admissible)

    def labels(self, task: Task) -> Labels:
        house = self.house(task)
        goal = house.goal
        kind = "look" if goal.light else "two" if goal.count == 2 else goal.state or "simple"
        return Labels(kind, next(place.kind for place in house.places), goal.object, goal.target or goal.light)

    def provenance(self) -> dict[str, str]:
        return {
            "env": "household",
            "revision": REVISION,
            "seed": str(self._config.seed),
            "admissible": str(self._config.admissible),
        }


class HouseholdEpisode:
    """One play of one house; single use."""

    def __init__(self, house: House, admissible: bool) -> None:
        self._world: World | None = World(house)
        self._admissible = admissible
        self._observed = False

    def observe(self) -> Observation:
        world = self._open()
        if self._observed:
            raise RuntimeError("observe() may be called once, before the first step")
        self._observed = True
        return self._observation(world.house.scene, world, world.house.text)

    def step(self, call: ToolCall) -> Observation:
        world = self._open()
        if world.won:
            raise RuntimeError("the episode is done; open the task again")
        self._observed = True
        return self._observation(world.act(call.command), world)

    def tools(self) -> Sequence[Tool]:
        return (ACT,)

    def close(self) -> None:
        self._world = None

    def _open(self) -> World:
        if self._world is None:
            raise RuntimeError("the episode is closed; open the task again")
        return self._world

    def _observation(self, text: str, world: World, goal: str = "") -> Observation:
        commands = tuple(world.admissible()) if self._admissible else None
        return Observation(text, goal, world.won, world.won, text != NOTHING, commands)


_ROOMS: tuple[tuple[dict[str, int], dict[str, str]], ...] = (
    (
        {
            "cabinet": 4,
            "countertop": 2,
            "diningtable": 1,
            "drawer": 3,
            "fridge": 1,
            "garbagecan": 1,
            "microwave": 1,
            "sinkbasin": 1,
        },
        {
            "apple": "hcl",
            "bread": "hc",
            "cup": "hcl",
            "egg": "hcl",
            "fork": "l",
            "knife": "l",
            "mug": "hcl",
            "plate": "hcl",
            "potato": "hcl",
        },
    ),
    (
        {"cabinet": 3, "countertop": 1, "garbagecan": 1, "shelf": 2, "sinkbasin": 2, "toilet": 1},
        {"candle": "", "cloth": "l", "soapbar": "l", "soapbottle": "", "spraybottle": "", "toiletpaper": ""},
    ),
    (
        {"bed": 1, "desk": 2, "drawer": 4, "dresser": 1, "garbagecan": 1, "safe": 1, "shelf": 3},
        {
            "alarmclock": "",
            "book": "",
            "cd": "",
            "cellphone": "",
            "creditcard": "",
            "desklamp": "t",
            "keychain": "",
            "pen": "",
            "pencil": "",
        },
    ),
)
"""Three kinds of room: place classes with their numbers, thing classes with what can be done to them (heat, cool,
clean, toggle)."""
_TRAITS = {"h": "heatable", "c": "coolable", "l": "cleanable", "t": "toggleable"}
_OPENABLE = frozenset({"cabinet", "drawer", "fridge", "microwave", "safe"})
_STATES = {"clean": "cleanable", "hot": "heatable", "cool": "coolable"}


def make_house(rng: random.Random, number: int) -> House:
    """A solvable house whose goal is not met yet. `number` picks the type of task in turn, so that small splits hold
    all six."""
    kind = ("", "clean", "hot", "cool", "two", "look")[number % 6]
    while True:
        house = _draw(rng, kind)
        plan = solve(house) if house else None
        if house and plan:
            return house


def _draw(rng: random.Random, kind: str) -> House | None:
    rooms = {"hot": _ROOMS[:1], "cool": _ROOMS[:1], "clean": _ROOMS[:2], "look": _ROOMS[2:]}.get(kind, _ROOMS)
    place_counts, thing_traits = rng.choice(rooms)
    places = tuple(
        Place(f"{name} {index}", name, f"{name} {index}", name in _OPENABLE)
        for name, count in sorted(place_counts.items())
        for index in range(count, 0, -1)
    )
    things = []
    for name, letters in sorted(thing_traits.items()):
        traits = frozenset(_TRAITS[letter] for letter in letters) | ({"pickupable"} if "t" not in letters else frozenset())
        surfaces = [place for place in places if "t" not in letters or place.kind in ("desk", "dresser")]
        for index in range(1 if "t" in letters else rng.randint(1, 3), 0, -1):
            spot = rng.choice(surfaces)
            things.append(Thing(f"{name} {index}", name, (spot.name,), traits, spot.location))
    loose = [
        thing for thing in things if "pickupable" in thing.traits and (kind not in _STATES or _STATES[kind] in thing.traits)
    ]
    if not loose:
        return None
    goal = _goal(rng, kind, rng.choice(loose).kind, sorted(place_counts))
    accepts = frozenset((place, thing) for place in place_counts for thing in thing_traits)
    return House(places, tuple(things), accepts, goal, words(rng, goal))


def _goal(rng: random.Random, kind: str, thing: str, targets: list[str]) -> Goal:
    if kind == "look":
        return Goal(thing, light="desklamp")
    target = rng.choice([name for name in targets if name not in ("sinkbasin", "microwave") or not kind])
    return Goal(thing, target, kind if kind in _STATES else "", 2 if kind == "two" else 1)


def words(rng: random.Random, goal: Goal) -> str:
    """The task in ALFWorld's templates, two for each type."""
    thing, target = goal.object, goal.target
    if goal.light:
        return rng.choice((f"look at {thing} under the {goal.light}.", f"examine the {thing} with the {goal.light}."))
    if goal.count == 2:
        return rng.choice((f"put two {thing} in {target}.", f"find two {thing} and put them in {target}."))
    if goal.state:
        verb = {"hot": "heat"}.get(goal.state, goal.state)
        return rng.choice((f"put a {goal.state} {thing} in {target}.", f"{verb} some {thing} and put it in {target}."))
    return rng.choice((f"put a {thing} in {target}.", f"put some {thing} on {target}."))


def solve(house: House) -> tuple[str, ...] | None:
    """A shortest plan from the hidden state: () if the goal holds already, None if it never can.

    Exact for the six goals: hands hold one thing, and every move costs one step, so a shortest plan is a fixed
    sequence of stops; all
    choices of things and places are tried by playing them.
    """
    if World(house).won:
        return ()
    plans = [plan for plan in map(tuple, _candidates(house)) if _wins(house, plan)]
    return min(plans, key=lambda plan: (len(plan), plan), default=None)


def _wins(house: House, plan: Sequence[str]) -> bool:
    world = World(house)
    return all(world.act(command) != NOTHING for command in plan) and world.won


def _candidates(house: House) -> Iterator[list[str]]:
    goal = house.goal
    picks = [(thing.name, place) for thing in house.things if thing.kind == goal.object for place in thing.places]
    targets = [place.name for place in house.places if place.kind == goal.target]
    if goal.light:
        lamps = [(thing.name, place) for thing in house.things if thing.kind == goal.light for place in thing.places]
        for thing, place in picks:
            for lamp, where in lamps:
                yield _commands(house, [("take", thing, place), ("use", lamp, where)])
        return
    if goal.count == 2:
        for (first, here), (second, there) in permutations(picks, 2):
            for target in targets:
                both = [("take", first, here), ("move", first, target), ("take", second, there), ("move", second, target)]
                yield _commands(house, both)
                if target == here:
                    yield _commands(house, both[2:])
        return
    verb = {"hot": "heat"}.get(goal.state, goal.state)
    tools = [place.name for place in house.places if goal.state and place.kind == PROCESS[verb][0]] if goal.state else [""]
    for thing, place in picks:
        for tool in tools:
            for target in targets:
                process = [(verb, thing, tool)] if tool else []
                yield _commands(house, [("take", thing, place), *process, ("move", thing, target)])


def _commands(house: House, stops: Sequence[tuple[str, str, str]]) -> list[str]:
    """The commands of a sequence of stops, with the going and opening between them."""
    places = {place.name: place for place in house.places}
    at, opened, commands = "", set[str](), list[str]()
    for verb, thing, name in stops:
        place = places[name]
        if place.location != at:
            commands.append(f"go to {name}")
            at = place.location
        if place.openable and verb in ("take", "move") and name not in opened:
            commands.append(f"open {name}")
            opened.add(name)
        link = {"take": " from ", "move": " to ", "use": ""}.get(verb, " with ")
        commands.append(f"{verb} {thing}" + (link + name if link else ""))
    return commands
