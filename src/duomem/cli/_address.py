"""What a command is asked to look at: `RUN`, `RUN:EPISODE` or `RUN:ARM`.

In: an argument. Out: the run, open for looking, and the rest. Not here: whether that episode or arm exists.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duomem.browse import Run

_EPISODE = re.compile(r"(?:[\w.-]+:)?\d+")


@dataclass(frozen=True)
class Address:
    """`what` is an episode's ref ("17", "seed0:17"), an arm's name, or empty for the whole run."""

    run: Run
    what: str = ""

    @property
    def is_episode(self) -> bool:
        return bool(_EPISODE.fullmatch(self.what))

    def __str__(self) -> str:
        return f"{self.run.root}:{self.what}" if self.what else str(self.run.root)


def address(text: str, near: Address | None = None) -> Address:
    """Raises `UsageError` where no run folder is named. With `near` its run may be left out."""
    from duomem import browse
    from duomem.errors import UsageError

    marks = [len(text), *(match.start() for match in re.finditer(":", text))]
    for mark in marks:
        folder = Path(text[:mark])
        if (folder / "config.toml").is_file():
            folder = folder if folder.name not in ("", "..") else folder.resolve()  # a run is called by its folder's name
            return Address(browse.open_run(folder), text[mark + 1 :])
    if near is not None and not Path(text).exists():
        return Address(near.run, text.removeprefix(":"))
    raise UsageError(f"{text} names no run folder. Write RUN:EPISODE, such as runs/mine:17, RUN:ARM, or RUN alone.")
