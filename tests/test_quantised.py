"""4-bit training: what is said where it cannot be done, and that it trains where it can."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

import tiny_models
from duomem.errors import MissingExtra, UsageError
from duomem.models import hf
from duomem.tuning import _quantised, lora
from duomem.types import Example, Message, Sampling

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

EXAMPLES = [
    Example((Message.of("user", f"put mug {n} in cabinet"), Message.of("assistant", f"go to cabinet {n}")), (0.0, 1.0), f"s{n}")
    for n in range(6)
]


def without(monkeypatch: pytest.MonkeyPatch, replacement: Any) -> None:
    real = importlib.import_module

    def load(name: str, package: str | None = None) -> Any:
        if name != "bitsandbytes":
            return real(name, package)
        if isinstance(replacement, Exception):
            raise replacement
        return replacement

    monkeypatch.setattr(importlib, "import_module", load)


class NoKernels:
    class functional:
        @staticmethod
        def quantize_4bit(*_: Any, **__: Any) -> Any:
            raise RuntimeError("no kernel image is available")


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without(monkeypatch, ModuleNotFoundError("no", name="bitsandbytes"))
    with pytest.raises(MissingExtra, match=r"duomem\[qlora\]"):
        lora.build(lora.Config(quantize="4bit")).tune(EXAMPLES, "pocket", tmp_path / "a", seed=0)
    assert not (tmp_path / "a").exists(), "nothing was begun"


@pytest.mark.parametrize(
    ("library", "device", "words"),
    [
        (NoKernels, "cpu", "no kernel image"),
        (ImportError("libcuda", name="libcuda"), "cpu", "does not load"),
        (NoKernels, "cuda", "no GPU"),
    ],
)
def test_hardware_that_cannot_says_what_to_do(monkeypatch: pytest.MonkeyPatch, library: Any, device: str, words: str) -> None:
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    without(monkeypatch, library)
    with pytest.raises(UsageError, match=words) as refused:
        _quantised.check(device)
    assert "tuning.quantize=none" in str(refused.value)


def test_training_on_four_bits_learns(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="needs the extra 'qlora'")
    try:
        _quantised.check("cpu")
    except UsageError as error:
        pytest.skip(str(error))
    base = tiny_models.model(tmp_path / "base", "qwen3", "chatml", hidden_size=64, intermediate_size=128, head_dim=16)
    config = lora.Config(rank=8, quantize="4bit", learning_rate=1e-2, epochs=20, tokens_per_step=256, device="cpu")
    adapter = lora.build(config).tune(EXAMPLES, base, tmp_path / "adapter", seed=0)
    assert adapter.losses[-1] < adapter.losses[0] / 3
    model = hf.build(hf.Config(path=base, adapter=adapter.path, threads=1))
    assert model.reply([Message.of("user", "put mug 3 in cabinet")], [], Sampling(max_tokens=12)).message.text.startswith(
        "go to"
    )
    model.close()


def test_computing_activations_again_changes_nothing(tmp_path: Path) -> None:
    base = tiny_models.model(tmp_path / "base", "qwen3", "chatml")
    settings: dict[str, Any] = {"rank": 8, "max_steps": 1, "tokens_per_step": 128, "device": "cpu", "dtype": "float32"}
    stored = lora.build(lora.Config(**settings)).tune(EXAMPLES, base, tmp_path / "stored", seed=0)
    again = lora.build(lora.Config(**settings, recompute=True)).tune(EXAMPLES, base, tmp_path / "again", seed=0)
    assert again.losses == pytest.approx(stored.losses, rel=1e-4)
