"""`duomem show`: one episode, step by step, with what was injected, tokens, the cache's share and time.

In: `RUN:EPISODE`. Out: words or JSON. Where the steps come from is `duomem.browse`'s matter.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from duomem.cli import tables
from duomem.cli.console import terminal
from duomem.cli.episodes import ending
from duomem.cli.options import Debug, Json

if TYPE_CHECKING:
    from duomem.browse import EpisodeFull, EpisodeRow, Injected, Step
    from duomem.cli._address import Address

SHORT = 1500
"""Characters of one text that are shown without --full."""
WHOLE = 1 << 60

Full = Annotated[bool, typer.Option("--full", help=f"Whole texts; without it each is cut after {SHORT:,} characters.")]


def add_to(app: typer.Typer) -> None:
    app.command()(show)


def show(
    episode: Annotated[str, typer.Argument(help="The run folder and an episode of it.", metavar="RUN:EPISODE")],
    full: Full = False,
    prompt: Annotated[bool, typer.Option("--prompt", help="The prompt before the first reply, too.")] = False,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Show one episode: the memories it was given, and each step's thought, action, answer, tokens and time.

    `duomem episodes RUN` lists a run's episodes with their names. Text is shown with a stand-in for every character that would
    steer the terminal; --json has it as it was recorded.

    Examples:

      duomem show runs/mine:17

      duomem show runs/mine:seed0:17 --full --prompt

      duomem show runs/mine:17 --json
    """
    from duomem import browse
    from duomem.cli._address import address
    from duomem.errors import UsageError
    from duomem.types import dump

    found = address(episode)
    if not found.is_episode:
        raise UsageError(f"{episode}: which episode? List them with: duomem episodes {found.run.root}. Then: RUN:EPISODE")
    one = browse.episode(found.run, found.what, WHOLE if full or terminal.json else SHORT)
    terminal.result(json.loads(dump(one)) if terminal.json else {}, _page(found, one, prompt))


def head(row: EpisodeRow, model: str = "") -> Table:
    """Who played what, and how it ended."""
    who = row.arm + (f", seed {row.seed}" if row.seed is not None else "") + (f" ({model})" if model else "")
    won = tables.cell(ending(row), style="green" if row.won else "yellow")
    end = Text.assemble(won, f" after {row.steps} steps" + (f", {row.invalid} without effect" if row.invalid else ""))
    return tables.pairs(
        [
            ("goal", row.goal),
            ("ended", end),
            ("played by", who),
            ("task", row.task + (f", attempt {row.attempt}" if row.attempt else "")),
            ("type", row.kind + (f", room {row.room}" if row.room else "")),
            ("tokens", tables.tokens(row.usage)),
            ("time", f"{row.seconds:.2f} s" if row.seconds else ""),
            ("error", row.error),
        ]
    )


def injected(memories: tuple[Injected, ...], title: str) -> list[Any]:
    """Memories with their texts."""
    parts: list[Any] = [Text(f"\n{title}", "bold")] if memories else []
    for each in memories:
        status = each.status or "no longer in the bank"
        parts.append(Text.assemble(tables.cell(each.id), "  ", tables.cell(status), "  ", tables.cell(each.key, style="dim")))
        if each.text:
            parts.append(tables.indented(tables.block(each.text, limit=SHORT)))
    return parts


def _page(found: Address, one: EpisodeFull, prompt: bool) -> list[Any]:
    parts: list[Any] = [Text(f"Episode {one.row.ref} of ", "bold") + tables.cell(found.run.root, 400), head(one.row, one.model)]
    parts += injected(one.injected, "Memories it was shown")
    if prompt:
        parts.append(Text("\nPrompt", "bold"))
        parts.append(tables.pairs((said.role, tables.block(said.text, limit=None, chars=said.chars)) for said in one.prompt))
    elif one.scene:
        parts += [Text("\nScene", "bold"), tables.indented(tables.block(one.scene, limit=None))]
    parts.append(Text("\nSteps", "bold"))
    parts += [part for step in one.steps for part in (step_of(step), _cost(step))]
    if not one.steps:
        parts.append(Text("  none yet", "dim"))
    return parts + _beside(found, one)


def step_of(step: Step) -> Table:
    """One step as labelled lines. A reply that no action could be read from is shown whole."""
    made = Table.grid(padding=(0, 1))
    made.add_column(justify="right", min_width=3)
    made.add_column(min_width=8)
    made.add_column(overflow="fold")
    rows = [("thought", tables.block(step.thought, limit=None)), ("thinking", tables.block(step.reasoning, "dim", None))]
    if step.action:
        rows.append(("action", tables.block(step.action, "bold", None)))
    else:
        said = tables.block(step.reply, limit=None, chars=step.reply_chars)
        rows.append(("reply", said if said.plain else Text("(empty)", "dim")))
    if step.waiting:
        rows.append(("answer", Text("(not yet)", "dim")))
    else:
        rows.append(("answer", tables.block(step.observation, limit=None, chars=step.observation_chars)))
    rows.append(("recalled", tables.block(step.recalled, limit=None)))
    for number, (name, text) in enumerate((name, text) for name, text in rows if text.plain):
        made.add_row(Text(str(step.index + 1) if number == 0 else ""), Text(name, "dim"), text)
    return made


def marks(step: Step) -> str:
    """What was unusual about a step."""
    unusual = (
        ("no effect", not step.valid and not step.waiting),
        ("no action could be read", not step.action),
        ("repaired", step.repaired),
        ("cut at its token limit", step.finish == "length"),
    )
    return ", ".join(words for words, there in unusual if there)


def _cost(step: Step) -> Text:
    cost = f"             {tables.tokens(step.usage)}, {step.seconds:.2f} s"
    unusual = marks(step)
    return Text.assemble((cost, "dim"), (f"  {unusual}" if unusual else "", "yellow"), "\n")


def _beside(found: Address, one: EpisodeFull) -> list[Any]:
    """The same game in other arms, and how to lay one beside this."""
    if not one.beside:
        return []
    head = ("episode", "arm", "seed", "ended", "steps", "memories")
    rows = ((each.ref, each.arm, each.seed, ending(each), each.steps, len(each.memories)) for each in one.beside)
    first = next((each for each in one.beside if each.won != one.row.won), one.beside[0])
    return [
        tables.table(head, rows, "The same game in other arms"),
        tables.cell(f"Side by side: duomem compare {found.run.root}:{one.row.ref} {first.ref}", 1000),
    ]
