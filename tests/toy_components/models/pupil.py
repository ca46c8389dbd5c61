"""A student for tests of the pipeline: it can play a kind of task if a memory before it or its adapter is of that kind.

In: the same messages any model gets. Out: the expert's reply where it knows the kind of task, else a look around.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from duomem.models.expert import Config as ExpertConfig
from duomem.models.expert import Expert
from duomem.prompts import load_layout, reply_text
from duomem.types import Message, Reply, Sampling, Tool, Usage


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    path: str = "pupil"
    """Its base, by name only."""
    adapter: str | None = None
    """Folder that the tuner `rote` wrote."""


class Pupil:
    def __init__(self, config: Config) -> None:
        self._learned = json.loads((Path(config.adapter) / "learned.json").read_text()) if config.adapter else []
        self._expert = Expert(ExpertConfig(layout="pocket"))

    def reply(self, messages: Sequence[Message], tools: Sequence[Tool], sampling: Sampling) -> Reply:
        scene, goal, guides = parted(messages[0].text)
        if kind(goal) in {*self._learned, *map(kind, guides)}:
            plain = Message.of("user", f"{scene}\nTask: {goal}")
            return self._expert.reply([plain, *messages[1:]], tools, sampling)
        return Reply(Message.of("assistant", reply_text(load_layout("pocket"), "0. ?", "look")), usage=Usage(10, 0, 2))

    def provenance(self) -> dict[str, str]:
        return {"model": "pupil", "revision": "1"}

    def close(self) -> None:
        pass


def parted(text: str) -> tuple[str, str, list[str]]:
    """Scene, goal, and the first line of each guide of a prompt in the pocket layout."""
    head, _, goal = text.rpartition("Task: ")
    scene, *_ = head.partition("\nGuide: ")
    return scene.strip(), goal.strip(), re.findall(r"^Guide: (.*)$", head, re.M)


def kind(goal: str) -> str:
    """What a goal asks for, read from its words."""
    words = goal.lower()
    found = re.search(r"\b(clean|hot|heat|cool|cold|two|examine|look)\b", words)
    alike = {"heat": "hot", "cold": "cool", "look": "examine"}
    return alike.get(found[1], found[1]) if found else "put"


def build(config: Config) -> Pupil:
    return Pupil(config)
