"""The command that compares many variants of one job on one log.

In: a folder and a sweep file. Out: what `duomem.sweep` makes of them. Not here: any of the work.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from duomem.cli.console import bars, terminal
from duomem.cli.options import Debug, Json, Sets


def add_to(app: typer.Typer) -> None:
    app.command()(sweep)


def sweep(
    root: Annotated[Path, typer.Argument(help="The folder of the sweep. It is made the first time.", metavar="FOLDER")],
    file: Annotated[Path, typer.Argument(help="The sweep file: a config, tests, cells (configs/sweeps/).", metavar="FILE")],
    cells: Annotated[str, typer.Option(help="Only these cells or groups of cells, separated by commas.")] = "",
    log: Annotated[
        Path | None, typer.Option(help="A finished run whose episodes are the log, in place of a collection.", metavar="RUN")
    ] = None,
    sets: Sets = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the cells and stop.")] = False,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Compare variants of one job on one log and the same games: peers, arms, k, how many runs.

    The teacher plays once. Each cell makes the parts that it needs, is played on every test, and stands in FOLDER/results.md
    with its interval and its paired differences; a cut sweep goes on where it stopped. Exit code 5: a cell could not be run.

    Examples:

      duomem sweep runs/peers configs/sweeps/peers.toml

      duomem sweep runs/peers configs/sweeps/peers.toml --cells both,adapter --set teacher.tasks=40

      duomem sweep runs/claim configs/sweeps/claim.toml --log runs/alfworld-pocket
    """
    from duomem import sweep as work
    from duomem.talk import Talk

    chosen = [name.strip() for name in cells.split(",") if name.strip()]
    sheet = work.read(root, file, sets or (), chosen, log)
    if dry_run:
        done = work.listing(sheet)
    else:
        with bars() as progress:
            done = work.run(sheet, Talk(progress, terminal.note))
    terminal.result(done.data, done.words)
