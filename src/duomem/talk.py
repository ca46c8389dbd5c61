"""How a pipeline function tells what it does and what it made, without knowing whether a person or a program listens.

In: calls. Out: whatever the caller of the pipeline makes of them; by default nothing is shown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


def _no_progress(stage: str, done: int, total: int, note: str) -> None:
    pass


def _no_note(words: str) -> None:
    pass


@dataclass(frozen=True)
class Talk:
    """`progress(stage, done, total, note)` is called while a verb works, `note` with a sentence now and then."""

    progress: Callable[[str, int, int, str], None] = _no_progress
    note: Callable[[str], None] = _no_note

    def under(self, name: str) -> Talk:
        """The same, with a name before each stage."""

        def progress(stage: str, done: int, total: int, note: str) -> None:
            self.progress(f"{name} {stage}", done, total, note)

        return Talk(progress, self.note) if name else self


SILENT = Talk()


@dataclass(frozen=True)
class Done:
    """What a verb made: plain data for programs, words for people."""

    data: dict[str, Any] = field(default_factory=dict)
    words: str = ""
