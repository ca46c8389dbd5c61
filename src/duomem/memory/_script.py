"""Rules that turn the text of a won trajectory into a script or a short transcript.

In: goal, scene, commands and observations. Out: lines such as "2. plate: clean with sinkbasin". The rules go by structure
alone: what the scene names with a number is a place, any other "noun number" is an object, a command that names an object is a
step, one that names only places is the way there. No verb, task type or template is known here: other words, other scripts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from duomem.memory._prompts import command_of, cut
from duomem.types import Trajectory, Turn

RULES = 1
"""Version of these rules; stands in every memory's provenance."""

_NAMED = re.compile(r"([^\W\d][\w-]*) (\d+)\b")


@dataclass(frozen=True, slots=True)
class Entity:
    """One thing of the world, as commands name it: "sinkbasin 1"."""

    noun: str
    number: str


@dataclass(frozen=True, slots=True)
class Event:
    """A valid command, taken apart. `parts` are its words and entities in order; `at` is the place it names or happens at."""

    command: str
    observation: str
    parts: tuple[str | Entity, ...]
    object: Entity | None
    place: Entity | None
    at: Entity | None


def events(trajectory: Trajectory) -> list[Event]:
    """The valid commands that name anything. Looking around and the like name nothing and are left out."""
    places = {Entity(noun.lower(), number) for noun, number in _NAMED.findall(trajectory.scene)}
    found: list[Event] = []
    at: Entity | None = None
    for turn in trajectory.turns:
        command = turn.call.command if turn.call and turn.valid else ""
        parts = _parts(command)
        named = [part for part in parts if isinstance(part, Entity)]
        place = next((entity for entity in named if entity in places), None)
        at = place or at
        if named:
            thing = next((entity for entity in named if entity not in places), None)
            found.append(Event(command, turn.observation, parts, thing, place, at))
    return found


def _parts(command: str) -> tuple[str | Entity, ...]:
    parts: list[str | Entity] = []
    end = 0
    for match in _NAMED.finditer(command.lower()):
        parts += command[end : match.start()].lower().split()
        parts.append(Entity(match[1], match[2]))
        end = match.end()
    return (*parts, *command[end:].lower().split())


def steps(found: Sequence[Event]) -> list[int]:
    """Positions of the events that did the work: those on objects, less repeats and what was undone."""
    kept = [position for position, event in enumerate(found) if event.object]
    while (dropped := _needless([found[position] for position in kept])) is not None:
        kept = [position for index, position in enumerate(kept) if index not in dropped]
    return kept


def _needless(work: Sequence[Event]) -> tuple[int, ...] | None:
    """The first repeat, or the first pair of which the second undid the first; None when there is nothing more to drop."""
    for index, event in enumerate(work):
        earlier = [other for other in work[:index] if other.object == event.object]
        if earlier and earlier[-1].command == event.command:
            return (index,)
        if index + 2 >= len(work):
            continue
        following = work[index + 1]
        if following.object == event.object and event.place and following.place == event.place:
            later = [other for other in work[index + 2 :] if other.object == event.object]
            if not later or later[0].command == event.command:
                return (index, index + 1)  # taken and put back: for good, or to be taken again
    return None


def script(goal: str, found: Sequence[Event]) -> str:
    """The goal, then a numbered line for each step: what, how, and where. Nouns stand for classes, without numbers.

    A step on an object met for the first time lists the classes of places that were visited for it; the last is where it was.
    """
    lines, met = [goal.strip()], set[Entity]()
    previous = -1
    for position in steps(found):
        event = found[position]
        visited = [] if event.object in met else [other.at.noun for other in found[previous + 1 : position] if other.at]
        lines.append(f"{len(lines)}. {_step(event, visited)}")
        met |= {event.object} if event.object else set()
        previous = position
    return "\n".join(lines)


def _step(event: Event, visited: Sequence[str]) -> str:
    where = _classes(visited, event.at)
    words = [
        where if part == event.place else part.noun if isinstance(part, Entity) else part
        for part in event.parts
        if part != event.object
    ]
    if where and not any(isinstance(part, Entity) and part != event.object for part in event.parts):
        words += ["at", where]
    return f"{event.object.noun if event.object else ''}: {' '.join(words)}"


def _classes(visited: Sequence[str], found: Entity | None) -> str:
    """Visited classes in order, each once, the one where the object was last."""
    if found is None:
        return ""
    return ", ".join(dict.fromkeys([*(noun for noun in visited if noun != found.noun), found.noun]))


def transcript(found: Sequence[Event], words: int) -> str:
    """The steps, and before each the commands at its place that led to it; every observation cut to its first `words` words."""
    shown: list[Event] = []
    previous = -1
    for position in steps(found):
        step = found[position]
        start = position
        while start > previous + 1 and found[start - 1].at == step.at:
            start -= 1
        # A door opened during an earlier search stays open, so the command that opened it belongs to the way there.
        told = {event.command for event in shown}
        earlier = [event for event in found[:start] if not event.object and event.at == step.at and event.command not in told]
        way = {event.command: event for event in (*earlier, *found[start:position])}
        shown += [*way.values(), step]
        previous = position
    return "\n".join(line for event in shown for line in (f"> {event.command}", cut(event.observation, words)))


def calls_script(trajectory: Trajectory) -> str:
    """The goal, then a numbered line for each call: of a tool with the names of its arguments, because their values belong to
    this one task, and of a text world whose things have no numbers as the command was. Repeats of a line are told once; empty
    where nothing was done.
    """
    steps: list[str] = []
    for turn in trajectory.turns:
        calls = turn.reply.message.tool_calls or ((turn.call,) if turn.call else ())
        for call in calls if turn.valid else ():
            told = ": ".join(part for part in (call.name, ", ".join(_names(call.arguments))) if part)
            step = call.command if call.name == "act" else told
            if steps[-1:] != [step]:
                steps.append(step)
    numbered = [f"{number}. {step}" for number, step in enumerate(steps, 1)]
    return "\n".join([trajectory.goal.strip(), *numbered]) if numbered else ""


def _names(arguments: str) -> list[str]:
    """The names of a call's arguments; none where they are no JSON object."""
    try:
        found = json.loads(arguments)
    except ValueError:
        return []
    return list(found) if isinstance(found, dict) else []


def plain_transcript(turns: Sequence[Turn], words: int) -> str:
    """Turns as they were, in worlds of any kind, less those without effect and repeats of the same answer."""
    told: dict[tuple[str, str], str] = {}
    for turn in turns:
        if turn.valid and turn.call:
            command = command_of(turn)
            told.setdefault((command, turn.observation), f"> {command}\n{cut(turn.observation, words)}")
    return "\n".join(told.values())
