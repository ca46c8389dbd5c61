"""A searcher that follows a procedure in a text house, knowing only what observations showed.

In: a procedure (steps on classes of objects and places) and a `Belief` built from what was seen. Out: the next step
and the next
primitive operation. The expert teacher and the maker of pretraining text share it; what differs is who names the steps
and in what words.
It never reads a world's state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

CLOSED_KINDS = frozenset({"cabinet", "drawer", "fridge", "microwave", "safe"})
"""Places that common sense expects to be closed: they are opened, others are looked at."""

Kind = Literal["take", "move", "process", "use"]


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a procedure: what to do with an object of a class, and the place classes to go to, in order.

    take: search `places`, then elsewhere. use: like take, without taking. move, process: a place of class `places[0]`.
    """

    kind: Kind
    object: str
    places: tuple[str, ...]
    verb: str = ""


@dataclass(frozen=True, slots=True)
class Op:
    """A primitive operation: go, open, examine (a place) or the step itself on one named object at one named place."""

    name: Literal["go", "open", "examine", "do", "stuck"]
    place: str
    object: str = ""


def kind_of(name: str) -> str:
    """The class of a named thing: "cabinet" of "cabinet 3"."""
    return name.rpartition(" ")[0]


@dataclass
class Belief:
    """What was seen so far. `contents[place]` is None for a place seen closed; a place never seen is absent."""

    places: tuple[str, ...]
    at: str = ""
    beside: set[str] = field(default_factory=set)
    """Places that turned out to be at the same spot as `at` (going there did nothing)."""
    contents: dict[str, list[str] | None] = field(default_factory=dict)
    held: str = ""
    done: int = 0
    """Steps of the procedure that are complete."""
    placed: set[str] = field(default_factory=set)
    target: str = ""
    """Where the last object was put; a second one of the same kind goes to the same place."""
    barred: set[str] = field(default_factory=set)
    """Places that refused something; not tried again."""
    fixed: set[str] = field(default_factory=set)
    """Places that do not open: what is in them can be reached as it is."""

    def near(self, place: str) -> bool:
        return place == self.at or place in self.beside

    def arrive(self, place: str, contents: list[str] | None) -> None:
        self.at, self.beside = place, set()
        self.see(place, contents)

    def see(self, place: str, contents: list[str] | None) -> None:
        self.contents[place] = contents

    def complete(self, step: Step, op: Op) -> None:
        """A step was carried out on `op.object` at `op.place`."""
        self.done += 1
        if step.kind == "take":
            self.held = op.object
            inside = self.contents.get(op.place)
            if inside and op.object in inside:
                inside.remove(op.object)
        elif step.kind == "move":
            self.contents.setdefault(op.place, [])
            (self.contents[op.place] or []).append(op.object)
            self.held, self.target = "", op.place
            self.placed.add(op.object)

    def nothing(self, op: Op) -> None:
        """The operation did nothing. Going in vain means being there already, opening in vain that it does not open;
        else the place is barred."""
        if op.name == "go":
            self.beside.add(op.place)
        elif op.name == "open" and op.place not in self.fixed:
            self.fixed.add(op.place)
        else:
            self.barred.add(op.place)


def next_op(belief: Belief, step: Step, *, closed: frozenset[str] = CLOSED_KINDS) -> Op:
    """The operation that brings `step` forward. `Op("stuck", "")` when every place was seen in vain."""
    if step.kind in ("move", "process"):
        return _deliver(belief, step, closed)
    found = _seen(belief, step)
    if found:
        place, thing = found
        return Op("do", place, thing) if belief.near(place) else Op("go", place)
    return _search(belief, step, closed)


def _deliver(belief: Belief, step: Step, closed: frozenset[str]) -> Op:
    place = _destination(belief, step.places[0])
    if not place:
        return Op("stuck", "")
    if not belief.near(place):
        return Op("go", place)
    unknown = belief.contents[place] is None if place in belief.contents else kind_of(place) in closed
    if step.kind == "move" and unknown and place not in belief.fixed:
        return Op("open", place)
    return Op("do", place, belief.held)


def _destination(belief: Belief, kind: str) -> str:
    names = [name for name in belief.places if kind_of(name) == kind and name not in belief.barred]
    if belief.target in names:
        return belief.target
    here = [name for name in names if name == belief.at]
    return (here or names or [""])[0]


def _seen(belief: Belief, step: Step) -> tuple[str, str] | None:
    """Where an object of the step's class was seen and still is; the place where the agent stands comes first."""
    order = sorted(
        belief.contents, key=lambda name: (name != belief.at, belief.places.index(name) if name in belief.places else -1)
    )
    for place in order:
        for thing in belief.contents[place] or ():
            if kind_of(thing) == step.object and thing not in belief.placed and place not in belief.barred:
                return place, thing
    return None


def _search(belief: Belief, step: Step, closed: frozenset[str]) -> Op:
    here = belief.at
    for place in (here, *sorted(belief.beside)):
        if place in belief.contents and belief.contents[place] is None and place not in belief.barred | belief.fixed:
            return Op("open", place)
    for place in search_order(belief.places, step.places, closed):
        seen = belief.contents.get(place) is not None
        if seen or place in belief.barred:
            continue
        if belief.near(place):
            return Op("open" if kind_of(place) in closed and place not in belief.fixed else "examine", place)
        return Op("go", place)
    return Op("stuck", "")


def search_order(places: Sequence[str], kinds: Sequence[str], closed: frozenset[str] = CLOSED_KINDS) -> list[str]:
    """Every place: those of the named classes in the order of the classes, then open ones, then closed ones; as listed
    within each."""
    first = [name for kind in kinds for name in places if kind_of(name) == kind]
    rest = [name for name in places if kind_of(name) not in kinds]
    return first + [name for name in rest if kind_of(name) not in closed] + [name for name in rest if kind_of(name) in closed]
