"""The count tables that games are sampled from, as shipped beside this file (made by `duomem.games.measure`).

In: `tables.json`. Out: plain dicts, cached, and a weighted choice. Nothing in it is about a single room or game.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from itertools import accumulate
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@cache
def tables() -> dict[str, Any]:
    """All tables; their meaning is documented at the functions of `duomem.games.measure` that make them."""
    loaded: dict[str, Any] = json.loads(files("duomem.games").joinpath("tables.json").read_text(encoding="utf-8"))
    return loaded


class Draw(Generic[T]):
    """A fixed weighted choice; about half a microsecond a draw."""

    __slots__ = ("cumulative", "values")

    def __init__(self, weights: Mapping[T, float]) -> None:
        kept = {value: weight for value, weight in weights.items() if weight > 0}
        self.values: tuple[T, ...] = tuple(kept)
        self.cumulative: tuple[float, ...] = tuple(accumulate(kept.values()))

    def __bool__(self) -> bool:
        return bool(self.values)

    def __call__(self, rng: random.Random) -> T:
        if len(self.values) == 1:
            return self.values[0]
        return rng.choices(self.values, cum_weights=self.cumulative)[0]
