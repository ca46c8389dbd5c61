"""Key-value slots: many conversations of different lengths in one forward pass, with no padding.

In: new tokens of several rows, packed into one sequence. Out: logits of each row's last tokens. Each row attends to its own
slot of a preallocated cache [slots, heads, context, dim] per layer, so rows join and leave between forwards and keep what they
computed. It knows token ids and slots only: no text, no sampling, no threads.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface
from transformers.cache_utils import Cache, DynamicLayer

from duomem.errors import UsageError

ATTENTION = "duomem_slots"
_now = threading.local()


@dataclass(frozen=True, slots=True)
class Row:
    """`tokens` go to positions start, start + 1, ... of a slot; the logits after the last `keep` of them are wanted."""

    slot: int
    start: int
    tokens: Sequence[int]
    keep: int = 1


class SlotCache(Cache):
    """Keys and values of all slots. `update` stores what is new; reading is `attend`'s."""

    def __init__(self, layers: int, slots: int, context: int) -> None:
        super().__init__(layers=[DynamicLayer() for _ in range(layers)])  # type: ignore[no-untyped-call]
        self.shape = (slots, context)
        self.keys: list[torch.Tensor | None] = [None] * layers
        self.values: list[torch.Tensor | None] = [None] * layers
        self.rows: Sequence[Row] = ()
        self._where: tuple[torch.Tensor, torch.Tensor] | None = None

    def plan(self, rows: Sequence[Row], positions: torch.Tensor) -> None:
        """What the next forward holds. `positions` [tokens] are the packed tokens' places in their slots."""
        self.rows = rows
        slots = torch.tensor([row.slot for row in rows for _ in row.tokens], device=positions.device)
        self._where = (slots, positions)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.keys[layer_idx] is None:
            # Memory of the CPU is taken page by page as it is written, so an unused slot costs nothing there.
            slots, context = self.shape
            self.keys[layer_idx] = key_states.new_empty((slots, key_states.shape[1], context, key_states.shape[3]))
            self.values[layer_idx] = value_states.new_empty((slots, value_states.shape[1], context, value_states.shape[3]))
        keys, values, where = self.keys[layer_idx], self.values[layer_idx], self._where
        assert keys is not None
        assert values is not None
        assert where is not None
        slot, position = where
        keys[slot, :, position] = key_states[0].transpose(0, 1)
        values[slot, :, position] = value_states[0].transpose(0, 1)
        return key_states, value_states

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of a slot: another conversation starts the same way."""
        for stored in (*self.keys, *self.values):
            if stored is not None:
                stored[target, :, :length] = stored[source, :, :length]


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of each packed row to its slot. query [1, heads, tokens, dim] -> [1, tokens, heads, dim]."""
    cache: SlotCache = _now.cache
    keys, values = cache.keys[module.layer_idx], cache.values[module.layer_idx]
    assert keys is not None
    assert values is not None
    parts, at = [], 0
    for row in cache.rows:
        new = len(row.tokens)
        end = row.start + new
        first = max(0, row.start - sliding_window + 1) if sliding_window else 0
        part = _row(
            query[:, :, at : at + new],
            keys[row.slot : row.slot + 1, :, first:end],
            values[row.slot : row.slot + 1, :, first:end],
            scaling,
            sliding_window,
        )
        parts.append(part)
        at += new
    return torch.cat(parts, dim=2).transpose(1, 2), None


def _row(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None, window: int | None
) -> torch.Tensor:
    """One row: its newest tokens [1, heads, new, dim] over all its keys [1, kv_heads, length, dim]."""
    heads, new, length, groups = query.shape[1], query.shape[2], key.shape[2], key.shape[1]
    if new == 1:
        # Query heads that share a key head become its queries: nothing is repeated and nothing masked.
        shared = query.reshape(1, groups, heads // groups, -1)
        return F.scaled_dot_product_attention(shared, key, value, scale=scaling).reshape(1, heads, 1, -1)
    if heads != groups:
        key = key.repeat_interleave(heads // groups, dim=1)
        value = value.repeat_interleave(heads // groups, dim=1)
    if new == length and (window is None or length <= window):
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
    behind = torch.arange(length - new, length, device=query.device)[:, None] - torch.arange(length, device=query.device)
    seen = behind >= 0 if window is None else (behind >= 0) & (behind < window)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scaling)


class Network:
    """A model with its slots. One thread at a time."""

    def __init__(self, model: Any, slots: int, context: int) -> None:
        config = model.config.get_text_config()
        if reasons := reasons_against(model):
            raise UsageError(f"Slots cannot hold {type(model).__name__}: {'; '.join(reasons)}.")
        AttentionInterface.register(ATTENTION, attend)
        model.set_attn_implementation(ATTENTION)
        self.model = model.eval()
        self.device = next(model.parameters()).device
        self.cache = SlotCache(config.num_hidden_layers, slots, context)

    def forward(self, rows: Sequence[Row]) -> torch.Tensor:
        """Logits [sum of keep, vocabulary], float32, on the CPU, of each row's last tokens. Call it in inference mode."""
        ids = torch.tensor([[token for row in rows for token in row.tokens]], device=self.device)
        places = [place for row in rows for place in range(row.start, row.start + len(row.tokens))]
        positions = torch.tensor(places, device=self.device)
        last: list[int] = []
        at = 0
        for row in rows:
            at += len(row.tokens)
            last.extend(range(at - row.keep, at))
        self.cache.plan(rows, positions)
        _now.cache = self.cache
        logits: torch.Tensor = self.model(
            input_ids=ids,
            position_ids=positions[None],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=torch.tensor(last, device=self.device),
        ).logits
        return logits[0].float().cpu()


def reasons_against(model: Any) -> list[str]:
    """Why slots cannot hold a model exactly: some layer is no plain or sliding softmax attention through the interface."""
    config = model.config.get_text_config()
    odd = set(getattr(config, "layer_types", None) or []) - {"full_attention", "sliding_attention"}
    reasons = [f"layers of type {kind}" for kind in sorted(odd)]
    if not getattr(model, "_supports_attention_backend", False):
        reasons.append("no attention interface")
    if getattr(config, "attn_logit_softcapping", None):
        reasons.append("soft-capped attention")
    if getattr(config, "num_kv_shared_layers", None):
        reasons.append("layers that share a cache")
    return reasons
