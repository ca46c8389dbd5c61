"""Arguments and options that several commands share, each described once."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Annotated

import typer

from duomem.cli.console import terminal


def _json(value: bool) -> None:
    terminal.json = value


def _debug(value: bool) -> None:
    terminal.debug = value


Run = Annotated[Path, typer.Argument(help="The run folder. It is made the first time.", metavar="RUN")]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="A TOML file; needed the first time, later RUN/config.toml is used.", metavar="FILE"),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", help="Override a key; may be repeated. An empty VALUE removes it.", metavar="TABLE.KEY=VALUE"),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on stdout.", callback=_json)]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback where an error is shown.", callback=_debug)]
MaxCost = Annotated[
    float | None, typer.Option(help="Stop before a call that might take the run past it (price.max_cost).", metavar="MONEY")
]
MaxTokens = Annotated[int | None, typer.Option(help="The same for tokens of paid models (price.max_tokens).", metavar="TOKENS")]


def whole_examples(app: typer.Typer) -> None:
    """Keep each example of the help pages on one line, to be copied, however narrow the terminal is."""
    for command in app.registered_commands:
        words = inspect.getdoc(command.callback) or ""
        command.help = re.sub(r"^( +duomem )", "\b\n\\1", words, flags=re.MULTILINE)
    for group in app.registered_groups:
        if group.typer_instance:
            whole_examples(group.typer_instance)


def limits(max_cost: float | None, max_tokens: int | None) -> list[str]:
    """Both options as overrides of the config."""
    found = {"max_cost": max_cost, "max_tokens": max_tokens}
    return [f"price.{name}={value}" for name, value in found.items() if value is not None]
