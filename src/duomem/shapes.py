"""The shapes of base models: how many parameters they have, and what they take in memory, without loading them.

In: a folder or a hub name. Out: a `Shape`, from the folder's config.json, from the hub's cache, or from the table of well-known
bases below (their published configs), else None. It never asks the hub.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duomem import weights
from duomem.errors import UsageError


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder with gated feed-forward layers, as Llama, Qwen and Gemma have."""

    hidden: int
    layers: int
    inner: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int
    tied: bool = True

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of the linear layers of one block, by their usual names."""
        q, kv = self.heads * self.head, self.kv_heads * self.head
        attention = {"q_proj": (self.hidden, q), "k_proj": (self.hidden, kv), "v_proj": (self.hidden, kv)}
        gated = {"gate_proj": (self.hidden, self.inner), "up_proj": (self.hidden, self.inner)}
        return attention | {"o_proj": (q, self.hidden)} | gated | {"down_proj": (self.inner, self.hidden)}

    @property
    def blocks(self) -> int:
        """Parameters of the linear layers of all blocks."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linears.values())

    @property
    def embeddings(self) -> int:
        """Parameters of embeddings and output."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """All but the norms, which are under a thousandth."""
        return self.blocks + self.embeddings

    @property
    def cached(self) -> int:
        """Numbers that one token takes in the key-value cache."""
        return 2 * self.layers * self.kv_heads * self.head

    def adapter(self, rank: int, targets: Sequence[str] = ()) -> int:
        """Trained parameters of a LoRA adapter: rank x (inputs + outputs) of every layer it is on (Hu et al. 2021)."""
        chosen = [size for name, size in self.linears.items() if not targets or name in targets]
        return self.layers * rank * sum(inputs + outputs for inputs, outputs in chosen)


KNOWN = {
    "Qwen/Qwen2.5-3B-Instruct": Shape(2048, 36, 11008, 16, 2, 128, 151936),
    "Qwen/Qwen2.5-7B-Instruct": Shape(3584, 28, 18944, 28, 4, 128, 152064, tied=False),
    "Qwen/Qwen2.5-14B-Instruct": Shape(5120, 48, 13824, 40, 8, 128, 152064, tied=False),
    "Qwen/Qwen2.5-32B-Instruct": Shape(5120, 64, 27648, 40, 8, 128, 152064, tied=False),
    "Qwen/Qwen2.5-72B-Instruct": Shape(8192, 80, 29568, 64, 8, 128, 152064, tied=False),
    "Qwen/Qwen3-0.6B": Shape(1024, 28, 3072, 16, 8, 128, 151936),
    "Qwen/Qwen3-1.7B": Shape(2048, 28, 6144, 16, 8, 128, 151936),
    "Qwen/Qwen3-4B": Shape(2560, 36, 9728, 32, 8, 128, 151936),
    "Qwen/Qwen3-8B": Shape(4096, 36, 12288, 32, 8, 128, 151936, tied=False),
    "Qwen/Qwen3-14B": Shape(5120, 40, 17408, 40, 8, 128, 151936, tied=False),
    "Qwen/Qwen3-32B": Shape(5120, 64, 25600, 64, 8, 128, 151936, tied=False),
    "google/gemma-2-2b-it": Shape(2304, 26, 9216, 8, 4, 256, 256000),
    "google/gemma-2-9b-it": Shape(3584, 42, 14336, 16, 8, 256, 256000),
    "google/gemma-2-27b-it": Shape(4608, 46, 36864, 32, 16, 128, 256000),
    "google/gemma-3-1b-it": Shape(1152, 26, 6912, 4, 1, 256, 262144),
    "google/gemma-3-4b-it": Shape(2560, 34, 10240, 8, 4, 256, 262208),
    "google/gemma-3-12b-it": Shape(3840, 48, 15360, 16, 8, 256, 262208),
    "google/gemma-3-27b-it": Shape(5376, 62, 21504, 32, 16, 128, 262208),
}
"""From the config.json that each publishes; text parts alone."""


def shape_of(name: str) -> Shape | None:
    """The shape of a base; None for one that is not here and not known. Raises `UsageError` for a folder that is not there."""
    place = weights.resolve(name)
    config = Path(place) / "config.json"
    if config.is_file():
        return _read(config)
    if place in KNOWN:
        return KNOWN[place]
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    found = try_to_load_from_cache(place, "config.json")
    return _read(Path(found)) if isinstance(found, str) else None


def is_here(name: str) -> bool:
    """Whether a base's weights are on this machine."""
    if Path(weights.resolve(name)).is_dir():
        return True
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return False
    return isinstance(try_to_load_from_cache(weights.resolve(name), "config.json"), str)


def _read(path: Path) -> Shape | None:
    try:
        whole: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    config = whole.get("text_config", whole)
    try:
        hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        return Shape(
            hidden,
            int(config["num_hidden_layers"]),
            int(config["intermediate_size"]),
            heads,
            int(config.get("num_key_value_heads") or heads),
            int(config.get("head_dim") or hidden // heads),
            int(config["vocab_size"]),
            bool(config.get("tie_word_embeddings", whole.get("tie_word_embeddings", False))),
        )
    except KeyError:
        return None
