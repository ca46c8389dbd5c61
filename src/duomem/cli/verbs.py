"""The commands of the pipeline: collect, remember, tune, evaluate, report, distill, demo.

In: a run folder, a config, overrides. Out: what the pipeline's function of the same name returns. Not here: any of the work.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duomem.cli import tables
from duomem.cli.console import bars, terminal
from duomem.cli.options import ConfigFile, Debug, Json, MaxCost, MaxTokens, Run, Sets, limits

if TYPE_CHECKING:
    from duomem.rundir import RunFolder
    from duomem.talk import Done

REPORTED = ("Arms", "Arm against arm", "Success by task type", "How episodes ended", "What an episode costs")
"""The tables that `duomem report` prints without --full."""

DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Print counts, memory, disk, price and the detectable difference; start and write nothing."),
]


def add_to(app: typer.Typer) -> None:
    for verb in (demo, distill, collect, remember, tune, evaluate, report):
        app.command()(verb)


def collect(
    run: Run,
    config: ConfigFile = None,
    sets: Sets = None,
    max_cost: MaxCost = None,
    max_tokens: MaxTokens = None,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Let the teacher play; every reply is journalled before it is acted on.

    Examples:

      duomem collect runs/mine --config configs/demo.toml

      duomem collect runs/mine --set teacher.tasks=200

      duomem collect runs/mine --max-cost 5
    """
    _verb("collect", run, config, [*(sets or ()), *limits(max_cost, max_tokens)])


def remember(
    run: Run,
    config: ConfigFile = None,
    sets: Sets = None,
    max_cost: MaxCost = None,
    max_tokens: MaxTokens = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Make the bank anew even if it is there.")] = False,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Write memories from the teacher's successful episodes into the bank.

    Examples:

      duomem remember runs/mine

      duomem remember runs/mine --set memory.embedder=minilm --rebuild
    """
    _verb("remember", run, config, [*(sets or ()), *limits(max_cost, max_tokens)], rebuild=rebuild)


def tune(run: Run, config: ConfigFile = None, sets: Sets = None, json_: Json = False, debug: Debug = False) -> None:
    """Train the adapter on the teacher's successful episodes.

    Example:

      duomem tune runs/mine --set tuning.rank=16
    """
    _verb("tune", run, config, sets)


def evaluate(
    run: Run,
    config: ConfigFile = None,
    sets: Sets = None,
    data: Annotated[
        Path | None, typer.Option(help="A data root in ALFWorld's layout, in place of the run's.", metavar="ROOT")
    ] = None,
    split: Annotated[str, typer.Option(help="The split to play, in place of evaluate.split.")] = "",
    n: Annotated[int | None, typer.Option("--n", help="How many games, in place of evaluate.games; 0: all.", min=0)] = None,
    arms: Annotated[str, typer.Option(help="Arms, separated by commas, in place of evaluate.arms.")] = "",
    out: Annotated[Path | None, typer.Option(help="A folder for this evaluation and its report.", metavar="DIR")] = None,
    log: Annotated[
        bool, typer.Option("--log", help="Ask about the latest recorded episodes instead of playing: no environment is needed.")
    ] = False,
    share: Annotated[float, typer.Option(help="With --log: the part of the episodes, the latest, that is asked.")] = 0.25,
    command: Annotated[
        str, typer.Option(help="Run your own agent instead, once per task and arm; {task} stands for the task.", metavar="LINE")
    ] = "",
    tasks: Annotated[Path | None, typer.Option(help="With --command: a text file, one task a line.", metavar="FILE")] = None,
    dry_run: DryRun = False,
    max_cost: MaxCost = None,
    max_tokens: MaxTokens = None,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Play the student with and without each part on the same games.

    Examples:

      duomem evaluate runs/mine

      duomem evaluate runs/mine --data "$ALFWORLD_DATA" --split valid_unseen --out runs/mine/official

      duomem evaluate runs/mine --log

      duomem evaluate runs/mine --command "python agent.py {task}" --tasks tasks.txt
    """
    overrides = [*(sets or ()), *limits(max_cost, max_tokens)]
    overrides += [f'evaluate.split="{split}"'] if split else []
    overrides += [f"evaluate.games={n}"] if n is not None else []
    overrides += [f"evaluate.arms={[arm.strip() for arm in arms.split(',')]}"] if arms else []
    if dry_run:
        return _plan(run, config, overrides)
    chosen = [arm.strip() for arm in arms.split(",")] if arms else []
    paid = [*(sets or ()), *limits(max_cost, max_tokens)]
    if log:
        return _verb("agree", run, config, paid, share=share, arms=chosen)
    if command:
        return _verb("command", run, config, paid, line=command, tasks=tasks or Path("no tasks"), arms=chosen)
    _verb("evaluate", run, config, overrides, data=data, out=out)


def report(
    run: Run,
    config: ConfigFile = None,
    sets: Sets = None,
    full: Annotated[bool, typer.Option("--full", help="Every table of report.md, not only the most important ones.")] = False,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Write report.json, report.md and report.html, and print the tables and the decision.

    Examples:

      duomem report runs/mine

      duomem report runs/mine --json
    """
    from duomem import pipeline
    from duomem.rundir import open_run
    from duomem.talk import Talk

    folder = open_run(run, config, sets or ())
    with bars() as progress:
        done = pipeline.report(folder, Talk(progress, terminal.note))
    terminal.result(done.data, _report_shown(folder, done, full))


def _report_shown(folder: RunFolder, done: Done, full: bool) -> list[Any]:
    """The tables of the report that was just written, then its decision."""
    from duomem.report import every_table
    from duomem.scores import Results
    from duomem.summary import Summary
    from duomem.types import load

    summary = load(Summary, json.dumps(done.data))
    wanted = [each for each in every_table(Results.read(folder.results), summary) if full or each.title in REPORTED]
    shown: list[Any] = [tables.table(each.head, each.rows, each.title, each.note) for each in wanted]
    decision = summary.decision
    words = [f"- {detail}" for detail in decision.details]
    words += ["", f"Look closer: {folder.root / 'report.html'}, or duomem ui {folder.root}"]
    return [*shown, tables.block(f"\n{decision.words}", "bold"), *map(tables.block, words)]


def distill(
    run: Run,
    config: ConfigFile = None,
    sets: Sets = None,
    seeds: Annotated[str, typer.Option(help="Several seeds, separated by commas, in place of run.seeds.")] = "",
    dry_run: DryRun = False,
    max_cost: MaxCost = None,
    max_tokens: MaxTokens = None,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Do all of it: collect, remember, tune, evaluate, report. What is done already is not done again.

    Examples:

      duomem distill runs/mine --config configs/demo.toml

      duomem distill runs/three --config configs/alfworld-pocket.toml --seeds 0,1,2

      duomem distill runs/paper --config configs/paper-qwen3-4b.toml --dry-run
    """
    overrides = [*(sets or ()), *limits(max_cost, max_tokens), *([f"run.seeds=[{seeds}]"] if seeds else [])]
    if dry_run:
        return _plan(run, config, overrides)
    _verb("distill", run, config, overrides)


def demo(
    run: Annotated[Path, typer.Option(help="The run folder.", metavar="RUN")] = Path("runs/demo"),
    sets: Sets = None,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """The whole job on real ALFWorld games with the small model that ships in the package; at most ten minutes on two cores.

    Examples:

      duomem demo

      duomem demo --run runs/smaller --set evaluate.games=20
    """
    from duomem.config import shipped

    _verb("distill", run, shipped("demo"), sets)
    if not terminal.json:
        _first_reply(run)
        terminal.out.print(f"See it in the browser: duomem ui {run}", markup=False)


def _first_reply(run: Path) -> None:
    """Serve what the run bundled, and ask it about the first game of the evaluation."""
    from duomem import parts
    from duomem.rundir import open_run
    from duomem.serve.first_reply import first_reply
    from duomem.serve.student import Choice

    folder = open_run(run, keep=False)
    table = folder.settings.bundle
    made = run / (table.out or f"{folder.settings.run.name}.duo") if table else run
    env = parts.environment(folder)
    episode = env.open(env.tasks(folder.settings.evaluate.split)[0])
    first = episode.observe()
    episode.close()
    terminal.note("Serving it for one request ...")
    place, choice = (made, Choice(allow_unsigned=True)) if made.is_file() else (run, Choice())
    done = first_reply(place, first.goal, first.text, choice)
    unsigned = " --allow-unsigned" if choice.allow_unsigned else ""
    terminal.result(done.data, f"\n{done.words}\nServe it: duomem serve {place}{unsigned}")


def _plan(run: Path, config: Path | None, sets: list[str]) -> None:
    from duomem import plan
    from duomem.rundir import open_run

    found = plan.plans(open_run(run, config, sets, keep=False))
    terminal.result({"plans": [each.data() for each in found]}, plan.words(found))


def _verb(name: str, run: Path, config: Path | None, sets: list[str] | None, **more: Any) -> None:
    """Open the run, call the pipeline's function of that name, print what it returns."""
    from duomem import pipeline
    from duomem.rundir import open_run
    from duomem.talk import Talk

    function: Callable[..., Done] = getattr(pipeline, name)
    folder = open_run(run, config, sets or (), keep=more.get("out") is None)
    with bars() as progress:
        done = function(folder, Talk(progress, terminal.note), **{key: value for key, value in more.items() if value})
    terminal.result(done.data, done.words)
