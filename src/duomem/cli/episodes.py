"""`duomem runs` and `duomem episodes`: what there is to look at, in pages.

In: folders, filters. Out: tables or JSON. What a run holds is `duomem.browse`'s matter, what was recorded of a user's own agent
`cli.record`'s.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from duomem.cli import record, tables
from duomem.cli.console import terminal
from duomem.cli.options import Debug, Json

if TYPE_CHECKING:
    from duomem.browse import EpisodePage, EpisodeRow, Filters, Run, RunRow


def add_to(app: typer.Typer) -> None:
    for command in (runs, episodes):
        app.command()(command)


def _names(kind: str) -> Callable[[str], list[str]]:
    """What the shell may complete an option with."""

    def found(beginning: str) -> list[str]:
        from duomem.scores import ARMS
        from duomem.types import StopReason

        known = {"arm": list(ARMS), "stop": [each.value for each in StopReason]}[kind]
        return [name for name in known if name.startswith(beginning)]

    return found


NARROW = 120
"""Columns of a terminal below which a list leaves some out."""
Outcome = Literal["won", "lost", "running", "error"]
Arm = Annotated[
    str, typer.Option(help="An arm of the evaluation, or collect, practice.", metavar="ARM", autocompletion=_names("arm"))
]


def runs(
    root: Annotated[Path, typer.Argument(help="A folder of run folders, or one run.", metavar="DIR")] = Path("runs"),
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """List run folders: how far they are, success of their arms with intervals, cost.

    Examples:

      duomem runs

      duomem runs runs/mine --json
    """
    from duomem import browse
    from duomem.types import dump

    found = browse.find(root)
    shown = [_run_line(each) for each in found]
    head = ("run", "state", "episodes", "arm: games won, 95%", "cost", "changed", "student")
    room = len(head) if terminal.width >= NARROW else 4
    parts: list[Any] = [tables.table(head[:room], (line[:room] for line in shown))] if found else []
    parts += [tables.cell(f"{each.id}: {each.problem}", 1000, "red") for each in found if each.problem]
    hint = "" if found else " A run is a folder with a config.toml."
    parts.append(tables.cell(f"{len(found)} runs in {root}.{hint}", 1000))
    terminal.result({"root": str(root), "runs": [json.loads(dump(each)) for each in found]}, parts)


def _run_line(row: RunRow) -> list[object]:
    arms = [
        f"{arm.title} {100 * arm.success:.1f}%"
        + (f" [{100 * arm.interval[0]:.1f}, {100 * arm.interval[1]:.1f}]" if arm.interval else "")
        for arm in row.arms
        if arm.success is not None
    ]
    when = datetime.fromtimestamp(row.changed, UTC).strftime("%Y-%m-%d %H:%M") if row.changed else ""
    cost = f"{row.cost:.2f} {row.currency}".rstrip() if row.cost is not None else "–"
    return [row.id, row.state, f"{row.episodes:,}", tables.block("\n".join(arms)), cost, when, row.student]


def episodes(
    run: Annotated[Path, typer.Argument(help="The run folder.", metavar="RUN")],
    episode: Annotated[str, typer.Argument(help="One recorded episode of your own agent, in full.", metavar="EPISODE")] = "",
    recorded: Annotated[bool, typer.Option("--recorded", help="What `duomem record` has kept of your own agent.")] = False,
    arm: Arm = "",
    kind: Annotated[str, typer.Option("--type", help="A task type.", metavar="TYPE")] = "",
    outcome: Annotated[Outcome | None, typer.Option(help="How it ended.")] = None,
    stop: Annotated[str, typer.Option(help="Why it ended, such as step_cap.", autocompletion=_names("stop"))] = "",
    memory: Annotated[str, typer.Option(help="Those that were shown this memory.", metavar="ID")] = "",
    lost_in: Annotated[str, typer.Option(help="Games that this arm lost.", metavar="ARM", autocompletion=_names("arm"))] = "",
    won_in: Annotated[str, typer.Option(help="Games that this arm won.", metavar="ARM", autocompletion=_names("arm"))] = "",
    split: Annotated[str, typer.Option(help="One split of those that were evaluated.")] = "",
    seed: Annotated[int | None, typer.Option(help="One seed.")] = None,
    text: Annotated[str, typer.Option(help="Words in the goal or in the task's id.")] = "",
    task: Annotated[str, typer.Option(help="One game, by its whole id.", metavar="ID")] = "",
    earlier: Annotated[bool, typer.Option("--earlier", help="Evaluations of earlier settings too.")] = False,
    page: Annotated[int, typer.Option(help="Which page.", min=1)] = 1,
    limit: Annotated[int, typer.Option(help="Episodes on a page.", min=1, max=500)] = 30,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """List a run's episodes, the teacher's and each arm's; or, of a run that only recorded your own agent, what was recorded.

    Filters hold together. Games that memory turned from lost to won: --arm memory --outcome won --lost-in none.

    Examples:

      duomem episodes runs/mine

      duomem episodes runs/mine --arm memory --outcome won --lost-in none

      duomem episodes runs/mine --type look_at_obj_in_light --stop step_cap --page 2

      duomem episodes runs/mine --memory 3f9a --json

      duomem episodes runs/mine auto-000001
    """
    from duomem import browse
    from duomem.cli._address import address
    from duomem.record.store import FILE

    if recorded or episode or (not (run / "journal.sqlite").is_file() and (run / FILE).is_file()):
        return record.show_recorded(run, episode)
    opened = address(str(run)).run
    filters = browse.Filters(
        arm=arm, split=split, seed=seed, kind=kind, outcome=outcome or "", stop=stop, memory=memory, text=text, task=task,
        lost_in=lost_in, won_in=won_in, earlier=earlier,
    )  # fmt: skip
    found = browse.episodes(opened, filters, (page - 1) * limit, limit)
    terminal.result(_data(opened, filters, found), _listed(opened, found, page, limit, (run / FILE).is_file()))


def _data(run: Run, filters: Filters, found: EpisodePage) -> dict[str, Any]:
    from duomem.types import dump

    return {"run": str(run.root), "filters": json.loads(dump(filters)), **json.loads(dump(found))}


def _listed(run: Run, found: EpisodePage, page: int, limit: int, has_recordings: bool) -> list[Any]:
    if not found.rows:
        said = f"Page {page} is behind the last one." if found.total else "No episode matches."
        return [tables.cell(f"{said} {found.total:,} of {run.root} match.", 1000)]
    head = [name for name, _ in _COLUMNS if _wanted(name, run)]
    shown = [[tables.cell(value(row), 90) for name, value in _COLUMNS if _wanted(name, run)] for row in found.rows]
    last = found.offset + len(found.rows)
    lines = [f"{found.offset + 1:,}-{last:,} of {found.total:,} episodes."]
    if last < found.total:
        lines.append(f"More: the same command with --page {page + 1}.")
    lines.append(f"Open one: duomem show {run.root}:{found.rows[0].ref}")
    if has_recordings:
        lines.append(f"What was recorded of your own agent: duomem episodes {run.root} --recorded")
    return [tables.table(head, shown), *(tables.cell(line, 1000) for line in lines)]


def ending(row: EpisodeRow) -> str:
    """How an episode ended, in a word or two."""
    return row.stop.replace("_", " ") or "running"


_COLUMNS: tuple[tuple[str, Callable[[EpisodeRow], object]], ...] = (
    ("episode", lambda row: row.ref),
    ("arm", lambda row: row.arm),
    ("seed", lambda row: "–" if row.seed is None else row.seed),
    ("ended", ending),
    ("steps", lambda row: row.steps),
    ("invalid", lambda row: row.invalid),
    ("tokens", lambda row: f"{row.usage.prompt + row.usage.completion:,}"),
    ("memories", lambda row: len(row.memories)),
    ("type", lambda row: row.kind),
    ("goal", lambda row: row.goal or row.task),
)


def _wanted(column: str, run: Run) -> bool:
    """A narrow terminal has room for the most important columns only."""
    return (column != "seed" or len(run.seeds) > 1) and (
        column not in ("invalid", "tokens", "type") or terminal.width >= NARROW
    )
