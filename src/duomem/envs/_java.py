"""Simulators that run in Java: whether they can be started, and a pool of those that are running.

In: a package's name and how to start one of its simulators (a process of its own, 3 to 5 seconds of a core). Out: a simulator
for one episode at a time; one that an episode gave back serves the next. Not here: what a simulator says.
"""

from __future__ import annotations

import os
import shutil
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from duomem.envs import ACT
from duomem.errors import InfraError, MissingExtra, UsageError
from duomem.types import Observation, Tool, ToolCall


def need(package: str) -> None:
    """Raises `MissingExtra` without the package, `UsageError` without Java."""
    if find_spec(package) is None:
        raise MissingExtra(package.replace("_", "-"), "java")
    if shutil.which("java") is None:
        raise UsageError(
            f"{package} runs in Java, and there is no java on PATH (8 or newer). On Debian and Ubuntu: "
            "apt-get install default-jre-headless"
        )


class Pool:
    """Simulators that wait for an episode. Thread-safe. Those of a parent process are never used after a fork."""

    def __init__(self, start: Callable[[], Any]) -> None:
        self._start = start
        self._lock = threading.Lock()
        self._idle: list[tuple[int, Any]] = []

    def take(self) -> Any:
        """A simulator of one's own. Raises `InfraError` where none can be started."""
        with self._lock:
            while self._idle:
                owner, simulator = self._idle.pop()
                if owner == os.getpid():
                    return simulator
        with _calls("its start"):
            return self._start()

    @contextmanager
    def lent(self, what: str) -> Iterator[Any]:
        """A simulator for one piece of work. One that failed is not used again."""
        simulator, failed = self.take(), True
        try:
            with _calls(what):
                yield simulator
                failed = False
        except UsageError:
            failed = False
            raise
        finally:
            if not failed:
                self.give(simulator)

    def give(self, simulator: Any) -> None:
        with self._lock:
            self._idle.append((os.getpid(), simulator))


@contextmanager
def _calls(what: str) -> Iterator[None]:
    """Failures of the way to Java as `InfraError`: they say nothing about the agent."""
    from py4j.protocol import Py4JError

    try:
        yield
    except (Py4JError, OSError) as error:
        raise InfraError(f"The Java simulator failed at {what}: {error}".rstrip(": ")) from error


class JavaEpisode(ABC):
    """One play in a simulator of its own; see `duomem.envs.Episode`. A simulator that failed is not given back."""

    def __init__(self, pool: Pool, simulator: Any) -> None:
        self._pool, self.simulator = pool, simulator
        self._state = "new"

    @abstractmethod
    def first(self) -> Observation:
        """Starts the game: the first observation, with the goal."""

    @abstractmethod
    def act(self, command: str) -> Observation:
        """Plays one command."""

    def observe(self) -> Observation:
        if self._state != "new":
            raise RuntimeError(f"observe() comes once, before the first step; this episode is {self._state}")
        return self._call("the first observation", self.first)

    def step(self, call: ToolCall) -> Observation:
        if self._state not in ("new", "running"):
            raise RuntimeError(f"step() on an episode that is {self._state}")
        if self._state == "new":
            self.observe()
        command = call.command if call.name == ACT.name else ""
        return self._call("a step", lambda: self.act(command))

    def tools(self) -> Sequence[Tool]:
        return (ACT,)

    def close(self) -> None:
        if self._state not in ("closed", "failed"):
            self._pool.give(self.simulator)
        self._state = "closed"

    def _call(self, what: str, work: Callable[[], Observation]) -> Observation:
        self._state = "failed"
        with _calls(what):
            seen = work()
        self._state = "done" if seen.done else "running"
        return seen
