"""The results of a sweep, as data and as tables: `results.json` and `results.md`.

In: a row for every cell and test, with its `Results` or the reason why there are none. Out: success with its interval, paired
differences on the games and seeds that two cells have in common, losses included. The statistics are `summary`'s.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from duomem import rundir
from duomem.decision import Pair
from duomem.report_tables import percent, span
from duomem.scores import Results
from duomem.summary import ArmSummary, paired, summarise_arm

SCHEMA = 1
"""Version of a sweep's results.json."""


@dataclass(frozen=True, slots=True)
class Row:
    """One cell on one test. `why` says why there is no result; `planned` that the sweep file says so itself."""

    cell: str
    group: str
    test: str
    arm: str
    changes: tuple[str, ...]
    against: tuple[str, ...]
    planned: bool = False
    why: str = ""
    seeds: tuple[int, ...] = ()
    figures: ArmSummary | None = None
    examples: str = ""
    """What the adapter was trained on."""
    train_tokens: int = 0
    commit: str = ""
    data: dict[str, str] = field(default_factory=dict)


class Book:
    """The rows so far; `write` keeps them in `root`."""

    def __init__(self, root: Path, source: str, command: str) -> None:
        self.rows: list[Row] = []
        self._root, self._source, self._command = root, source, command
        self._results: dict[tuple[str, str], Results] = {}
        self._pairs: dict[tuple[str, str, str], Pair] = {}

    @property
    def markdown(self) -> Path:
        return self._root / "results.md"

    def add(self, row: Row, results: Results | None, why: str = "") -> None:
        """A row with what came of it."""
        if results is None:
            self.rows.append(replace(row, why=why))
            return
        facts, arm = results.facts, results.arm(row.arm)
        figures = summarise_arm(results, arm)
        examples = facts.settings.get("training_examples", "") if arm.adapter else ""
        row = replace(
            row, seeds=results.seeds_of(arm), figures=figures, examples=examples, commit=facts.commit, data=facts.data
        )
        self.rows.append(row)
        self._results[row.cell, row.test] = results

    def pair(self, row: Row, other: str) -> Pair | None:
        """A row less another cell of the same test; None where one of them has no result."""
        key = row.cell, other, row.test
        if key not in self._pairs:
            mine, theirs = self._results.get((row.cell, row.test)), self._results.get((other, row.test))
            found = difference(mine, theirs) if mine and theirs else None
            if found is None:
                return None
            self._pairs[key] = found
        return self._pairs[key]

    def data(self) -> dict[str, Any]:
        """results.json."""
        return {
            "schema": SCHEMA,
            "sweep": self._source,
            "command": self._command,
            "rows": [self._plain(row) for row in self.rows],
        }

    def _plain(self, row: Row) -> dict[str, Any]:
        pairs = {other: asdict(pair) for other in row.against if (pair := self.pair(row, other))}
        return asdict(row) | {"pairs": pairs}

    def text(self) -> str:
        """results.md: a table for each group and test."""
        parts = [f"# Results of {self._source}\n\n`{self._command}`\n"]
        for group, test in dict.fromkeys((row.group, row.test) for row in self.rows):
            rows = [row for row in self.rows if (row.group, row.test) == (group, test)]
            parts.append(self._table(group, test, rows))
        return "\n".join(parts)

    def _table(self, group: str, test: str, rows: Sequence[Row]) -> str:
        others = list(dict.fromkeys(other for row in rows for other in row.against))
        head = [
            "cell",
            "won",
            "95% interval",
            "games x seeds",
            *(f"less {other}" for other in others),
            "steps",
            "prompt tokens",
        ]
        lines = [f"## {group}: {test}\n", _line(head), _line(["---", *("---:" for _ in head[1:])])]
        for row in rows:
            if row.figures is None:
                lines.append(_line([row.cell, f"not run: {row.why}", *("" for _ in head[2:])]))
                continue
            arm = row.figures
            differences = [_points(self.pair(row, other)) if other in row.against else "" for other in others]
            games = f"{arm.n} x {len(row.seeds)}" + (f", {arm.errors} errors" if arm.errors else "")
            share = [percent(arm.success), span(*arm.interval), games]
            lines.append(_line([row.cell, *share, *differences, f"{arm.mean_steps:.1f}", f"{arm.prompt_tokens:,.0f}"]))
        commits = sorted({row.commit for row in rows if row.commit})
        return "\n".join([*lines, f"\nCommits: {', '.join(commits) or 'none'}.\n"])

    def write(self) -> None:
        rundir.replace(self._root / "results.json", json.dumps(self.data(), indent=1, sort_keys=True) + "\n")
        rundir.replace(self.markdown, self.text())


def difference(first: Results, second: Results) -> Pair | None:
    """The first cell less the second, each with its only arm, on the games and seeds that both have; None where they have none.

    An arm that no seed changes meets every seed of the other.
    """
    (one,), (other,) = first.arms, second.arms
    tasks = sorted(set(first.tasks) & set(second.tasks))
    shared = [seed for seed in first.seeds_of(one) if seed in second.seeds_of(other)]
    seeded = one.seeded and other.seeded
    if not tasks or (seeded and not shared):
        return None
    rooms = dict(zip(first.tasks, first.rooms, strict=True))
    cut = [_cut(results, tasks, [rooms[task] for task in tasks], shared if seeded else []) for results in (first, second)]
    differences = cut[0].matrix(one.name) - cut[1].matrix(other.name)
    return None if np.isnan(differences).all() else paired(differences, cut[0].rooms)


def _cut(results: Results, tasks: Sequence[str], rooms: Sequence[str], seeds: Sequence[int]) -> Results:
    return replace(results, tasks=tuple(tasks), rooms=tuple(rooms), seeds=tuple(seeds) or results.seeds)


def _points(pair: Pair | None) -> str:
    if pair is None:
        return "–"
    low, high = pair.interval
    return f"{100 * pair.difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"
