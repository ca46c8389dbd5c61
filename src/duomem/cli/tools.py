"""The commands beside the pipeline: init, list, games.

In: arguments. Out: a commented config, the components there are, a folder of games.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from duomem.cli.console import bars, terminal
from duomem.cli.options import Debug, Json, Sets


def add_to(app: typer.Typer) -> None:
    app.command("init")(init)
    app.command("list")(list_components)
    app.command("games")(games)


def init(
    file: Annotated[Path, typer.Argument(help="The config to write.", metavar="FILE")],
    sets: Sets = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Write a commented config: every key, what it means, its value.

    Examples:

      duomem init my.toml

      duomem init my.toml --set env.name=household --set memory.k=1
    """
    from duomem import config
    from duomem.configfile import commented
    from duomem.errors import UsageError
    from duomem.rundir import replace

    if file.exists() and not force:
        raise UsageError(f"{file} exists already. Choose another name, or replace it with --force.")
    whole: dict[str, Any] = {"memory": {}, "tuning": {}, "price": {}, "bundle": {}}
    settings = config.settings_of(config.override(whole, sets or ()), "--set")
    replace(file, commented(settings))
    words = f"Wrote {file}. Next: duomem distill runs/{file.stem} --config {file}"
    terminal.result({"config": str(file), "hash": settings.hash}, words)


def list_components(
    kind: Annotated[str, typer.Argument(help="envs, models, memory or tuning; all without it.", metavar="KIND")] = "",
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """List the components that a config can name, and the layouts.

    Examples:

      duomem list

      duomem list memory --json
    """
    from duomem.errors import UsageError
    from duomem.prompts import layout_names
    from duomem.registry import KINDS, names, summary

    kinds = (*KINDS, "layouts")
    if kind and kind not in kinds:
        raise UsageError(f"No kind of component {kind!r}. There are: {', '.join(kinds)}.")
    found = {name: {item: summary(name, item) for item in names(name)} for name in KINDS}
    found["layouts"] = dict.fromkeys(layout_names(), "")
    chosen = {name: items for name, items in found.items() if kind in ("", name)}
    lines = [f"{name}\n" + "".join(f"  {item:<14}{words}\n" for item, words in items.items()) for name, items in chosen.items()]
    terminal.result(chosen, "\n".join(lines).rstrip())


def games(
    out: Annotated[Path, typer.Argument(help="The folder to write: a data root.", metavar="OUT")],
    split: Annotated[
        str, typer.Option(help="train, dev, valid_seen, valid_unseen or second_unseen: decides rooms and goals.")
    ] = "train",
    n: Annotated[int, typer.Option("--n", help="How many games.", min=1)] = 300,
    seed: Annotated[int, typer.Option(help="Seed of the generator.")] = 0,
    env: Annotated[
        str, typer.Option(help="Whose games: alfworld, or cooking (splits train, dev and test; --set env.KEY=VALUE).")
    ] = "alfworld",
    sets: Sets = None,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Write playable games: ALFWorld's in the official format, or TextWorld's cooking games.

    Examples:

      duomem games data --split train --n 300 --seed 0

      duomem games data --split second_unseen --n 240 --seed 7

      duomem games kitchen --env cooking --split test --n 60 --set env.recipe=2 --set env.take=2
    """
    from duomem import parts
    from duomem.config import load

    write_games, _ = parts.games_writer(load(None, [f'env.name="{env}"', *(sets or ())]))
    started = time.monotonic()
    with bars() as progress:
        write_games(out, split, n, seed, progress=lambda done, total: progress("games", done, total))
    data = {"root": str(out), "split": split, "games": n, "seed": seed, "seconds": round(time.monotonic() - started, 1)}
    terminal.result(data, f"Wrote {n} games to {out} ({split}, seed {seed}, {data['seconds']} s).")
