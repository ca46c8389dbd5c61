"""Precisions of weights in a GGUF file, and a matrix written in one of them.

In: a float32 matrix and a kind. Out: its bytes and llama.cpp's type for them. A row that no block of a kind divides takes the
next larger kind that fits, as llama.cpp's own quantiser does. K-quants are made by the engine's library, the others by the
`gguf` package. Not here: importance matrices, choosing a kind.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from duomem.errors import MissingExtra

Weights = NDArray[np.float32]
FileType = Literal["f32", "f16", "bf16", "q8_0", "q6_k", "q5_k", "q5_1", "q5_0", "q4_k", "q4_1", "q4_0"]
KINDS: tuple[FileType, ...] = get_args(FileType)

_BLOCK = {"q8_0": 32, "q5_1": 32, "q5_0": 32, "q4_1": 32, "q4_0": 32, "q6_k": 256, "q5_k": 256, "q4_k": 256}
_WIDER: dict[FileType, FileType] = {"q6_k": "q8_0", "q5_k": "q5_1", "q4_k": "q5_0"}
"""What rows of another length take in a K-quant's place, as in llama.cpp's quantiser."""
_FILE_TYPES = {"f32": "ALL_F32", "q6_k": "MOSTLY_Q6_K", "q5_k": "MOSTLY_Q5_K_S", "q4_k": "MOSTLY_Q4_K_S"}


def fitting(kind: FileType, columns: int, *, output: bool = False) -> FileType:
    """The kind that a matrix with rows of that length is written in.

    `output` is for the embeddings and the output layer, which 4 and 5 bits hurt most: they get 6 or 8, as llama.cpp gives them.
    """
    if output and kind[:2] in ("q4", "q5"):
        kind = "q6_k"
    if columns % _BLOCK.get(kind, 1):
        kind = _WIDER.get(kind, "f32")
    return "f32" if columns % _BLOCK.get(kind, 1) else kind


def quantise(tensor: Weights, kind: FileType) -> tuple[NDArray[Any], Any]:
    """A matrix [rows, columns] as that kind's bytes, and the type as the `gguf` package calls it."""
    library = gguf()
    target = getattr(library.GGMLQuantizationType, kind.upper())
    plain = np.ascontiguousarray(tensor, dtype=np.float32)
    if kind == "f32":
        return plain, target
    if not kind.endswith("_k"):
        return library.quants.quantize(plain, target), target
    rows, columns = plain.shape
    size = library.quants.quant_shape_to_byte_shape(plain.shape, target)
    out = np.empty(size, dtype=np.uint8)
    _engine().ggml_quantize_chunk(int(target), plain.ctypes.data, out.ctypes.data, 0, rows, columns, None)
    return out, target


def file_type(kind: FileType) -> Any:
    """What a file of that kind calls itself."""
    return getattr(gguf().LlamaFileType, _FILE_TYPES.get(kind, f"MOSTLY_{kind.upper()}"))


@cache
def _engine() -> Any:
    """llama.cpp inside xllamacpp: `ggml_quantize_chunk` is part of its C interface (ggml.h). Raises `MissingExtra`."""
    try:
        from xllamacpp import xllamacpp
    except ImportError as error:
        raise MissingExtra("xllamacpp", "llamacpp") from error
    library = ctypes.CDLL(str(xllamacpp.__file__))
    call = library.ggml_quantize_chunk
    call.restype = ctypes.c_size_t
    count = ctypes.c_int64
    call.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, count, count, count, ctypes.c_void_p]
    return library


def gguf() -> Any:
    """The `gguf` package. Raises `MissingExtra`."""
    try:
        import gguf as library
    except ImportError as error:
        raise MissingExtra("gguf", "llamacpp") from error
    return library
