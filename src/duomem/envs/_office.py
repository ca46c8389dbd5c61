"""The state of a small office - mails, events, files - and what each tool does to it.

In: a seed; then tool calls with arguments. Out: what a tool answers, and whether the goal holds. Everything is a pure function
of the seed and the calls. The environment around it is `duomem.envs.tools`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from duomem.types import Tool

DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday")
KINDS = ("forward", "book", "cancel", "note")
_PEOPLE = ("ann", "bob", "carol", "dave", "erin", "frank", "grace", "henry", "iris", "jack")
_TITLES = ("budget", "design", "hiring", "launch", "planning", "review", "safety", "sales", "security", "travel")
_FILES = ("access", "door", "garage", "guest", "locker", "printer", "server", "vault")


@dataclass
class Event:
    """One entry of the calendar."""

    number: int
    day: str
    hour: int
    title: str


@dataclass
class Office:
    """What there is, and what was done. `wanted` says whether the goal holds."""

    kind: str
    goal: str
    mails: list[tuple[str, str, str]]
    """Sender, subject, text."""
    events: list[Event]
    files: dict[str, str]
    wanted: Callable[[Office], bool]
    sent: list[tuple[str, str]] = field(default_factory=list)
    """Receiver, subject and text."""

    @property
    def won(self) -> bool:
        return self.wanted(self)

    def do(self, name: str, given: dict[str, Any]) -> tuple[str, bool]:
        """What the tool answers, and whether the call was a valid one."""
        wrong = _wrong(name, given)
        if wrong:
            return f"Error: {wrong}", False
        answer = str(getattr(self, f"_{name}")(**given))
        return answer, not answer.startswith("Error: ")

    def _list_mails(self) -> str:
        return "\n".join(f"{index}: {sender}: {subject}" for index, (sender, subject, _) in enumerate(self.mails, 1))

    def _read_mail(self, number: int) -> str:
        if not 1 <= number <= len(self.mails):
            return f"Error: no mail {number}"
        sender, subject, text = self.mails[number - 1]
        return f"From: {sender}\nSubject: {subject}\n{text}"

    def _send_mail(self, to: str, subject: str, text: str) -> str:
        if to not in _PEOPLE:
            return f"Error: nobody is called {to}"
        self.sent.append((to, f"{subject}\n{text}"))
        return f"Sent to {to}."

    def _list_events(self, day: str) -> str:
        if day not in DAYS:
            return f"Error: no day {day}"
        found = [f"{event.number}: {event.hour}:00 {event.title}" for event in self.events if event.day == day]
        return "\n".join(found) or f"Nothing on {day}."

    def _add_event(self, day: str, hour: int, title: str) -> str:
        if day not in DAYS or not 8 <= hour <= 17:
            return "Error: no such day and hour"
        if any((event.day, event.hour) == (day, hour) for event in self.events):
            return f"Error: {day} {hour}:00 is taken"
        number = max((event.number for event in self.events), default=0) + 1
        self.events.append(Event(number, day, hour, title))
        return f"Added as {number}."

    def _cancel_event(self, number: int) -> str:
        left = [event for event in self.events if event.number != number]
        if len(left) == len(self.events):
            return f"Error: no event {number}"
        self.events = left
        return f"Cancelled {number}."

    def _list_files(self) -> str:
        return "\n".join(sorted(self.files))

    def _read_file(self, name: str) -> str:
        return self.files.get(name, f"Error: no file {name}")

    def _write_file(self, name: str, text: str) -> str:
        self.files[name] = text
        return f"Wrote {name}."


def _tool(name: str, words: str, /, **parameters: str) -> Tool:
    schema = {
        "type": "object",
        "properties": {key: {"type": kind} for key, kind in parameters.items()},
        "required": list(parameters),
    }
    return Tool(name, words, json.dumps(schema))


TOOLS = (
    _tool("list_mails", "List the mails of the inbox with their numbers."),
    _tool("read_mail", "Read one mail.", number="integer"),
    _tool(
        "send_mail", "Send a mail to a person by first name, in small letters.", to="string", subject="string", text="string"
    ),
    _tool("list_events", "List the events of a day with their numbers.", day="string"),
    _tool("add_event", "Add an event at a full hour from 8 to 17.", day="string", hour="integer", title="string"),
    _tool("cancel_event", "Cancel an event by its number.", number="integer"),
    _tool("list_files", "List the files."),
    _tool("read_file", "Read a file.", name="string"),
    _tool("write_file", "Write a file; what it held is lost.", name="string", text="string"),
)


def _wrong(name: str, given: dict[str, Any]) -> str:
    """What is wrong with a call, by its tool's schema; empty where nothing is."""
    tool = next((tool for tool in TOOLS if tool.name == name), None)
    if tool is None:
        return f"no tool {name}. There are: {', '.join(tool.name for tool in TOOLS)}"
    kinds: dict[str, dict[str, str]] = json.loads(tool.parameters)["properties"]
    if set(given) != set(kinds):
        return f"{name} takes {', '.join(kinds) or 'nothing'}"
    for key, value in given.items():
        wanted = int if kinds[key]["type"] == "integer" else str
        if not isinstance(value, wanted) or isinstance(value, bool):
            return f"{name}: {key} has to be of type {kinds[key]['type']}"
    return ""


def make(rng: random.Random, kind: str) -> Office:
    """An office in which the goal does not hold yet, with things in it that have nothing to do with it."""
    one, other, *rest = rng.sample(_PEOPLE, 5)
    title, *titles = rng.sample(_TITLES, 5)
    name, *names = rng.sample(_FILES, 4)
    free = rng.sample([(day, hour) for day in DAYS for hour in range(8, 18)], 6)
    events = [Event(index, day, hour, each) for index, ((day, hour), each) in enumerate(zip(free, titles, strict=False), 1)]
    mails = [(who, f"about {each}", f"Nothing new about {each}.") for who, each in zip(rest, titles, strict=False)]
    files = {f"{each}.txt": f"The {each} code is {rng.randrange(1000, 10000)}." for each in (name, *names)}
    day, hour = free[5]
    if kind in ("cancel", "note"):
        events.insert(rng.randrange(len(events) + 1), Event(9, day, hour, title))
    if kind == "book":
        mails.insert(rng.randrange(len(mails) + 1), (one, f"about {title}", f"Please book {title} on {day} at {hour}:00."))
    goals = {
        "forward": f"send the {name} code to {one}.",
        "book": f"book the meeting that {one} asks for in a mail.",
        "cancel": f"cancel the {title} meeting and tell {one} so in a mail that names it.",
        "note": f"write the day and hour of the {title} meeting into the file {other}.txt, like this: monday 9.",
    }
    code = files[f"{name}.txt"].rstrip(".").rpartition(" ")[2]
    checks: dict[str, Callable[[Office], bool]] = {
        "forward": lambda office: any(to == one and code in text for to, text in office.sent),
        "book": lambda office: any((event.day, event.hour, event.title) == (day, hour, title) for event in office.events),
        "cancel": lambda office: (
            all(event.title != title for event in office.events)
            and any(to == one and title in text for to, text in office.sent)
        ),
        "note": lambda office: office.files.get(f"{other}.txt", "").strip() == f"{day} {hour}",
    }
    return Office(kind, goals[kind], mails, events, files, checks[kind])
