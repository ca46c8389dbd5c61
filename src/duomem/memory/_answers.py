"""Reads what a model wrote as a memory: numbered lines, parts of them under titles, or a list of numbers.

In: the text of a reply. Out: clean lines, or `Unusable` with the reason in words. Lines are picked out, never mended: nothing
is added, no step is changed. Plain text only; JSON is refused, because small models that copy it break on it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

MAX_STEPS = 20
"""More steps than this are a transcript, not a procedure."""
MAX_WORDS = 60
"""A longer line is no step."""

_STEP = re.compile(r"^\s*(?:\d+\s*[.):]|[-*•])\s+(?P<step>\S.*)$")
_TITLE = re.compile(r"^\W*(?:part|action|subtask)\b[^:\w]*\d*\s*:\s*(?P<title>\S.*?)\W*$", re.IGNORECASE)
_MARKER = re.compile(r"<\|[^>]*\|?>|<(?:s|/s|bos|eos|start_of_turn|end_of_turn)>|\[/?INST\]", re.IGNORECASE)
_NUMBERS = re.compile(r"^[\s\d,;.]*\d[\s\d,;.]*$")
_WORD = re.compile(r"[^\W\d_]{3,}")
_INSTANCE = re.compile(r"[^\W\d][\w-]* \d+\b")


class Unusable(Exception):
    """An answer that is no memory; the message says why, as the end of "That cannot be used: ..."."""


@dataclass(frozen=True, slots=True)
class About:
    """What a memory is about: words of the record, some of which it names, and instances ("cabinet 2"), which it must not."""

    words: frozenset[str]
    instances: frozenset[str]

    @classmethod
    def of(cls, texts: Sequence[str]) -> About:
        lower = [text.lower() for text in texts]
        words = frozenset(word for text in lower for word in _WORD.findall(text))
        return cls(words, frozenset(name for text in lower for name in _INSTANCE.findall(text)))


def steps_in(text: str, about: About) -> list[str]:
    """The numbered or bulleted lines of an answer without their numbers.

    Raises `Unusable` for JSON, no step, too many or too long ones, special tokens, steps on something else, and steps that name
    a thing of the one place that was seen.
    """
    _refuse(text)
    found = [match["step"].strip() for line in text.splitlines() if (match := _STEP.match(line))]
    _about([*found], about)
    return _checked(found)


def parts_in(text: str, about: About) -> list[tuple[str, list[str]]]:
    """Titles ("Part: ...", "Action: ...") with the steps below each, titles without a step left out. Raises `Unusable`."""
    _refuse(text)
    parts: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if match := _TITLE.match(line):
            parts.append((match["title"].strip(), []))
        elif parts and (match := _STEP.match(line)):
            parts[-1][1].append(match["step"].strip())
    whole = [(title, _checked(steps)) for title, steps in parts if steps]
    if not whole:
        raise Unusable('it has no part with a title line such as "Part: ..." and numbered steps below it')
    _about([line for title, steps in whole for line in (title, *steps)], about)
    return whole


def numbers_in(text: str, highest: int) -> list[int]:
    """The numbers from 1 to `highest` on the last line that holds nothing else, ascending, each once. Raises `Unusable`."""
    lines = [line for line in text.splitlines() if _NUMBERS.match(line)]
    found = sorted({int(number) for number in re.findall(r"\d+", lines[-1])}) if lines else []
    if not found:
        raise Unusable("it has no line with numbers alone")
    if found[0] < 1 or found[-1] > highest:
        raise Unusable(f"it names step {found[-1] if found[-1] > highest else found[0]}, and there are steps 1 to {highest}")
    return found


def _refuse(text: str) -> None:
    bare = text.strip().removeprefix("```json").removeprefix("```").strip()
    if not bare:
        raise Unusable("it is empty")
    if bare[0] in "{[":
        raise Unusable("it is JSON, and plain text was asked for")
    if match := _MARKER.search(text):
        raise Unusable(f"it holds the special token {match[0]!r}")


def _checked(steps: list[str]) -> list[str]:
    if not steps:
        raise Unusable("it has no numbered line")
    if len(steps) > MAX_STEPS:
        raise Unusable(f"it has {len(steps)} steps, more than {MAX_STEPS}")
    if longest := max((len(step.split()) for step in steps if len(step.split()) > MAX_WORDS), default=0):
        raise Unusable(f"a step of {longest} words is too long")
    return steps


def _about(lines: Sequence[str], about: About) -> None:
    said = About.of(lines)
    if said.words and not said.words & about.words:
        raise Unusable("it names nothing of the task")
    if named := said.instances & about.instances:
        raise Unusable(f"it names {min(named)!r}, which is one thing of one place")
