"""The command that reviews what a server learned: `duomem merge STATE --into RUN`.

In: a server's state folder, a run. Out: a list to decide on, or memories folded into the run's bank. What an edit does is
`duomem.serve.merge`'s matter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from duomem.cli.console import terminal
from duomem.cli.options import Debug, Json


def add_to(app: typer.Typer) -> None:
    app.command()(merge)


def merge(
    state: Annotated[Path, typer.Argument(help="The folder that `duomem serve --state` wrote.", metavar="STATE")],
    into: Annotated[Path, typer.Option(help="The run whose bank takes them, or a bank file.", metavar="RUN")],
    accept: Annotated[
        list[str] | None, typer.Option(help="A memory to take (the beginning of its id); again for more.")
    ] = None,
    refuse: Annotated[list[str] | None, typer.Option(help="A memory to turn down; again for more.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Take all that are not refused.")] = False,
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why; it stands in the bank's journal.")] = "",
    seed: Annotated[int | None, typer.Option(help="Which seed's bank, in a run of several seeds.")] = None,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Review the memories that a server learned from verified successes, and fold them into a run's bank.

    Without --accept, --refuse or --all it lists them and changes nothing. Then evaluate and bundle the run again.

    Examples:

      duomem merge state --into runs/mine

      duomem merge state --into runs/mine --accept 3f2a --reason "checked by hand"
    """
    from duomem import embed
    from duomem.bank import Bank, pins
    from duomem.cli.memories import open_bank
    from duomem.errors import UsageError
    from duomem.serve import merge as work
    from duomem.serve.learn import OVERLAY

    path = state / OVERLAY
    if not path.is_file():
        raise UsageError(
            f"{path} is not there: that server has learned nothing. It learns with: duomem serve --learn --state DIR"
        )
    with Bank.open(path, embed.build(pins(path).embedder)) as overlay, open_bank(into, seed) as target:
        found = work.candidates(overlay, target.bank)
        turned_down = work.chosen(found, refuse or ())
        taken = [each for each in found if each not in turned_down] if all_ else work.chosen(found, accept or ())
        if not (turned_down or taken):
            lines = [f"{each.memory.id}  shown {each.use.shown}, won {each.use.won}  {each.reason}" for each in found]
            texts = [
                f"{line}\n    " + each.memory.text.replace("\n", "\n    ") for line, each in zip(lines, found, strict=True)
            ]
            rows = [
                {
                    "id": each.memory.id,
                    "text": each.memory.text,
                    "shown": each.use.shown,
                    "won": each.use.won,
                    "there": each.there,
                }
                for each in found
            ]
            terminal.result(
                {"waiting": rows}, "\n".join([*texts, f"{len(found)} memories wait for --accept, --refuse or --all."])
            )
            return
        version = work.accept(overlay, target.bank, taken, reason) if taken else target.bank.version
        if turned_down:
            work.refuse(overlay, turned_down, reason)
        target.record()
        data = {"accepted": [each.memory.id for each in taken], "refused": [each.memory.id for each in turned_down]}
        words = f"{len(taken)} taken into {target.bank.path} (version {version}), {len(turned_down)} refused."
        terminal.result({**data, "version": version}, words)
