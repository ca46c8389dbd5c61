"""Many variants of one job on one log: `duomem sweep` makes the parts of each, plays it on the same games, and compares them.

In: a sweep file (a config, tests, cells) and a folder. Out: `results.json` and `results.md`, written anew after every cell, so
that a cut sweep shows what it has and goes on where it stopped. A cell that cannot be run is reported as not run, with the
reason. Not here: how parts are made or played (`pipeline`, `grid`), the figures and the tables (`sweep_table`).
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from duomem import config, grid, parts, pipeline, rundir, sweep_log, sweep_table
from duomem.config import Settings, Table
from duomem.each import share
from duomem.errors import BudgetSpent, ConfigError, DuomemError, Incomplete, StoreError, UsageError
from duomem.rundir import RunFolder
from duomem.scores import ARMS, Results
from duomem.talk import SILENT, Done, Talk
from duomem.types import digest


class GameSet(Table):
    """Games that cells are played on."""

    split: str
    """Their split; an evaluation split of the log's games, or of `data_env`."""
    data_env: str = ""
    """Environment variable that names another data root (ALFWORLD_DATA); where it is not set, the test is left out."""
    games: int = Field(default=0, ge=0)
    """How many, as a seeded sample; 0: all."""
    seed: int = 0
    """Seed of the sample."""


class Cell(Table):
    """One variant: what it changes, and the arm that is played."""

    name: str
    """Its name in the tables, once only and without a comma."""
    group: str = "all"
    """The table it stands in."""
    arm: str = "both"
    """The arm that is played (see [evaluate] arms)."""
    set: tuple[str, ...] = ()
    """Changes of the config, as `--set` takes them."""
    play: tuple[str, ...] = ()
    """Changes for playing alone, for example memory.k=5: memories and adapter are made without them."""
    runs: int = Field(default=0, ge=0)
    """So many of the log's tasks, a seeded sample; each is part of every larger one. 0: all."""
    seeds: tuple[int, ...] = ()
    """Seeds of the log and of tuning; none: the sweep's own."""
    tests: tuple[str, ...] = ()
    """The tests it is played on; none: all of them."""
    against: tuple[str, ...] = ()
    """Cells it is compared with, on the games and seeds that both were played on."""
    maker: str = ""
    """What makes the parts instead of remember and tune: "bettertogether" (DSPy's, see docs/results.md)."""
    not_run: str = ""
    """Why it is not run; it stands in the table with that."""


class Sweep(Table):
    """A sweep file."""

    config: str
    """The config that the cells change, relative to this file."""
    set: tuple[str, ...] = ()
    """Changes of it for the log and for every cell."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of cells that name none; each has a log of its own."""
    tests: dict[str, GameSet]
    """The tests by name."""
    cells: tuple[Cell, ...]
    """The cells, in the order in which they are run: all on the first test, then all on the next."""


@dataclass(frozen=True)
class Sheet:
    """A sweep file that was read, and the folder it works in."""

    sweep: Sweep
    base: Mapping[str, Any]
    root: Path
    source: Path
    chosen: tuple[Cell, ...]
    """The cells to run; of the others what there is already stands in the tables."""
    overrides: tuple[str, ...] = ()
    """Changes for every cell, from the command line."""
    given: Path | None = None
    """A finished run whose episodes are the log, and whose adapters are taken where they would be made alike."""

    def settings(self, cell: Cell | None = None, *, played: bool = False) -> Settings:
        """The config of a cell, or of the log."""
        changes = [*self.sweep.set, *self.overrides, *(cell.set if cell else ()), *(cell.play if cell and played else ())]
        return config.settings_of(config.override(self.base, changes), f"{self.source}: {cell.name if cell else 'set'}")

    @property
    def log(self) -> RunFolder:
        """The run that collects for all cells, with every seed that one of them asks for."""
        seeds = tuple(dict.fromkeys(seed for cell in self.chosen for seed in self.seeds(cell) if not cell.not_run))
        settings = self.settings()
        table = settings.run.model_copy(update={"seeds": seeds or self.sweep.seeds})
        return RunFolder(self.root / "log", settings.model_copy(update={"run": table}))

    def seeds(self, cell: Cell) -> tuple[int, ...]:
        return cell.seeds or self.sweep.seeds

    def tests(self, cell: Cell) -> tuple[str, ...]:
        return cell.tests or tuple(self.sweep.tests)

    def kept(self, cell: Cell, test: str) -> Path:
        """Where the results of a cell on a test lie."""
        return self.root / "cells" / f"{digest(cell.name)[:12]}-{test}.json"

    @property
    def command(self) -> str:
        sets = [f"--set {shlex.quote(change)}" for change in self.overrides]
        log = [f"--log {shlex.quote(str(self.given))}"] if self.given else []
        return " ".join(["duomem sweep", shlex.quote(str(self.root)), str(self.source), *log, *sets])


def read(
    root: Path, source: Path, overrides: Sequence[str] = (), cells: Sequence[str] = (), given: Path | None = None
) -> Sheet:
    """A sweep file, with further changes for every cell; `cells` names cells or groups to run (none: all); `ConfigError`."""
    try:
        sweep = Sweep.model_validate(config.read(source))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{source}: {place}: {first['msg']}.") from error
    names, groups = [cell.name for cell in sweep.cells], {cell.group for cell in sweep.cells}
    for name in (*cells, *(other for cell in sweep.cells for other in cell.against)):
        if name not in names and not (name in cells and name in groups):
            raise ConfigError(f"{source}: no cell {name!r}. There are: {', '.join(names)}.")
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"{source}: two cells are named {twice[0]!r}.")
    for cell in sweep.cells:
        _check(cell, sweep, source)
    chosen = tuple(cell for cell in sweep.cells if not cells or cell.name in cells or cell.group in cells)
    sheet = Sheet(sweep, config.read(source.parent / sweep.config), root, source, chosen, tuple(overrides), given)
    for cell in chosen:
        sheet.settings(cell, played=True)
    return sheet


def _check(cell: Cell, sweep: Sweep, source: Path) -> None:
    if "," in cell.name or "," in cell.group:
        raise ConfigError(f"{source}: {cell.name}: no comma in a name, since --cells separates names by commas.")
    if cell.arm not in ARMS:
        raise ConfigError(f"{source}: {cell.name}: no arm {cell.arm!r}. There are: {', '.join(ARMS)}.")
    for test in cell.tests:
        if test not in sweep.tests:
            raise ConfigError(f"{source}: {cell.name}: no test {test!r}. There are: {', '.join(sweep.tests)}.")
    if cell.maker not in ("", "bettertogether"):
        raise ConfigError(f"{source}: {cell.name}: no maker {cell.maker!r}. There is: bettertogether.")


def listing(sheet: Sheet) -> Done:
    """The cells that would be run. Starts nothing."""
    rows = []
    for cell in sheet.chosen:
        what = cell.not_run and f"not run: {cell.not_run}"
        rows.append(f"{cell.group} / {cell.name}: " + (what or f"{cell.arm} on {', '.join(sheet.tests(cell))}"))
        rows[-1] += "" if what else f", seeds {', '.join(map(str, sheet.seeds(cell)))}; {'; '.join((*cell.set, *cell.play))}"
    return Done({"cells": [cell.model_dump(mode="json") for cell in sheet.chosen]}, "\n".join(rows))


def run(sheet: Sheet, talk: Talk = SILENT) -> Done:
    """Run the cells. Raises `Incomplete` at the end where one could not be run; the tables say why."""
    sheet.log.write_config()
    if sheet.given:
        sweep_log.take_over(sheet.given, sheet.log)
    pipeline.collect(sheet.log, talk.under("log"))
    book = sweep_table.Book(sheet.root, sheet.source.name, sheet.command)
    todo = [(cell, name) for name in sheet.sweep.tests for cell in sheet.sweep.cells if name in sheet.tests(cell)]
    for number, (cell, name) in enumerate(todo):
        talk.progress("sweep", number, len(todo), f"{cell.name} on {name}")
        if cell in sheet.chosen:
            _run_cell(sheet, cell, name, book, talk)
        elif sheet.kept(cell, name).is_file():
            book.add(_row(cell, name), Results.read(sheet.kept(cell, name)))
    talk.progress("sweep", len(todo), len(todo), "")
    book.write()
    if failed := [row for row in book.rows if row.why and not row.planned]:
        raise Incomplete(f"{len(failed)} cells could not be run; {book.markdown} says why. The first: {failed[0].why}")
    return Done(book.data(), f"{book.text()}\nKept in {book.markdown}")


def _run_cell(sheet: Sheet, cell: Cell, name: str, book: sweep_table.Book, talk: Talk) -> None:
    """One cell on one test. What keeps it from being run becomes its row; a full disk or a spent budget ends the sweep."""
    games = sheet.sweep.tests[name]
    if games.data_env and not os.environ.get(games.data_env):
        talk.note(f"{cell.name} on {name} is left out: {games.data_env} is not set.")
        return
    if cell.not_run:
        book.add(_row(cell, name), None, cell.not_run)
        return
    try:
        book.add(_row(cell, name), _play(sheet, cell, name, games, talk.under(cell.name)))
    except (StoreError, BudgetSpent):
        raise
    except DuomemError as error:
        talk.note(f"{cell.name}: {error}")
        book.add(_row(cell, name), None, " ".join(str(error).split()))
    book.write()


def _row(cell: Cell, test: str) -> sweep_table.Row:
    return sweep_table.Row(
        cell=cell.name,
        group=cell.group,
        test=test,
        arm=cell.arm,
        changes=(*cell.set, *(f"{change} (played)" for change in cell.play), *((f"runs={cell.runs}",) if cell.runs else ())),
        against=cell.against,
        planned=bool(cell.not_run),
    )


def _play(sheet: Sheet, cell: Cell, name: str, games: GameSet, talk: Talk) -> Results:
    """The results of one cell on one test: kept ones where nothing that decides them has changed."""
    seeds = [_on(_made(sheet, cell, seed, talk), games, cell.arm) for seed in sheet.seeds(cell)]
    data = Path(os.environ[games.data_env]) if games.data_env else None
    chosen = grid.Grid.of(seeds[0], data, seeds)
    if not chosen.players(parts.Parts()):
        raise UsageError(f"Arm {cell.arm!r} needs memories or an adapter that these settings do not have.")
    verb, kept, steps = f"{cell.name} on {name}", sheet.kept(cell, name), RunFolder(sheet.root, seeds[0].settings)
    if kept.is_file() and steps.done(verb, chosen.inputs):
        return Results.read(kept)
    home = RunFolder(sheet.root / "tests" / name, seeds[0].settings)  # its journal: cells that play alike share episodes
    home.root.mkdir(parents=True, exist_ok=True)
    results = replace(grid.score(chosen, home, talk), shown=())
    if problems := results.problems():
        raise Incomplete(f"{len(problems)} episodes have no outcome yet (the first: {problems[0]}).")
    rundir.replace(kept, results.to_json())
    steps.record(verb, chosen.inputs, {"games": len(results.tasks)})
    return results


def _made(sheet: Sheet, cell: Cell, seed: int, talk: Talk) -> RunFolder:
    """A run folder whose memories and adapter are those of the cell. Cells that make the same share it."""
    settings = sheet.settings(cell)
    settings = settings.model_copy(update={"run": settings.run.model_copy(update={"seed": seed, "seeds": ()})})
    if not ARMS[cell.arm].adapter:
        settings = settings.model_copy(update={"tuning": None})
    log = next(found for found in sheet.log.seeds() if found.settings.run.seed == seed)
    remembered = _folder(sheet, cell, log, settings.model_copy(update={"tuning": None}))
    sweep_log.cut(log, remembered, cell.runs)
    pipeline.remember(remembered, talk)
    made = remembered
    if settings.tuning is not None:
        made = _folder(sheet, cell, log, settings)
        share(remembered, made)
        if sheet.given and not cell.maker:
            sweep_log.adapter_of(sheet.given, made)
        if cell.maker == "bettertogether":
            from duomem.bettertogether import better_together

            better_together(made, talk)
        else:
            pipeline.remember(made, talk)
            pipeline.tune(made, talk)
    played = sheet.settings(cell, played=True)
    changes = {"memory": played.memory, "student": played.student, "rollout": played.rollout}
    return replace(made, settings=made.settings.model_copy(update=changes))


def _folder(sheet: Sheet, cell: Cell, log: RunFolder, settings: Settings) -> RunFolder:
    """Named by what decides the parts. Its games are the log's."""
    plain = settings.model_dump(mode="json", include={"memory", "tuning", "student", "teacher", "rollout"})
    maker = cell.maker if settings.tuning is not None else ""
    name = rundir.key(plain, parts.base_hash(settings), log.result("collect")["content_hash"], cell.runs, maker)
    return RunFolder(sheet.root / "made" / f"{name}-seed{settings.run.seed}", settings, sheet.log.root)


def _on(run: RunFolder, games: GameSet, arm: str) -> RunFolder:
    """The same run, evaluated with one arm on some games."""
    changes = {"split": games.split, "games": games.games, "seed": games.seed, "arms": (arm,), "also": None}
    table = run.settings.evaluate.model_copy(update=changes)
    return replace(run, settings=run.settings.model_copy(update={"evaluate": table}))
