"""The command that offers a bank to other agents: `duomem mcp PATH`, over standard input and output.

In: a run folder or a bundle, a state folder. Out: an MCP server until its client hangs up. Not here: the tools
(`duomem.mcp_server`).
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from duomem.cli.options import Debug

if TYPE_CHECKING:
    from duomem.bank import Bank


def add_to(app: typer.Typer) -> None:
    app.command()(mcp)


def mcp(
    path: Annotated[Path, typer.Argument(help="A run folder, or a bundle (a folder or a .duo file).", metavar="PATH")],
    state: Annotated[Path, typer.Option(help="Where counts and what clients add are kept.", metavar="DIR")] = Path("mcp-state"),
    verify: Annotated[bool, typer.Option("--verify", help="This client's won outcomes verify what it added.")] = False,
    licence: Annotated[str, typer.Option(help="Terms of what clients add; kept with every memory.")] = "unknown",
    trust: Annotated[Path | None, typer.Option(help="A file of public keys in place of your own trust file.")] = None,
    allow_unsigned: Annotated[bool, typer.Option("--allow-unsigned", help="Take a bundle that nobody signed.")] = False,
    debug: Debug = False,
) -> None:
    """Offer a bank's memories to any agent that speaks MCP: search, read, add (quarantined), report an outcome.

    The bank itself is only read. What is added waits in the state folder: duomem merge DIR --into RUN

    Examples:

      duomem mcp runs/mine

      claude mcp add duomem -- duomem mcp my.duo --state ~/.duomem
    """
    from duomem.mcp_server import Shelf, server

    with ExitStack() as opened:
        bank = _bank(path, trust, allow_unsigned, opened)
        shelf = Shelf(bank, state, verifies=verify, licence=licence)
        opened.callback(shelf.close)
        server(shelf).run("stdio")


def _bank(path: Path, trust: Path | None, unsigned: bool, opened: ExitStack) -> Bank:
    """The bank of a bundle or of a run's first seed. Raises `UsageError` where there is none."""
    from duomem import parts
    from duomem.errors import UsageError
    from duomem.rundir import open_run

    if (path / "config.toml").is_file():
        seed = open_run(path, keep=False).seeds()[0]
        bank = opened.enter_context(parts.Parts(seed, "mcp")).bank(seed)
    else:
        from duomem.bundle import open_bundle

        bundle = opened.enter_context(open_bundle(path, trust=trust, allow_unsigned=unsigned, check_base=False))
        bank = bundle.open_bank()
        if bank is not None:
            opened.callback(bank.close)
    if bank is None:
        raise UsageError(f"{path} has no memories to offer.")
    return bank
