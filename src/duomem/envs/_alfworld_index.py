"""The catalogue of one split folder of ALFWorld games: each game is read once, later openings only look at folders' times.

In: a folder in the official layout, at any depth. Out: its playable games in sorted order with hash and labels, and why others
were left out (the stock environment's rules, counted). The index lies in the user's cache folder; where that cannot be written
there is none, and nothing else changes. Not here: the text of a game (`open` reads it and checks its hash).
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import time_ns
from typing import Any, NamedTuple

from duomem.errors import DataError
from duomem.types import Labels

VERSION = 2
FEW = 1000
"""In a split of at most so many games the folders of games are looked at as well (a millisecond or two); in a larger one only
when its first game is opened."""
GAME, TRAJECTORY = "game.tw-pddl", "traj_data.json"
KINDS = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)
OLD_TEMPLATE = "put {o} in/on {r}"
"""How the grammar of ALFWorld releases before 0.4.0 words the command that is `move X to Y` today."""

_REPAIR = "Fetch it again with alfworld-download or make it again with duomem games, or remove its folder."
Stamp = tuple[int, int]
"""Size in bytes and time of change in nanoseconds."""


def cache_folder() -> Path:
    """`$DUOMEM_CACHE`, else `$XDG_CACHE_HOME/duomem`, else `~/.cache/duomem`."""
    own, shared = os.environ.get("DUOMEM_CACHE"), os.environ.get("XDG_CACHE_HOME")
    return Path(own) if own else (Path(shared) if shared else Path.home() / ".cache") / "duomem"


class Row(NamedTuple):
    """One game: its folder in the split folder, the stamps of its two files, its labels; `skipped` is "" for a playable one."""

    path: str
    size: int
    time: int
    sha: str
    skipped: str
    old: bool
    labels: tuple[str, str, str, str]
    label_size: int
    label_time: int


@dataclass(slots=True)
class Catalogue:
    """The games of a split folder. `games` maps each playable game's folder to the hash of its game file, sorted.

    `watched` are the folders whose own change can add or remove a game: with more than `FEW` games all but the leaves that hold
    one. `old` are the games with the words of older releases, `skipped` counts what was left out, by reason.
    """

    folder: str
    games: dict[str, str]
    old: list[str]
    skipped: dict[str, int]
    watched: list[str]
    watched_times: list[int]
    stored: bytes
    """The rows as compressed JSON: read only when somebody asks for them."""
    _rows: dict[str, Row] | None = None

    @property
    def rows(self) -> dict[str, Row]:
        if self._rows is None:
            self._rows = {
                row[0]: Row._make([*row[:6], tuple(row[6]), *row[7:]]) for row in json.loads(zlib.decompress(self.stored))
            }
        return self._rows

    def file(self, game: str) -> Path:
        return Path(self.folder, game, GAME)

    def folders_current(self) -> bool:
        """True if no watched folder has gained or lost anything: the list of games stands."""
        base, stat = self.folder + os.sep, os.stat
        try:
            for path, time in zip(self.watched, self.watched_times, strict=True):
                if stat(base + path).st_mtime_ns != time:
                    return False
        except OSError:
            return False
        return True

    def games_current(self) -> bool:
        """True if no game file has changed since it was read: the hashes stand."""
        try:
            return all(_stamp(self.file(row.path)) == (row.size, row.time) for row in self.rows.values())
        except DataError:
            return False

    def labels(self, game: str) -> Labels:
        """A game's labels, from its `traj_data.json` where that has changed."""
        row, path = self.rows[game], self.file(game).with_name(TRAJECTORY)
        return Labels(*(row.labels if _stamp(path) == (row.label_size, row.label_time) else _read_labels(path)))


def open_catalogue(folder: Path, check_games: bool = False) -> Catalogue:
    """The catalogue of a split folder, from the cached index if no folder has changed. Raises `DataError` for a broken file.

    A game file that was edited in place shows only with `check_games`, which looks at each of them.
    """
    name = os.path.realpath(folder)
    cached = cache_folder() / "alfworld" / f"{hashlib.sha256(name.encode()).hexdigest()[:20]}.json"
    known = _load(cached, name)
    if known is None or not known.folders_current() or (check_games and not known.games_current()):
        known = _scan(name, known)
        _save(cached, known)
    return known


def _load(path: Path, folder: str) -> Catalogue | None:
    """The stored catalogue; None if there is none, or it is not ours.

    The first line is what every opening needs, long columns as one string each; the rest is the rows. Both for speed.
    """
    try:
        head, _, rows = path.read_bytes().partition(b"\n")
        data = json.loads(head)
        games = dict(zip(data["paths"].split("\n"), data["hashes"].split("\n"), strict=True)) if data["paths"] else {}
        watched = data["watched"].split("\n")
        ours = (VERSION, folder, len(data["watched_times"]), zlib.crc32(rows))
        if (data["version"], data["folder"], len(watched), data["check"]) != ours:
            return None
        return Catalogue(folder, games, data["old"], data["skipped"], watched, data["watched_times"], rows)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _save(path: Path, found: Catalogue) -> None:
    """Writes the index in one piece, or not at all where the cache cannot be written: it saves time, nothing else."""
    data = {
        "version": VERSION,
        "folder": found.folder,
        "paths": "\n".join(found.games),
        "hashes": "\n".join(found.games.values()),
        "old": found.old,
        "skipped": found.skipped,
        "watched": "\n".join(found.watched),
        "watched_times": found.watched_times,
        "check": zlib.crc32(found.stored),
    }
    if any("\n" in name for name in (*found.games, *found.watched)):
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    except OSError:
        return
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(json.dumps(data).encode() + b"\n" + found.stored)
        os.replace(temporary, path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)


def _scan(folder: str, before: Catalogue | None) -> Catalogue:
    """Walks the folder; games whose files have not changed since `before` are not read again."""
    known = before.rows if before else {}
    rows: list[Row] = []
    skipped: Counter[str] = Counter()
    watched: list[tuple[str, int, bool]] = []
    for path, time, files, is_leaf in sorted(_walk(folder, "")):
        reason = _pass_by(path, files)
        holds_game = reason is None and GAME in files
        if holds_game:
            rows.append(_row(folder, path, known.get(path)))
        elif reason:
            skipped[reason] += 1
        watched.append((path, time, holds_game and is_leaf))
    if len(rows) > FEW:
        watched = [folder for folder in watched if not folder[2]]
    playable = [row for row in rows if not row.skipped]
    skipped.update(row.skipped for row in rows if row.skipped)
    return Catalogue(
        folder,
        games={row.path: row.sha for row in playable},
        old=[row.path for row in playable if row.old],
        skipped=dict(sorted(skipped.items())),
        watched=[path for path, _, _ in watched],
        watched_times=[time for _, time, _ in watched],
        stored=zlib.compress(json.dumps(rows, separators=(",", ":")).encode(), 1),
    )


def _walk(folder: str, path: str) -> Iterator[tuple[str, int, frozenset[str], bool]]:
    """Each folder's relative path, time of change, the game files in it, and whether it has no folders in it."""
    here = os.path.join(folder, path) if path else folder
    time = _settled(os.stat(here).st_mtime_ns)
    try:
        with os.scandir(here) as entries:
            listed = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    except OSError as error:
        raise DataError(f"{here} cannot be read: {error.strerror}.") from error
    inner = [name for name, is_folder in listed if is_folder]
    yield path, time, frozenset(name for name, _ in listed if name in (GAME, TRAJECTORY)), not inner
    for name in inner:
        yield from _walk(folder, os.path.join(path, name) if path else name)


def _pass_by(path: str, files: frozenset[str]) -> str | None:
    """Why a folder is left out unread: the stock environment's rules. None if it is read, or holds nothing."""
    if not files:
        return None
    if TRAJECTORY not in files:
        return f"no {TRAJECTORY}"
    if "movable" in path or "Sliced" in path:
        return "movable receptacle or sliced object"
    return None if GAME in files else f"no {GAME}"


def _row(folder: str, path: str, known: Row | None) -> Row:
    """A game's row: the known one if neither of its files has changed, else read anew."""
    game = Path(folder, path, GAME)
    trajectory = game.with_name(TRAJECTORY)
    stamps = (*_stamp(game), *_stamp(trajectory))
    if known is not None and stamps == (known.size, known.time, known.label_size, known.label_time):
        return known
    labels = _read_labels(trajectory)
    data, sha = read_game_file(game)
    skipped = "" if data.get("solvable") else "unsolvable" if "solvable" in data else "no solvable key"
    skipped = skipped if labels[0] in KINDS else "unknown task type"
    return Row(path, stamps[0], stamps[1], sha, skipped, OLD_TEMPLATE in data["grammar"], labels, stamps[2], stamps[3])


def read_game_file(path: Path) -> tuple[dict[str, Any], str]:
    """The JSON of a game file and the sha256 of its bytes. Raises `DataError`, naming the file, for anything else."""
    data, raw = _read_json(path)
    for key in ("pddl_domain", "pddl_problem", "grammar"):
        if not isinstance(data.get(key), str):
            raise DataError(f"{path}: the game has no text under {key!r}. {_REPAIR}")
    return data, hashlib.sha256(raw).hexdigest()


def _read_labels(path: Path) -> tuple[str, str, str, str]:
    """Task type, room, object, target."""
    data, _ = _read_json(path)
    try:
        goal = data["pddl_params"]
        target = goal["parent_target"] or goal["toggle_target"]
        return str(data["task_type"]), str(data["scene"]["scene_num"]), str(goal["object_target"]), str(target)
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: {error} is missing or of the wrong form. {_REPAIR}") from error


def _read_json(path: Path) -> tuple[dict[str, Any], bytes]:
    try:
        raw = path.read_bytes()
        data = json.loads(raw)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. {_REPAIR}") from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}). {_REPAIR}") from error
    if not isinstance(data, dict):
        raise DataError(f"{path} is not a JSON object. {_REPAIR}")
    return data, raw


def _stamp(path: Path) -> Stamp:
    try:
        now = os.stat(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. {_REPAIR}") from error
    return now.st_size, _settled(now.st_mtime_ns)


def _settled(changed: int) -> int:
    """A time of change to remember: 0 for one so recent that the clock's tick could hide another change after it."""
    return changed if abs(time_ns() - changed) > 50_000_000 else 0
