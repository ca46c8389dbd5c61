"""Replays a plan in the real engine: the last proof that a written game can be won.

In: a `game.tw-pddl` and text commands. Out: whether the engine says `won`, and nothing happened too early. TextWorld is
imported here only, when called. It is no environment for agents: see `duomem.envs.alfworld`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from duomem.errors import MissingExtra


def wins(game_file: Path, commands: Sequence[str]) -> bool:
    """True if the commands win the game in the engine, and the game is not won before the last one."""
    try:
        import textworld
        from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or "alfworld", "alfworld") from error
    env = textworld.start(str(game_file), textworld.EnvInfos(won=True), wrappers=[AlfredDemangler()])
    try:
        env.reset()
        won = False
        for command in commands:
            if won:
                return False
            state, _, _ = env.step(command)
            won = bool(state["won"])
        return won
    finally:
        env.close()
