"""What the benchmarks share: games to measure on, a repeatable clock, and the one-line JSON with commit, hardware and versions.

In: a benchmark's figures. Out: `{"id": ..., "ratio" or "value": ..., ...}` on standard output. Not a benchmark itself.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
ARCHIVES = REPOSITORY.parent / "shared" / "alfworld"
LIBRARIES = ("alfworld", "textworld", "numpy", "torch", "transformers", "peft", "trl")


def arguments(description: str, options: Callable[[argparse.ArgumentParser], object] | None = None) -> argparse.Namespace:
    """The command line that all benchmarks have: `--json` for the one-line JSON alone."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print only the single-line JSON objects")
    if options:
        options(parser)
    return parser.parse_args()


def commit() -> str:
    """The commit measured, with "+" where the tree has changes; empty outside a checkout."""
    try:
        said = [
            subprocess.run(["git", *command], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.strip()
            for command in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        ]
    except (OSError, subprocess.CalledProcessError):
        return ""
    return said[0] + ("+" if said[1] else "")


def hardware() -> dict[str, Any]:
    """Processor, cores that this process may use, memory in GiB, load of the last minute."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"cpu": name, "cores": cores, "memory_gib": round(memory, 1), "load": round(os.getloadavg()[0], 2)}


def versions() -> dict[str, str]:
    """Python and those of the project's libraries that are installed."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def report(id: str, *, ratio: float | None = None, value: float | None = None, equal: bool | None = None, **more: Any) -> str:
    """One line of JSON. Exactly one of `ratio` and `value`; `equal` where outputs were compared."""
    if (ratio is None) == (value is None):
        raise ValueError(f"{id}: give either a ratio or a value")
    figure = {"ratio": round(ratio, 3)} if ratio is not None else {"value": round(value or 0.0, 6)}
    same = {} if equal is None else {"equal": equal}
    line = {"id": id, **figure, **same, **more, "commit": commit(), "hardware": hardware(), "versions": versions()}
    text = json.dumps(line)
    print(text, flush=True)
    return text


def median_of(rounds: int, *arms: Callable[[], object]) -> list[float]:
    """Median seconds of each arm, the arms interleaved so that a busy machine is busy for all of them."""
    seconds: list[list[float]] = [[] for _ in arms]
    for _ in range(rounds):
        for arm, times in zip(arms, seconds, strict=True):
            start = perf_counter()
            arm()
            times.append(perf_counter() - start)
    return [statistics.median(times) for times in seconds]


@contextmanager
def data_root(split: str = "valid_seen", n: int = 120) -> Iterator[tuple[Path, str]]:
    """A data root that has `split`, and its source: `$ALFWORLD_DATA`, the development archives, else `n` generated games."""
    named = os.environ.get("ALFWORLD_DATA")
    if named and any((Path(named) / inner / split).is_dir() for inner in ("json_2.1.1", ".")):
        yield Path(named), "ALFWORLD_DATA"
        return
    with TemporaryDirectory(prefix="duomem-bench-") as folder:
        archive = ARCHIVES / f"{split}.tar.xz"
        if archive.is_file():
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter="data")
            yield Path(folder), "archive"
        else:
            from duomem.games.write import write_games

            write_games(Path(folder), split, n, seed=0)
            yield Path(folder), "generated"
