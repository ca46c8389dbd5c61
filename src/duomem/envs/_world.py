"""The rules of a text house: a command in, the game's words out, equal to the real engine's (a test plays both).

In: a `House`. Out: a `World` that changes with each `act`. It knows everything; agents only ever get its words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from duomem.envs._house import House, Place, Thing, listing

NOTHING = "Nothing happens."
PROCESS = {"clean": ("sinkbasin", "clean"), "heat": ("microwave", "hot"), "cool": ("fridge", "cool")}
_HELP = """
Available commands:
  look:                             look around your current location
  inventory:                        check your current inventory
  go to (receptacle):               move to a receptacle
  open (receptacle):                open a receptacle
  close (receptacle):               close a receptacle
  take (object) from (receptacle):  take an object from a receptacle
  move (object) to (receptacle):  place an object in or on a receptacle
  examine (something):              examine a receptacle or an object
  use (object):                     use an object
  heat (object) with (receptacle):  heat an object using a receptacle
  clean (object) with (receptacle): clean an object using a receptacle
  cool (object) with (receptacle):  cool an object using a receptacle
  slice (object) with (object):     slice an object using a sharp object
"""


COMMANDS = (
    *("look", "inventory", "go to {thing}", "open {thing}", "close {thing}", "examine {thing}", "use {thing}"),
    *("take {thing} from {thing}", "move {thing} to {thing}", "slice {thing} with {thing}"),
    *("clean {thing} with {thing}", "heat {thing} with {thing}", "cool {thing} with {thing}"),
)
"""Every form of a command but "help", with the names of things open: what `duomem.constrain` makes a grammar of."""
_COMMANDS = [
    ("go", re.compile(r"go to (\w+ \d+)")),
    ("open", re.compile(r"open (\w+ \d+)")),
    ("close", re.compile(r"close (\w+ \d+)")),
    ("take", re.compile(r"take (\w+ \d+) from (\w+ \d+)")),
    ("move", re.compile(r"move (\w+ \d+) to (\w+ \d+)")),
    ("process", re.compile(r"(clean|heat|cool) (\w+ \d+) with (\w+ \d+)")),
    ("use", re.compile(r"use (\w+ \d+)")),
    ("examine", re.compile(r"examine (\w+ \d+)")),
    ("slice", re.compile(r"slice (\w+ \d+) with (\w+ \d+)")),
    ("look", re.compile(r"look")),
    ("inventory", re.compile(r"inventory")),
    ("help", re.compile(r"help")),
]


@dataclass
class World:
    """The state of a house being played. `act` is the whole game: a command in, the game's words out."""

    house: House
    at: str = ""
    opened: set[str] = field(default_factory=set)
    held: str = ""
    states: dict[str, set[str]] = field(default_factory=dict)
    lit: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.places = {place.name: place for place in self.house.places}
        self.things = {thing.name: thing for thing in self.house.things}
        self.inside: dict[str, set[str]] = {thing.name: set(thing.places) for thing in self.house.things}
        self.lying = {thing.name: thing.location for thing in self.house.things}

    def here(self, name: str) -> Place | None:
        """The place of that name if the agent stands at it."""
        place = self.places.get(name)
        return place if place and self.at and place.location == self.at else None

    def reachable(self, place: Place) -> bool:
        return not place.openable or place.name in self.opened

    def contents(self, place: str) -> list[str]:
        return [thing.name for thing in self.house.things if place in self.inside[thing.name]]

    def describe(self, place: Place) -> str:
        seen = listing([f"a {name}" for name in self.contents(place.name)])
        if not place.openable:
            return f"On the {place.name}, you see {seen}."
        return f"The {place.name} is open. In it, you see {seen}." if self.reachable(place) else f"The {place.name} is closed."

    def act(self, command: str) -> str:
        for verb, pattern in _COMMANDS:
            match = pattern.fullmatch(command)
            if match:
                return getattr(self, f"_{verb}")(*match.groups()) or NOTHING
        return NOTHING

    def _go(self, name: str) -> str | None:
        place = self.places.get(name)
        if place is None or not place.location or place.location == self.at:
            return None
        self.at = place.location
        return f"You arrive at {name}. {self.describe(place)}"

    def _open(self, name: str) -> str | None:
        place = self.here(name)
        if place is None or not place.openable or name in self.opened:
            return None
        self.opened.add(name)
        return f"You open the {name}. {self.describe(place)}"

    def _close(self, name: str) -> str | None:
        place = self.here(name)
        if place is None or not place.openable or name not in self.opened:
            return None
        self.opened.discard(name)
        return f"You close the {name}."

    def _take(self, thing: str, name: str) -> str | None:
        place = self.here(name)
        held = self.held or place is None or not self.reachable(place)
        if held or name not in self.inside.get(thing, ()) or "pickupable" not in self.things[thing].traits:
            return None
        self.inside[thing].discard(name)
        self.held, self.lying[thing] = thing, ""
        return f"You pick up the {thing} from the {name}."

    def _move(self, thing: str, name: str) -> str | None:
        place = self.here(name)
        if place is None or self.held != thing or not self.reachable(place):
            return None
        if (place.kind, self.things[thing].kind) not in self.house.accepts:
            return None
        self.inside[thing].add(name)
        self.held, self.lying[thing] = "", place.location
        return f"You move the {thing} to the {name}."

    def _process(self, verb: str, thing: str, name: str) -> str | None:
        place = self.here(name)
        kind, state = PROCESS[verb]
        trait = {"clean": "cleanable", "heat": "heatable", "cool": "coolable"}[verb]
        if place is None or place.kind != kind or self.held != thing or trait not in self.things[thing].traits:
            return None
        states = self.states.setdefault(thing, set())
        states.discard({"hot": "cool", "cool": "hot"}.get(state, ""))
        states.add(state)
        return f"You {verb} the {thing} using the {name}."

    def _use(self, thing: str) -> str | None:
        known = self.things.get(thing)
        if known is None or "toggleable" not in known.traits or not any(self.here(name) for name in self.inside[thing]):
            return None
        self.lit.add(thing)
        return f"You turn on the {thing}."

    def _slice(self, thing: str, knife: str) -> str | None:
        known = self.things.get(thing)
        sharp = self.held == knife and self.things[knife].kind in ("knife", "butterknife") if knife in self.things else False
        if known is None or not sharp or "sliceable" not in known.traits or not self.at or self.lying[thing] != self.at:
            return None
        self.states.setdefault(thing, set()).add("sliced")
        return f"You sliced the {thing} with the {knife}."

    def _examine(self, name: str) -> str | None:
        place = self.here(name)
        if place:
            return self.describe(place)
        return self._inspect(self.things[name]) if self.held and self.held == name else None

    def _inspect(self, thing: Thing) -> str:
        states = self.states.get(thing.name, set())
        if "isreceptacleobject" in thing.traits:
            return f"This is a normal {thing.name}. In it, you see nothing."
        words: list[str] = [word for word in ("hot", "cool") if word in states]
        words += ["clean"] if "clean" in states else []
        if words == ["cool"] and "sliced" not in states:
            words = ["cold"]
        if not words and "toggleable" in thing.traits:
            return f"This {thing.name} is {'on' if thing.name in self.lit else 'off'}."
        described = " and ".join(words) + (" sliced" if "sliced" in states else "")
        return f"This is a {described.strip()} {thing.name}." if described else f"There's nothing special about {thing.name}."

    def _look(self) -> str:
        here = [place.name for place in self.house.places if self.at and place.location == self.at]
        if here:
            return f"You are facing the {listing(here)}. Next to it, you see nothing."
        return "You are in the middle of a room. Looking quickly around you, you see nothing."

    def _inventory(self) -> str:
        return f"You are carrying: a {self.held}." if self.held else "You are not carrying anything."

    def _help(self) -> str:
        return _HELP

    @property
    def won(self) -> bool:
        goal = self.house.goal
        if goal.light:
            lit = any(
                self.here(place) for lamp in self.lit if self.things[lamp].kind == goal.light for place in self.inside[lamp]
            )
            return lit and bool(self.held) and self.things[self.held].kind == goal.object
        for place in self.house.places:
            if place.kind == goal.target:
                fit = [name for name in self.contents(place.name) if self._fits(name)]
                if len(fit) >= goal.count:
                    return True
        return False

    def _fits(self, name: str) -> bool:
        goal = self.house.goal
        return self.things[name].kind == goal.object and (not goal.state or goal.state in self.states.get(name, ()))

    def admissible(self) -> list[str]:
        """Every command that does something, sorted, as the engine lists them."""
        commands = ["help", "inventory", "look"]
        commands += [f"go to {place.name}" for place in self.house.places if place.location and place.location != self.at]
        for place in self.house.places:
            if self.here(place.name):
                commands += self._local(place)
        for thing in self.house.things:
            if "toggleable" in thing.traits and any(self.here(name) for name in self.inside[thing.name]):
                commands.append(f"use {thing.name}")
            if "sliceable" in thing.traits and self.held and self.at and self.lying[thing.name] == self.at:
                commands += [f"slice {thing.name} with {self.held}"] if "knife" in self.held else []
        commands += [f"examine {self.held}"] if self.held else []
        return sorted(commands)

    def _local(self, place: Place) -> list[str]:
        name = place.name
        commands = [f"examine {name}"]
        if place.openable:
            commands.append(f"close {name}" if name in self.opened else f"open {name}")
        if not self.held:
            takes = [thing for thing in self.contents(name) if "pickupable" in self.things[thing].traits]
            return commands + [f"take {thing} from {name}" for thing in takes if self.reachable(place)]
        thing = self.things[self.held]
        if self.reachable(place) and (place.kind, thing.kind) in self.house.accepts:
            commands.append(f"move {thing.name} to {name}")
        for verb, trait in (("clean", "cleanable"), ("heat", "heatable"), ("cool", "coolable")):
            if place.kind == PROCESS[verb][0] and trait in thing.traits:
                commands.append(f"{verb} {thing.name} with {name}")
        return commands
