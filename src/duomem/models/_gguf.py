"""Writes a base model, its LoRA adapter, or both merged, as GGUF, the files that llama.cpp reads, with the `gguf` package.

In: a folder with safetensors, config.json and tokenizer.json (Llama, Mistral, Qwen3 or Gemma 3 text model); an adapter of PEFT;
a precision. Out: one .gguf file each, written whole or not at all. Not here: other architectures; llama.cpp's own
convert_hf_to_gguf.py writes those.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from duomem.errors import DataError
from duomem.models._gguf_names import OUTPUTS, Architecture
from duomem.models._gguf_quants import FileType, Weights, file_type, fitting, gguf, quantise
from duomem.models._gguf_vocabulary import read_json, write_vocabulary

WRITER = "2"
"""Version of what these functions write; part of the name of a kept file."""


def write_base(folder: Path, out: Path, kind: FileType = "f32", end: int | None = None, adapter: Path | None = None) -> Path:
    """Write a base as GGUF, with a LoRA adapter folded into its weights where one is given.

    Vectors stay float32. `end` is the token that ends a turn, where it is not the tokenizer's end-of-sequence token. Raises
    `DataError` for an architecture, tokenizer or adapter that it cannot write.
    """
    config = read_json(folder / "config.json")
    shape = Architecture.of(config, folder)
    lora = _Lora(adapter) if adapter else None
    with _writer(out, shape.name) as writer:
        shape.describe(writer)
        write_vocabulary(writer, folder, int(config["vocab_size"]), end)
        writer.add_file_type(file_type(kind))
        for name, tensor in shape.added().items():
            writer.add_tensor(name, tensor)
        for name, tensor in _tensors(sorted(folder.glob("*.safetensors"))):
            place = name.removesuffix(".weight")
            if name == "lm_head.weight" and shape.tied:
                continue
            if lora:
                tensor = lora.merged(place, tensor)
            _add(writer, shape.named(place) + ".weight", shape.as_engine_reads(place, tensor), kind)
        if lora:
            lora.check_spent()
    return out


def write_adapter(base: Path, adapter: Path, out: Path, kind: FileType = "f32") -> Path:
    """Write a LoRA adapter of PEFT as GGUF for the base in folder `base`. Raises `DataError` for another kind of adapter."""
    shape = Architecture.of(read_json(base / "config.json"), base)
    lora = _Lora(adapter)
    with _writer(out, shape.name) as writer:
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", lora.alpha)
        for place, (down, up) in sorted(lora.pairs.items()):
            name = shape.named(place)
            _add(writer, f"{name}.weight.lora_a", down, kind)
            _add(writer, f"{name}.weight.lora_b", shape.as_engine_reads(place, up), kind)
    return out


class _Lora:
    """The matrices of a plain LoRA adapter by their place in the base: A [rank, inputs] and B [outputs, rank]."""

    def __init__(self, folder: Path) -> None:
        config = read_json(folder / "adapter_config.json")
        odd = [key for key in ("use_dora", "use_rslora", "alpha_pattern", "lora_bias") if config.get(key)]
        if config.get("peft_type") != "LORA" or odd:
            raise DataError(
                f"{folder}: only a plain LoRA adapter can be written as GGUF, with one alpha and no DoRA or rsLoRA."
            )
        self.folder, self.alpha = folder, float(config["lora_alpha"])
        halves: dict[str, dict[str, Weights]] = {}
        for name, tensor in _tensors([folder / "adapter_model.safetensors"]):
            found = re.fullmatch(r"base_model\.model\.(.+)\.lora_([AB])(?:\.default)?\.weight", name)
            if not found:
                raise DataError(
                    f"{folder}: tensor {name} is no LoRA matrix; adapters that train more cannot be written as GGUF."
                )
            halves.setdefault(found[1], {})[found[2]] = tensor
        if bad := [place for place, pair in halves.items() if len(pair) != 2]:
            raise DataError(f"{folder}: {bad[0]} has only one of its two LoRA matrices.")
        self.pairs = {place: (pair["A"], pair["B"]) for place, pair in halves.items()}
        self._spent: set[str] = set()

    def merged(self, place: str, tensor: Weights) -> Weights:
        """W + alpha / rank * B A (Hu et al. 2021), in float32."""
        if place not in self.pairs:
            return tensor
        down, up = self.pairs[place]
        self._spent.add(place)
        return tensor + np.float32(self.alpha / down.shape[0]) * (up @ down)

    def check_spent(self) -> None:
        """Raises `DataError` where a matrix had no place in the base."""
        if left := sorted(self.pairs.keys() - self._spent):
            raise DataError(f"{self.folder}: {left[0]} has no place in the base.")


def _add(writer: Any, name: str, tensor: Weights, kind: FileType) -> None:
    """Add a tensor: vectors in float32, a matrix in its kind, the embeddings and the output in more bits."""
    if tensor.ndim < 2:
        writer.add_tensor(name, np.ascontiguousarray(tensor, dtype=np.float32))
        return
    data, target = quantise(tensor, fitting(kind, tensor.shape[-1], output=name in OUTPUTS))
    writer.add_tensor(name, data, raw_dtype=target)


def _tensors(files: list[Path]) -> Iterator[tuple[str, Weights]]:
    """Every tensor of the safetensors files as float32, in the order of their names. Raises `DataError`."""
    gguf()
    from gguf.utility import SafetensorsLocal

    if not files:
        raise DataError("The model's folder has no .safetensors file. Pickled weights (.bin) are refused: convert them first.")
    for file in files:
        try:
            opened = SafetensorsLocal(file).tensors
        except (OSError, ValueError) as error:
            raise DataError(f"{file} cannot be read: {error}") from error
        for name in sorted(opened.keys()):
            yield name, _as_float32(opened[name], f"{file}: {name}")


_READ = {"F32": np.float32, "F16": np.float16, "F64": np.float64}


def _as_float32(tensor: Any, where: str) -> Weights:
    raw = tensor.mmap_bytes()
    if tensor.dtype == "BF16":  # the upper half of a float32
        values: Weights = (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    elif tensor.dtype in _READ:
        values = raw.view(_READ[tensor.dtype]).astype(np.float32)
    else:
        raise DataError(f"{where} has the type {tensor.dtype}, which cannot be written as GGUF here.")
    return values.reshape(tensor.shape)


@contextmanager
def _writer(out: Path, architecture: str) -> Iterator[Any]:
    """A GGUF writer whose file appears under its name only when it is whole and on disk."""
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".{out.name}.{os.getpid()}")
    writer = gguf().GGUFWriter(str(draft), architecture)
    try:
        yield writer
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)


def kept(folder: Path, name: str, write: Callable[[Path], Path]) -> Path:
    """The file of that name in a folder, written by `write` where it is not there yet."""
    path = folder / name
    return path if path.is_file() else write(path)
