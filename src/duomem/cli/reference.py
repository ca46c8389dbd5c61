"""docs/cli.md from the --help pages: `python -m duomem.cli.reference > docs/cli.md`. A test holds the file to them.

In: nothing. Out: markdown with one section a command.
"""

from __future__ import annotations

from typing import Any, cast

from typer.main import get_command
from typer.testing import CliRunner

from duomem.cli import app, memories

VERBS = tuple(cast(Any, get_command(app)).commands)
"""Every command, in the order in which they were added."""

GROUPS = {"memories": memories.NAMES}
"""Verbs that have verbs of their own."""


def pages() -> str:
    """Every help page at a fixed width, so that the terminal does not change it."""
    head = "# The command line\n\nMade from the help pages by `make docs`.\n"
    sections = [_section("duomem", ["--help"])]
    sections += [_section(f"duomem {verb}", [verb, "--help"]) for verb in VERBS]
    sections += [
        _section(f"duomem {group} {verb}", [group, verb, "--help"]) for group, verbs in GROUPS.items() for verb in verbs
    ]
    return "\n".join([head, *sections])


def _section(title: str, arguments: list[str]) -> str:
    result = CliRunner().invoke(app, arguments, prog_name="duomem", terminal_width=100, max_content_width=100)
    return f"## {title}\n\n```\n{result.output.rstrip()}\n```\n"


if __name__ == "__main__":
    print(pages(), end="")
