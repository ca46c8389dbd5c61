"""What a user declares when recording: where the task stands in a request, and perhaps a function that judges.

In: a text such as `path:user.0`, `regex:Task: (.+)` or `python:tasks.py:find`. Out: the task's words, "" where there are none.
The text is stored with the run, so that the same rule finds the task again when the student is served.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from duomem.errors import UsageError
from duomem.types import Message, Role
from duomem.wire import Body

DEFAULT = "path:user.0"
"""The first user message."""

HOW = "Write path:user.0, path:metadata.task, regex:Task: (.+), python:file.py:function or python:module:function."


@dataclass(frozen=True)
class Locator:
    """Finds the task in a request. `spec` is what the user wrote, `pin` the hash of a callable's source."""

    spec: str
    pin: str
    _find: Callable[[tuple[Message, ...], Body], str]

    def task(self, messages: tuple[Message, ...], body: Body) -> str:
        """The task's words, stripped; "" where there are none. A user's function that fails raises what it raises."""
        return self._find(messages, body).strip()


def locator(spec: str = DEFAULT) -> Locator:
    """Raises `UsageError` for a text of none of the forms."""
    kind, _, rest = spec.partition(":")
    if kind == "path" and rest:
        return Locator(spec, "", _path(rest.split(".")))
    if kind == "regex" and rest:
        return Locator(spec, "", _regex(spec, rest))
    if kind == "python" and rest:
        function, pin = load(rest)
        return Locator(spec, pin, lambda messages, _: str(function(messages) or ""))
    raise UsageError(f"Task locator {spec!r} is of no known form. {HOW}")


def _path(steps: Sequence[str]) -> Callable[[tuple[Message, ...], Body], str]:
    def find(messages: tuple[Message, ...], body: Body) -> str:
        if steps[0] in get_args(Role):
            of_role = [message.text for message in messages if message.role == steps[0]]
            return plain(follow(of_role, steps[1:] or ["0"]))
        return plain(follow(body, steps))

    return find


def follow(value: Any, steps: Sequence[str]) -> Any:
    """What lies at a path into a JSON value; None where there is nothing. Lists take numbers, from the end with a minus."""
    for step in steps:
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, list) and re.fullmatch(r"-?\d+", step) and -len(value) <= int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def plain(value: Any) -> str:
    """A text, or the texts of a list of content parts."""
    if isinstance(value, list):
        return "\n".join(filter(None, (plain(each) for each in value)))
    if isinstance(value, Mapping):
        return plain(value.get("text", value.get("content")))
    return value if isinstance(value, str) else ""


def _regex(spec: str, pattern: str) -> Callable[[tuple[Message, ...], Body], str]:
    try:
        compiled = re.compile(pattern, re.MULTILINE)
    except re.error as error:
        raise UsageError(f"Task locator {spec!r}: no regular expression: {error}.") from error

    def find(messages: tuple[Message, ...], body: Body) -> str:
        match = compiled.search("\n".join(message.text for message in messages if message.role in ("system", "user")))
        if match is None:
            return ""
        return str((match["task"] if "task" in compiled.groupindex else match[1] if compiled.groups else match[0]) or "")

    return find


def load(place: str) -> tuple[Callable[..., Any], str]:
    """A user's function from `file.py:name` or `module:name`, and the hash of its file. Raises `UsageError`."""
    module_name, _, name = place.rpartition(":")
    if not module_name or not name:
        raise UsageError(f"{place!r} names no function. Write file.py:function or module:function.")
    try:
        if module_name.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(module_name).stem, module_name)
            if spec is None or spec.loader is None:
                raise ImportError("not a Python file")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(module_name)
        function = getattr(module, name)
    except (ImportError, OSError, AttributeError, SyntaxError) as error:
        raise UsageError(f"{place!r} cannot be loaded: {error}.") from error
    if not callable(function):
        raise UsageError(f"{place!r} is not a function.")
    source = Path(module.__file__).read_bytes() if module.__file__ else b""
    return function, hashlib.sha256(source).hexdigest()[:16]
