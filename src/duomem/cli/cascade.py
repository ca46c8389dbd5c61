"""The command that measures how many calls may stay with the student: `duomem cascade RUN`.

In: a run with a teacher and a student, validation games. Out: a curve on stdout and in RUN/cascade.json, which `duomem serve
--fallback` reads its threshold from. Not here: the work (`duomem.cascade_curve`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from duomem.cli.console import bars, terminal
from duomem.cli.options import Debug, Json, Run, Sets


def add_to(app: typer.Typer) -> None:
    app.command()(cascade)


def cascade(
    run: Run,
    arm: Annotated[str, typer.Option(help="none, memory, adapter or both; empty: as the report decided.")] = "",
    split: Annotated[str, typer.Option(help="Validation games; never those of the report.")] = "dev",
    games: Annotated[int, typer.Option(help="So many of them.", min=1)] = 60,
    most: Annotated[
        float, typer.Option("--max-fallback", help="Largest share of calls that the teacher may get.", min=0.0, max=1.0)
    ] = 0.2,
    data: Annotated[Path | None, typer.Option(help="A data root with that split.", metavar="ROOT")] = None,
    sets: Sets = None,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Let the student ask the teacher where it is unsure, and see what that brings: success against calls kept local.

    A reply goes to the teacher when it is unlikely, repeats the last action or holds none. Each line is another threshold on
    the same games; the one that wins most within --max-fallback is kept for: duomem serve RUN --fallback URL

    Examples:

      duomem cascade runs/mine

      duomem cascade runs/mine --arm both --games 140 --split valid_seen --data $ALFWORLD_DATA
    """
    from duomem import cascade_curve
    from duomem.rundir import open_run
    from duomem.talk import Talk

    folder = open_run(run, None, sets or (), keep=False)
    with bars() as progress:
        talk = Talk(progress, terminal.note)
        done = cascade_curve.measure(folder, talk, split=split, games=games, most=most, arm=arm, data=data)
    terminal.result(done.data, done.words)
