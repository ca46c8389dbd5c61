"""The nouns of a text house, and how they are read from an ALFWorld game's PDDL.

In: the text of a `pddl_problem`. Out: a `House` with places and things named and ordered as the real engine names and
orders them.
It plays nothing; `duomem.envs._world` does.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """A receptacle: its name ("cabinet 3"), class ("cabinet"), and where the agent stands to use it."""

    name: str
    kind: str
    location: str
    openable: bool = False


@dataclass(frozen=True, slots=True)
class Thing:
    """An object: its name ("mug 1"), class, the places it lies in (normally one), and what can be done to it."""

    name: str
    kind: str
    places: tuple[str, ...] = ()
    traits: frozenset[str] = frozenset({"pickupable"})
    location: str = ""


@dataclass(frozen=True, slots=True)
class Goal:
    """What wins: `count` objects of class `object`, each having `state` (or none), in one place of class `target`; or,
    with `light`, holding one at a lit lamp."""

    object: str
    target: str = ""
    state: str = ""
    count: int = 1
    light: str = ""


@dataclass(frozen=True, slots=True)
class House:
    """A house at the start of a game. Places and things are in the engine's order (descending numbers within a class)."""

    places: tuple[Place, ...]
    things: tuple[Thing, ...]
    accepts: frozenset[tuple[str, str]]
    """(place class, object class) pairs that `move` allows."""
    goal: Goal
    text: str
    """The task in words."""

    @property
    def scene(self) -> str:
        names = [f"a {place.name}" for place in self.places if place.location]
        return f"You are in the middle of a room. Looking quickly around you, you see {listing(names)}."

    @classmethod
    def from_pddl(cls, problem: str, text: str) -> House:
        """A house from an ALFWorld `pddl_problem` and the task's words. Raises ValueError where a goal is not one of
        the six types."""
        return _read_pddl(problem, text)


def listing(names: Sequence[str]) -> str:
    """ "a, b, and c" as the game's grammar joins a list; "nothing" for none."""
    if not names:
        return "nothing"
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + ", and " + names[-1]


_FACT = re.compile(r"\((\w+) ([^\s()]+)(?: ([^\s()]+))?\)")


def _kind(identifier: str) -> str:
    """The class word of an ALFWorld id, by the package's naming rule: the part before the first bar, plus "basin" for
    basins."""
    head = identifier.split("_bar_", 1)[0]
    return head + ("basin" if "basin" in identifier else "")


def _names(identifiers: Iterable[str]) -> dict[str, str]:
    """Names with numbers: ids sorted, the first of a class gets the highest number (the package's `Demangler`)."""
    left = Counter(_kind(identifier) for identifier in identifiers)
    names = {}
    for identifier in sorted(identifiers):
        kind = _kind(identifier)
        names[identifier] = f"{kind} {left[kind]}"
        left[kind] -= 1
    return names


def _read_pddl(problem: str, text: str) -> House:
    body, _, goal = problem.lower().partition("(:goal")
    facts: dict[str, list[tuple[str, str]]] = {}
    for name, first, second in _FACT.findall(body):
        facts.setdefault(name, []).append((first, second))
    traits: dict[str, set[str]] = {}
    for name in ("pickupable", "cleanable", "heatable", "coolable", "toggleable", "sliceable", "isreceptacleobject"):
        for first, _ in facts.get(name, ()):
            traits.setdefault(first, set()).add(name)
    place_ids = {first for first, _ in facts["receptacletype"]}
    thing_ids = {first for first, _ in facts.get("objecttype", ())}
    names = _names(place_ids | thing_ids)
    where = dict(facts["receptacleatlocation"])
    openable = {first for first, _ in facts.get("openable", ())}
    inside: dict[str, list[str]] = {}
    for thing, place in facts.get("inreceptacle", ()):
        inside.setdefault(thing, []).append(place)
    at = dict(facts.get("objectatlocation", ()))
    strip = "type"
    places = tuple(
        Place(names[i], dict(facts["receptacletype"])[i].removesuffix(strip), where.get(i, ""), i in openable)
        for i in sorted(place_ids)
    )
    kinds = dict(facts.get("objecttype", ()))
    things = tuple(
        Thing(
            names[i],
            kinds[i].removesuffix(strip),
            tuple(names[place] for place in inside.get(i, ())),
            frozenset(traits.get(i, ())),
            at.get(i, ""),
        )
        for i in sorted(thing_ids)
    )
    accepts = frozenset((a.removesuffix(strip), b.removesuffix(strip)) for a, b in facts.get("cancontain", ()))
    return House(places, things, accepts, _read_goal(goal), text)


def _read_goal(goal: str) -> Goal:
    objects = re.findall(r"objecttype \?(\w+) (\w+?)type\)", goal)
    target = re.search(r"receptacletype \?r (\w+?)type\)", goal)
    if "istoggled" in goal:
        light = next(kind for variable, kind in objects if variable == "ot")
        held = next(kind for variable, kind in objects if variable != "ot")
        return Goal(held, light=light)
    if not objects or target is None:
        raise ValueError("the goal is not one of ALFWorld's six task types")
    state = next((word for fact, word in (("isclean", "clean"), ("ishot", "hot"), ("iscool", "cool")) if fact in goal), "")
    return Goal(objects[0][1], target[1], state, 2 if "?o2" in goal else 1)
