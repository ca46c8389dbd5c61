"""The commands for logs of other tools: import and export.

In: a run folder, files, options. Out: what `duomem.logs` makes of them. Not here: any format.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from duomem.cli.console import bars, terminal
from duomem.cli.options import ConfigFile, Debug, Json, Run, Sets


def add_to(app: typer.Typer) -> None:
    app.command("import")(import_)
    app.command("export")(export)


Only = Literal["won", "outcome", "all"]


def import_(
    files: Annotated[list[Path], typer.Argument(help="Logs, or folders of them.", metavar="FILE...")],
    run: Annotated[Path, typer.Option("--run", "-r", help="The run folder. It is made the first time.", metavar="RUN")],
    licence: Annotated[str, typer.Option(help="The terms of what is in the logs, kept with every episode.", metavar="TEXT")],
    config: ConfigFile = None,
    sets: Sets = None,
    form: Annotated[
        str, typer.Option("--format", help="openai, sharegpt, langfuse, rollouts, memp or trl; found out without it.")
    ] = "",
    outcome: Annotated[
        str, typer.Option(help="The field that says success, such as metadata.solved or scores.correct.", metavar="PATH")
    ] = "",
    threshold: Annotated[float, typer.Option(help="The least reward or score that is a success.")] = 1.0,
    won: Annotated[bool, typer.Option("--won", help="Every record is a success.")] = False,
    task: Annotated[
        str,
        typer.Option(
            help="Where the task's words are: path:FIELD, regex:EXPRESSION or python:file.py:function.", metavar="WHERE"
        ),
    ] = "",
    task_id: Annotated[str, typer.Option(help="The field that names the task.", metavar="PATH")] = "",
    opening: Annotated[
        int | None, typer.Option(help="Messages before the first reply, worked examples included.", min=1)
    ] = None,
    model: Annotated[str, typer.Option(help="Who spoke, where the log does not say.")] = "",
    redact: Annotated[
        list[str] | None, typer.Option(help="A pattern of secrets beside the known ones; may be repeated.", metavar="REGEX")
    ] = None,
    keep_secrets: Annotated[bool, typer.Option("--keep-secrets", help="Do not look for secrets in the logs.")] = False,
    prove: Annotated[
        bool, typer.Option("--prove", help="Keep only what the run's environment confirms when replayed.")
    ] = False,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Take another tool's log as the run's teacher: then go on with remember and tune.

    A record that cannot be used is reported with file, line and field, and the rest goes on.

    Examples:

      duomem import log.jsonl --run runs/mine --config my.toml --licence MIT --outcome metadata.solved

      duomem import results.jsonl --run runs/mine --config my.toml --licence Apache-2.0 --threshold 0.5
    """
    from duomem.logs._episode import Options
    from duomem.logs._import import import_logs
    from duomem.record.functions import locator
    from duomem.record.redact import Redactor
    from duomem.rundir import open_run
    from duomem.talk import Talk

    if task:
        locator(task)
    redactor = None if keep_secrets else Redactor(redact or ())
    options = Options(licence, outcome, threshold, won, task, task_id, opening, model)
    folder = open_run(run, config, sets or ())
    with bars() as progress:
        done = import_logs(folder, files, options, form, Talk(progress, terminal.note), redactor=redactor, prove=prove)
    terminal.result({name: value for name, value in done.data.items() if name != "tasks"}, done.words)


def export(
    run: Run,
    file: Annotated[Path, typer.Argument(help="The file to write.", metavar="FILE")],
    form: Annotated[str, typer.Option("--format", help="openai, sharegpt or trl; without it, by the file's ending.")] = "",
    only: Annotated[Only, typer.Option(help="Which episodes: won, with an outcome, or all.")] = "won",
    phase: Annotated[str, typer.Option(help="A phase of the journal, in place of the teacher's episodes.")] = "",
    bare: Annotated[
        bool, typer.Option("--bare", help="Nothing beside the conversation, for receivers that refuse other keys.")
    ] = False,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Write a run's episodes for other trainers: OpenAI JSONL, ShareGPT, or Parquet for TRL.

    Examples:

      duomem export runs/mine train.jsonl

      duomem export runs/mine train.parquet --only all
    """
    from duomem.logs._export import export_logs, form_of
    from duomem.rundir import open_run

    folder = open_run(run)
    done = export_logs(folder, file, form or form_of(file), only, phase=phase, bare=bare)
    terminal.result(done.data, done.words)
