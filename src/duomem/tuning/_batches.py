"""Encoded episodes to batches of a few fixed shapes, and the order in which a run sees them.

In: token ids with loss weights per episode. Out: a plan (which episodes make up each step) that depends on the data and a seed
only, and tensors for a step. Padding stands behind a sequence, where a causal model cannot see it, so no mask is needed.
Not here: models, optimizers.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from duomem.chat import Encoded

if TYPE_CHECKING:
    import torch

BUCKETS = 12
"""Padded lengths at most. Each new tensor shape makes oneDNN build its kernels again: free shapes ran six times slower."""
_GRAIN = 16
"""Padded lengths are multiples of it."""


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step: rows of one padded length."""

    rows: tuple[int, ...]
    length: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Tensors of a step. `keep` [rows, length] marks the positions whose next token is learned; `labels` and `weights` [kept]
    are those tokens and their loss weights, in the order in which `keep` selects them."""

    ids: torch.Tensor
    keep: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"ids": self.ids, "keep": self.keep, "labels": self.labels, "weights": self.weights}


def bucket_lengths(lengths: Sequence[int], buckets: int = BUCKETS) -> list[int]:
    """Padded lengths that hold equal shares of the sequences; the last holds the longest."""
    ordered = sorted(lengths)
    edges = {ordered[max(0, round(len(ordered) * share / buckets) - 1)] for share in range(1, buckets + 1)}
    return sorted({-(-edge // _GRAIN) * _GRAIN for edge in edges})


def plan(lengths: Sequence[int], *, tokens: int, epochs: int, max_steps: int | None, seed: int) -> list[Step]:
    """Steps of about `tokens` padded tokens (one sequence at least), each epoch in a new order, cut at `max_steps`."""
    edges = bucket_lengths(lengths)
    steps: list[Step] = []
    for epoch in range(epochs):
        shuffle = random.Random(f"{seed} {epoch}")
        order = list(range(len(lengths)))
        shuffle.shuffle(order)
        now = [
            Step(tuple(rows[start : start + size]), edge)
            for edge, rows in _by_edge(order, lengths, edges).items()
            for size in (max(1, tokens // edge),)
            for start in range(0, len(rows), size)
        ]
        shuffle.shuffle(now)
        steps.extend(now)
        if max_steps and len(steps) >= max_steps:
            return steps[:max_steps]
    return steps


def _by_edge(order: Sequence[int], lengths: Sequence[int], edges: Sequence[int]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {edge: [] for edge in edges}
    for row in order:
        found[next(edge for edge in edges if edge >= lengths[row])].append(row)
    return found


def batch(data: Sequence[Encoded], step: Step) -> Batch:
    """The tensors of a step."""
    import torch

    ids = torch.zeros((len(step.rows), step.length), dtype=torch.long)
    weights = torch.zeros((len(step.rows), step.length))
    for place, row in enumerate(step.rows):
        encoded = data[row]
        ids[place, : len(encoded.ids)] = torch.tensor(encoded.ids)
        weights[place, : len(encoded.weights)] = torch.tensor(encoded.weights)
    # Position t says what token t + 1 should be.
    ahead = torch.zeros_like(weights)
    ahead[:, :-1] = weights[:, 1:]
    keep = ahead > 0
    labels = torch.zeros_like(ids)
    labels[:, :-1] = ids[:, 1:]
    return Batch(ids, keep, labels[keep], ahead[keep])
