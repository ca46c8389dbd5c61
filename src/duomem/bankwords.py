"""BM25 over the keys of a bank, by the library bm25s, and its fusion with cosines.

In: key texts and a query. Out: scores from 0 to 1, a pure function of both. Fusion is the convex combination 0.5 dense + 0.5
BM25 of A-MEM (Xu et al. 2025), BM25 over the highest value observed as Bruch et al. 2023 ("An Analysis of Fusion Functions for
Hybrid Retrieval") advise, who find it ahead of reciprocal ranks. Not here: cosines, floors and what is shown.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from duomem.embed import words
from duomem.errors import MissingExtra
from duomem.vectors import Floats

Retrieval = Literal["dense", "bm25", "hybrid"]

SHARE = 0.5
"""What the cosine counts in the hybrid; BM25 counts the rest (A-MEM's alpha)."""
K1, B = 1.5, 0.75
"""BM25's saturation and length normalisation: the library's defaults (Robertson and Zaragoza 2009 give 1.2-2 and 0.75)."""


def require(retrieval: Retrieval) -> None:
    """Raises `MissingExtra` where the library that a retrieval needs is not there."""
    if retrieval != "dense" and importlib.util.find_spec("bm25s") is None:
        raise MissingExtra(f'bm25s (memory.retrieval = "{retrieval}")', "bm25")


class Words:
    """An index of key texts. Immutable and thread-safe."""

    def __init__(self, keys: Sequence[str]) -> None:
        require("bm25")
        import bm25s

        self._size = len(keys)
        self._index: Any = bm25s.BM25(k1=K1, b=B, method="lucene")
        self._index.index([words(key) for key in keys], show_progress=False)
        self._known = frozenset(self._index.vocab_dict)

    def scores(self, query: str) -> Floats:
        """BM25 of every key over that of the best one, in the keys' order; all 0 where no word of the query is known."""
        asked = [word for word in words(query) if word in self._known]
        if not asked:
            return np.zeros(self._size)
        found: Floats = np.asarray(self._index.get_scores(asked), dtype=np.float64)
        highest = found.max()
        return np.round(found / highest, 6) if highest > 0 else np.zeros(self._size)


def fused(cosines: Floats, scores: Floats) -> Floats:
    """The hybrid score of every key. Rounded, so that no order hangs on how a machine adds up."""
    result: Floats = np.round(SHARE * cosines + (1.0 - SHARE) * scores, 6)
    return result
