"""What a GGUF file says of an architecture: its sizes, and llama.cpp's names and forms of its tensors.

In: a config.json of transformers (Llama, Mistral, Qwen3, Gemma 3 text models) and tensors by their names there. Out: keys of a
GGUF writer, tensors as llama.cpp reads them. What the engine would compute otherwise is refused, by name. Not here: files.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from duomem.errors import DataError
from duomem.models._gguf_quants import Weights, gguf

ENGINE = {"llama": "llama", "mistral": "llama", "qwen3": "qwen3", "gemma3_text": "gemma3"}
"""llama.cpp's architecture of a `model_type`."""
WAY_OUT = "Convert it with llama.cpp's convert_hf_to_gguf.py and name the file: --set student.gguf=FILE"

_LAYER = re.compile(r"^(?:base_model\.model\.)?model\.layers\.(\d+)\.(.+)$")
_IN_LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_GEMMA = _IN_LAYER | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
OUTPUTS = ("token_embd.weight", "output.weight")
_GEMMA_PERIOD = 6
"""Every sixth layer of Gemma 3 sees all, the others a window."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """A config that can be written. `name` is llama.cpp's word for the family."""

    name: str
    config: dict[str, Any]
    folder: Path

    @classmethod
    def of(cls, config: dict[str, Any], folder: Path) -> Architecture:
        """Raises `DataError` for what llama.cpp, fed by this writer, would not compute as transformers does."""
        kind = str(config.get("model_type"))
        if kind not in ENGINE:
            raise DataError(
                f"{folder}/config.json: architecture {kind!r} cannot be written as GGUF here "
                f"({', '.join(sorted(ENGINE))} can). {WAY_OUT}"
            )
        made = cls(ENGINE[kind], config, folder)
        if reason := made._reason_against():
            raise DataError(f"{folder}/config.json: {reason} cannot be written as GGUF here. {WAY_OUT}")
        return made

    @property
    def heads(self) -> int:
        return int(self.config["num_attention_heads"])

    @property
    def kv_heads(self) -> int:
        return int(self.config.get("num_key_value_heads") or self.heads)

    @property
    def head(self) -> int:
        return int(self.config.get("head_dim") or self.config["hidden_size"] // self.heads)

    @property
    def tied(self) -> bool:
        return bool(self.config.get("tie_word_embeddings"))

    def describe(self, writer: Any) -> None:
        """Write the sizes."""
        config = self.config
        writer.add_name(self.folder.name)
        writer.add_vocab_size(int(config["vocab_size"]))
        writer.add_context_length(int(config["max_position_embeddings"]))
        writer.add_embedding_length(int(config["hidden_size"]))
        writer.add_block_count(int(config["num_hidden_layers"]))
        writer.add_feed_forward_length(int(config["intermediate_size"]))
        writer.add_head_count(self.heads)
        writer.add_head_count_kv(self.kv_heads)
        writer.add_key_length(self.head)
        writer.add_value_length(self.head)
        writer.add_rope_dimension_count(self.head)
        writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
        rope = self._rope()
        writer.add_rope_freq_base(float(rope["rope_theta"]))
        if rope["rope_type"] == "linear":
            writer.add_rope_scaling_type(gguf().RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(float(rope["factor"]))
        if self.name == "gemma3":
            writer.add_sliding_window(int(config["sliding_window"]))
            writer.add_sliding_window_pattern(_GEMMA_PERIOD)
            writer.add_float32("gemma3.rope.freq_base_swa", float(self._rope("sliding_attention")["rope_theta"]))

    def added(self) -> dict[str, Weights]:
        """Tensors that llama.cpp wants beside the model's own: what Llama 3 divides its rotations' speeds by."""
        rope = self._rope()
        return {"rope_freqs.weight": _llama3(rope, self.head)} if rope["rope_type"] == "llama3" else {}

    def named(self, place: str) -> str:
        """llama.cpp's name of a module, from its name in transformers. Raises `DataError` for one without a place."""
        plain = place.removeprefix("base_model.model.")
        if plain in _OUTSIDE:
            return _OUTSIDE[plain]
        inner = _GEMMA if self.name == "gemma3" else _IN_LAYER
        found = _LAYER.match(plain)
        if not found or found[2] not in inner:
            raise DataError(f"{self.folder}: tensor {place} has no place in a GGUF file of this architecture.")
        return f"blk.{found[1]}.{inner[found[2]]}"

    def as_engine_reads(self, place: str, tensor: Weights) -> Weights:
        """A tensor, or a LoRA's B, in the engine's form.

        For Llama the rows of a head's query and key: Hugging Face has the two halves of a rotation apart, llama.cpp side by
        side (Qwen3 and Gemma are rotated in halves by both). Gemma's norms multiply by 1 + weight, llama.cpp's by the weight.
        """
        last = place.rsplit(".", 1)[-1]
        if self.name == "gemma3" and last.endswith("norm"):
            return tensor + np.float32(1)
        if self.name != "llama" or last not in ("q_proj", "k_proj"):
            return tensor
        count = self.heads if last == "q_proj" else self.kv_heads
        rows, columns = tensor.shape
        return tensor.reshape(count, 2, rows // count // 2, columns).swapaxes(1, 2).reshape(rows, columns)

    def _rope(self, layers: str = "full_attention") -> dict[str, Any]:
        """The rotation's settings: those of one kind of layer where the config tells them apart; older configs spread them."""
        config = self.config
        found = config.get("rope_parameters") or {}
        found = found.get(layers, found)
        older = config.get("rope_scaling") or {}
        local = layers == "sliding_attention" and "rope_local_base_freq" in config
        theta = config["rope_local_base_freq"] if local else config.get("rope_theta", 10000.0)
        kind = found.get("rope_type") or (not local and (older.get("rope_type") or older.get("type"))) or "default"
        return {"rope_theta": theta, **older, **found, "rope_type": kind}

    def _reason_against(self) -> str:
        config = self.config
        for key in (
            "attention_bias",
            "mlp_bias",
            "final_logit_softcapping",
            "attn_logit_softcapping",
            "use_bidirectional_attention",
        ):
            if config.get(key):
                return f"{key} = {config[key]}"
        kind = self._rope()["rope_type"]
        if kind not in ("default", "linear", "llama3"):
            return f"rotary positions of type {kind!r}"
        if self.name != "gemma3":
            window = config.get("use_sliding_window", True) and config.get("sliding_window")
            return f"sliding_window = {window}" if window else ""
        scalar = float(config.get("query_pre_attn_scalar", self.head))
        if scalar != self.head and int(config["num_hidden_layers"]) != 62:  # llama.cpp knows the 27B by its layers
            return f"query_pre_attn_scalar = {scalar:g} (llama.cpp takes head_dim, {self.head})"
        layers = config.get("layer_types") or []
        wanted = ["full_attention" if (at + 1) % _GEMMA_PERIOD == 0 else "sliding_attention" for at in range(len(layers))]
        return "" if layers == wanted else "an order of layer_types other than Gemma 3's"


def _llama3(rope: dict[str, Any], head: int) -> Weights:
    """Divisors of the rotations' speeds as Llama 3.1 sets them: slow ones by `factor`, fast ones by 1, in between blended.

    Source: `_compute_llama3_parameters` of transformers, which gives the speeds themselves.
    """
    factor, low, high = float(rope["factor"]), float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    window = float(rope["original_max_position_embeddings"])
    speeds = 1.0 / float(rope["rope_theta"]) ** (np.arange(0, head, 2) / head)
    turns = window * speeds / (2 * math.pi)
    blend = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1.0 / ((1 - blend) / factor + blend)).astype(np.float32)
