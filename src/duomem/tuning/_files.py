"""What pins a training run, and the files of a finished adapter.

In: a made-ready job, a trained PEFT model. Out: `adapter_model.safetensors`, `adapter_config.json` and `manifest.json`, with no
path of the machine in them; a refusal where a folder holds another run's. Not here: training.
"""

from __future__ import annotations

import json
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duomem import __version__, weights
from duomem.chat import Encoded
from duomem.errors import MismatchError
from duomem.tuning._batches import Step
from duomem.types import Adapter

MANIFEST = "manifest.json"
STARTED = "run.json"
"""The pins of a run that is not finished."""


@dataclass(frozen=True, slots=True)
class Job:
    """One training run, made ready: what its manifest pins and what the loop needs."""

    config: dict[str, Any]
    base: str
    base_hash: str
    tokenizer_hash: str
    layout: str
    data_hash: str
    data: list[Encoded]
    examples: int
    steps: list[Step]
    seed: int

    @property
    def pins(self) -> dict[str, Any]:
        """What a checkpoint must agree with to be continued."""
        return {
            "base_sha256": self.base_hash,
            "tokenizer_sha256": self.tokenizer_hash,
            "layout": self.layout,
            "data": self.data_hash,
            "config": self.config,
            "seed": self.seed,
        }

    @property
    def tokens(self) -> int:
        """Tokens of all steps, padding not counted."""
        return sum(len(self.data[row].ids) for step in self.steps for row in step.rows)

    @property
    def padding(self) -> float:
        """Share of the computed tokens that is padding."""
        return 1 - self.tokens / sum(len(step.rows) * step.length for step in self.steps)


def agrees(file: Path, job: Job) -> bool:
    """Whether the file is there and says the same run. Raises `MismatchError` where it says another."""
    if not file.is_file():
        return False
    said = json.loads(file.read_text())
    for key, value in job.pins.items():
        if said.get(key) != value:
            raise MismatchError(
                f"{file.parent} holds an adapter or checkpoints of another run: {key} was {_short(said.get(key))} and is "
                f"{_short(value)}. Remove the folder, or train into another one."
            )
    return True


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 80 else f"{text[:77]}..."


def write(model: Any, out: Path, manifest: dict[str, Any]) -> Adapter:
    """The finished adapter. The manifest is written last: a folder that has one is whole."""
    model.peft_config["default"].base_model_name_or_path = manifest["base"]
    # Without the switch PEFT would ask the hub whether it knows the base.
    model.save_pretrained(str(out), safe_serialization=True, save_embedding_layers=False)
    (out / "README.md").unlink(missing_ok=True)
    draft = out / f"{MANIFEST}.draft"
    draft.write_text(json.dumps(manifest, indent=1) + "\n")
    draft.replace(out / MANIFEST)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    (out / STARTED).unlink(missing_ok=True)
    return read(out)


def read(out: Path) -> Adapter:
    manifest = weights.read_manifest(out)
    return Adapter(
        str(out),
        manifest["base"],
        manifest["base_sha256"],
        manifest["parameters"],
        manifest["examples"],
        manifest["tokens"],
        manifest["seconds"],
        tuple(manifest["losses"]),
    )


def versions() -> dict[str, str]:
    import peft
    import torch
    import transformers

    return {
        "duomem": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "peft": peft.__version__,
    }
