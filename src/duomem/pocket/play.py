"""An invented procedure carried out in a house, with slips and the way out of them.

In: a house, a procedure, its steps, what was said so far (`Script`). Out: an `Example`, or None where the procedure cannot be
carried out. Who draws houses, procedures and guides: `duomem.pocket.corpus`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from duomem.envs.household import NOTHING, House, World
from duomem.pocket.language import Procedure, Verb, means_itself, say
from duomem.policy import Belief, Kind, Op, Step, kind_of, next_op
from duomem.prompts import Layout, reply_text, turn_message
from duomem.types import Example, Message

# fmt: off
PLACE_KINDS = (
    "armchair", "bathtubbasin", "bed", "cabinet", "cart", "coffeemachine", "coffeetable", "countertop", "desk",
    "diningtable", "drawer", "dresser", "fridge", "garbagecan", "handtowelholder", "microwave", "ottoman", "safe",
    "shelf", "sidetable", "sinkbasin", "sofa", "stoveburner", "toaster", "toilet", "toiletpaperhanger", "towelholder",
    "tvstand",
)
# fmt: on
"""Place classes of all rooms: a guide may come from another room and name places that are not here."""
OBSERVED = 0.02
"""Loss weight of what the world says; the student's own words weigh 1."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Shares and chances of the corpus."""

    guided: float = 0.87
    primitives: float = 0.1
    slip: float = 0.08
    """Chance of a wrong action at a turn; it is not learned, the recovery is."""
    turns: int = 34
    same: float = 0.5
    """Chance that a relevant guide names the task's own things and places."""
    absent: float = 0.4
    """Chance that a guide's search list also names a class of place from any room, often not here."""
    lost: float = 0.35
    """Share of the vain actions that go to a place which the room does not have."""
    misled: float = 0.7
    """Chance that a slip's thought is wrong too (it fits the wrong action), as it is when the student errs by itself."""
    hasty: float = 0.2
    """Share of the slips that set out for another step before this one is done."""
    traps: float = 0.0
    """Chance, where a guide names a class of place that the room has not, to go there in vain before going on in its list."""
    strange: float = 0.0
    """Chance that a guide's search list names classes from any room alone, as one from a quite different room does."""
    wander_weight: float = 0.2
    """Loss weight of the student's turns in wandering, whose choices nobody can foresee."""


class Guided(World):
    """The house with invented operations: anything can be moved anywhere, any class of place can be a tool, anything
    can be used. A real verb that means itself is answered in the game's words."""

    def carry_out(self, step: Step, verb: Verb, op: Op) -> str:
        place = self.here(op.place)
        if place is None:
            return NOTHING
        if step.kind == "use":
            done = self.reachable(place) and op.object in self.contents(op.place)
        elif step.kind == "take":
            done = self._take(op.object, op.place) is not None
        elif step.kind == "move":
            done = self.reachable(place) and self.held == op.object
            if done:
                self.inside[op.object].add(op.place)
                self.held = ""
        else:
            done = self.held == op.object and place.kind == step.places[0]
        return _told(step.kind, verb, op) if done else NOTHING


def _told(kind: Kind, verb: Verb, op: Op) -> str:
    if not means_itself(kind, verb):
        return f"You {verb.word} the {op.object}" + (f" {verb.preposition} the {op.place}." if kind != "use" else ".")
    match kind:
        case "take":
            return f"You pick up the {op.object} from the {op.place}."
        case "move":
            return f"You move the {op.object} to the {op.place}."
        case "use":
            return f"You turn on the {op.object}."
        case "process":
            return f"You {verb.word} the {op.object} using the {op.place}."


@dataclass
class Script:
    """Messages and weights in the making."""

    layout: Layout
    messages: list[Message]
    learn: list[float]

    def turn(self, thought: str, command: str, observation: str, weight: float) -> None:
        self.messages.append(Message.of("assistant", reply_text(self.layout, thought, command)))
        self.learn.append(weight)
        self.messages.append(turn_message(self.layout, observation))
        self.learn.append(OBSERVED)

    def example(self, source: str) -> Example:
        return Example(tuple(self.messages[:-1]), tuple(self.learn[:-1]), source)


def place_names(house: House) -> tuple[str, ...]:
    return tuple(place.name for place in house.places if place.location)


@dataclass
class Play:
    """One episode of a procedure. The same generator in the same state plays the same way."""

    rng: random.Random
    house: House
    procedure: Procedure
    steps: list[Step]
    script: Script
    recipe: Recipe
    world: Guided = field(init=False)
    belief: Belief = field(init=False)
    trapped: set[tuple[int, str]] = field(init=False, default_factory=set)
    """Steps and the absent classes of places that were tried for them."""

    def __post_init__(self) -> None:
        self.world, self.belief = Guided(self.house), Belief(place_names(self.house))

    def example(self, source: str) -> Example | None:
        """Play to the end; None where it gets stuck or takes too many turns."""
        for _ in range(self.recipe.turns):
            number = self.belief.done
            if number == len(self.steps):
                return self.script.example(source)
            op = next_op(self.belief, self.steps[number])
            if op.name == "stuck":
                return None
            if self.recipe.traps:
                self._trap(number, op)
            if self.rng.random() < self.recipe.slip:
                self._slip(number, op)
                continue
            answer = self._apply(number, op)
            self.script.turn(self._thought(number, op), self._command(number, op), answer, 1.0)
        return None

    def _verb(self, number: int) -> Verb:
        return self.procedure.slots[number].verb

    def _thought(self, number: int, op: Op) -> str:
        """`2. mug: zorid off shelf` where the step is done, `2. mug: find shelf` on the way to it."""
        kind, thing = kind_of(op.place), self.steps[number].object
        return f"{number + 1}. {say(thing, self._verb(number), kind) if op.name == 'do' else f'{thing}: find {kind}'}"

    def _command(self, number: int, op: Op) -> str:
        verb = self._verb(number)
        if op.name == "do":
            used = self.steps[number].kind == "use"
            return f"{verb.word} {op.object}" if used else f"{verb.word} {op.object} {verb.preposition} {op.place}"
        return f"go to {op.place}" if op.name == "go" else f"{op.name} {op.place}"

    def _apply(self, number: int, op: Op) -> str:
        """Carry out an operation and take in what it showed."""
        world, belief, step = self.world, self.belief, self.steps[number]
        if op.name == "do":
            answer = world.carry_out(step, self._verb(number), op)
            belief.complete(step, op) if answer != NOTHING else belief.nothing(op)
            return answer
        answer = world.act(self._command(number, op))
        if answer == NOTHING:
            belief.nothing(op)
            return answer
        place = world.places[op.place]
        contents = world.contents(op.place) if world.reachable(place) else None
        belief.arrive(op.place, contents) if op.name == "go" else belief.see(op.place, contents)
        return answer

    def _slip(self, number: int, op: Op) -> None:
        """A wrong action, sometimes again and again, not learned: what follows shows how to get out of it."""
        rng, belief = self.rng, self.belief
        if rng.random() < self.recipe.hasty:
            self._hasty(number)
            return
        vain = self._vain(self.steps[number])
        if vain and rng.random() < 0.5:
            thought = self._thought(number, vain if rng.random() < self.recipe.misled else op)
            for _ in range(rng.choice((1, 1, 2, 3))):
                self.script.turn(thought, self._command(number, vain), NOTHING, 0.0)
            return
        other = rng.choice(belief.places)
        wrong = rng.choice((Op("go", other), Op("go", belief.at or other), Op("open", other), Op("examine", other)))
        if wrong.place == op.place and wrong.name == op.name:
            return
        thought = self._thought(number, wrong if rng.random() < self.recipe.misled else op)
        elsewhere = wrong.name == "go" and wrong.place != belief.at
        possible = elsewhere or (wrong.name != "go" and belief.near(wrong.place))
        answer = self._apply(number, wrong) if possible else NOTHING
        self.script.turn(thought, self._command(number, wrong), answer, 0.0)

    def _trap(self, number: int, op: Op) -> None:
        """In vain to the classes that the guide names right before the one that is due, where the room has none of them."""
        step, rng = self.steps[number], self.rng
        if step.kind not in ("take", "use") or op.name != "go":
            return
        kinds, here = list(step.places), {kind_of(place) for place in self.belief.places}
        due = kinds.index(kind_of(op.place)) if kind_of(op.place) in kinds else len(kinds)
        first = max((index + 1 for index in range(due) if kinds[index] in here), default=0)
        missed = [kind for kind in kinds[first:due] if (number, kind) not in self.trapped]
        self.trapped |= {(number, kind) for kind in missed}
        if not missed or rng.random() >= self.recipe.traps:
            return
        for kind in missed[rng.randrange(len(missed)) :]:
            for _ in range(rng.choice((1, 1, 2, 3))):
                vain = Op("go", f"{kind} {rng.randint(1, 2)}")
                self.script.turn(self._thought(number, vain), self._command(number, vain), NOTHING, 0.0)

    def _hasty(self, number: int) -> None:
        """On the way to another step before this one is done."""
        rng, belief, steps = self.rng, self.belief, self.steps
        other = rng.choice([index for index in (number - 1, number + 1, number + 2) if 0 <= index < len(steps)] or [number])
        there = [place for place in belief.places if kind_of(place) == rng.choice(steps[other].places) and place != belief.at]
        if there:
            op = Op("go", rng.choice(there))
            answer = self._apply(other, op)
            self.script.turn(self._thought(other, op), self._command(other, op), answer, 0.0)

    def _vain(self, step: Step) -> Op | None:
        """Going to a place that the room does not have, or the step on a thing that is not there: nothing happens."""
        rng, world, belief = self.rng, self.world, self.belief
        place = belief.at if belief.at and rng.random() < 0.7 else rng.choice(belief.places)
        if rng.random() < self.recipe.lost:
            absent = f"{rng.choice(PLACE_KINDS)} {rng.randint(1, 2)}"
            return None if absent in world.places else Op("go", absent)
        thing = f"{step.object} {rng.randint(1, 3)}"
        there = belief.near(place) and thing in (world.held, *world.contents(place))
        return None if there else Op("do", place, thing)
