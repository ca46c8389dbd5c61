"""ALFWorld: household tasks in text, played by the real engine on any root in the official layout.

In: a data root (`json_2.1.1/SPLIT/**/game.tw-pddl` with `traj_data.json`), official, rebuilt or generated. Out: tasks sorted by
id and single-use episodes. Not here: the step cap and the time-out (the agent loop's); only `labels` tells a task's type.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from duomem.envs import ACT
from duomem.envs._alfworld_engine import NOTHING, Engine, GameText, Session
from duomem.envs._alfworld_index import OLD_TEMPLATE, Catalogue, open_catalogue, read_game_file
from duomem.envs._world import COMMANDS as COMMANDS
from duomem.errors import DataError, MissingExtra, UsageError
from duomem.games.rooms import ROOMS
from duomem.types import Labels, Observation, Task, Tool, ToolCall, digest

OFFICIAL = {"train": 3553, "valid_seen": 140, "valid_unseen": 134}
"""Games of the official splits (Shridhar et al., 2021)."""
_INTRO = re.compile(r"(?:-= .*? =-\s*)?(?P<scene>.*?)\s*Your task is to: (?P<goal>.*)", re.DOTALL)
_NEW_WORDS = {
    f'"{OLD_TEMPLATE}"': '"move {o} to {r}"',
    "You put the {o.name} in/on the {r.name}.": "You move the {o.name} to the {r.name}.",
    "You arrive at {lend.name}.": "You arrive at {r.name}.",
    "put (object) in/on (receptacle):": "move (object) to (receptacle):",
}
"""Older releases' words -> those of alfworld 0.4.0 and later, inside a grammar."""


class Config(BaseModel):
    """`[env]` with `name = "alfworld"`."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    data_root: str | None = None
    """Folder that holds `json_2.1.1/` (or is it). Default: `$ALFWORLD_DATA`."""
    splits: dict[str, str] = {}
    """Further splits: name -> folder, absolute or relative to `json_2.1.1`."""
    official: bool = False
    """Hold the official counts: train 3553, valid_seen 140, valid_unseen 134; another count is an error."""
    dev_from_train: bool = False
    """Take the games of the dev rooms out of `train` and offer them as `dev`, where the root has no `dev` folder."""
    admissible: bool = False
    """Tell the admissible commands with each observation. They nearly solve the task; reported."""
    legacy_verbs: bool = False
    """Also play games of releases before 0.4.0 (`put X in/on Y`), in the present words (`move X to Y`). Reported."""


def build(config: Config) -> AlfworldEnv:
    """The environment. Raises `MissingExtra` without the alfworld packages, `UsageError` without a data root."""
    return AlfworldEnv(config)


class AlfworldEnv:
    """ALFWorld games of one data root. Thread-safe; pickles as its config, so it can be sent to worker processes."""

    def __init__(self, config: Config) -> None:
        for library in ("alfworld", "textworld", "fast_downward"):
            if find_spec(library) is None:
                raise MissingExtra(library, "alfworld")
        self.config = config
        self._base = _find_base(config)
        self._folders = {entry.name: Path(entry) for entry in os.scandir(self._base) if entry.is_dir()}
        self._folders |= {split: self._base / folder for split, folder in config.splits.items()}
        self._carves = config.dev_from_train and "train" in self._folders and "dev" not in self._folders
        if self._carves:
            self._folders["dev"] = self._folders["train"]
        self._engine = Engine()
        self._lock = threading.RLock()
        self._catalogues: dict[Path, Catalogue] = {}
        self._looked_at: set[Path] = set()
        self._opened: set[str] = set()
        self._tasks: dict[str, tuple[Task, ...]] = {}

    def __reduce__(self) -> tuple[Callable[[Config], AlfworldEnv], tuple[Config]]:
        return build, (self.config,)

    @property
    def splits(self) -> list[str]:
        """The splits that the root and the config offer."""
        return sorted(self._folders)

    @property
    def skipped(self) -> dict[str, dict[str, int]]:
        """For each split opened so far: how many games were left out, by reason."""
        with self._lock:
            return {split: self._catalogue(split).skipped for split in sorted(self._opened)}

    def tasks(self, split: str) -> Sequence[Task]:
        with self._lock:
            if split not in self._tasks:
                catalogue = self._catalogue(split)
                self._check(split, catalogue)
                games: Iterable[str] = catalogue.games
                if self._carves and split in ("train", "dev"):
                    games = (game for game in games if (int(catalogue.labels(game).room) in ROOMS["dev"]) is (split == "dev"))
                sha = catalogue.games
                self._tasks[split] = tuple([Task(f"{split}/{game}", split, "alfworld", sha[game]) for game in games])
                self._opened.add(split)
            return self._tasks[split]

    def open(self, task: Task) -> AlfworldEpisode:
        catalogue, game = self._find(task)
        path = catalogue.file(game)
        expected = catalogue.games[game]
        if task.data_hash not in ("", expected):
            raise DataError(f"{path} has changed since {task.id!r} was listed. List the tasks again, or bring it back.")

        def read() -> GameText:
            data, sha = read_game_file(path)
            if sha != expected:
                raise DataError(f"{path} has changed since its split was opened. Open the environment again.")
            grammar = _present_words(data["grammar"]) if self.config.legacy_verbs else data["grammar"]
            return GameText(data["pddl_domain"], data["pddl_problem"], grammar)

        return AlfworldEpisode(self._engine.open(expected, str(path), read), self.config.admissible)

    def labels(self, task: Task) -> Labels:
        catalogue, game = self._find(task)
        return catalogue.labels(game)

    def provenance(self) -> dict[str, str]:
        """Versions, switches, and for each split opened: games found beside the official count, hash, games left out."""
        said = {name: metadata.version(name) for name in ("alfworld", "textworld")} | {"env": "alfworld"}
        for switch in ("official", "dev_from_train", "admissible", "legacy_verbs"):
            said[switch] = str(getattr(self.config, switch)).lower()
        with self._lock:
            opened = [(split, self.tasks(split)) for split in sorted(self._opened) if self._checked(split)]
        for split, tasks in opened:
            official = OFFICIAL.get(split)
            said[f"{split}.games"] = f"{len(tasks)}" + (f" (official: {official})" if official else "")
            said[f"{split}.data_hash"] = _hash(tasks)
            said[f"{split}.skipped"] = ", ".join(f"{n} {why}" for why, n in self.skipped[split].items()) or "0"
            said[f"{split}.old_grammar"] = str(len(self._catalogue(split).old))
        return said | {"data_hash": digest([_hash(tasks) for _, tasks in opened])}

    def _find(self, task: Task) -> tuple[Catalogue, str]:
        catalogue = self._checked(task.split)
        game = task.id.removeprefix(f"{task.split}/")
        if game not in catalogue.games:
            raise UsageError(
                f"There is no task {task.id!r} under {self._base}. Put its files back, or remove its folder and run again."
            )
        return catalogue, game

    def _catalogue(self, split: str) -> Catalogue:
        folder = self._folders.get(split)
        if folder is None:
            raise UsageError(f"There is no split {split!r} in {self._base}. There are: {', '.join(self.splits) or 'none'}.")
        if not folder.is_dir():
            raise UsageError(f"The folder of split {split!r} is not there: {folder}.")
        with self._lock:
            if folder not in self._catalogues:
                self._catalogues[folder] = open_catalogue(folder)
            return self._catalogues[folder]

    def _checked(self, split: str) -> Catalogue:
        """The catalogue, once each game file was looked at: nothing is played or recorded under the hash of other bytes."""
        with self._lock:
            catalogue = self._catalogue(split)
            folder = self._folders[split]
            if folder not in self._looked_at:
                self._looked_at.add(folder)
                if not catalogue.games_current():
                    catalogue = self._catalogues[folder] = open_catalogue(folder, check_games=True)
                    self._tasks = {name: tasks for name, tasks in self._tasks.items() if self._folders[name] != folder}
            return catalogue

    def _check(self, split: str, catalogue: Catalogue) -> None:
        skipped = ", ".join(f"{n} {why}" for why, n in catalogue.skipped.items()) or "none"
        found = f"{catalogue.folder} holds {len(catalogue.games)} playable games (left out: {skipped})"
        if not catalogue.games:
            raise DataError(f"{found}. Get games with alfworld-download, or make some with duomem games.")
        if self.config.official and len(catalogue.games) != OFFICIAL.get(split, len(catalogue.games)):
            raise DataError(
                f"{found}; the official {split} has {OFFICIAL[split]}. Get it with alfworld-download, or unset official."
            )
        old = catalogue.old
        if old and not self.config.legacy_verbs:
            raise DataError(
                f"{catalogue.file(old[0])} (and {len(old) - 1} more) is from a release before alfworld 0.4.0: its verb is "
                "'put X in/on Y'. Set env.legacy_verbs = true to play it in the present words, or get newer games."
            )


class AlfworldEpisode:
    """One play of one game; see `duomem.envs.Episode`."""

    def __init__(self, session: Session, admissible: bool) -> None:
        self._session = session
        self._admissible = admissible
        self._state = "new"

    def observe(self) -> Observation:
        if self._state != "new":
            raise RuntimeError(f"observe() comes once, before the first step; this episode is {self._state}")
        self._state = "running"
        match = _INTRO.fullmatch(self._session.world.intro)
        if match is None:
            raise DataError(f"{self._session.world.name}: the first text does not say 'Your task is to: ...'.")
        return self._observation(match["scene"], goal=match["goal"].strip())

    def step(self, call: ToolCall) -> Observation:
        if self._state not in ("new", "running"):
            raise RuntimeError(f"step() on an episode that is {self._state}")
        self._state = "running"
        feedback = self._session.step(_command(call))
        observation = self._observation(feedback, valid=feedback != NOTHING)
        if observation.done:
            self._state = "done"
        return observation

    def tools(self) -> Sequence[Tool]:
        return (ACT,)

    def close(self) -> None:
        self._state = "closed"
        self._session.close()

    def _observation(self, text: str, goal: str = "", valid: bool = True) -> Observation:
        won = self._session.won
        admissible = tuple(self._session.admissible()) if self._admissible else None
        return Observation(text, goal=goal, done=won, won=won, valid=valid, admissible=admissible)


def _command(call: ToolCall) -> str:
    """The command of a call; empty, which does nothing, for another tool or arguments that are no JSON object."""
    try:
        return call.command if call.name == ACT.name else ""
    except (ValueError, AttributeError):
        return ""


def _find_base(config: Config) -> Path:
    root = config.data_root or os.environ.get("ALFWORLD_DATA")
    if not root:
        raise UsageError(
            "No ALFWorld games: neither env.data_root nor $ALFWORLD_DATA is set. Get the official games with alfworld's own "
            "alfworld-download, or make some with: duomem games OUT --split train"
        )
    folder = Path(root).expanduser()
    inner = folder / "json_2.1.1"
    base = inner if inner.is_dir() else folder
    if not base.is_dir():
        raise UsageError(
            f"The data root {folder} is not a folder (from {'env.data_root' if config.data_root else '$ALFWORLD_DATA'})."
        )
    return base


def _present_words(grammar: str) -> str:
    for old, new in _NEW_WORDS.items():
        grammar = grammar.replace(old, new)
    return grammar


def _hash(tasks: Sequence[Task]) -> str:
    return hashlib.sha256("".join(f"{task.id} {task.data_hash}\n" for task in tasks).encode()).hexdigest()
