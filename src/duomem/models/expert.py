"""A teacher that searches: acts on what observations showed, never on hidden state.

In: the same messages any model gets (room, task, observations). Out: a numbered thought and a command in the layout's
reply form,
for example `1. mug: find cabinet` and `go to cabinet 3`. It reads the whole conversation anew at every call, so
it is stateless
and thread-safe. Where it looks first comes from a table of ALFWorld training rooms (see `duomem.games`), most
promising class first.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from duomem.policy import CLOSED_KINDS, Belief, Op, Step, kind_of, next_op
from duomem.prompts import Layout, load_layout, parse, reply_text
from duomem.types import Message, Reply, Sampling, Tool, Usage, digest

if TYPE_CHECKING:
    from duomem.models import Model

REVISION = "6"
"""Raise with every change of behaviour: it is part of a run's provenance."""
_LONGEST_SLIP = 3
"""Turns; most slips last one."""


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    layout: str = "pocket"
    """The layout whose reply form it speaks."""
    variety: float = 0.0
    """Chance that it looks first in another likely class of places than the most promising, so that attempts at one
    task differ."""
    slip: float = 0.0
    """Chance at each turn of a wrong but harmless action, made one to three times before the right one, so that recordings hold
    recoveries. Recorded as it happened."""


def build(config: Config) -> Model:
    return Expert(config)


class Expert:
    """See the module's docstring. `reply` raises ValueError for a task that is not one of ALFWorld's six types."""

    writes = False
    """It acts, and cannot write memories."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._layout: Layout = load_layout(config.layout)

    def reply(self, messages: Sequence[Message], tools: Sequence[Tool], sampling: Sampling) -> Reply:
        started = time.perf_counter()
        places, goal, history = read(messages, self._layout)
        steps = self._steps(goal, places, random.Random(digest([goal, *places, sampling.seed])))
        number, step, op, at = _next(places, steps, history)
        wrong = op
        for ago in range(min(len(history) + 1, _LONGEST_SLIP)):  # a mistake is sometimes made again and again
            rng = random.Random(digest([goal, *places, len(history) - ago, sampling.seed]))
            if rng.random() < self._config.slip and rng.choice((1, 1, 2, _LONGEST_SLIP)) > ago:
                wrong = _slip(rng, places, step, at)
                break
        text = reply_text(self._layout, thought_for(number, step, wrong), command_for(step, wrong))
        words = len(text.split())
        usage = Usage(sum(len(message.text.split()) for message in messages), 0, words)
        return Reply(Message.of("assistant", text), "stop", usage, time.perf_counter() - started)

    def _steps(self, goal: str, places: Sequence[str], rng: random.Random) -> list[Step]:
        steps = procedure(goal, places)
        if rng.random() >= self._config.variety:
            return steps
        varied = []
        for step in steps:
            order = list(step.places)
            if step.kind in ("take", "use") and len(order) > 1:
                order.insert(0, order.pop(rng.randrange(1, min(4, len(order)))))
            varied.append(Step(step.kind, step.object, tuple(order), step.verb))
        return varied

    def provenance(self) -> dict[str, str]:
        return {
            "model": "expert",
            "revision": REVISION,
            "config": digest(self._config.model_dump())[:16],
            "licence": "Apache-2.0",
        }

    def close(self) -> None:
        return None


_PLACE = re.compile(r"\ba (\w+ \d+)")
_ROOM = re.compile(r"you see (a \w+ \d+.*?)\.(?:\n|$)")
_TASK = re.compile(r"(?i)task(?: is to)?: ([^\n]+)")


def read(messages: Sequence[Message], layout: Layout) -> tuple[tuple[str, ...], str, list[tuple[str, str]]]:
    """Places, task and (command, observation) pairs of a conversation.

    In about 4 of 1,000 games the agent starts at a place, and is told of that one alone: then no places are known.
    """
    opening = next(message.text for message in messages if message.role == "user")
    room, task = _ROOM.search(opening), _TASK.findall(opening)
    if not task:
        raise ValueError(f"no task in the prompt: {opening[:200]!r}")
    history = []
    for before, after in pairwise(messages):
        if before.role == "assistant":
            call = parse(layout, Reply(before))
            history.append((call.command if call else "", after.text))
    return tuple(_PLACE.findall(room[1])) if room else (), task[-1], history


_GOALS: list[tuple[re.Pattern[str], str]] = [
    (re.compile(r"(?:look at|examine)(?: the)? (?P<object>\w+) (?:under|with) the (?P<light>\w+)"), ""),
    (re.compile(r"(?:put|find) two (?P<object>\w+) (?:and put them )?(?:in|on) (?P<target>\w+)"), "two"),
    (re.compile(r"put an? (?P<state>clean|hot|cool) (?P<object>\w+) (?:in|on) (?P<target>\w+)"), ""),
    (re.compile(r"(?P<state>clean|heat|cool) some (?P<object>\w+) and put it (?:in|on) (?P<target>\w+)"), ""),
    (re.compile(r"put (?:an?|some) (?P<object>\w+) (?:in|on) (?P<target>\w+)"), ""),
]
_PROCESS = {
    "clean": ("clean", "sinkbasin"),
    "hot": ("heat", "microwave"),
    "heat": ("heat", "microwave"),
    "cool": ("cool", "fridge"),
}


def procedure(goal: str, places: Sequence[str]) -> list[Step]:
    """The steps that solve a task, from its words and the room's list of places."""
    found = next(((match, count) for pattern, count in _GOALS if (match := pattern.search(goal))), None)
    if found is None:
        raise ValueError(f"not one of ALFWorld's six task types: {goal!r}")
    slots, count = found[0].groupdict(), found[1]
    thing, target = slots["object"], slots.get("target") or ""
    kinds = list(dict.fromkeys(kind_of(place) for place in places))
    take = Step("take", thing, search_kinds(thing, kinds, places, barred=target), "take")
    if slots.get("light"):
        return [take, Step("use", slots["light"], search_kinds(slots["light"], kinds, places), "use")]
    move = Step("move", thing, (target,), "move")
    if count:
        return [take, move, take, move]
    if slots.get("state"):
        verb, tool = _PROCESS[slots["state"]]
        take = Step("take", thing, search_kinds(thing, kinds, places), "take")
        return [take, Step("process", thing, (tool,), verb), move]
    return [take, move]


def search_kinds(thing: str, kinds: Sequence[str], places: Sequence[str], barred: str = "") -> tuple[str, ...]:
    """Classes of places to search, most promising for its cost first.

    Cost: a look, plus an opening where the class is a closed one. `barred` is the class the object has to go to: what
    lies there does not help.
    """
    weights = _weights(room_kind(kinds)).get(thing, {})
    worth = {kind: weights.get(kind, 0.0) / (2 if kind in CLOSED_KINDS else 1) for kind in kinds if kind != barred}
    return tuple(sorted((kind for kind in worth if worth[kind] > 0), key=lambda kind: (-worth[kind], kind)))


def room_kind(kinds: Sequence[str]) -> str:
    """Kitchen, bathroom, bedroom or living room, by what stands in it."""
    for room, mark in (("kitchen", "fridge"), ("bathroom", "toilet"), ("bedroom", "bed")):
        if mark in kinds:
            return room
    return "living"


@cache
def _weights(room: str) -> dict[str, dict[str, float]]:
    """Object class -> place class -> weight of one such place, from the shipped table of training rooms."""
    from duomem.games.tables import tables

    table: dict[str, dict[str, float]] = {}
    for thing, weights in tables()["weights"][room].items():
        row = table.setdefault(thing.lower(), {})
        for kind, weight in weights.items():
            name = kind.rstrip("!").lower()
            row[name] = max(row.get(name, 0.0), weight)
    return table


_ARRIVE = re.compile(r"You arrive at (\w+ \d+)\.")
_STATE = re.compile(r"(?:On the|The) (\w+ \d+)(?:, you see (.*?)\.| is open\. In it, you see (.*?)\.| is (closed)\.)")


def decide(places: Sequence[str], steps: Sequence[Step], history: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """The next thought and command after a history of commands and what they showed."""
    number, step, op, _ = _next(places, steps, history)
    return thought_for(number, step, op), command_for(step, op)


def _next(places: Sequence[str], steps: Sequence[Step], history: Sequence[tuple[str, str]]) -> tuple[int, Step, Op, str]:
    """The step that is due with its number, the operation that brings it forward, and where the agent stands."""
    belief = Belief(tuple(places))
    for command, observation in history:
        observe(belief, steps[min(belief.done, len(steps) - 1)], command, observation)
    number = min(belief.done, len(steps) - 1)
    return number, steps[number], next_op(belief, steps[number]), belief.at


def _slip(rng: random.Random, places: Sequence[str], step: Step, at: str) -> Op:
    """A mistake that changes nothing in the house: a usual place of the thing that this room does not have, the step on a thing
    that is hardly there, or some other place.
    """
    if not places:
        return Op("stuck", "")
    absent = _usual_but_absent(step, places)
    if absent and rng.random() < 0.5:
        return Op("go", f"{rng.choice(absent)} {rng.randint(1, 2)}")
    if at and step.kind != "move" and rng.random() < 0.6:
        return Op("do", at, f"{step.object} {rng.randint(1, 3)}")
    return Op(rng.choice(("go", "examine")), rng.choice(list(places)))


def _usual_but_absent(step: Step, places: Sequence[str]) -> list[str]:
    """Classes of places where a thing to be searched often is in rooms of this sort, of which this room has none."""
    kinds = list(dict.fromkeys(kind_of(place) for place in places))
    usual = _weights(room_kind(kinds)).get(step.object, {}) if step.kind in ("take", "use") else {}
    return sorted(kind for kind in usual if kind not in kinds)


def observe(belief: Belief, step: Step, command: str, observation: str) -> None:
    """Take in what one command showed."""
    arrived = _ARRIVE.search(observation)
    if arrived:
        belief.arrive(arrived[1], belief.contents.get(arrived[1]))
    state = _STATE.search(observation)
    if state:
        closed = state[4] is not None
        belief.see(state[1], None if closed else re.findall(r"a (\w+ \d+)", state[2] or state[3] or ""))
    words = command.split()
    pairs = [f"{a} {b}" for a, b in pairwise(words) if b.isdigit()]
    if observation.startswith("Nothing happens"):
        _vain(belief, words, pairs)
    elif words and words[0] == step.verb and pairs:
        belief.complete(step, Op("do", pairs[1] if len(pairs) > 1 else belief.at, pairs[0]))


def _vain(belief: Belief, words: list[str], pairs: list[str]) -> None:
    if words[:2] == ["go", "to"] and pairs and pairs[0] != belief.at:
        belief.nothing(Op("go", pairs[0]))
    elif words and words[0] == "open" and pairs:
        belief.nothing(Op("open", pairs[0]))
    elif words and words[0] in ("take", "move", "use") and pairs:
        thing, place = pairs[0], pairs[1] if len(pairs) > 1 else belief.at
        there = thing == belief.held if words[0] == "move" else thing in (belief.contents.get(place) or ())
        if there and belief.near(place):  # refused although all was right: the place is at fault
            belief.nothing(Op("do", place))


def thought_for(number: int, step: Step, op: Op) -> str:
    """`1. mug: find cabinet` on the way, `1. mug: take from cabinet` where the step is done: number, object, what, class of
    place."""
    place = kind_of(op.place) if op.place else next(iter(step.places), "place")
    what = f"{step.verb} {PREPOSITION[step.kind]}" if op.name == "do" else "find"
    return f"{number + 1}. {step.object}: {what} {place}"


PREPOSITION = {"take": "from", "move": "to", "process": "with", "use": "at"}


def command_for(step: Step, op: Op) -> str:
    if op.name == "go":
        return f"go to {op.place}"
    if op.name in ("open", "examine"):
        return f"{op.name} {op.place}"
    if op.name == "stuck":
        return "look"
    if step.kind == "use":
        return f"use {op.object}"
    return f"{step.verb} {op.object} {PREPOSITION[step.kind]} {op.place}"
