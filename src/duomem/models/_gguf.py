"""Writes a base model and its LoRA adapter as GGUF, the files that llama.cpp reads, with the `gguf` package.

In: a folder with safetensors, config.json and a byte-level BPE tokenizer (Llama or Qwen3 architecture); an adapter of PEFT.
Out: one .gguf file each, written whole or not at all. Not here: K-quants, other architectures and tokenizers; llama.cpp's own
convert_hf_to_gguf.py writes those.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from duomem.errors import DataError, MissingExtra

WRITER = "1"
"""Version of what these functions write; part of the name of a kept file."""

Weights = NDArray[np.float32]
FileType = Literal["f32", "f16", "bf16", "q8_0"]

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
_OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_QWEN2 = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
_LLAMA3 = _QWEN2.replace(r"\p{N}|", r"\p{N}{1,3}|")
_SPLITS = {_QWEN2: "qwen2", _LLAMA3: "llama-bpe"}
"""How text is cut before merging: the regular expression in tokenizer.json and llama.cpp's name for it. A home-made
byte-level tokenizer cuts as GPT-2 did; without that name llama.cpp says "pre-tokenizer was not recognized"."""


def write_base(folder: Path, out: Path, kind: FileType = "f32", end: int | None = None) -> Path:
    """Write a base as GGUF. Norms stay float32; `end` is the token that ends a turn, where it is not the tokenizer's
    end-of-sequence token. Raises `DataError` for an architecture or tokenizer that it cannot write.
    """
    gguf = _gguf()
    config = _json(folder / "config.json")
    architecture = _architecture(config, folder)
    tied = bool(config.get("tie_word_embeddings"))
    with _writer(out, architecture) as writer:
        _describe(writer, config, folder)
        _vocabulary(writer, folder, int(config["vocab_size"]))
        if end is not None:
            writer.add_eot_token_id(end)
        writer.add_file_type(getattr(gguf.LlamaFileType, "ALL_F32" if kind == "f32" else f"MOSTLY_{kind.upper()}"))
        for name, tensor in _tensors(sorted(folder.glob("*.safetensors"))):
            if name == "lm_head.weight" and tied:
                continue
            tensor = _as_engine_reads(name, tensor, config, architecture)
            _add(writer, _engine_name(name.removesuffix(".weight"), folder) + ".weight", tensor, kind)
    return out


def write_adapter(base: Path, adapter: Path, out: Path) -> Path:
    """Write a LoRA adapter of PEFT as GGUF, in float32, for the base in folder `base`. Raises `DataError` for another kind."""
    config, lora = _json(base / "config.json"), _json(adapter / "adapter_config.json")
    architecture = _architecture(config, base)
    if lora.get("peft_type") != "LORA" or lora.get("use_dora") or lora.get("use_rslora") or lora.get("alpha_pattern"):
        raise DataError(f"{adapter}: only a plain LoRA adapter can be written as GGUF, with one alpha and no DoRA or rsLoRA.")
    with _writer(out, architecture) as writer:
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", float(lora["lora_alpha"]))
        for name, tensor in _tensors([adapter / "adapter_model.safetensors"]):
            place, half = _half(name, adapter)
            if half == "lora_b":
                tensor = _as_engine_reads(place + ".weight", tensor, config, architecture)
            _add(writer, f"{_engine_name(place, adapter)}.weight.{half}", tensor, "f32")
    return out


def _half(name: str, adapter: Path) -> tuple[str, str]:
    """The place of a LoRA tensor in the base, and which of the two matrices it is."""
    found = re.fullmatch(r"base_model\.model\.(.+)\.lora_([AB])(?:\.default)?\.weight", name)
    if not found:
        raise DataError(f"{adapter}: tensor {name} is no LoRA matrix; adapters that train more cannot be written as GGUF.")
    return found[1], f"lora_{found[2].lower()}"


def _architecture(config: dict[str, Any], folder: Path) -> str:
    kind = str(config.get("model_type"))
    if kind not in ("llama", "qwen3"):
        raise DataError(
            f"{folder}/config.json: architecture {kind!r} cannot be written as GGUF here (llama and qwen3 can). Convert it "
            "with llama.cpp's convert_hf_to_gguf.py and name the file: --set student.gguf=FILE"
        )
    for key in ("attention_bias", "mlp_bias"):
        if config.get(key):
            raise DataError(f"{folder}/config.json: {key} = true cannot be written as GGUF here.")
    return kind


def _describe(writer: Any, config: dict[str, Any], folder: Path) -> None:
    heads = int(config["num_attention_heads"])
    head = int(config.get("head_dim") or config["hidden_size"] // heads)
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default" or config.get("rope_scaling"):
        raise DataError(f"{folder}/config.json: scaled rotary positions cannot be written as GGUF here.")
    writer.add_name(folder.name)
    writer.add_vocab_size(int(config["vocab_size"]))
    writer.add_context_length(int(config["max_position_embeddings"]))
    writer.add_embedding_length(int(config["hidden_size"]))
    writer.add_block_count(int(config["num_hidden_layers"]))
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_head_count(heads)
    writer.add_head_count_kv(int(config.get("num_key_value_heads") or heads))
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0))
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))


def _vocabulary(writer: Any, folder: Path, size: int) -> None:
    gguf = _gguf()
    rules, settings = _json(folder / "tokenizer.json"), _json(folder / "tokenizer_config.json")
    model = rules["model"]
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        raise DataError(f"{folder}/tokenizer.json: only a byte-level BPE can be written as GGUF here.")
    normal, control, own = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED
    tokens = {int(index): (text, normal) for text, index in model["vocab"].items()}
    for added in rules.get("added_tokens", []):
        tokens[int(added["id"])] = (added["content"], control if added["special"] else own)
    unused = gguf.TokenType.UNUSED
    rows = [tokens.get(index, (f"[PAD{index}]", unused)) for index in range(size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_cut(rules.get("pre_tokenizer"), folder))
    writer.add_token_list([text for text, _ in rows])
    writer.add_token_types([kind for _, kind in rows])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])
    ids = {text: index for index, (text, _) in tokens.items()}
    for key, add in (("bos", writer.add_bos_token_id), ("eos", writer.add_eos_token_id), ("pad", writer.add_pad_token_id)):
        text = settings.get(f"{key}_token")
        text = text.get("content") if isinstance(text, dict) else text
        if text in ids:
            add(ids[text])
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    template = folder / "chat_template.jinja"
    if template.is_file() or settings.get("chat_template"):
        writer.add_chat_template(template.read_text(encoding="utf-8") if template.is_file() else settings["chat_template"])


def _cut(rule: Any, folder: Path) -> str:
    """llama.cpp's name for how the tokenizer cuts text before merging."""
    steps = rule.get("pretokenizers", [rule]) if isinstance(rule, dict) else []
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True) and not steps[0].get("add_prefix_space"):
        return "gpt-2"
    if kinds == ["Split", "ByteLevel"] and steps[0].get("pattern", {}).get("Regex") in _SPLITS:
        return _SPLITS[steps[0]["pattern"]["Regex"]]
    raise DataError(
        f"{folder}/tokenizer.json: this way of cutting text is not known here ({kinds}). Convert the model with llama.cpp's "
        "convert_hf_to_gguf.py and name the file: --set student.gguf=FILE"
    )


def _as_engine_reads(name: str, tensor: Weights, config: dict[str, Any], architecture: str) -> Weights:
    """For Llama the rows of a head's query and key: Hugging Face has the two halves of a rotation apart, llama.cpp side by
    side. Qwen3 is rotated in halves by both."""
    place = name.removesuffix(".weight").rsplit(".", 1)[-1]
    if architecture != "llama" or place not in ("q_proj", "k_proj"):
        return tensor
    heads = int(config["num_attention_heads"])
    count = heads if place == "q_proj" else int(config.get("num_key_value_heads") or heads)
    rows, columns = tensor.shape
    return tensor.reshape(count, 2, rows // count // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _engine_name(place: str, folder: Path) -> str:
    """llama.cpp's name of a module, from its name in transformers."""
    plain = place.removeprefix("base_model.model.")
    if plain in _OUTSIDE:
        return _OUTSIDE[plain]
    found = _LAYER.match(plain)
    if not found or found[2] not in _IN_LAYER:
        raise DataError(f"{folder}: tensor {place} has no place in a GGUF file of this architecture.")
    return f"blk.{found[1]}.{_IN_LAYER[found[2]]}"


def _add(writer: Any, name: str, tensor: Weights, kind: FileType) -> None:
    """Add a tensor; vectors, and rows that no block of a quantised kind divides, keep float32."""
    gguf = _gguf()
    if kind == "f32" or tensor.ndim < 2 or (kind == "q8_0" and tensor.shape[-1] % 32):
        writer.add_tensor(name, np.ascontiguousarray(tensor, dtype=np.float32))
        return
    target = getattr(gguf.GGMLQuantizationType, kind.upper())
    writer.add_tensor(name, gguf.quants.quantize(np.ascontiguousarray(tensor, dtype=np.float32), target), raw_dtype=target)


def _tensors(files: list[Path]) -> Iterator[tuple[str, Weights]]:
    """Every tensor of the files as float32, in the order of their names."""
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise MissingExtra("safetensors", "train") from error
    if not files:
        raise DataError("The model's folder has no .safetensors file. Pickled weights (.bin) are refused: convert them first.")
    for file in files:
        with safe_open(str(file), framework="numpy") as opened:
            for name in sorted(opened.keys()):
                yield name, np.asarray(opened.get_tensor(name), dtype=np.float32)


@contextmanager
def _writer(out: Path, architecture: str) -> Iterator[Any]:
    """A GGUF writer whose file appears under its name only when it is whole and on disk."""
    gguf = _gguf()
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".{out.name}.{os.getpid()}")
    writer = gguf.GGUFWriter(str(draft), architecture)
    try:
        yield writer
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)


def _json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    return content


def _gguf() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise MissingExtra("gguf", "llamacpp") from error
    return gguf


def kept(folder: Path, name: str, write: Callable[[Path], Path]) -> Path:
    """The file of that name in a folder, written by `write` where it is not there yet."""
    path = folder / name
    return path if path.is_file() else write(path)
