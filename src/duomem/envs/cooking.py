"""TextWorld's cooking games: read the recipe, gather the ingredients, prepare them, eat. Played by the real engine.

In: a data root with `tw-cooking/SPLIT/`, as `write_games` makes it (the generator of `tw-make tw-cooking`). Out: tasks sorted
by id and single-use episodes in one text tool. Splits have ingredients and ways to prepare them that the others do not have.
Not here: the step cap and the time-out; only `labels` tells what a recipe asks for before it is read.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from duomem.envs import ACT
from duomem.envs import _cooking_games as games
from duomem.errors import DataError, MissingExtra, UsageError
from duomem.types import Labels, Observation, Task, Tool, ToolCall

GOAL = (
    "You are hungry! Let's cook a delicious meal. Check the cookbook in the kitchen for the recipe. Once done, enjoy your meal!"
)
"""What every game asks for, in the game's words: the recipe itself is in the cookbook."""
_STATUS = re.compile(r">\s+-= [^\n]* =-\s*-?\d+/\d+\s*$")
"""The status line that the interpreter prints behind the prompt."""
_END = re.compile(r"\s*Would you like to RESTART.*", re.DOTALL)


class Config(BaseModel):
    """`[env]` with `name = "cooking"`. All but `data_root` decide which games a `[games]` table writes."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    data_root: str | None = None
    """Folder that holds `tw-cooking/`; none: the games that the run's [games] table writes."""
    recipe: int = Field(default=1, ge=1, le=5)
    """Ingredients of a recipe."""
    take: int = Field(default=1, ge=0, le=5)
    """How many of them have to be found; the others are carried from the start."""
    go: int = Field(default=1)
    """Rooms of the house: 1, 6, 9 or 12."""
    open: bool = True
    """Doors, fridge and the like are closed at first."""
    cook: bool = True
    """Ingredients have to be fried, roasted or (with a barbecue, from 9 rooms on) grilled."""
    cut: bool = True
    """Ingredients have to be chopped, sliced or diced."""

    @property
    def settings(self) -> dict[str, int | bool]:
        return self.model_dump(exclude={"data_root"})


def build(config: Config) -> CookingEnv:
    """The environment. Raises `MissingExtra` without textworld, `UsageError` for settings that no game has."""
    _check(config)
    return CookingEnv(config)


def write_games(
    config: Config, out: Path, split: str, n: int, seed: int, *, progress: Callable[[int, int], None] | None = None
) -> None:
    """Write `n` games of a split (train, dev, test) below `out`: about 1.5 s and 0.6 MB each. See `build` for errors."""
    _check(config)
    games.write(out, split, n, seed, config.settings, progress)


def _check(config: Config) -> None:
    if find_spec("textworld") is None:
        raise MissingExtra("textworld", "alfworld")
    if config.go not in (1, 6, 9, 12):
        raise UsageError(f"env.go = {config.go}: cooking games have 1, 6, 9 or 12 rooms.")
    if config.take > config.recipe:
        raise UsageError(f"env.take = {config.take} is more than the {config.recipe} ingredients of env.recipe.")


class CookingEnv:
    """Cooking games of one data root; see the contract in `duomem.envs`."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._splits: dict[str, dict[str, games.Game]] = {}

    def tasks(self, split: str) -> Sequence[Task]:
        found = self._split(split)
        return [Task(f"{split}/{name}", split, "cooking", found[name].sha256) for name in sorted(found)]

    def open(self, task: Task) -> CookingEpisode:
        game = self._game(task)
        path = self._base / task.split / f"{game.name}.z8"
        try:
            sha256 = hashlib.sha256(path.with_suffix(".json").read_bytes()).hexdigest()
        except OSError as error:
            raise DataError(f"{path.with_suffix('.json')}: {error.strerror}. Write the games again.") from error
        if sha256 != game.sha256 or task.data_hash not in ("", sha256):
            raise DataError(f"{path.with_suffix('.json')} has changed since it was written. Write the games again.")
        if not path.is_file():
            raise DataError(f"{path} is not there. Write the games again.")
        return CookingEpisode(path, self._lock)

    def labels(self, task: Task) -> Labels:
        game = self._game(task)
        return Labels(games.kind_of(game), game.start, ", ".join(name for name, *_ in game.ingredients), "meal")

    def provenance(self) -> dict[str, str]:
        said = {"env": "cooking", "textworld": metadata.version("textworld")}
        for split, found in sorted(self._splits.items()):
            request = games.read(self._base / split).request
            said[f"{split}.games"] = str(len(found))
            said[f"{split}.settings"] = json.dumps(request["settings"], sort_keys=True)
            said[f"{split}.data_hash"] = hashlib.sha256("".join(game.sha256 for game in found.values()).encode()).hexdigest()
        return said

    @property
    def _base(self) -> Path:
        if not self._config.data_root:
            raise UsageError(
                "No cooking games: neither env.data_root nor a [games] table. Make some with: "
                "duomem games OUT --env cooking --split train"
            )
        return Path(self._config.data_root).expanduser() / games.FOLDER

    def _split(self, split: str) -> dict[str, games.Game]:
        if split not in self._splits:
            folder = self._base / split
            if split not in games.SPLITS or not folder.is_dir():
                there = [name for name in sorted(games.SPLITS) if (self._base / name).is_dir()]
                raise UsageError(f"There is no split {split!r} in {self._base}. There are: {', '.join(there) or 'none'}.")
            self._splits[split] = {game.name: game for game in games.read(folder).games}
        return self._splits[split]

    def _game(self, task: Task) -> games.Game:
        game = self._split(task.split).get(task.id.removeprefix(f"{task.split}/"))
        if game is None:
            raise UsageError(f"There is no task {task.id!r} under {self._base}.")
        return game


class CookingEpisode:
    """One play of one game; see `duomem.envs.Episode`. A command counts as valid if it was one of the engine's admissible
    commands or changed the world (`take carrot` for `take carrot from fridge`)."""

    def __init__(self, path: Path, lock: threading.Lock) -> None:
        import textworld

        self._state = "new"
        infos = textworld.EnvInfos(won=True, lost=True, admissible_commands=True, last_action=True)
        with lock:  # the interpreter is a C library that is copied for each game
            self._env: Any = textworld.start(str(path), infos)
            self._game = self._env.reset()

    def observe(self) -> Observation:
        if self._state != "new":
            raise RuntimeError(f"observe() comes once, before the first step; this episode is {self._state}")
        self._state = "running"
        return Observation(_plain(self._game.feedback.rpartition(GOAL)[2]), goal=GOAL)

    def step(self, call: ToolCall) -> Observation:
        if self._state not in ("new", "running"):
            raise RuntimeError(f"step() on an episode that is {self._state}")
        before, self._state = self._game, "running"
        command = " ".join(call.command.split()) if call.name == ACT.name else ""
        if not command:
            return Observation("I beg your pardon?", valid=False)  # the interpreter's own words for an empty line
        self._game, _, done = self._env.step(command)
        valid = command in before["admissible_commands"] or self._game["_last_action"] is not before["_last_action"]
        if done:
            self._state = "done"
        return Observation(_plain(self._game.feedback), done=bool(done), won=bool(self._game["won"]), valid=valid)

    def tools(self) -> Sequence[Tool]:
        return (ACT,)

    def close(self) -> None:
        if self._state != "closed":
            self._state = "closed"
            self._env.close()


def _plain(text: str) -> str:
    """The game's words without status line, question at the end, indents and empty lines."""
    lines = _END.sub("", _STATUS.sub("", text)).splitlines()
    return "\n".join(line for line in (" ".join(line.split()) for line in lines) if line)
