"""Finds the run folders below a folder, and says of each what it is, how far it is and what came of it.

In: a folder. Out: `Run`s to ask further, and `RunRow`s for a table. It reads configs, steps, reports and counts of journals;
nothing is opened for writing. A folder that cannot be read is a row with its problem, not an error.
"""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from duomem import _browse_db as journals
from duomem import config, price, stats
from duomem._browse_types import ArmLine, Part, RunRow, State
from duomem.config import Settings
from duomem.errors import DataError, DuomemError, UsageError
from duomem.report_tables import TITLES
from duomem.rundir import RunFolder
from duomem.scores import ARMS
from duomem.summary import Summary
from duomem.types import Usage, load
from duomem.weights import stable_name

DEPTH = 4
"""How far below the opened folder runs are looked for: a grid's run has its further splits three folders down."""
QUIET_S = 90.0
"""A training log that has not grown for so long belongs to nobody at work."""
_INNER = re.compile(r"seed\d+|games|remember|tune|evaluate|\..*")
_VERBS: tuple[tuple[str, State, State], ...] = (
    ("collect", "collecting", "collected"),
    ("remember", "remembering", "remembered"),
    ("tune", "tuning", "tuned"),
    ("evaluate", "evaluating", "done"),
)


@dataclass(frozen=True)
class Run:
    """One run folder, open for looking. `home` is the run whose memories and adapter it plays: itself, or for an evaluation in
    a folder of its own the run around it."""

    id: str
    root: Path
    settings: Settings = field(compare=False)
    home: Path
    stamp: int = 0
    """When its config was written: another one is another `Run`."""

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.root, self.settings)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that have folders of their own; none in a run of one seed."""
        return self.settings.run.seeds

    def seed_root(self, seed: int | None) -> Path:
        """The folder with bank and adapter of a seed. Raises `UsageError` where several are there and none is named."""
        if not self.seeds:
            return self.home
        if seed not in self.seeds:
            named = ", ".join(map(str, self.seeds))
            raise UsageError(f"{self.id} has the seeds {named}, each with a bank and an adapter of its own. Name one: --seed N")
        return self.home / f"seed{seed}"

    def first_seed(self, seed: int | None) -> int | None:
        """A seed where one is needed: the named one, else the first."""
        return seed if seed is not None or not self.seeds else self.seeds[0]

    @cached_property
    def journals(self) -> dict[str, tuple[Path, int | None]]:
        """Its journals by label, each with its seed: the run's own (""), then those of its seeds."""
        found: dict[str, tuple[Path, int | None]] = {"": (self.root / "journal.sqlite", None)}
        if not self.seeds:
            found[""] = (found[""][0], self.settings.run.seed)
        if self.home == self.root:
            found |= {f"seed{seed}": (self.root / f"seed{seed}" / "journal.sqlite", seed) for seed in self.seeds}
        return {label: (path, seed) for label, (path, seed) in found.items() if path.is_file()}

    @property
    def parts(self) -> list[Part]:
        return [part for label, (path, seed) in self.journals.items() for part in journals.parts(path, label, seed)]

    @property
    def labels(self) -> dict[str, tuple[str, str]]:
        """Type and room of every task that was scored."""
        path = self.folder.results
        return _labels(path, path.stat().st_mtime_ns) if path.is_file() else {}

    @property
    def summary(self) -> Summary | None:
        """The figures of its report; None where there is none. Raises `DataError` for a damaged one."""
        path = self.root / "report.json"
        return _summary(path, path.stat().st_mtime_ns) if path.is_file() else None

    def steps(self, root: Path | None = None) -> dict[str, Any]:
        """What its verbs left behind, by verb."""
        path = (root or self.root) / "steps.json"
        try:
            return {verb: step["result"] for verb, step in json.loads(path.read_bytes()).items()} if path.is_file() else {}
        except (ValueError, KeyError, AttributeError) as error:
            raise DataError(f"{path} is damaged ({error}).") from error


def open_run(root: Path, run: str = "") -> Run:
    """The run with this id below `root`, or `root` itself. Raises `UsageError` where there is none, `ConfigError` for a
    config that cannot be read."""
    base = root.parent if (root / "config.toml").is_file() else root
    inside = Path(run or root.name)
    folder = base / inside
    if inside.is_absolute() or ".." in inside.parts or not (folder / "config.toml").is_file():
        raise UsageError(
            f"There is no run {run or root.name!r} in {base}. The runs there are: {', '.join(ids(root)) or 'none'}."
        )
    stamp = (folder / "config.toml").stat().st_mtime_ns
    settings = _settings(folder / "config.toml", stamp)
    found = Run(inside.as_posix(), folder, settings, folder, stamp)
    own = any((folder / name).exists() for name in ("remember", "tune", *(f"seed{seed}" for seed in settings.run.seeds)))
    if own or "collect" in found.steps() or not (folder.parent / "config.toml").is_file():
        return found
    return replace(found, home=folder.parent)


def find(root: Path) -> tuple[RunRow, ...]:
    """Every run folder in `root` (or `root` itself, with what it holds), the one that changed last first."""
    found = [_row(root, run) for run in ids(root)]
    return tuple(sorted(found, key=lambda each: (-each.live, -each.changed, each.id)))


def ids(root: Path) -> list[str]:
    """The ids of the runs below a folder. Raises `UsageError` for a folder that is not there."""
    if not root.is_dir():
        raise UsageError(f"{root} is no folder. Name a folder of runs, or a run.")
    base = root.parent if (root / "config.toml").is_file() else root
    found = []
    for path, folders, files in os.walk(root):
        here = Path(path)
        inside = here.relative_to(base)
        if "config.toml" in files and inside.parts:
            found.append(inside.as_posix())
        deep = len(here.relative_to(root).parts) >= DEPTH
        folders[:] = [] if deep else sorted(name for name in folders if not _INNER.fullmatch(name))
    return found


def fingerprint(root: Path) -> dict[str, tuple[int, ...]]:
    """For every run, times and sizes of what a row is made from: another fingerprint is another row."""
    base = root.parent if (root / "config.toml").is_file() else root
    return {run: _stamps(base / run) for run in ids(root)}


def row(root: Path, run: str = "") -> RunRow:
    """The table's row of one run."""
    return _row(root, run or root.name)


def _row(root: Path, run_id: str) -> RunRow:
    base = root.parent if (root / "config.toml").is_file() else root
    empty = RunRow(
        run_id, run_id.rpartition("/")[2], str(base / run_id), "new", False, 0.0, "", "", "", "", (), (), 0, 0, "", None, None,
        "", False, False,
    )  # fmt: skip
    try:
        return _told(open_run(root, run_id), empty)
    except (DuomemError, OSError) as error:
        return replace(empty, problem=str(error))


def _told(run: Run, empty: RunRow) -> RunRow:
    settings, found = run.settings, run.parts
    live, state = _state(run, found)
    summary = run.summary if state != "evaluating" else None
    lines = _from_report(summary) if summary else _from_journal(found)
    played = [part for part in found if part.current]
    roots = [run.seed_root(seed) for seed in run.seeds or (None,)]
    cost = _cost(run)
    return replace(
        empty,
        state=state,
        live=live,
        changed=_changed(run.root),
        teacher=settings.teacher.model,
        student=_model(settings),
        env=settings.env.name,
        split=summary.split if summary else settings.evaluate.split,
        seeds=run.seeds or (settings.run.seed,),
        arms=lines,
        episodes=sum(part.won + part.lost for part in played),
        running=sum(part.running for part in played) if live else 0,
        verdict=summary.decision.verdict if summary and summary.decision.arm else "",
        tokens=_tokens(summary) if summary else None,
        cost=cost,
        currency=settings.price.currency if settings.price else "",
        has_bank=any((each / "remember" / "bank.sqlite").is_file() for each in roots),
        has_adapter=any((each / "tune" / "adapter").is_dir() for each in roots),
    )


def _state(run: Run, found: list[Part]) -> tuple[bool, State]:
    """Whether a process is at work, and what the run's state is called."""
    own = run.steps()
    each = [run.steps(run.root / f"seed{seed}") for seed in run.seeds] if run.home == run.root and run.seeds else [own]
    wanted = {"remember": run.settings.remembers, "tune": run.settings.tuning is not None}
    verbs = [verb for verb in _VERBS if wanted.get(verb[0], True)] if run.home == run.root else list(_VERBS[-1:])
    missing = [verb for verb in verbs if not all(verb[0] in steps for steps in ([own] if verb[0] == "evaluate" else each))]
    writing = any(journals.written_now(path) for path, _ in run.journals.values())
    live = writing or _training(run)
    if live:
        again = [verb for verb in verbs if verb[0] == ("evaluate" if writing else "tune")] or verbs
        return True, (missing or again)[0][1]
    if not missing:
        return False, "done"
    done = verbs[: verbs.index(missing[0])]
    begun = missing[0][0] + ".seconds" in each[0] or missing[0][0] in {part.verb for part in found}
    return False, "stopped" if begun else done[-1][2] if done else "stopped" if found else "new"


def _training(run: Run) -> bool:
    """Whether an adapter is being trained: its log has grown lately, and it is not whole."""
    for seed in run.seeds or (None,):
        folder = run.seed_root(seed) / "tune" / "adapter"
        log = folder / "log.jsonl"
        if log.is_file() and not (folder / "manifest.json").is_file() and time.time() - log.stat().st_mtime < QUIET_S:
            return True
    return False


def _from_report(summary: Summary) -> tuple[ArmLine, ...]:
    return tuple(
        ArmLine(
            name, TITLES.get(name, name), round((arm.success or 0.0) * arm.episodes), arm.episodes, arm.success, arm.interval
        )
        for name, arm in summary.arms.items()
    )


def _from_journal(found: list[Part]) -> tuple[ArmLine, ...]:
    """The arms so far, with Wilson's interval over their episodes."""
    lines = []
    for arm in ARMS:
        of = [part for part in found if part.verb == "evaluate" and part.arm == arm and part.current]
        if of:
            won, played = sum(part.won for part in of), sum(part.won + part.lost for part in of)
            interval = stats.wilson(won, played) if played else None
            lines.append(ArmLine(arm, TITLES.get(arm, arm), won, played, won / played if played else None, interval))
    return tuple(lines)


def _tokens(summary: Summary) -> Usage:
    arms = summary.arms.values()
    return Usage(
        round(sum(arm.prompt_tokens * arm.episodes for arm in arms)),
        round(sum(arm.cached_tokens * arm.episodes for arm in arms)),
        round(sum(arm.completion_tokens * arm.episodes for arm in arms)),
    )


def _cost(run: Run) -> float | None:
    """What its paid models have cost; None where none was paid."""
    if not price.ledger_path(run.folder).is_file():
        return None
    rates = price.rates(run.settings)
    return sum(rates[entry.role].cost(entry.total) for entry in price.entries(run.folder))


def _model(settings: Settings) -> str:
    path = settings.options("student").get("path") or settings.options("student").get("remote_model")
    return stable_name(str(path)) if path else settings.student.model


def _watched(root: Path) -> list[Path]:
    own = ("config.toml", "steps.json", "report.json", "journal.sqlite", "journal.sqlite-wal")
    inner = ("remember/bank.sqlite", "remember/bank.sqlite-wal", "tune/adapter/log.jsonl", "tune/adapter/manifest.json")
    folders = [root, *sorted(root.glob("seed*"))]
    return [folder / name for folder in folders for name in (*own, *inner)]


def _stamps(root: Path) -> tuple[int, ...]:
    found: list[int] = []
    for path in _watched(root):
        try:
            stat = path.stat()
        except OSError:
            found += (0, 0)
        else:
            found += (stat.st_mtime_ns, stat.st_size)
    held = [journals.written_now(path) for path in _watched(root) if path.name == "journal.sqlite"]
    return (*found, *map(int, held))


def _changed(root: Path) -> float:
    """Seconds of the last change. A write-ahead log that is empty was only looked at."""
    times = [path.stat() for path in _watched(root) if path.is_file()]
    return max((found.st_mtime for found in times if found.st_size), default=0.0)


@lru_cache(maxsize=256)
def _settings(path: Path, stamp: int) -> Settings:
    return config.load(path, ())


@lru_cache(maxsize=64)
def _summary(path: Path, stamp: int) -> Summary:
    try:
        return load(Summary, path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}. Write it again with: duomem report {path.parent}") from error


@lru_cache(maxsize=64)
def _labels(path: Path, stamp: int) -> dict[str, tuple[str, str]]:
    try:
        scores = json.loads(path.read_bytes())["scores"]
        return {score["task"]: (score["kind"], score["room"]) for score in scores}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged: {error}. Run duomem evaluate again; recorded episodes are kept.") from error
