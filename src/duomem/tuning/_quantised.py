"""Bases held in 4 bits for training (QLoRA: Dettmers et al. 2023, NF4 with double quantisation), by bitsandbytes.

In: a base and a device. Out: the frozen base in 4 bits on that device, or an error that says what is missing and what to do
instead. Not here: the adapter, training.
"""

from __future__ import annotations

import importlib
from typing import Any

from duomem import weights
from duomem.errors import MissingExtra, UsageError

INSTEAD = (
    "Train without it: --set tuning.quantize=none (about 2 bytes a parameter in bfloat16; `duomem distill --dry-run` says "
    "how much in all), with a smaller student, or on a machine that has a GPU."
)


def check(device: str) -> None:
    """Raises `MissingExtra` without bitsandbytes, `UsageError` where this device cannot run its 4-bit products."""
    try:
        library = importlib.import_module("bitsandbytes")
    except ImportError as error:
        if error.name != "bitsandbytes":
            raise UsageError(
                f"tuning.quantize = '4bit': bitsandbytes is installed but does not load: {error}. {INSTEAD}"
            ) from error
        raise MissingExtra("bitsandbytes (for tuning.quantize = '4bit')", "qlora") from error
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"tuning.quantize = '4bit': tuning.device is {device!r} and torch sees no GPU. {INSTEAD}")
    try:
        data = torch.ones(64, 64, device=device)
        packed, state = library.functional.quantize_4bit(data, quant_type="nf4", compress_statistics=True)
        library.functional.dequantize_4bit(packed, state)
    except (RuntimeError, NotImplementedError, AssertionError, ValueError) as error:
        raise UsageError(
            f"tuning.quantize = '4bit': bitsandbytes has no 4-bit kernels for the device {device!r} here: {error}. {INSTEAD}"
        ) from error


def load(base: str, device: str, *, bfloat16: bool, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The base in 4 bits, on the device; norms and embeddings stay in the precision of the products."""
    import torch
    from transformers import BitsAndBytesConfig

    precision = torch.bfloat16 if bfloat16 else torch.float32
    how = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=precision,
    )
    return weights.load_base(
        base,
        dtype="bfloat16" if bfloat16 else "float32",
        revision=revision,
        trust_remote_code=trust_remote_code,
        quantization_config=how,
        device_map={"": device},
    )
