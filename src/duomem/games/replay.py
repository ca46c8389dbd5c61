"""Replays a plan in the real engine: the last proof that a written game can be won.

In: a `game.tw-pddl` and text commands. Out: whether the engine says `won`, at the last command and not before. Fast Downward
and TextWorld are imported when called. It is no environment for agents: see `duomem.envs.alfworld`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from duomem.errors import DataError, MissingExtra
from duomem.types import digest


def wins(game_file: Path, commands: Sequence[str]) -> bool:
    """True if the commands win the game in the engine, and it is not won before the last of them.

    About 0.4 s a game. Raises MissingExtra without the engine, DataError for a file that is no game.
    """
    try:
        game = json.loads(game_file.read_text(encoding="utf-8"))
        texts = game["pddl_domain"], game["pddl_problem"], game["grammar"]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{game_file} is not a game in ALFWorld's format: {error!r}") from error
    engine, game_text = _engine()
    session = engine.open(digest(texts), str(game_file), lambda: game_text(*texts))
    try:
        won = session.won
        for command in commands:
            if won:
                return False
            session.step(command)
            won = session.won
        return bool(won)
    finally:
        session.close()


@cache
def _engine() -> tuple[Any, Any]:
    """One engine a process, which keeps no game: each is replayed once."""
    for library in ("fast_downward", "textworld"):
        if find_spec(library) is None:
            raise MissingExtra(library, "alfworld")
    from duomem.envs._alfworld_engine import Engine, GameText

    return Engine(keep=1), GameText
