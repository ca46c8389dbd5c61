"""Looking into a record: a path to a field, what it says about success, what it says the task was.

In: a record's JSON object and a path such as "metadata.success", "scores.correct" or "messages.0.content". Out: the value
there, or a `BadField` that names the path. It doesn't know formats.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from duomem.logs import BadField, Body
from duomem.logs._messages import decoded

YES = frozenset({"true", "yes", "success", "successful", "succeeded", "solved", "correct", "pass", "passed", "won", "win", "1"})
NO = frozenset({"false", "no", "failure", "failed", "fail", "unsolved", "incorrect", "wrong", "lost", "0"})
"""Words for an outcome, in small letters. Any other word says nothing and is reported."""

_ABSENT = object()


def at(body: Body, path: str) -> Any:
    """The value at a dotted path; None where it is not there.

    A number is a position in a list, from the end where it is negative; a name in a list finds the item with that "name" and
    gives its "value". JSON kept as text is looked into.
    """
    value: Any = body
    for step in path.split("."):
        value = _step(decoded(value), step)
        if value is _ABSENT:
            return None
    return value


def _step(value: Any, step: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(step, _ABSENT)
    if not isinstance(value, list):
        return _ABSENT
    if re.fullmatch(r"-?\d{1,9}", step):
        place = int(step)
        return value[place] if -len(value) <= place < len(value) else _ABSENT
    named = [item for item in value if isinstance(item, Mapping) and item.get("name") == step]
    return named[-1].get("value", _ABSENT) if named else _ABSENT


def success(value: Any, path: str, threshold: float) -> bool | None:
    """What a field says about success: a boolean itself, a number if it is `threshold` or more, a word of `YES` or `NO`.

    None (no word) where the field is empty or absent. Raises `BadField` for anything else.
    """
    if value is None or value == "":
        return None
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return value >= threshold if value == value else None
    if isinstance(value, str):
        word = value.strip().lower()
        if word in YES | NO:
            return word in YES
        try:
            return float(word) >= threshold
        except ValueError:
            pass
    shown = f"{value!r:.60}"
    raise BadField(path, f"says neither success nor failure: {shown}. Name another field with --outcome")


def number(value: Any) -> float | None:
    """A number, also a boolean's 0 or 1; None for anything else."""
    return float(value) if isinstance(value, int | float) and value == value else None


def text(value: Any, path: str) -> str:
    """A field that has to be text (or a number, as ids are); empty where it is absent."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise BadField(path, f"is {type(value).__name__}, not text")
