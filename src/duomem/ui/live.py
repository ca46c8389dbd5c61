"""Live runs: the rows of the table of runs again, whenever what they are made from changes.

In: the folder that is shown. Out: server-sent events, `runs` with the changed rows and the ids of those that are gone. Looking
costs a few `stat` calls a run and second; a row is made again only where they differ. Not here: what a row says.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from duomem import browse
from duomem.browse import RunRow
from duomem.types import dump

TICK_S = 1.0
SILENCE_TICKS = 15
"""After so many ticks without news a comment is sent, so that a dead connection is noticed."""


class Table:
    """The rows of all runs, kept until a run's fingerprint changes. Safe for several threads."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._rows: dict[str, tuple[tuple[int, ...], RunRow]] = {}

    def rows(self) -> dict[str, tuple[tuple[int, ...], RunRow]]:
        """Every run with its fingerprint and its row."""
        rows = {}
        for run, stamps in browse.fingerprint(self.root).items():
            known = self._rows.get(run)
            rows[run] = known if known and known[0] == stamps and not known[1].live else (stamps, browse.row(self.root, run))
        self._rows = rows
        return rows

    def listed(self) -> list[RunRow]:
        """The rows, live runs first, then the one that changed last."""
        return sorted((row for _, row in self.rows().values()), key=lambda each: (-each.live, -each.changed, each.id))


async def events(table: Table, gone: Callable[[], Awaitable[bool]], tick_s: float = TICK_S) -> AsyncIterator[bytes]:
    """The stream for one page, until it is `gone`. The first event has every row."""
    sent: dict[str, RunRow] | None = None
    quiet = 0
    while not await gone():
        rows = {run: row for run, (_, row) in (await asyncio.to_thread(table.rows)).items()}
        changed = [row for run, row in rows.items() if sent is None or sent.get(run) != row]
        lost = sorted((sent or {}).keys() - rows.keys())
        news = changed or lost or sent is None
        if news:
            body = f'{{"rows":[{",".join(dump(row) for row in changed)}],"gone":{json.dumps(lost)}}}'
            yield f"event: runs\ndata: {body}\n\n".encode()
        elif quiet >= SILENCE_TICKS:
            yield b": still here\n\n"
        quiet = 0 if news or quiet >= SILENCE_TICKS else quiet + 1
        sent = rows
        await asyncio.sleep(tick_s)
