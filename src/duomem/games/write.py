"""Writes games to disk in ALFWorld's own layout: the work behind `duomem games`.

In: a folder, a split, a number, a seed. Out: `OUT/json_2.1.1/SPLIT/GOAL-ROOM/TRIAL/{game.tw-pddl,traj_data.json}` and a
manifest `games.json` in the split's folder, byte for byte the same for the same arguments. Interrupted writing continues where
it stopped; a folder that holds anything else is refused, never overwritten.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from duomem import __version__
from duomem.errors import DataError, InfraError, UsageError
from duomem.games import package
from duomem.games.replay import wins
from duomem.games.rooms import rooms_of
from duomem.games.sample import PROPORTIONS, sample_game
from duomem.games.solver import solve
from duomem.games.spec import KINDS, GameSpec
from duomem.games.tables import tables

FORMAT = 1
"""Version of the manifest."""

REPLAY_TRAIN = 20
"""Of the training games every 20th is replayed in the engine, the first among them; of all other splits every game."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class GamesReport:
    """What was written. `data_hash` is sha256 over all game files in order; `replayed` games were won in the real engine."""

    folder: Path
    split: str
    games: int
    seed: int
    by_kind: dict[str, int]
    rooms: tuple[int, ...]
    replayed: int
    kept: int
    data_hash: str
    mean_steps: float


def write_games(out: Path, split: str, n: int, seed: int, *, progress: Progress | None = None) -> GamesReport:
    """Writes `n` games of a split below `out`; calls `progress(done, n)` after each.

    Task types are mixed as in the official valid_seen games (`PROPORTIONS`), each of the six present when n >= 6. A game
    depends on split, seed, type and index only. Every game has a shortest plan by the exact solver as its `walkthrough`; for
    evaluation splits all plans, for train every 20th, are replayed in the engine.

    Raises UsageError for an unknown split, a bad `n` or seed or an `out` that holds other things, InfraError if the disk
    refuses, DataError if the engine does not win a plan, MissingExtra without alfworld.
    """
    rooms_of(split)
    if n <= 0:
        raise UsageError(f"the number of games is {n}: give 1 or more")
    if seed < 0:
        raise UsageError(f"the seed is {seed}: give 0 or more")
    folder = out / "json_2.1.1" / split
    request = _request(split, n, seed)
    try:
        kept_before = _prepare(folder, request)
        rows, kept = _write_all(folder, split, n, seed, progress)
        manifest = request | _summary(rows)
        _write(folder / "games.json", _manifest_text(manifest | {"complete": True, "games": rows}))
    except OSError as error:
        raise InfraError(
            f"cannot write games to {folder}: {error}. Free the space or the rights and run it again: it continues."
        ) from error
    return GamesReport(
        folder=folder,
        split=split,
        games=n,
        seed=seed,
        by_kind=manifest["by_kind"],
        rooms=tuple(manifest["rooms"]),
        replayed=manifest["replayed"],
        kept=kept if kept_before else 0,
        data_hash=manifest["data_hash"],
        mean_steps=manifest["mean_steps"],
    )


def kinds_of(n: int) -> tuple[str, ...]:
    """The task types of `n` games: largest remainder on `PROPORTIONS`, each present when n >= 6, spread evenly."""
    total = sum(PROPORTIONS.values())
    exact = {kind: n * share / total for kind, share in PROPORTIONS.items()}
    counts = {kind: max(int(value), int(n >= len(KINDS))) for kind, value in exact.items()}
    while sum(counts.values()) > n:
        counts[max(counts, key=lambda kind: (counts[kind] - exact[kind], kind))] -= 1
    while sum(counts.values()) < n:
        counts[max(counts, key=lambda kind: (exact[kind] - counts[kind], kind))] += 1
    slots = [((index + 0.5) / count, kind) for kind, count in counts.items() for index in range(count)]
    return tuple(kind for _, kind in sorted(slots))


def game_texts(game: GameSpec) -> tuple[str, str]:
    """The two files of a game: game.tw-pddl, with the shortest plan as walkthrough, and traj_data.json."""
    plan = solve(game)
    if not plan:
        raise DataError(f"game {game.folder}/{game.trial} cannot be solved, or is solved from the start")
    body = {
        "pddl_domain": package.text("alfred.pddl"),
        "grammar": game.grammar(package.text("alfred.twl2")),
        "pddl_problem": game.pddl(),
        "solvable": True,
        "walkthrough": list(plan),
    }
    return json.dumps(body), json.dumps(game.traj_data(), indent=2, sort_keys=True) + "\n"


def sequence(split: str, n: int, seed: int) -> Iterator[GameSpec]:
    """The games that `write_games` writes, in its order."""
    used: set[str] = set()
    for index, kind in enumerate(kinds_of(n)):
        rng = random.Random(f"{split} {seed} {index}")
        game = sample_game(rng, split, kind)
        while game.trial in used:
            game = sample_game(rng, split, kind)
        used.add(game.trial)
        yield game


def _write_all(folder: Path, split: str, n: int, seed: int, progress: Progress | None) -> tuple[list[dict[str, Any]], int]:
    rows: list[dict[str, Any]] = []
    kept = 0
    for index, game in enumerate(sequence(split, n, seed)):
        text, about = game_texts(game)
        place = folder / game.folder / game.trial
        there = _same(place / "game.tw-pddl", text) and _same(place / "traj_data.json", about)
        kept += there
        replayed = split != "train" or index % REPLAY_TRAIN == 0
        if not there:
            place.mkdir(parents=True, exist_ok=True)
            _write(place / "traj_data.json", about)
            draft = place / "game.tw-pddl.part"
            draft.write_text(text, encoding="utf-8")
            if replayed and not wins(draft, json.loads(text)["walkthrough"]):
                raise DataError(f"the engine does not win {game.folder}/{game.trial} by its plan: report this as a bug")
            os.replace(draft, place / "game.tw-pddl")
        rows.append(_row(game, text, about, replayed))
        if progress is not None:
            progress(index + 1, n)
    return rows, kept


def _row(game: GameSpec, text: str, about: str, replayed: bool) -> dict[str, Any]:
    return {
        "path": f"{game.folder}/{game.trial}",
        "kind": game.goal.kind,
        "room": game.scene,
        "steps": len(json.loads(text)["walkthrough"]),
        "replayed": replayed,
        "sha256": hashlib.sha256(text.encode() + about.encode()).hexdigest(),
    }


def _request(split: str, n: int, seed: int) -> dict[str, Any]:
    """What the games depend on: the arguments, the versions, the tables."""
    table_hash = hashlib.sha256(json.dumps(tables(), sort_keys=True).encode()).hexdigest()
    versions = {"duomem": __version__, "alfworld": _version("alfworld")}
    return {"format": FORMAT, "split": split, "n": n, "seed": seed, "versions": versions, "tables": table_hash}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    counts = Counter(row["kind"] for row in rows)
    return {
        "by_kind": {kind: counts[kind] for kind in KINDS},
        "rooms": sorted({row["room"] for row in rows}),
        "replayed": sum(row["replayed"] for row in rows),
        "mean_steps": round(sum(row["steps"] for row in rows) / len(rows), 3),
        "data_hash": hashlib.sha256("".join(row["sha256"] for row in rows).encode()).hexdigest(),
    }


def _prepare(folder: Path, request: dict[str, Any]) -> bool:
    """Makes the folder, or checks that what lies there is the same request's; True if something was there."""
    if folder.parent.exists() and not folder.parent.is_dir():
        raise UsageError(f"{folder.parent} is a file: give a folder for the games")
    manifest = folder / "games.json"
    if folder.is_dir() and any(folder.iterdir()):
        found = _read_manifest(manifest)
        different = sorted(key for key, value in request.items() if found.get(key) != value)
        if different:
            was = ", ".join(f"{key} {found.get(key, 'missing')!r} instead of {request[key]!r}" for key in different)
            raise UsageError(f"{folder} holds other games ({was}). Choose another folder or remove it first.")
        return True
    folder.mkdir(parents=True, exist_ok=True)
    _write(manifest, _manifest_text(request | {"complete": False}))
    return False


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UsageError(
            f"{path.parent} is not empty and was not written by duomem games (no games.json): choose another folder"
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} is no manifest of games ({error}): choose another folder or remove this one") from error
    return found if isinstance(found, dict) else {}


def _manifest_text(manifest: dict[str, Any]) -> str:
    return json.dumps(manifest, indent=1, sort_keys=True) + "\n"


def _same(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode()


def _write(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    draft = path.with_name(path.name + ".part")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)


def as_json(report: GamesReport) -> dict[str, Any]:
    """The report as plain values for `--json`."""
    return asdict(report) | {"folder": str(report.folder), "rooms": list(report.rooms)}
