"""Exact nearest neighbours over int8 vectors, the same on every machine.

In: unit float32 vectors. Out: their int8 codes, cosines between codes, the k best rows. A code's inner product with another is
a whole number below 2^24, which float32 sums hold exactly in any order; so scores and ties don't depend on the machine, the
number of threads or the library that adds them up. Not here: texts and files.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.int8]
Floats = NDArray[np.float64]

MAX_DIM = 1024
"""127^2 * 1024 < 2^24: up to here every partial sum of an inner product is exact in float32 (Cauchy-Schwarz)."""


def quantise(vectors: NDArray[np.float32]) -> Codes:
    """int8 codes [n, dim] of vectors [n, dim]: each row scaled so that its largest entry is 127, then rounded."""
    if vectors.shape[1] > MAX_DIM:
        raise ValueError(f"vectors have {vectors.shape[1]} dimensions; exact search holds up to {MAX_DIM}")
    largest = np.abs(vectors).max(axis=1, keepdims=True).astype(np.float64)
    return np.rint(vectors * (127.0 / np.where(largest > 0, largest, 1.0))).astype(np.int8)


class Index:
    """A matrix of codes, searched in full. Immutable and thread-safe."""

    def __init__(self, codes: Codes) -> None:
        self._rows = codes.astype(np.float32)
        self._squares = np.einsum("ij,ij->i", self._rows, self._rows).astype(np.float64)

    def cosines(self, query: Codes) -> Floats:
        """Cosine of a code [dim] with every row. einsum, not BLAS: as exact, and it never starts threads."""
        vector = query.astype(np.float32)
        dots = np.einsum("ij,j->i", self._rows, vector).astype(np.float64)
        cosines: Floats = dots / np.sqrt(np.maximum(self._squares * float(vector @ vector), 1.0))
        return cosines


def best(scores: Floats, k: int) -> NDArray[Any]:
    """Indices of the k highest scores, best first; equal scores in index order. Exact also where ties straddle place k."""
    if k <= 0 or not len(scores):
        return np.empty(0, dtype=np.intp)
    if k < len(scores):
        threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
        candidates = np.flatnonzero(scores >= threshold)
    else:
        candidates = np.arange(len(scores))
    return candidates[np.argsort(-scores[candidates], kind="stable")][:k]
