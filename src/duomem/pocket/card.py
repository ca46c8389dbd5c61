"""The model card of a pocket base model: `python -m duomem.pocket.card FOLDER` writes FOLDER/README.md from `training.json`.

In: a trained model folder and `card.md`. Out: the card, with the hash of the weights, exact counts and
what the corpus holds. It measures nothing.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any


def write(folder: Path) -> Path:
    """Write the card. Raises FileNotFoundError where the folder is not a trained model."""
    from duomem.pocket.corpus import OBSERVED

    record: dict[str, Any] = json.loads((folder / "training.json").read_text())
    settings, recipe = record["settings"], record["recipe"]
    values = {**settings, **record, **recipe}
    values |= {
        "sha256": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
        "asked": settings["episodes"],
        "episodes": record["episodes"],
        "wander": 1 - recipe["guided"] - recipe["primitives"],
        "decay": 1 - settings["decay_from"],
        "observed": OBSERVED,
    }
    path = folder / "README.md"
    path.write_text((Path(__file__).parent / "card.md").read_text().format(**values))
    return path


if __name__ == "__main__":
    print(write(Path(sys.argv[1])))
