"""A game as a value: room, receptacles, objects, goal; and its PDDL, grammar, task sentence and traj_data.

In: plain fields. Out: the texts that ALFWorld's engine loads, in the official files' layout. It decides nothing: sampling,
solving and writing live next door. Ids are the simulator's (`Mug|+01.00|+00.90|-02.10`); PDDL spells them out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from duomem.games import package

KINDS = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)
"""The six task types of ALFWorld, in the order of its own numbering."""

SIMPLE, LOOK, CLEAN, HEAT, COOL, TWO = KINDS
APPLIANCE = {CLEAN: "SinkBasin", HEAT: "Microwave", COOL: "Fridge"}
"""The receptacle type that does a task type's state change."""


@dataclass(frozen=True, slots=True)
class Receptacle:
    """A place for objects. `location` is `loc|x|z|rotation|horizon` in quarter metres, quarter turns, degrees."""

    id: str
    type: str
    openable: bool
    location: str


@dataclass(frozen=True, slots=True)
class Item:
    """An object. `receptacles` is empty where it lies on none, and holds two where the simulator counts it in both.

    `cool`: cold at the start, as official games have it for copies of the goal's object in the fridge.
    """

    id: str
    type: str
    receptacles: tuple[str, ...]
    location: str
    cool: bool = False


@dataclass(frozen=True, slots=True)
class Goal:
    """What must become true: a task type with an object type and a receptacle type, or a lamp type for look_at_obj_in_light."""

    kind: str
    object: str
    target: str = ""
    toggle: str = ""

    @property
    def barred(self) -> str:
        """Receptacle type where no copy of the object lies at the start, in no official game: the target of simple and pick-two
        goals (they would be met already, or half met), the appliance of the others (its work would be done already)."""
        return self.target if self.kind in (SIMPLE, TWO) else APPLIANCE.get(self.kind, "")

    @property
    def key(self) -> str:
        """Task type, object and target (or lamp), spelled as in the official folder names."""
        return f"{self.kind}-{self.object}-None-{self.target or self.toggle}"


@dataclass(frozen=True)
class GameSpec:
    """One game. `template` is the index of the task sentence among the package's for the type."""

    trial: str
    scene: int
    receptacles: tuple[Receptacle, ...]
    objects: tuple[Item, ...]
    start: str
    goal: Goal
    template: int

    @property
    def folder(self) -> str:
        """Folder name of the game in the official layout."""
        return f"{self.goal.key}-{self.scene}"

    @property
    def task_text(self) -> str:
        """The task sentence without "Your task is to: " and full stop, in the package's words."""
        goal = self.goal
        sentence = package.templates(goal.kind)[self.template]
        return sentence.format(obj=goal.object.lower(), recep=goal.target.lower(), toggle=goal.toggle.lower())

    @cached_property
    def names(self) -> dict[str, str]:
        """Id -> the name the engine shows ("mug 2"): the last id in sorted order of the PDDL spelling has number 1."""
        groups: dict[str, list[tuple[str, str]]] = {}
        things: tuple[Receptacle | Item, ...] = (*self.receptacles, *self.objects)
        for thing in things:
            symbol = pddl_name(thing.id).lower()
            name = symbol.split("_bar_", 1)[0] + ("basin" if "basin" in symbol else "")
            groups.setdefault(name, []).append((symbol, thing.id))
        return {
            thing: f"{name} {number}"
            for name, group in groups.items()
            for number, (_, thing) in enumerate(sorted(group, reverse=True), 1)
        }

    def pddl(self) -> str:
        """The PDDL problem, laid out as in the official files."""
        return "".join(
            (
                _head(self.trial),
                self._declarations(),
                "\n\n(:init\n\n\n",
                "\n".join(self._init()),
                "\n        )\n    \n",
                self._goal(),
            )
        )

    def grammar(self, base: str) -> str:
        """The text grammar with the task sentence in it. `base` is the package's `alfred.twl2`."""
        return base.replace("UNKNOWN GOAL", self.task_text)

    def traj_data(self) -> dict[str, Any]:
        """The part of ALFRED's traj_data.json that ALFWorld and its readers use."""
        return {
            "task_id": self.trial,
            "task_type": self.goal.kind,
            "pddl_params": {
                "mrecep_target": "",
                "object_sliced": False,
                "object_target": self.goal.object,
                "parent_target": self.goal.target,
                "toggle_target": self.goal.toggle,
            },
            "turk_annotations": {"anns": [{"task_desc": self.task_text}]},
            "scene": {"floor_plan": f"FloorPlan{self.scene}", "scene_num": self.scene},
        }

    def _declarations(self) -> str:
        locations = dict.fromkeys([*(p.location for p in self.receptacles), *(i.location for i in self.objects), self.start])
        lines = [f"        {pddl_name(item.id)} - object" for item in self.objects]
        lines += [f"        {pddl_name(place.id)} - receptacle" for place in self.receptacles]
        lines += [f"        {pddl_name(location)} - location" for location in locations]
        return "\n".join(lines) + "\n        )\n    "

    def _init(self) -> list[str]:
        places = {place.id: pddl_name(place.id) for place in self.receptacles}
        items = [(item, pddl_name(item.id)) for item in self.objects]
        types = package.object_types()
        lines = [f"        (receptacleType {places[place.id]} {place.type}Type)" for place in self.receptacles]
        lines += [f"        (objectType {name} {item.type}Type)" for item, name in items]
        lines.append(_can_contain(frozenset(p.type for p in self.receptacles), frozenset(i.type for i in self.objects)))
        for fact, members in types.facts:
            lines += [f"        ({fact} {name})" for item, name in items if item.type in members]
        lines += [f"        (openable {places[place.id]})" for place in self.receptacles if place.openable]
        lines.append(f"        (atLocation agent1 {pddl_name(self.start)})")
        lines += [f"        (isCool {name})" for item, name in items if item.cool]
        lines += [f"        (inReceptacle {name} {places[place]})" for item, name in items for place in item.receptacles]
        lines += [f"        (receptacleAtLocation {places[p.id]} {pddl_name(p.location)})" for p in self.receptacles]
        lines += [f"        (objectAtLocation {name} {pddl_name(item.location)})" for item, name in items]
        return lines

    def _goal(self) -> str:
        goal = self.goal
        text = package.goal_pddl(goal.kind).format(obj=goal.object, recep=goal.target, toggle=goal.toggle)
        return text.replace("#", "-")


@cache
def pddl_name(identifier: str) -> str:
    """A simulator id as a PDDL symbol, by ALFRED's replacements."""
    for old, new in (("-", "_minus_"), ("|", "_bar_"), ("+", "_plus_"), (".", "_dot_"), (",", "_comma_")):
        identifier = identifier.replace(old, new)
    return identifier


@cache
def _head_body() -> str:
    types = package.object_types()
    lines = ["agent1 - agent"]
    lines += [f"        {name} - object" for name in types.objects]
    lines += [f"        {name}Type - otype" for name in types.objects]
    lines += [f"        {name}Type - rtype" for name in types.receptacles]
    return "\n".join(lines)


def _head(trial: str) -> str:
    return f"\n(define (problem plan_{trial})\n(:domain alfred)\n(:objects\n{_head_body()}\n\n\n"


@cache
def _can_contain(places: frozenset[str], items: frozenset[str]) -> str:
    holds = package.compatibility()
    return "\n".join(
        f"        (canContain {place}Type {item}Type)"
        for place in sorted(places)
        for item in sorted(holds.get(place, frozenset()) & items)
    )
