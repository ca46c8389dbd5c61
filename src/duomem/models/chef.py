"""A teacher for cooking games: reads the recipe, finds what it needs, prepares it. Acts on what it saw, never hidden state.

In: the same messages any model gets. Out: a thought and a command in the layout's reply form, for example `carrot: slice` and
`slice carrot with knife`. It reads the whole conversation anew at every call, so it is stateless and thread-safe.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from duomem.envs.cooking import GOAL
from duomem.models._kitchen import CUTS, HEATS, Kitchen, mentions, missing
from duomem.prompts import Layout, load_layout, parse, reply_text
from duomem.types import Message, Reply, Sampling, Tool, Usage, digest

if TYPE_CHECKING:
    from duomem.models import Model

REVISION = "1"
"""Raise with every change of behaviour: it is part of a run's provenance."""
_SLIPS = ("look", "inventory", "examine table", "open oven")


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    layout: str = "pocket"
    """The layout whose reply form it speaks."""
    slip: float = Field(default=0.0, ge=0, lt=1)
    """Chance of a needless but harmless command before the right one, so that recordings hold recoveries."""


def build(config: Config) -> Model:
    return Chef(config)


class Chef:
    """See the module's docstring. `reply` raises ValueError for a conversation that starts in no room of a cooking game."""

    writes = False
    """It acts, and cannot write memories."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._layout: Layout = load_layout(config.layout)

    def reply(self, messages: Sequence[Message], tools: Sequence[Tool], sampling: Sampling) -> Reply:
        started = time.perf_counter()
        kitchen, turns = read(messages, self._layout)
        thought, command = decide(kitchen)
        scene = next(message.text for message in messages if message.role == "user")
        rng = random.Random(digest([scene, turns, sampling.seed]))
        if rng.random() < self._config.slip:
            command = rng.choice(_SLIPS)
        text = reply_text(self._layout, thought, command)
        usage = Usage(sum(len(message.text.split()) for message in messages), 0, len(text.split()))
        return Reply(Message.of("assistant", text), "stop", usage, time.perf_counter() - started)

    def provenance(self) -> dict[str, str]:
        return {
            "model": "chef",
            "revision": REVISION,
            "config": digest(self._config.model_dump())[:16],
            "licence": "Apache-2.0",
        }

    def close(self) -> None:
        return None


def read(messages: Sequence[Message], layout: Layout) -> tuple[Kitchen, int]:
    """What a conversation told, and how many turns it has."""
    kitchen = Kitchen()
    kitchen.see("", next(message.text for message in messages if message.role == "user").replace(GOAL, ""))
    if not kitchen.room:
        raise ValueError("The conversation does not start in a room of a cooking game.")
    turns = 0
    for before, after in pairwise(messages):
        if before.role == "assistant":
            call = parse(layout, Reply(before))
            kitchen.see(call.command if call else "", after.text)
            turns += 1
    return kitchen, turns


def decide(kitchen: Kitchen) -> tuple[str, str]:
    """The next thought and command."""
    if kitchen.steps is None:
        return _at(kitchen, "cookbook", "cookbook: examine", "examine cookbook")
    if kitchen.meal:
        return "meal: eat", "eat meal"
    for name in missing(kitchen.ingredients, kitchen.held):
        return _take(kitchen, name)
    for verb, name in kitchen.steps:
        if (verb, name) not in kitchen.done:
            return _prepare(kitchen, verb, name)
    return _at(kitchen, "cookbook", "meal: prepare", "prepare meal")  # a meal is prepared where the cookbook is: the kitchen


def _prepare(kitchen: Kitchen, verb: str, name: str) -> tuple[str, str]:
    if verb in CUTS:
        if "knife" not in kitchen.held:
            return _take(kitchen, "knife")
        return f"{name}: {verb}", f"{verb} {name} with knife"
    device = HEATS[verb][0]
    return _at(kitchen, device, f"{name}: {verb}", f"cook {name} with {device}")


def _take(kitchen: Kitchen, name: str) -> tuple[str, str]:
    if not kitchen.where(name) and mentions(kitchen.here.said, "fridge") and "fridge" not in kitchen.opened:
        return f"{name}: find", "open fridge"
    if not kitchen.where(name) and kitchen.carried is None:
        return f"{name}: find", "inventory"
    return _at(kitchen, name, f"{name}: take", f"take {name}")


def _at(kitchen: Kitchen, thing: str, thought: str, command: str) -> tuple[str, str]:
    """The command where the thing is; on the way there, or in search of it, a step of the way."""
    place = kitchen.where(thing)
    if place == kitchen.room:
        return thought, command
    step = kitchen.way(place) if place else kitchen.explore()
    return f"{thing}: find", step or "inventory"  # what is nowhere else may be carried
