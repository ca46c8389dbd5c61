"""Any causal language model, one row after another: for those whose attention the slots cannot hold exactly.

In: rows of new tokens, as `_slots.Network` takes them. Out: the same logits, by the model's own forward and its own cache;
where that cannot be cut back to a shorter prefix, the row is computed from its start. Right for every architecture, and slower.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import DynamicCache

from duomem.models._slots import Row


class Whole:
    """A model with one cache per slot. One thread at a time. `cuts`: its caches can be cut to a prefix."""

    def __init__(self, model: Any, slots: int, context: int) -> None:
        config = model.config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or [])
        self._cuts = kinds <= {"full_attention", "sliding_attention"} and not getattr(model, "_is_stateful", False)
        self.model = model.eval()
        self.device = next(model.parameters()).device
        self.shape = (slots, context)
        self.cache = self  # the scheduler copies prefixes through it
        self._tokens: list[list[int]] = [[] for _ in range(slots)]
        self._caches: list[Any] = [None] * slots

    def forward(self, rows: Sequence[Row]) -> torch.Tensor:
        """Logits [sum of keep, vocabulary], float32, on the CPU, of each row's last tokens. Call it in inference mode."""
        return torch.cat([self._row(row) for row in rows])

    def _row(self, row: Row) -> torch.Tensor:
        tokens = self._tokens[row.slot] = [*self._tokens[row.slot][: row.start], *row.tokens]
        cache = self._cut(self._caches[row.slot], row.start)
        new = tokens[row.start :] if cache is not None else tokens
        if cache is None and self._cuts:
            cache = DynamicCache()
        said = self.model(input_ids=torch.tensor([new], device=self.device), past_key_values=cache, use_cache=True)
        self._caches[row.slot] = getattr(said, "past_key_values", None)
        logits: torch.Tensor = said.logits[0, -row.keep :].float().cpu()
        return logits

    def _cut(self, cache: Any, length: int) -> Any:
        """The cache with exactly `length` positions; none where there is no such thing."""
        if cache is None or not length or not hasattr(cache, "get_seq_length"):
            return None
        held = int(cache.get_seq_length())
        if held > length and self._cuts:
            cache.crop(length - held)
            held = length
        return cache if held == length else None

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Another conversation starts with the first `length` tokens of a slot."""
        self._tokens[target] = self._tokens[source][:length]
        self._caches[target] = self._cut(copy.deepcopy(self._caches[source]), length) if self._cuts else None
