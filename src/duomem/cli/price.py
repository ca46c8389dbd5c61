"""The command that says what a run will cost and has cost.

In: a run folder, a config. Out: the estimate of what is left to pay for, and the account of what was paid. Not here: the sums.
"""

from __future__ import annotations

from dataclasses import asdict

import typer

from duomem.cli.console import terminal
from duomem.cli.options import ConfigFile, Debug, Json, Run, Sets


def add_to(app: typer.Typer) -> None:
    app.command()(price)


def price(run: Run, config: ConfigFile = None, sets: Sets = None, json_: Json = False, debug: Debug = False) -> None:
    """Say what a run's paid models will cost and have cost, and when the student has paid for itself. Nothing is started.

    Examples:

      duomem price runs/mine --config my.toml

      duomem price runs/mine --json
    """
    from duomem import price as prices
    from duomem.rundir import open_run

    folder = open_run(run, config, sets or (), keep=False)
    items, account = prices.ahead(folder), prices.account(folder)
    words = [
        prices.estimate_words(folder.settings, items) or "Nothing is left to pay for: no model of it is behind an endpoint."
    ]
    words += [prices.account_words(account)] if account["tokens"] else []
    terminal.result({"estimate": [asdict(item) for item in items], "account": account}, "\n".join(words))
