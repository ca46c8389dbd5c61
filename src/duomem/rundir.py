"""The run folder: where each verb keeps what it made, and whether that is still made from the same inputs.

In: a folder and, the first time, settings. Out: paths, the folders of the seeds, and `done`/`record`, which compare hashes of
inputs so that a verb is skipped or redone. Layout: `config.toml steps.json journal.sqlite remember/ tune/ evaluate/ report.*`;
a run of several seeds holds one such folder per seed in `seed<N>/`. Not here: the work itself.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import replace as replace_fields
from pathlib import Path
from typing import Any

from duomem import config
from duomem.config import Settings
from duomem.configfile import canonical
from duomem.errors import ConfigError, DataError, UsageError
from duomem.types import digest

SCHEMA = 1


@dataclass(frozen=True)
class RunFolder:
    """One run, or one seed of a run (`seed` has no sub-folders of its own)."""

    root: Path
    settings: Settings
    home: Path | None = None
    """The folder of the whole run, where this is one seed of it."""

    @property
    def journal(self) -> Path:
        return self.root / "journal.sqlite"

    @property
    def bank(self) -> Path:
        return self.root / "remember" / "bank.sqlite"

    @property
    def adapter(self) -> Path:
        return self.root / "tune" / "adapter"

    @property
    def evaluation(self) -> Path:
        return self.root / "evaluate"

    @property
    def results(self) -> Path:
        return self.evaluation / "results.json"

    @property
    def games(self) -> Path:
        """Games that the run wrote for itself; its seeds share them."""
        return (self.home or self.root) / "games"

    def seeds(self) -> list[RunFolder]:
        """One folder per seed; a run of one seed is its own."""
        seeds = self.settings.run.seeds
        return [self._seed(seed) for seed in seeds] if seeds else [self]

    def on(self, split: str) -> RunFolder:
        """The same run, evaluated on all games of another split."""
        table = self.settings.evaluate.model_copy(update={"split": split, "games": 0, "also": None})
        return replace_fields(self, settings=self.settings.model_copy(update={"evaluate": table}))

    def _seed(self, seed: int) -> RunFolder:
        run = self.settings.run.model_copy(update={"seed": seed, "seeds": ()})
        folder = RunFolder(self.root / f"seed{seed}", self.settings.model_copy(update={"run": run}), self.root)
        folder.write_config()
        return folder

    def write_config(self) -> None:
        replace(self.root / "config.toml", canonical(self.settings))

    def done(self, verb: str, inputs: str) -> dict[str, Any] | None:
        """What the verb left behind, if it finished with the same inputs; else None."""
        step = self._steps().get(verb)
        return step["result"] if step and step["inputs"] == inputs else None

    def left(self, verb: str) -> dict[str, Any] | None:
        """What the verb left behind, with whatever inputs; None where it has not been run."""
        step = self._steps().get(verb)
        return step["result"] if step else None

    def result(self, verb: str) -> dict[str, Any]:
        """What the verb left behind. Raises `UsageError` where it has not been run."""
        step = self._steps().get(verb)
        if step is None:
            raise UsageError(f"{self.root} has no result of {verb} yet. Run first: duomem {verb} {self.root}")
        result: dict[str, Any] = step["result"]
        return result

    def record(self, verb: str, inputs: str, result: dict[str, Any]) -> dict[str, Any]:
        """Note that the verb finished with these inputs; written last, so an interrupted verb never looks finished."""
        steps = {**self._steps(), verb: {"inputs": inputs, "result": result}}
        replace(self.root / "steps.json", json.dumps(steps, indent=1))
        return result

    def amend(self, verb: str, **changes: Any) -> None:
        """Note what has changed in a finished verb's result by other means; it still counts as done with the same inputs."""
        steps = self._steps()
        if verb in steps:
            steps[verb]["result"] |= changes
            replace(self.root / "steps.json", json.dumps(steps, indent=1))

    @contextmanager
    def clock(self, verb: str, inputs: str) -> Iterator[Callable[[], float]]:
        """Wall-clock seconds spent on a verb with these inputs, by earlier commands that were interrupted too."""
        name, started = f"{verb}.seconds", time.monotonic()
        before = self.done(name, inputs) or {"seconds": 0.0}

        def total() -> float:
            return round(float(before["seconds"]) + time.monotonic() - started, 2)

        try:
            yield total
        finally:
            self.record(name, inputs, {"seconds": total()})

    def _steps(self) -> dict[str, Any]:
        path = self.root / "steps.json"
        if not path.is_file():
            return {}
        try:
            steps: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{path} is damaged ({error}). Delete it: verbs run again, collected episodes are kept.") from error
        return steps


def open_run(root: Path, source: Path | None = None, overrides: Sequence[str] = (), *, keep: bool = True) -> RunFolder:
    """The run in a folder, made from `source` the first time; later its own config.toml counts, unless `source` replaces it.

    Without `keep`, overrides hold for this command only. Raises `ConfigError` for a folder that is no run yet.
    """
    own = root / "config.toml"
    if source is None and not own.is_file():
        raise ConfigError(f"{root} is no run folder yet. Start one with --config FILE (duomem init writes such a file).")
    run = RunFolder(root, config.load(source or own, overrides))
    if keep:
        run.write_config()
    return run


def key(*parts: Any) -> str:
    """A hash of what a verb depends on."""
    return digest(list(parts))[:16]


def replace(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old text or the new one, also after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    with new.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
