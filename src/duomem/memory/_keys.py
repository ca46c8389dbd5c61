"""What a memory is found by: the goal, the goal and the scene, or facts that are read from the goal.

In: the words of a task. Out: the text that a bank embeds, or facts by name and their mean similarity (MemP's keys). Rules read
the facts from the form of an English instruction (`embed.roles`), on both sides the same, because recall has no model and must
be a pure function of the words; MemP has a language model extract them. Not here: searching.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np

from duomem.embed import Lexical, Vectors, roles
from duomem.types import Hit

Key = Literal["goal", "goal+scene", "facts", "average", "random"]

_NAMES = {"lead": "action", "quantity": "count", "modifier": "state", "head": "object", "later": "place"}
"""A fact's name by the role of its words in an instruction."""


def key_of(key: Key, goal: str, scene: str) -> str:
    """The text that a memory of this goal is embedded under and searched with. A goal without facts stands for itself."""
    goal = goal.strip()
    if key in ("facts", "average"):
        return "; ".join(f"{name}: {value}" for name, value in facts(goal).items()) or goal
    return f"{goal}\n{scene.strip()}" if key == "goal+scene" and scene.strip() else goal


def facts(goal: str) -> dict[str, str]:
    """The key facts of an instruction, in a fixed order: {"state": "clean", "object": "plate", "place": "cabinet"}."""
    found: dict[str, list[str]] = {}
    for word, role in roles(goal):
        if role in _NAMES:
            found.setdefault(_NAMES[role], []).append(word)
    return {name: " ".join(found[name]) for name in _NAMES.values() if name in found}


def read_facts(key: str) -> dict[str, str]:
    """Facts from the text that `key_of` made of them; empty for any other text."""
    pairs = [part.partition(": ") for part in key.split("; ")]
    return {name: value for name, colon, value in pairs if colon and name in _NAMES.values()}


def by_mean_fact(hits: Sequence[Hit], query: str, floor: float) -> list[Hit]:
    """The hits anew, best first, by the mean cosine over facts that both have (MemP's average-fact); none below `floor`."""
    asked = read_facts(query)
    found = [Hit(hit.memory, _mean(asked, read_facts(hit.memory.key))) for hit in hits]
    return sorted((hit for hit in found if hit.score >= floor), key=lambda hit: (-hit.score, hit.memory.id))


def _mean(asked: dict[str, str], known: dict[str, str]) -> float:
    """0 where no fact is on both sides: nothing says that the two are alike."""
    cosines = [_cosine(asked[name], known[name]) for name in asked if name in known]
    return sum(cosines) / len(cosines) if cosines else 0.0


@lru_cache(maxsize=100_000)
def _cosine(one: str, other: str) -> float:
    """Rounded, so that no order hangs on how a machine adds up."""
    return round(float(_vector(one).astype(np.float64) @ _vector(other).astype(np.float64)), 6)


@lru_cache(maxsize=20_000)
def _vector(text: str) -> Vectors:
    vector: Vectors = Lexical().embed([text])[0]
    return vector


def cosine_of(squared_l2: float) -> float:
    """The cosine of two unit vectors at a squared Euclidean distance: MemP's cut-offs are given as such (0.5 is 0.75)."""
    return 1.0 - squared_l2 / 2.0
