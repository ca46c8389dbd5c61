"""What the installed `alfworld` package ships: layouts, compatibility, goal templates, PDDL domain and grammar.

In: nothing but the package on disk, found without importing it (its imports pull in the engine). Out: cached plain values.
Two of its data modules are run by path; both hold only tables.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np

from duomem.errors import DataError, MissingExtra


@dataclass(frozen=True, slots=True)
class ObjectTypes:
    """Type names declared in every problem, and for each unary fact the object types that it holds of."""

    objects: tuple[str, ...]
    receptacles: tuple[str, ...]
    facts: tuple[tuple[str, frozenset[str]], ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """A room as shipped: object and receptacle type names, poses (x, z in metres, rotation, horizon) from which each
    placed receptacle can be used, and the floor points (metres) an agent can stand on."""

    types: tuple[str, ...]
    poses: dict[str, tuple[float, float, int, int]]
    floor: tuple[tuple[float, float], ...]


FIXED = frozenset(
    {
        "Bathtub",
        "Blinds",
        "Chair",
        "Curtains",
        "DeskLamp",
        "FloorLamp",
        "HousePlant",
        "LaundryHamperLid",
        "LightSwitch",
        "Mirror",
        "Painting",
        "Poster",
        "ShowerDoor",
        "ShowerGlass",
        "Sink",
        "StoveKnob",
        "Television",
        "Window",
    }
)
"""Object types that cannot be picked up: the simulator's flag, as seen in the 140 official valid_seen games."""


@cache
def root() -> Path:
    """Folder of the installed package; MissingExtra where there is none."""
    found = importlib.util.find_spec("alfworld")
    if found is None or not found.submodule_search_locations:
        raise MissingExtra("alfworld", "alfworld")
    return Path(found.submodule_search_locations[0])


@cache
def _module(name: str) -> ModuleType:
    path = root() / "gen" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"_duomem_alfworld_{name}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise DataError(f"{path} is missing: reinstall alfworld 0.4.2")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def compatibility() -> dict[str, frozenset[str]]:
    """Receptacle type -> object types that it can hold."""
    return {place: frozenset(items) for place, items in _module("constants").VAL_RECEPTACLE_OBJECTS.items()}


@cache
def openable_types() -> frozenset[str]:
    return frozenset(_module("constants").OPENABLE_CLASS_SET)


@cache
def object_types() -> ObjectTypes:
    """Declarations and unary facts, by the rules that ALFRED's own problem writer follows."""
    constants = _module("constants")
    movable = frozenset(constants.MOVABLE_RECEPTACLES)
    receptacles = frozenset(constants.RECEPTACLES) - movable
    objects = frozenset(constants.OBJECTS_SET) - receptacles
    action = {name: frozenset(types) for name, types in constants.VAL_ACTION_OBJECTS.items()}
    facts = (
        ("pickupable", objects - FIXED),
        ("isReceptacleObject", movable),
        ("cleanable", action["Cleanable"]),
        ("heatable", action["Heatable"]),
        ("coolable", action["Coolable"]),
        ("toggleable", action["Toggleable"]),
        ("sliceable", action["Sliceable"]),
    )
    return ObjectTypes(tuple(sorted(objects)), tuple(sorted(receptacles)), facts)


@cache
def able(fact: str) -> frozenset[str]:
    """Object types of a unary fact, e.g. `heatable`."""
    return dict(object_types().facts)[fact]


def templates(kind: str) -> list[str]:
    """The package's task sentences for a task type (two of each)."""
    return list(_module("goal_library").gdict[kind]["templates"])


@cache
def goal_pddl(kind: str) -> str:
    return str(_module("goal_library").gdict[kind]["pddl"])


@cache
def text(name: str) -> str:
    """A file of the package's data folder: `alfred.pddl` (domain) or `alfred.twl2` (grammar)."""
    path = root() / "data" / name
    if not path.is_file():
        raise DataError(f"{path} is missing: reinstall alfworld 0.4.2")
    return path.read_text(encoding="utf-8")


@cache
def layout(room: int) -> Layout:
    """A room's layout files."""
    folder = root() / "gen" / "layouts"
    try:
        types = json.loads((folder / f"FloorPlan{room}-objects.json").read_text())
        poses = json.loads((folder / f"FloorPlan{room}-openable.json").read_text())
        floor = np.load(folder / f"FloorPlan{room}-layout.npy", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the layout of room {room} in {folder}: {error}; reinstall alfworld 0.4.2") from error
    placed = {name: (float(x), float(z), int(turn), int(tilt)) for name, (x, z, turn, tilt) in poses.items()}
    return Layout(tuple(types), placed, tuple((float(x), float(z)) for x, z in floor))
