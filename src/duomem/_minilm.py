"""all-MiniLM-L6-v2 in numpy: BERT's forward over one text, mean of the last hidden states.

In: a folder with model.safetensors (float32 or float16) and tokenizer.json. Out: a text's vector of 384 numbers, not yet at
length 1. No torch, no batches: a text alone gives the same sums every time. Not here: caching, other models.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duomem.errors import DataError, MissingExtra

Array = NDArray[np.float32]
LONGEST = 256
"""Tokens that the model was trained on; a longer text is cut, as its model card says."""
FILES = ("model.safetensors", "tokenizer.json", "config.json")
"""What a folder of the embedder needs to hold."""


class Bert:
    """The model's weights, and its forward. Raises `MissingExtra`, and `DataError` for files that cannot be used."""

    def __init__(self, folder: Path) -> None:
        try:
            from safetensors.numpy import load_file
            from tokenizers import Tokenizer
        except ImportError as error:
            raise MissingExtra(f"{error.name} (embedder minilm)", "device") from error
        for name in FILES:
            if not (folder / name).is_file():
                raise DataError(f"{folder} holds no {name} (embedder minilm).")
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self._tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(LONGEST)
        self._weights: dict[str, Array] = {
            name: np.ascontiguousarray(tensor, dtype=np.float32)
            for name, tensor in load_file(folder / "model.safetensors").items()
        }
        self._layers, self._heads = int(config["num_hidden_layers"]), int(config["num_attention_heads"])
        self._tiny = np.float32(config["layer_norm_eps"])

    def __call__(self, text: str) -> Array:
        """The mean of the last hidden states [hidden], over all tokens with the two marks."""
        ids = self._tokenizer.encode(text).ids
        weights = self._weights
        where = "embeddings"
        hidden = (
            weights[f"{where}.word_embeddings.weight"][ids]
            + weights[f"{where}.position_embeddings.weight"][: len(ids)]
            + weights[f"{where}.token_type_embeddings.weight"][0]
        )
        hidden = self._norm(hidden, f"{where}.LayerNorm")
        for layer in range(self._layers):
            where = f"encoder.layer.{layer}"
            mixed = self._linear(self._attention(hidden, f"{where}.attention.self"), f"{where}.attention.output.dense")
            hidden = self._norm(mixed + hidden, f"{where}.attention.output.LayerNorm")
            inner = _gelu(self._linear(hidden, f"{where}.intermediate.dense"))
            hidden = self._norm(self._linear(inner, f"{where}.output.dense") + hidden, f"{where}.output.LayerNorm")
        mean: Array = hidden.mean(axis=0)
        return mean

    def _linear(self, hidden: Array, name: str) -> Array:
        out: Array = hidden @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]
        return out

    def _attention(self, hidden: Array, name: str) -> Array:
        """[tokens, hidden] from queries, keys and values, [heads, tokens, size] each."""
        tokens, width = hidden.shape
        query, key, value = (
            self._linear(hidden, f"{name}.{part}").reshape(tokens, self._heads, -1).swapaxes(0, 1)
            for part in ("query", "key", "value")
        )
        scores = query @ key.swapaxes(1, 2) / np.float32((width / self._heads) ** 0.5)
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        joined: Array = (shares @ value).swapaxes(0, 1).reshape(tokens, width)
        return joined

    def _norm(self, hidden: Array, name: str) -> Array:
        centred = hidden - hidden.mean(axis=-1, keepdims=True)
        spread = np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + self._tiny)
        out: Array = centred / spread * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]
        return out


def _gelu(values: Array) -> Array:
    """x times the normal distribution's share below x, exactly."""
    from scipy.special import erf

    out: Array = values * (np.float32(0.5) * (np.float32(1) + erf(values * np.float32(0.5**0.5))))
    return out


def shrink(source: Path, target: Path) -> None:
    """Copy the embedder into a folder with its matrices as float16: half the size, cosines within 0.0001."""
    from safetensors.numpy import load_file, save_file

    target.mkdir(parents=True, exist_ok=True)
    tensors = load_file(source / "model.safetensors")
    kept = {name: tensor.astype(np.float16) for name, tensor in tensors.items() if tensor.dtype.kind == "f"}
    save_file(kept, target / "model.safetensors")
    for name in FILES[1:]:
        (target / name).write_bytes((source / name).read_bytes())
