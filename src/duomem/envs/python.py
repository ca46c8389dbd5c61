"""A user's own environment: three plain functions - tasks, start, step - in a Python file that the config names.

In: `tasks(split)` gives ids, `start(task)` a state and the task's words, `step(state, action)` what came of an action. Out: an
environment like any other. The file needs nothing of this package; what its functions raise is raised (docs/environments.md).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel, ConfigDict

from duomem.envs import ACT
from duomem.errors import DataError, UsageError
from duomem.types import Labels, Observation, Task, Tool, ToolCall, digest

FUNCTIONS = ("tasks", "start", "step")
_START = frozenset(("goal", "text"))
_STEP = frozenset(("text", "done", "won", "valid"))
_LABELS = frozenset(("kind", "room", "object", "target"))


class Config(BaseModel):
    """Where the functions are."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    file: str = ""
    """The Python file, from the folder in which the command is run."""
    options: dict[str, str | int | float | bool] = {}
    """Set as the file's global OPTIONS before any function is called."""


def build(config: Config) -> PythonEnv:
    """Loads the file. Raises `UsageError` for a file that is not there, does not load, or lacks a function."""
    path = Path(config.file)
    if not config.file or not path.is_file():
        raise UsageError(
            f"env.file = {config.file!r}: no such Python file here. Name the one that defines {', '.join(FUNCTIONS)}."
        )
    module = _load(path)
    missing = [name for name in FUNCTIONS if not callable(getattr(module, name, None))]
    if missing:
        raise UsageError(f"{path} does not define the function {', '.join(missing)} (docs/environments.md).")
    module.OPTIONS = dict(config.options)  # type: ignore[attr-defined]
    return PythonEnv(path, module, config)


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"duomem_environment_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (ImportError, SyntaxError) as error:
        raise UsageError(f"{path} does not load: {error}.") from error
    return module


class PythonEnv:
    """The functions as an environment; see the contract in `duomem.envs`. Several threads may call them at once, each with a
    state of its own.
    """

    def __init__(self, path: Path, module: ModuleType, config: Config) -> None:
        self._path, self._module = path, module
        self._sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        self._options = json.dumps(config.options, sort_keys=True)
        self._tools = tuple(self._tool(index, item) for index, item in enumerate(getattr(module, "TOOLS", ())))

    def tasks(self, split: str) -> Sequence[Task]:
        found = self._module.tasks(split)
        if not found:
            raise UsageError(f"{self._path}: tasks({split!r}) gives no task: there is no such split.")
        names = [str(name) if isinstance(name, str | int) else None for name in found]
        if None in names or len(set(names)) < len(names):
            raise self._wrong("tasks", "has to give different texts or numbers, the ids of tasks", found)
        hashes = {name: digest([self._sha256, self._options, split, name]) for name in names}
        return [Task(f"{split}/{name}", split, "python", hashes[name]) for name in sorted(str(name) for name in names)]

    def open(self, task: Task) -> PythonEpisode:
        return PythonEpisode(self, task.id.removeprefix(f"{task.split}/"))

    def labels(self, task: Task) -> Labels:
        """What `labels(task)` of the file says; without it, every task is of one kind in one room."""
        function = getattr(self._module, "labels", None)
        given = function(task.id.removeprefix(f"{task.split}/")) if function else {}
        if (
            not isinstance(given, Mapping)
            or not set(given) <= _LABELS
            or not all(isinstance(each, str) for each in given.values())
        ):
            raise self._wrong("labels", f"has to give texts under {', '.join(sorted(_LABELS))}", given)
        return Labels(**{"kind": "task", "room": "here", **given})

    def provenance(self) -> dict[str, str]:
        return {"env": "python", "file": self._path.name, "sha256": self._sha256, "options": self._options}

    @property
    def offered(self) -> tuple[Tool, ...]:
        return self._tools or (ACT,)

    def started(self, name: str) -> tuple[Any, Observation]:
        made = self._module.start(name)
        if not isinstance(made, tuple) or len(made) != 2 or not isinstance(made[1], Mapping):
            raise self._wrong("start", 'has to give a state and {"goal": ..., "text": ...}', made)
        state, facts = made
        if set(facts) - _START or not all(isinstance(each, str) for each in facts.values()) or not facts.get("goal"):
            raise self._wrong("start", "has to give the texts goal and text beside the state", facts)
        return state, Observation(facts.get("text", ""), goal=facts["goal"])

    def stepped(self, state: Any, call: ToolCall) -> Observation:
        action = {"name": call.name, "arguments": json.loads(call.arguments)} if self._tools else call.command
        facts = self._module.step(state, action)
        if not isinstance(facts, Mapping) or set(facts) - _STEP or not isinstance(facts.get("text"), str):
            raise self._wrong("step", 'has to give {"text": ...} with done, won and valid where they are not the usual', facts)
        flags = {name: facts[name] for name in ("done", "won", "valid") if name in facts}
        if not all(isinstance(flag, bool) for flag in flags.values()):
            raise self._wrong("step", "has to give True or False for done, won and valid", facts)
        return Observation(facts["text"], **{**flags, "done": flags.get("done", False) or flags.get("won", False)})

    def ended(self, state: Any) -> None:
        close: Callable[[Any], None] | None = getattr(self._module, "close", None)
        if close:
            close(state)

    def _tool(self, index: int, item: Any) -> Tool:
        function = item.get("function", item) if isinstance(item, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise UsageError(f"{self._path}: TOOLS[{index}] is no tool: it needs a name, a description and parameters.")
        return Tool(function["name"], str(function.get("description", "")), json.dumps(function.get("parameters", {})))

    def _wrong(self, function: str, why: str, given: object) -> DataError:
        return DataError(f"{self._path}: {function} {why}. It gave {given!r:.100} (docs/environments.md).")


class PythonEpisode:
    """One play; single use."""

    def __init__(self, env: PythonEnv, name: str) -> None:
        self._env, self._name = env, name
        self._state: Any = None
        self._first: Observation | None = None
        self._over = self._closed = False

    def observe(self) -> Observation:
        if self._first is not None or self._closed:
            raise RuntimeError("observe() may be called once, before the first step")
        return self._start()

    def step(self, call: ToolCall) -> Observation:
        if self._over or self._closed:
            raise RuntimeError("the episode is done or closed; open the task again")
        if self._first is None:
            self._start()
        seen = self._env.stepped(self._state, call)
        self._over = seen.done
        return seen

    def tools(self) -> Sequence[Tool]:
        return self._env.offered

    def close(self) -> None:
        if self._first is not None and not self._closed:
            self._env.ended(self._state)
        self._closed, self._state = True, None

    def _start(self) -> Observation:
        self._state, self._first = self._env.started(self._name)
        return self._first
