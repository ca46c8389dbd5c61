"""P12b: share of calls that stay with the student at one point of success lost, the teacher behind it.

In: nothing; the shipped student with memories in transformers, the expert as the teacher, dev games of the household twin. Out:
one JSON line: `value` = the largest measured share of local calls whose success is at most `--lost` points behind the teacher
alone on the same games; 0 where no threshold gets there (the teacher alone does). `curve` has all points, with the paired
interval of what they are behind: on so few games it is wider than a point.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from _common import arguments, report
from duomem import cascade_curve
from duomem.talk import Talk
from engines import make_run


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--games", type=int, default=16, help="dev games, 120 at most")
    parser.add_argument("--lost", type=float, default=1.0, help="points of success that may be lost")


def shown(point: dict[str, Any]) -> dict[str, Any]:
    """A point of the curve in short: shares and points."""
    behind = [round(100 * point["behind"][name], 1) for name in ("estimate", "low", "high")]
    threshold = None if point["threshold"] is None else round(point["threshold"], 3)
    local, success = round(point["local"], 3), round(point["success"], 3)
    return {"threshold": threshold, "local": local, "success": success, "behind": behind}


def progress(stage: str, done: int, total: int, note: str) -> None:
    """How far it is, for people."""
    print(f"{stage} {done}/{total}", file=sys.stderr, flush=True)


def main() -> None:
    given = arguments(__doc__ or "", options)
    talk = Talk() if given.json else Talk(progress)
    with TemporaryDirectory(prefix="duomem-bench-") as folder:
        run = make_run(Path(folder) / "run", tasks=40, model="hf", threads=1)
        done = cascade_curve.measure(run, talk, games=given.games, most=1.0, arm="memory")
    points = done.data["points"]
    near = [point for point in points if 100 * point["behind"]["estimate"] <= given.lost]
    best = max((point["local"] for point in near), default=0.0)
    if not given.json:
        print(done.words)
    curve, teacher = [shown(point) for point in points], done.data["teacher"]
    report("P12b", value=best, unit="share", lost=given.lost, games=done.data["games"], teacher=teacher, curve=curve)


if __name__ == "__main__":
    main()
