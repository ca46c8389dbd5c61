"""The commands for recording a user's own agent: record and outcome, and what `duomem episodes` says of recordings.

In: arguments. Out: a running recorder; outcomes; what was recorded and what of it can be used. Not here: any of the work.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duomem.cli.console import terminal
from duomem.cli.options import Debug, Json, Run
from duomem.safetext import line

if TYPE_CHECKING:
    from duomem.record.episodes import Episode

KEY = "DUOMEM_RECORD_KEY"
"""The environment variable with the recorder's own key, for addresses that others can reach."""


def add_to(app: typer.Typer) -> None:
    for command in (record, outcome):
        app.command()(command)


Judge = Annotated[
    str, typer.Option(help="A function that judges finished episodes: file.py:function or module:function.", metavar="WHERE")
]


def record(
    run: Annotated[Path, typer.Option("--run", "-r", help="The run folder. It is made the first time.", metavar="RUN")],
    upstream: Annotated[str, typer.Option(help="The base URL that the agent has now.", metavar="URL")],
    port: Annotated[int, typer.Option(help="Where to listen; 0: any free port.", min=0, max=65535)] = 4141,
    host: Annotated[
        str, typer.Option(help=f"The address to listen on. Another than this machine's own needs a key in {KEY}.")
    ] = "127.0.0.1",
    task: Annotated[
        str,
        typer.Option(
            help="Where the task's words are: path:user.0, path:FIELD, regex:EXPRESSION or python:file.py:function.",
            metavar="WHERE",
        ),
    ] = "path:user.0",
    conversation: Annotated[
        str, typer.Option(help="A field of the requests that names the episode, such as metadata.user_id.", metavar="FIELD")
    ] = "",
    judge: Judge = "",
    idle: Annotated[float, typer.Option(help="Seconds without a request after which an episode is judged.", min=1)] = 600.0,
    redact: Annotated[
        list[str] | None, typer.Option(help="A pattern of secrets beside the known ones; may be repeated.", metavar="REGEX")
    ] = None,
    licence: Annotated[str, typer.Option(help="The terms of what the endpoint says, kept with every memory.")] = "",
    timeout: Annotated[float, typer.Option(help="Longest silence of the endpoint, in seconds.", min=1)] = 600.0,
    max_body: Annotated[int, typer.Option("--max-body", help="Largest request, in MiB.", min=1)] = 64,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Record an agent that is changed in nothing but its base URL. Ctrl-C ends the recording.

    The agent's base URL becomes http://127.0.0.1:4141/v1 (OpenAI's clients) or http://127.0.0.1:4141 (Anthropic's); with
    /e/EPISODE before /v1, or the header x-duomem-episode, it names its episodes.

    Examples:

      duomem record --upstream https://api.openai.com/v1 --run runs/mine

      duomem record --upstream http://127.0.0.1:8080/v1 --run runs/mine --task 'regex:Your task: (.+)'
    """
    from duomem.errors import UsageError
    from duomem.record import app, functions
    from duomem.record._http import check_upstream
    from duomem.record.proxy import LOOPBACK, Options, Proxy
    from duomem.record.redact import Redactor
    from duomem.record.store import FILE, RecordStore

    key = os.environ.get(KEY, "")
    if host not in LOOPBACK and not key:
        raise UsageError(f"--host {host} lets other machines use the recorder. Put a key into {KEY}, or leave --host out.")
    check_upstream(upstream)
    find_task, redactor = functions.locator(task), Redactor(redact or ())
    function = functions.load(judge)[0] if judge else None
    options = Options(upstream, find_task, conversation, timeout, max_body * 2**20)
    with app.bind(host, port) as listener, RecordStore.open(run / FILE, "record") as store:
        store.declare("task locator", find_task.spec + (f" {find_task.pin}" if find_task.pin else ""))
        store.note("upstream", upstream)
        store.note("licence", licence)
        address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        terminal.note(
            f"Recording into {store.path}. Base URL for OpenAI's clients: {address}/v1 - for Anthropic's: {address}\n"
            f"Outcomes: POST {address}/duomem/outcome. Ctrl-C ends the recording."
        )
        with suppress(KeyboardInterrupt):
            app.serve(Proxy(store, redactor, options), app.Service(function, idle, key, terminal.note), listener)
        data, words = _summary(store, run)
        terminal.result(data, words)


def outcome(
    run: Run,
    episode: Annotated[str, typer.Argument(help="The episode; all without an outcome with --judge.", metavar="EPISODE")] = "",
    won: Annotated[bool | None, typer.Option("--won/--lost", help="How it ended.")] = None,
    score: Annotated[float | None, typer.Option(help="A grade, kept beside the outcome.")] = None,
    note: Annotated[str, typer.Option(help="Words, kept beside the outcome.")] = "",
    judge: Judge = "",
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Say how a recorded episode ended, or let a function say it. The last word counts.

    Examples:

      duomem outcome runs/mine auto-000001 --won

      duomem outcome runs/mine --judge judge.py:solved
    """
    from duomem.errors import UsageError
    from duomem.record import app, functions
    from duomem.record.episodes import read
    from duomem.record.store import FILE, RecordStore

    if bool(judge) == (won is not None):
        raise UsageError("Say how the episode ended with --won or --lost, or name a function with --judge.")
    if won is not None and not episode:
        raise UsageError(f"Which episode? List them with: duomem episodes {run} --recorded")
    with RecordStore.open(run / FILE, "add") as store:
        if won is not None:
            store.judge(episode, won, "command", score, note)
            word = "won" if won else "lost"
            terminal.result({"episode": episode, "outcome": word}, f"{episode}: {word}")
            return
        function, _ = functions.load(judge)
        names = [episode] if episode else [name for name in store.episodes() if name not in store.outcomes()]
        judged = [name for name in names if app.judge_one(store.judge, function, read(store, name, None), terminal.note)]
        terminal.result({"judged": judged, "asked": len(names)}, f"{len(judged)} of {len(names)} episodes got an outcome.")


def show_recorded(run: Path, episode: str) -> None:
    """What was recorded: all episodes with their outcomes and why one cannot be used, or one in full."""
    from duomem.errors import DataError
    from duomem.record.episodes import read
    from duomem.record.store import FILE, RecordStore

    with RecordStore.open(run / FILE) as store:
        if not episode:
            data, words = _summary(store, run)
            terminal.result(data, words)
            return
        if episode not in store.episodes():
            raise DataError(
                f"{store.path} has no episode {episode!r}. List them with: duomem episodes {run} --recorded. "
                f"An episode that was played is opened by: duomem show {run}:{episode}"
            )
        found = read(store, episode, store.outcomes().get(episode))
        terminal.result(_row(found) | {"trees": _trees(found)}, _story(found))


def _summary(store: Any, run: Path) -> tuple[dict[str, Any], str]:
    from duomem.record.episodes import read_all

    found = read_all(store)
    rows = [_row(each) for each in found]
    usable = sum(each.usable for each in found)
    lines = [
        f"{line(row['episode'], 60):<24} {row['outcome']:<8} {row['turns']:>3} turns  {line(row['task'], 48):<48}"
        + (f"  ({row['problem']})" if row["problem"] not in ("", "lost", "no outcome") else "")
        for row in rows
    ]
    lines.append(f"{len(found)} episodes; {usable} won and whole: memories and adapters are made of those.")
    if usable:
        lines.append(f"Next: duomem collect {run} --config FILE, then remember and tune.")
    return {"run": str(run), "usable": usable, "episodes": rows}, "\n".join(each.rstrip() for each in lines)


def _row(episode: Episode) -> dict[str, Any]:
    states = [each.state for each in episode.exchanges]
    return {
        "episode": episode.id,
        "task": episode.task,
        "outcome": "none" if episode.outcome is None else "won" if episode.outcome.won else "lost",
        "turns": episode.turns,
        "exchanges": len(states),
        "broken": states.count("broken"),
        "failed": states.count("failed"),
        "side": sum(tree.kind == "side" for tree in episode.trees),
        "tokens": episode.usage.prompt + episode.usage.completion,
        "usable": episode.usable,
        "problem": episode.problem,
    }


def _trees(episode: Episode) -> list[dict[str, Any]]:
    return [
        {
            "kind": tree.kind,
            "problem": tree.problem,
            "line": [each.id for each in tree.line],
            "exchanges": [
                {
                    "id": each.id,
                    "from": each.parent,
                    "api": each.api,
                    "model": each.model,
                    "state": each.state,
                    "status": each.status,
                    "seconds": round(each.seconds, 3),
                    "error": each.error,
                }
                for each in tree.exchanges
            ],
        }
        for tree in episode.trees
    ]


def _story(episode: Episode) -> str:
    row = _row(episode)
    lines = [f"{name}: {line(row[name], 1000)}" for name in ("episode", "task", "outcome", "problem") if row[name]]
    for tree in episode.trees:
        lines.append(f"{tree.kind}: {len(tree.line)} turns" + (f" ({tree.problem})" if tree.problem else ""))
        for index, each in enumerate(tree.line):
            reply = tree.reply(index).message
            calls = ", ".join(f"{call.name}({line(call.arguments, 60)})" for call in reply.tool_calls)
            lines.append(f"  {each.id:>5}  {line(reply.text, 80)}{' ' if reply.text and calls else ''}{calls}")
    lines += [f"exchange {each.id} {each.state}: {line(each.error, 400)}" for each in episode.exchanges if each.error]
    return "\n".join(lines)
