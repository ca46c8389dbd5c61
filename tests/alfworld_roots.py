"""Data roots and the stock environment for the ALFWorld tests: what more than one test file needs."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ARCHIVES = Path(__file__).resolve().parents[2] / "shared" / "alfworld"


def unpack(split: str, folder: Path) -> Path | None:
    """Unpacks the development archive of a split, where it is there."""
    archive = ARCHIVES / f"{split}.tar.xz"
    if not archive.is_file():
        return None
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder


def games_in(root: Path) -> list[Path]:
    return sorted(root.rglob("game.tw-pddl"))


def kind_of(game: Path) -> str:
    kind: str = json.loads(game.with_name("traj_data.json").read_text())["task_type"]
    return kind


def copy_game(game: Path, root: Path, split: str, name: str, change: Callable[[dict[str, Any]], object] | None = None) -> Path:
    """Copies a game to `root/json_2.1.1/split/name/trial`, changed by `change`; returns its game file."""
    folder = root / "json_2.1.1" / split / name / "trial"
    folder.mkdir(parents=True)
    data = json.loads(game.read_text())
    if change:
        change(data)
    (folder / game.name).write_text(json.dumps(data))
    shutil.copy(game.with_name("traj_data.json"), folder)
    return folder / game.name


def stock(game: Path, extras: tuple[str, ...] = ()) -> Any:
    """The stock environment with a game loaded: textworld's, under alfworld's own names."""
    import textworld
    from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
    from textworld.envs.pddl import PddlEnv

    infos = textworld.EnvInfos(won=True, admissible_commands=True, facts=True, extras=list(extras))
    env = AlfredDemangler(PddlEnv(infos))
    env.load(str(game))
    return env


def stock_facts(state: Any) -> list[tuple[str, tuple[tuple[str, str], ...]]]:
    return sorted({(fact.name, tuple((v.name, v.type) for v in fact.arguments)) for fact in state["facts"]})
