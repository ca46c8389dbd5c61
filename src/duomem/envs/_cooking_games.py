"""Writes TextWorld cooking games: the generator of `tw-make tw-cooking`, deterministic, each game won once before it counts.

In: a folder, a split, a number, a seed, settings. Out: `OUT/tw-cooking/SPLIT/0000.{z8,json}` and a manifest `games.json`. The
generator walks over sets, so its bytes hang on Python's hash seed: it runs in a process of its own with a fixed one.
Interrupted writing goes on where it stopped; a folder with other games is refused. Not here: playing for anybody.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from duomem.errors import DataError, InfraError, UsageError
from duomem.types import digest

REVISION = "1"
"""Raise when the same settings and seed give other games."""
SPLITS = {"train": "train", "dev": "valid", "test": "test"}
"""Our splits -> the package's: ingredients and ways to prepare them that the other splits do not have."""
FOLDER = "tw-cooking"
_DRAWS = 50
"""Some seeds cannot be made into a game by the package; the next draw is taken."""

Settings = Mapping[str, int | bool]


class Game(BaseModel):
    """One game of a manifest. `sha256` is that of its JSON, which defines it; the story file holds the day it was compiled."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    sha256: str
    start: str
    """The room in which the player starts."""
    ingredients: tuple[tuple[str, str, str], ...]
    """Name, way of cooking, way of cutting."""
    walkthrough: tuple[str, ...]


class Manifest(BaseModel):
    """What a split's folder holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    request: dict[str, Any]
    games: tuple[Game, ...]


def read(folder: Path) -> Manifest:
    """The manifest of a split's folder. Raises `DataError`."""
    path = folder / "games.json"
    try:
        return Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a finished folder of cooking games ({error}). Write them again.") from error


def write(out: Path, split: str, n: int, seed: int, settings: Settings, progress: Callable[[int, int], None] | None) -> None:
    """Write `n` games of a split; a game depends on split, seed, settings and index only.

    Raises `UsageError` for an unknown split or a folder with other games, `InfraError` where the generator fails.
    """
    if split not in SPLITS:
        raise UsageError(f"There is no split {split!r} of cooking games. There are: {', '.join(sorted(SPLITS))}.")
    folder = out / FOLDER / split
    versions = {"revision": REVISION, "textworld": metadata.version("textworld")}
    request = {"split": split, "n": n, "seed": seed, "settings": dict(settings), **versions}
    if (folder / "games.json").is_file():
        if read(folder).request == request:
            return
        raise UsageError(f"{folder} holds other games. Choose another folder, or remove that one.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        games = list(_made(folder, request, progress))
        text = Manifest(request=request, games=tuple(games)).model_dump_json(indent=1)
        (folder / "games.json.new").write_text(text, encoding="utf-8")
        os.replace(folder / "games.json.new", folder / "games.json")
    except OSError as error:
        raise InfraError(f"cannot write games to {folder}: {error}. Free the space or the rights and run it again.") from error


def _made(folder: Path, request: dict[str, Any], progress: Callable[[int, int], None] | None) -> Iterator[Game]:
    """The games as the generator's process makes them."""
    command = [sys.executable, "-m", "duomem.envs._cooking_games", str(folder)]
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        try:
            process.stdin.write(json.dumps(request))
            process.stdin.close()
            done = 0
            for line in process.stdout:
                yield Game.model_validate_json(line)
                done += 1
                if progress:
                    progress(done, request["n"])
            said = process.stderr.read().strip()
        finally:
            process.terminate()
        if process.wait() != 0 or done != request["n"]:
            raise InfraError(f"TextWorld's generator stopped after {done} of {request['n']} games: {said[-500:]}")


def _generate(folder: Path, request: dict[str, Any], out: IO[str]) -> None:
    """What the process does: a line on `out` for each game, those that lie there already included."""
    known: set[str] = set()
    for index in range(request["n"]):
        name = f"{index:04d}"
        for draw in range(_DRAWS):
            game = _one(folder, name, request, draw)
            if game and game.sha256 not in known:
                break
        else:
            raise DataError(f"{_DRAWS} draws made no game {name} of these settings: {request['settings']}")
        known.add(game.sha256)
        out.write(game.model_dump_json() + "\n")
        out.flush()


def _one(folder: Path, name: str, request: dict[str, Any], draw: int) -> Game | None:
    """One game on disk; None where the package cannot make one of this draw's seed, or its own walkthrough does not win it."""
    note = folder / f"{name}.{draw}.made"
    if note.is_file():
        return Game.model_validate_json(note.read_text(encoding="utf-8"))
    import textworld
    from textworld.challenges.tw_cooking import cooking
    from textworld.generator import compile_game
    from textworld.generator.game import GameOptions

    seed = int(digest([REVISION, request["split"], request["seed"], request["settings"], name, draw])[:8], 16) >> 1
    options = GameOptions()
    options.seeds, options.file_ext, options.path = seed, ".z8", str(folder / f"{name}.z8")
    options.force_recompile = True
    settings = {"drop": False, "recipe_seed": 0, **request["settings"], "split": SPLITS[request["split"]]}
    try:
        made = cooking.make(settings, options)
    except (ValueError, AssertionError):  # no way to prepare an ingredient that the draw has, or no place for a thing
        return None
    compile_game(made, options)
    (folder / f"{name}.ni").unlink(missing_ok=True)
    infos = textworld.EnvInfos(won=True)
    env = textworld.start(options.path, infos)
    start = env.reset().feedback
    walkthrough = tuple(made.metadata["walkthrough"])
    won = any(env.step(command)[0].won for command in walkthrough)
    env.close()
    if not won:
        return None
    game = Game(
        name=name,
        sha256=hashlib.sha256((folder / f"{name}.json").read_bytes()).hexdigest(),
        start=start.rpartition("\n-= ")[2].partition(" =-")[0].lower(),
        ingredients=tuple(made.metadata["ingredients"]),
        walkthrough=walkthrough,
    )
    note.write_text(game.model_dump_json(), encoding="utf-8")
    return game


def kind_of(game: Game) -> str:
    """What a recipe asks for, for example "dice+roast": never told to an agent in advance."""
    verbs = {"chopped": "chop", "sliced": "slice", "diced": "dice", "fried": "fry", "roasted": "roast", "grilled": "grill"}
    ways = Counter(verbs[way] for _, *both in game.ingredients for way in both if way in verbs)
    return "+".join(sorted(ways)) or "as it is"


if __name__ == "__main__":
    _generate(Path(sys.argv[1]), json.load(sys.stdin), sys.stdout)
