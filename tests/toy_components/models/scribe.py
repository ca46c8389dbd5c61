"""A writing model for tests that kill it: notes every call in a file before it answers, and takes its time.

In: questions. Out: always the same script.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from duomem.types import Message, Reply, Sampling, Tool, Usage, digest


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    log: str
    """The file that gets a line for each call: a hash of what was asked."""
    seconds: float = 0.01
    """How long an answer takes."""


class Scribe:
    def __init__(self, config: Config) -> None:
        self._config = config

    def reply(self, messages: Sequence[Message], tools: Sequence[Tool], sampling: Sampling) -> Reply:
        line = digest([message.text for message in messages])[:16] + "\n"
        handle = os.open(self._config.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(handle, line.encode())
        os.close(handle)
        time.sleep(self._config.seconds)
        script = "1. thing: take from countertop, cabinet\n2. thing: move to shelf"
        return Reply(Message.of("assistant", script), usage=Usage(100, 0, 20))

    def provenance(self) -> dict[str, str]:
        return {"model": "scribe", "revision": "1"}

    def close(self) -> None:
        pass


def build(config: Config) -> Scribe:
    return Scribe(config)
