"""What a cook knows of a house and a recipe, from what the game said and nothing else.

In: the scene, then each command with what came of it. Out: rooms with their exits, what lies where, what is held, what the
recipe asks for and what of it is done. The teacher that acts on it is `duomem.models.chef`.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}
CUTS = {"chop": "chopped", "slice": "sliced", "dice": "diced"}
HEATS = {"fry": ("stove", "fried"), "roast": ("oven", "roasted"), "grill": ("BBQ", "grilled")}
_ROOM = re.compile(r"-= ([^=]+) =-")
_DOOR = re.compile(r"(closed|open) ([\w -]*?door) leading (north|south|east|west)")
_EXIT = re.compile(r"(?:exit to the|try going) (north|south|east|west)")
_GOT = re.compile(r"You (?:take|pick up) the ([\w ]+?)(?: from the [\w ]+)?\.")
_CARRIED = re.compile(r"You are carrying: (.*)")
_PREPARED = {"fried": "fry", "roasted": "roast", "grilled": "grill", "chopped": "chop", "sliced": "slice", "diced": "dice"}


@dataclass
class Room:
    """A room that was seen: all that was said in it, and its exits with the door in the way, if there is one."""

    said: str
    doors: dict[str, str] = field(default_factory=dict)
    leads: dict[str, str] = field(default_factory=dict)
    """Direction -> room, where it was gone."""


@dataclass
class Kitchen:
    """The belief. `steps` are the recipe's (verb, ingredient) pairs in its order; None until it was read."""

    room: str = ""
    rooms: dict[str, Room] = field(default_factory=dict)
    open_doors: set[str] = field(default_factory=set)
    opened: set[str] = field(default_factory=set)
    held: set[str] = field(default_factory=set)
    carried: str | None = None
    """What the inventory said when it was last asked for; food is known by name only once the recipe was read."""
    ingredients: tuple[str, ...] = ()
    steps: tuple[tuple[str, str], ...] | None = None
    done: set[tuple[str, str]] = field(default_factory=set)
    meal: bool = False

    @property
    def here(self) -> Room:
        return self.rooms[self.room]

    def see(self, command: str, text: str) -> None:
        """Take in what a command showed; the scene comes with an empty command."""
        before = self.room
        if found := _ROOM.search(text):
            self._enter(found[1].strip().lower(), text)
            direction = command.removeprefix("go ")
            if before and before != self.room and direction in OPPOSITE:
                self.rooms[before].leads[direction] = self.room
                self.here.leads[OPPOSITE[direction]] = before
        elif self.rooms:
            self._happened(command, text)

    def _enter(self, name: str, text: str) -> None:
        room = self.rooms.setdefault(name, Room(""))
        room.said = text
        self.room = name
        for state, door, direction in _DOOR.findall(text):
            room.doors[direction] = door
            if state == "open":
                self.open_doors.add(door)
        for direction in _EXIT.findall(text):
            room.doors.setdefault(direction, "")

    def _happened(self, command: str, text: str) -> None:
        if "Ingredients:" in text and "Directions:" in text:
            self._read(text)
        elif found := _GOT.search(text):
            self.held.add(found[1])
        elif found := _CARRIED.search(text):
            self._carry(found[1])
        elif text.startswith("You are carrying nothing"):
            self.carried = ""
        elif command.startswith("open "):
            thing = command.removeprefix("open ")
            (self.open_doors if thing.endswith("door") else self.opened).add(thing)
            self.here.said += f"\n{text}"
        elif found := re.match(r"drop (.+)", command):
            self.held.discard(found[1])
            self.here.said += f"\na {found[1]}"
        elif text.startswith("Adding the meal"):
            self.meal = True
        elif text.startswith("You "):
            self._prepared(command)
        self._adjectives(text)

    def _read(self, text: str) -> None:
        listed, _, directions = text.partition("Ingredients:")[2].partition("Directions:")
        self.ingredients = tuple(line.strip() for line in listed.splitlines() if line.strip())
        steps = re.findall(r"^\s*(chop|slice|dice|fry|roast|grill) the (.+?)\s*$", directions, re.M)
        self.steps = tuple(steps)
        self._carry(self.carried)
        for room in self.rooms.values():
            self._adjectives(room.said)

    def _carry(self, said: str | None) -> None:
        self.carried = said
        self.held |= {name for name in (*self.ingredients, "knife") if mentions(said or "", name)}
        self._adjectives(said or "")

    def _prepared(self, command: str) -> None:
        verb, _, rest = command.partition(" ")
        thing, _, tool = rest.partition(" with ")
        if verb == "cook":
            verb = next((name for name, (device, _) in HEATS.items() if device == tool), "")
        if (verb, thing) in (self.steps or ()):
            self.done.add((verb, thing))

    def _adjectives(self, text: str) -> None:
        """What is fried, sliced and so on by what the game calls it; only food of the recipe counts."""
        for name in self.ingredients:
            for words in re.findall(rf"\b(?:an?|the|some) ((?:[a-z]+ ){{1,2}}){re.escape(name)}\b", text):
                self.done |= {(_PREPARED[word], name) for word in words.split() if word in _PREPARED}

    def where(self, name: str) -> str:
        """The room in which a thing was seen, this one first; empty where it was not."""
        order = [self.room, *(room for room in self.rooms if room != self.room)]
        return next((room for room in order if mentions(self.rooms[room].said, name)), "")

    def way(self, target: str) -> str:
        """The command that leads on to a known room; empty where it is this one."""
        return self._lead(lambda room: room == target)

    def explore(self) -> str:
        """The command that leads on to the nearest exit that nobody took; empty where there is none."""
        fresh = [direction for direction in self.here.doors if direction not in self.here.leads]
        if fresh:
            return self._through(fresh[0])
        return self._lead(lambda room: any(way not in self.rooms[room].leads for way in self.rooms[room].doors))

    def _lead(self, good: Callable[[str], bool]) -> str:
        queue: deque[tuple[str, str]] = deque([(self.room, "")])
        seen = {self.room}
        while queue:
            room, first = queue.popleft()
            if room != self.room and good(room):
                return self._through(first)
            for direction, other in self.rooms[room].leads.items():
                if other not in seen:
                    seen.add(other)
                    queue.append((other, first or direction))
        return ""

    def _through(self, direction: str) -> str:
        door = self.here.doors.get(direction, "")
        return f"open {door}" if door and door not in self.open_doors else f"go {direction}"


def mentions(text: str, name: str) -> bool:
    return re.search(rf"\b{re.escape(name)}\b", text) is not None


def missing(names: Iterable[str], held: set[str]) -> list[str]:
    return [name for name in names if name not in held]
