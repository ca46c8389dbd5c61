"""The pocket student's pretraining episodes: guided play in invented words, a little play in real ones, no real task.

In: a seed. Out: `Example`s (messages and loss weights) in the pocket layout. Houses come from the game sampler's
training rooms only.
Kinds of episode: guided (a procedure in invented verbs, shown among distractors, carried out with slips and
recoveries), primitives (real
verbs under a guide that never moves an object to a place, nor lights a lamp with one in hand) and wandering (real
verbs, no guide, no goal).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from duomem.envs.household import NOTHING, House, World
from duomem.games.sample import sample_game
from duomem.pocket.language import Procedure, Verb, invent, means_itself, real, rename, say
from duomem.policy import Belief, Kind, Op, Step, kind_of, next_op
from duomem.prompts import Layout, load_layout, opening, reply_text, turn_message
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
    wander_weight: float = 0.2
    """Loss weight of the student's turns in wandering, whose choices nobody can foresee."""


def episodes(seed: int, number: int, recipe: Recipe = Recipe()) -> Iterator[Example]:
    """`number` examples, the same ones for the same seed."""
    layout = load_layout("pocket")
    for index in range(number):
        yield episode(random.Random(f"{seed}/{index}"), layout, recipe, f"{seed}/{index}")


def episode(rng: random.Random, layout: Layout, recipe: Recipe, source: str) -> Example:
    """One episode; draws again where a house cannot carry the procedure."""
    draw = rng.random()
    while True:
        game = sample_game(rng, "train")
        house = House.from_pddl(game.pddl(), "")
        if draw < recipe.guided:
            found = _guided(rng, house, layout, recipe, source)
        elif draw < recipe.guided + recipe.primitives:
            found = _primitives(rng, house, layout, recipe, source)
        else:
            found = _wander(rng, house, layout, recipe, source)
        if found:
            return found


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
class _Script:
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


def _start(layout: Layout, house: House, goal: str, guides: Sequence[str]) -> _Script:
    messages = list(opening(layout, goal, house.scene, guides))
    return _Script(layout, messages, [OBSERVED] * len(messages))


def _place_names(house: House) -> tuple[str, ...]:
    return tuple(place.name for place in house.places if place.location)


def _guided(rng: random.Random, house: House, layout: Layout, recipe: Recipe, source: str) -> Example | None:
    kinds = sorted({place.kind for place in house.places if place.location})
    procedure = invent(rng, kinds)
    nouns = _nouns(rng, house, procedure, kinds)
    if nouns is None:
        return None
    things, places = nouns
    guides, found = _guides(rng, house, procedure, things, places, kinds, recipe)
    steps = procedure.steps(things, places, found)
    script = _start(layout, house, procedure.task(things, places), guides)
    return _play(rng, house, procedure, steps, script, recipe, source)


def _primitives(rng: random.Random, house: House, layout: Layout, recipe: Recipe, source: str) -> Example | None:
    kinds = sorted({place.kind for place in house.places if place.location})
    lamps = sorted({thing.kind for thing in house.things if "toggleable" in thing.traits and thing.places})
    procedure = real(rng, kinds, lamps)
    if procedure is None:
        return None
    if procedure.slots[0].kind == "use":
        things = [rng.choice(lamps)]
    else:
        traits = {"clean": "cleanable", "heat": "heatable", "cool": "coolable"}
        need = {traits[slot.verb.word] for slot in procedure.slots[1:]}
        fit = sorted(
            {thing.kind for thing in house.things if need <= thing.traits and thing.places and "pickupable" in thing.traits}
        )
        if not fit:
            return None
        things = [rng.choice(fit)]
    guides, found = _guides(rng, house, procedure, things, [], kinds, recipe)
    script = _start(layout, house, procedure.task(things, []), guides)
    return _play(rng, house, procedure, procedure.steps(things, [], found), script, recipe, source)


def _nouns(rng: random.Random, house: House, procedure: Procedure, kinds: list[str]) -> tuple[list[str], list[str]] | None:
    """Object and place classes for a procedure's slots: enough copies for what is taken, none already where it has to go."""
    takes = [slot.thing for slot in procedure.slots if slot.kind == "take"]
    copies: dict[str, int] = {}
    for thing in house.things:
        if thing.places and "pickupable" in thing.traits:
            copies[thing.kind] = copies.get(thing.kind, 0) + 1
    things = ["", "", ""]
    pool = list(copies)
    rng.shuffle(pool)
    lamps = sorted({thing.kind for thing in house.things if "toggleable" in thing.traits and thing.places})
    for index in range(3):
        fit = [kind for kind in pool if copies[kind] >= max(1, takes.count(index)) and kind not in things]
        if index == 1 and lamps and rng.random() < 0.4:
            fit = [rng.choice(lamps)]  # the second thing is used, never taken
        if not fit:
            return None
        things[index] = fit[0]
    places = rng.sample(kinds, 2) if len(kinds) > 1 else kinds * 2
    return things, places


def _guides(
    rng: random.Random,
    house: House,
    procedure: Procedure,
    things: list[str],
    places: list[str],
    kinds: list[str],
    recipe: Recipe,
) -> tuple[list[str], list[list[str]]]:
    """Guides in the prompt (relevant ones and distractors, shuffled) and, for each step, what the relevant ones
    together say."""
    all_kinds = sorted({thing.kind for thing in house.things if thing.places})
    guides, union = [], [list[str]() for _ in procedure.slots]
    relevant = rng.choice((1, 1, 2))
    texts: list[tuple[str, list[list[str]]]] = []
    for _ in range(relevant):
        same = rng.random() < recipe.same
        other = things if same else [rng.choice(all_kinds) for _ in things]
        there = places if same or rng.random() < 0.3 else [rng.choice(PLACE_KINDS) for _ in places]
        found = _searched(rng, house, procedure, things, kinds, recipe)
        texts.append((procedure.guide(other, there, found), found))
    for _ in range(rng.choice((0, 0, 1, 1, 2)) if relevant == 1 else rng.choice((0, 1))):
        wrong = rename(rng, procedure, kinds) if rng.random() < 0.6 else invent(rng, kinds)
        nouns = [rng.choice(all_kinds) for _ in range(3)] if rng.random() < 0.5 or len(things) < 3 else things
        there = [rng.choice(PLACE_KINDS) for _ in range(2)]
        texts.append((wrong.guide(nouns, there, _searched(rng, house, wrong, nouns, kinds, recipe)), []))
    rng.shuffle(texts)
    for text, found in texts:
        guides.append(text)
        for step, where in enumerate(found):
            union[step] += [kind for kind in where if kind not in union[step]]
    return guides, union


def _searched(
    rng: random.Random, house: House, procedure: Procedure, things: Sequence[str], kinds: list[str], recipe: Recipe
) -> list[list[str]]:
    """For each step the place classes that a guide names for its thing: a second search for a thing may name others."""
    found: list[list[str]] = []
    last: dict[int, list[str]] = {}
    for slot in procedure.slots:
        if slot.thing not in last or rng.random() < 0.6:
            last[slot.thing] = _where(rng, house, things[slot.thing], kinds, recipe)
        found.append(last[slot.thing])
    return found


def _where(rng: random.Random, house: House, thing: str, kinds: list[str], recipe: Recipe) -> list[str]:
    """One to four place classes to search; the thing is there more often than not."""
    true = sorted({kind_of(place) for item in house.things if item.kind == thing for place in item.places})
    where = rng.sample(kinds, min(len(kinds), rng.choice((0, 0, 1, 2, 3))))
    if rng.random() < recipe.absent:
        where.insert(rng.randint(0, len(where)), rng.choice(PLACE_KINDS))
    if true and (rng.random() < 0.7 or not where):
        where.append(rng.choice(true))
    return list(dict.fromkeys(where)) or [rng.choice(kinds)]


def _play(
    rng: random.Random, house: House, procedure: Procedure, steps: list[Step], script: _Script, recipe: Recipe, source: str
) -> Example | None:
    world, belief = Guided(house), Belief(_place_names(house))
    for _ in range(recipe.turns):
        number = belief.done
        if number == len(steps):
            return script.example(source)
        step, verb = steps[number], procedure.slots[number].verb
        op = next_op(belief, step)
        if op.name == "stuck":
            return None
        if rng.random() < recipe.slip:
            _slip(rng, world, belief, op, script, number, step, verb, recipe, steps)
            continue
        script.turn(_thought(number, step, verb, op), _command(step, verb, op), _apply(world, belief, step, verb, op), 1.0)
    return None


def _thought(number: int, step: Step, verb: Verb, op: Op) -> str:
    """`2. mug: zorid off shelf` where the step is done, `2. mug: find shelf` on the way to it."""
    kind = kind_of(op.place)
    return f"{number + 1}. {say(step.object, verb, kind) if op.name == 'do' else f'{step.object}: find {kind}'}"


def _command(step: Step, verb: Verb, op: Op) -> str:
    if op.name == "do":
        return f"{verb.word} {op.object}" if step.kind == "use" else f"{verb.word} {op.object} {verb.preposition} {op.place}"
    return f"go to {op.place}" if op.name == "go" else f"{op.name} {op.place}"


def _apply(world: Guided, belief: Belief, step: Step, verb: Verb, op: Op) -> str:
    """Carry out an operation and take in what it showed."""
    if op.name == "do":
        answer = world.carry_out(step, verb, op)
        belief.complete(step, op) if answer != NOTHING else belief.nothing(op)
        return answer
    answer = world.act(_command(step, verb, op))
    if answer == NOTHING:
        belief.nothing(op)
        return answer
    place = world.places[op.place]
    contents = world.contents(op.place) if world.reachable(place) else None
    belief.arrive(op.place, contents) if op.name == "go" else belief.see(op.place, contents)
    return answer


def _slip(
    rng: random.Random,
    world: Guided,
    belief: Belief,
    op: Op,
    script: _Script,
    number: int,
    step: Step,
    verb: Verb,
    recipe: Recipe,
    steps: Sequence[Step],
) -> None:
    """A wrong action, sometimes again and again, not learned: what follows shows how to get out of it."""
    if rng.random() < recipe.hasty:
        _hasty(rng, world, belief, script, number, steps, verb)
        return
    vain = _vain(rng, world, belief, step, recipe)
    if vain and rng.random() < 0.5:
        thought = _thought(number, step, verb, vain if rng.random() < recipe.misled else op)
        for _ in range(rng.choice((1, 1, 2, 3))):
            script.turn(thought, _command(step, verb, vain), NOTHING, 0.0)
        return
    other = rng.choice(belief.places)
    wrong = rng.choice((Op("go", other), Op("go", belief.at or other), Op("open", other), Op("examine", other)))
    if wrong.place == op.place and wrong.name == op.name:
        return
    thought = _thought(number, step, verb, wrong if rng.random() < recipe.misled else op)
    elsewhere = wrong.name == "go" and wrong.place != belief.at
    possible = elsewhere or (wrong.name != "go" and belief.near(wrong.place))
    answer = _apply(world, belief, step, verb, wrong) if possible else NOTHING
    script.turn(thought, _command(step, verb, wrong), answer, 0.0)


def _hasty(
    rng: random.Random, world: Guided, belief: Belief, script: _Script, number: int, steps: Sequence[Step], verb: Verb
) -> None:
    """On the way to another step before this one is done."""
    other = rng.choice([index for index in (number - 1, number + 1, number + 2) if 0 <= index < len(steps)] or [number])
    there = [place for place in belief.places if kind_of(place) == rng.choice(steps[other].places) and place != belief.at]
    if there:
        op = Op("go", rng.choice(there))
        answer = _apply(world, belief, steps[other], verb, op)
        script.turn(_thought(other, steps[other], verb, op), _command(steps[other], verb, op), answer, 0.0)


def _vain(rng: random.Random, world: Guided, belief: Belief, step: Step, recipe: Recipe) -> Op | None:
    """Going to a place that the room does not have, or the step on a thing that is not there: nothing happens."""
    place = belief.at if belief.at and rng.random() < 0.7 else rng.choice(belief.places)
    if rng.random() < recipe.lost:
        absent = f"{rng.choice(PLACE_KINDS)} {rng.randint(1, 2)}"
        return None if absent in world.places else Op("go", absent)
    thing = f"{step.object} {rng.randint(1, 3)}"
    there = belief.near(place) and thing in (world.held, *world.contents(place))
    return None if there else Op("do", place, thing)


def _wander(rng: random.Random, house: House, layout: Layout, recipe: Recipe, source: str) -> Example:
    """Aimless play with real verbs: look into places, take a thing and put it back where it was, switch on a lamp with
    empty hands."""
    world = World(house)
    script = _start(layout, house, rng.choice(("look around.", "look around the room.", "see what is here.")), [])
    number = 0
    for _ in range(rng.randint(4, 10)):
        number += 1
        place = rng.choice([name for name in _place_names(house) if name != world.at])
        kind = kind_of(place)
        script.turn(f"{number}. {kind}: find {kind}", f"go to {place}", world.act(f"go to {place}"), recipe.wander_weight)
        here = world.here(place)
        if here and not world.reachable(here):
            script.turn(f"{number}. {kind}: find {kind}", f"open {place}", world.act(f"open {place}"), recipe.wander_weight)
        things = [world.things[name] for name in world.contents(place)]
        lamps = [thing.name for thing in things if "toggleable" in thing.traits]
        loose = [thing for thing in things if "pickupable" in thing.traits and (kind, thing.kind) in house.accepts]
        if lamps and rng.random() < 0.5:
            number += 1
            command = f"use {lamps[0]}"
            script.turn(f"{number}. {kind_of(lamps[0])}: use at {kind}", command, world.act(command), recipe.wander_weight)
        elif loose and rng.random() < 0.6:
            thing = rng.choice(loose)
            for verb, preposition in (("take", "from"), ("move", "to")):
                number += 1
                command = f"{verb} {thing.name} {preposition} {place}"
                script.turn(
                    f"{number}. {thing.kind}: {verb} {preposition} {kind}", command, world.act(command), recipe.wander_weight
                )
    return script.example(source)
