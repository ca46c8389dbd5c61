"""The pocket student's pretraining episodes: guided play in invented words, a little play in real ones, no real task.

In: a seed. Out: `Example`s (messages and loss weights) in the pocket layout. Houses come from the game sampler's training rooms
only. Kinds of episode: guided (a procedure in invented verbs, shown among distractors, carried out with slips and recoveries),
primitives (real verbs under a guide that never moves an object to a place, nor lights a lamp with one in hand) and wandering
(real verbs, no guide, no goal). How a procedure is carried out: `duomem.pocket.play`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from duomem.envs.household import House, World
from duomem.games.sample import sample_game
from duomem.pocket.language import Procedure, invent, real, rename
from duomem.pocket.play import OBSERVED, PLACE_KINDS, Play, Recipe, Script, place_names
from duomem.policy import kind_of
from duomem.prompts import Layout, load_layout, opening
from duomem.types import Example

_RECIPE = Recipe()


def episodes(seed: int, number: int, recipe: Recipe = _RECIPE) -> Iterator[Example]:
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


def _start(layout: Layout, house: House, goal: str, guides: Sequence[str]) -> Script:
    messages = list(opening(layout, goal, house.scene, guides))
    return Script(layout, messages, [OBSERVED] * len(messages))


def _guided(rng: random.Random, house: House, layout: Layout, recipe: Recipe, source: str) -> Example | None:
    play = guided(rng, house, layout, recipe)
    return play.example(source) if play else None


def guided(rng: random.Random, house: House, layout: Layout, recipe: Recipe) -> Play | None:
    """An invented procedure and its guides, not played yet; None where the house has not what it needs."""
    kinds = sorted({place.kind for place in house.places if place.location})
    procedure = invent(rng, kinds)
    nouns = _nouns(rng, house, procedure, kinds)
    if nouns is None:
        return None
    things, places = nouns
    guides, found = _guides(rng, house, procedure, things, places, kinds, recipe)
    steps = procedure.steps(things, places, found)
    script = _start(layout, house, procedure.task(things, places), guides)
    return Play(rng, house, procedure, steps, script, recipe)


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
    return Play(rng, house, procedure, procedure.steps(things, [], found), script, recipe).example(source)


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
    if recipe.strange and rng.random() < recipe.strange:
        return rng.sample(PLACE_KINDS, rng.choice((1, 1, 2, 3, 4)))
    true = sorted({kind_of(place) for item in house.things if item.kind == thing for place in item.places})
    where = rng.sample(kinds, min(len(kinds), rng.choice((0, 0, 1, 2, 3))))
    if rng.random() < recipe.absent:
        where.insert(rng.randint(0, len(where)), rng.choice(PLACE_KINDS))
    if true and (rng.random() < 0.7 or not where):
        where.append(rng.choice(true))
    return list(dict.fromkeys(where)) or [rng.choice(kinds)]


def _wander(rng: random.Random, house: House, layout: Layout, recipe: Recipe, source: str) -> Example:
    """Aimless play with real verbs: look into places, take a thing and put it back where it was, switch on a lamp with
    empty hands."""
    world = World(house)
    script = _start(layout, house, rng.choice(("look around.", "look around the room.", "see what is here.")), [])
    number = 0
    for _ in range(rng.randint(4, 10)):
        number += 1
        place = rng.choice([name for name in place_names(house) if name != world.at])
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
