"""Which rooms belong to which split, and the hash that keeps training goals apart from valid_seen goals.

In: a split name, a room number, a goal. Out: tuples of room numbers, a yes or no. Rooms decide the splits, as in ALFWorld;
valid_seen shares its rooms with train. Nothing here reads a file.
"""

from __future__ import annotations

import hashlib
from typing import Literal, get_args

from duomem.errors import UsageError

RoomKind = Literal["kitchen", "living", "bedroom", "bathroom"]
ROOM_KINDS: tuple[RoomKind, ...] = get_args(RoomKind)

_ALL = tuple(base + n for base in (0, 200, 300, 400) for n in range(1, 31))
_DEV = (5, 14, 23, 207, 216, 228, 304, 313, 326, 403, 414, 427)
_VALID_UNSEEN = (10, 219, 308, 424)
_SECOND_UNSEEN = (9, 29, 215, 226, 315, 325, 404, 425)
_TRAIN = tuple(room for room in _ALL if room not in {*_DEV, *_VALID_UNSEEN, *_SECOND_UNSEEN})

ROOMS: dict[str, tuple[int, ...]] = {
    "train": _TRAIN,
    "dev": _DEV,
    "valid_seen": _TRAIN,
    "valid_unseen": _VALID_UNSEEN,
    "second_unseen": _SECOND_UNSEEN,
}
"""Rooms of each split. valid_unseen's are ALFWorld's own; second_unseen's are nowhere in its training and validation games."""


def rooms_of(split: str) -> tuple[int, ...]:
    """The rooms of a split; UsageError with the known names for any other."""
    if split not in ROOMS:
        raise UsageError(f"unknown split {split!r}: it is one of {', '.join(ROOMS)}")
    return ROOMS[split]


def room_kind(room: int) -> RoomKind:
    """What kind of room a number is: 1-30 kitchens, 201-230 living rooms, 301-330 bedrooms, 401-430 bathrooms."""
    return {0: "kitchen", 2: "living", 3: "bedroom", 4: "bathroom"}[room // 100]  # type: ignore[return-value]


def is_valid_seen(room: int, goal: str) -> bool:
    """True for the tenth of (room, goal) pairs that belong to valid_seen; the rest are train's."""
    return int(hashlib.sha256(f"{room}:{goal}".encode()).hexdigest(), 16) % 10 == 0


def goal_allowed(split: str, room: int, goal: str) -> bool:
    """Whether a goal in a room may occur in a split."""
    if split == "train":
        return not is_valid_seen(room, goal)
    return split != "valid_seen" or is_valid_seen(room, goal)
