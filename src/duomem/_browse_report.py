"""What a run's report says, ready to draw: the figures, curves of games won by step, and each paired test as a sentence.

In: a `Run` that has been evaluated. Out: a `DecisionView`. The figures are report.json's own; nothing is computed twice. Not
here: pages and plots.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from duomem._browse_runs import Run, find, open_run
from duomem._browse_types import DecisionView, SweepPoint
from duomem.decision import Pair
from duomem.errors import DataError
from duomem.report_tables import TITLES
from duomem.scores import Results

_SHOWN = {"none": "memory", "adapter": "both"}
"""The arms without memories, and the arm of which each is k = 0."""


def decision(run: Run) -> DecisionView:
    """The report of a run. Raises `DataError` where there is none yet."""
    summary = run.summary
    if summary is None:
        raise DataError(f"{run.root} has no report yet. Write one with: duomem report {run.root}")
    path = run.folder.results
    curves = _curves(path, path.stat().st_mtime_ns) if path.is_file() else {}
    sentences = {name: sentence(name, pair) for name, pair in summary.pairs.items()}
    return DecisionView(summary, {name: TITLES.get(name, name) for name in summary.arms}, sentences, curves, _sweep(run))


def sentence(name: str, pair: Pair) -> str:
    """A paired test in words."""
    first, second = (TITLES.get(part, part) for part in name.split("-"))
    points = 100 * pair.difference
    low, high = (100 * bound for bound in pair.interval)
    p = f"p = {pair.mcnemar_p:.3f}" if pair.mcnemar_p >= 0.001 else "p < 0.001"
    counts = f"better on {pair.wins} of {pair.n} games, worse on {pair.losses} ({p})"
    if pair.includes_zero:
        return (
            f"No measurable difference between {first} and {second}: {points:+.1f} points, anything from {low:+.1f} to "
            f"{high:+.1f} is compatible with these games; {counts}."
        )
    more = "more" if points > 0 else "fewer"
    ends = sorted((abs(low), abs(high)))
    return f"{first} wins {abs(points):.1f} points {more} than {second} (95%: {ends[0]:.1f} to {ends[1]:.1f}); {counts}."


@lru_cache(maxsize=16)
def _curves(path: Path, stamp: int) -> dict[str, tuple[float, ...]]:
    """The share of games won within 0, 1, 2, ... steps, by arm."""
    results = Results.read(path)
    longest = max((score.steps for score in results.scores), default=0)
    curves = {}
    for arm in results.arms:
        played = [score for score in results.of(arm.name) if score.stop.is_outcome]
        won = [0] * (longest + 1)
        for score in played:
            won[score.steps] += score.won
        curves[arm.name] = tuple(count / max(1, len(played)) for count in accumulate(won))
    return curves


def _sweep(run: Run) -> tuple[SweepPoint, ...]:
    """Success by k: of a `duomem sweep` in this run's folder, else of evaluations of the same split in folders of this run that
    differ in k; empty where there are fewer than two of them."""
    if run.summary is None:
        return ()
    for path in sorted((*run.root.glob("results.json"), *run.root.glob("*/results.json"))):
        if path != run.folder.results and (points := _swept(path, path.stat().st_mtime_ns, run.summary.split)):
            return points
    found = []
    for row in find(run.root):
        other = open_run(run.root, row.id)
        if row.problem or other.summary is None or other.settings.memory is None or other.summary.split != run.summary.split:
            continue
        arms = {name: (arm.success, *arm.interval) for name, arm in other.summary.arms.items() if arm.success is not None}
        found.append(SweepPoint(row.id, other.settings.memory.k, arms))
    return _several(found)


def _several(points: Iterable[SweepPoint]) -> tuple[SweepPoint, ...]:
    """The points in order, or none where all have one k."""
    found = sorted(points, key=lambda point: (point.k, point.run))
    return tuple(found) if len({point.k for point in found}) > 1 else ()


@lru_cache(maxsize=16)
def _swept(path: Path, stamp: int, split: str) -> tuple[SweepPoint, ...]:
    """The cells of a sweep that differ in k alone, of the test named like the split, else of the first that has such cells.

    Cells that name no k have that of the sweep's log; no memories at all (k = 0) are the arms `none` and `adapter`.
    """
    try:
        rows = json.loads(path.read_bytes())["rows"]
        tests = sorted(dict.fromkeys(row["test"] for row in rows), key=lambda test: test != split)
        return next((points for test in tests if (points := _cells(path.parent, test, rows))), ())
    except (ValueError, TypeError, AttributeError, KeyError, IndexError):  # another one's results.json, or one cut off
        return ()


def _cells(folder: Path, test: str, rows: Sequence[Mapping[str, Any]]) -> tuple[SweepPoint, ...]:
    arms: dict[int, dict[str, tuple[float, float, float]]] = {}
    for row in rows:
        k, arm = _k_of(row, folder), _SHOWN.get(row["arm"], row["arm"])
        if k is not None and row["test"] == test and row["figures"] and row["figures"]["success"] is not None:
            low, high = row["figures"]["interval"]
            arms.setdefault(k, {}).setdefault(arm, (row["figures"]["success"], low, high))
    return _several(SweepPoint(f"{folder.name}: {test}", k, found) for k, found in arms.items())


def _k_of(row: Mapping[str, Any], folder: Path) -> int | None:
    """How many memories a cell shows; None where it differs in something else, or nothing says it."""
    if row["arm"] in _SHOWN:
        return None if row["changes"] else 0
    if not row["changes"]:
        return _own_k(folder / "log")
    found = re.fullmatch(r"memory\.k=(\d+)(?: \(played\))?", row["changes"][0])
    return int(found[1]) if found and len(row["changes"]) == 1 else None


def _own_k(log: Path) -> int | None:
    if not (log / "config.toml").is_file():
        return None
    memory = open_run(log).settings.memory
    return memory.k if memory else None
