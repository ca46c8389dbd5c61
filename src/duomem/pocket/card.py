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
    from duomem.pocket.play import OBSERVED

    record: dict[str, Any] = json.loads((folder / "training.json").read_text())
    stages = [record]
    while before := stages[0].get("before"):
        stages.insert(0, before)
    values = {**record["settings"], **record}
    values |= {
        "sha256": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
        "family": record["settings"]["architecture"].capitalize(),
        "wander_weight": record["recipe"]["wander_weight"],
        "traps": record["recipe"].get("traps", 0.0),
        "commands": "\n".join(_command(number) for number in range(1, len(stages) + 1)),
        "stages": "\n".join(_row(number, stage) for number, stage in enumerate(stages, 1)),
        "observed": OBSERVED,
    }
    path = folder / "README.md"
    path.write_text((Path(__file__).parent / "card.md").read_text().format(**values))
    return path


def _command(number: int) -> str:
    start = f" --start stage{number - 1}" if number > 1 else ""
    return f"python -m duomem.pocket.train stage{number} --recipe stage{number}.toml{start}"


def _row(number: int, stage: dict[str, Any]) -> str:
    recipe = stage["recipe"]
    shares = [recipe["guided"], recipe["primitives"], 1 - recipe["guided"] - recipe["primitives"], recipe["slip"]]
    cells = [f"{number}", f"{stage['episodes']:,}", f"{stage['tokens'] / 1e6:.1f}M", f"{stage['steps']:,}"]
    return "| " + " | ".join([*cells, *(f"{share:.0%}" for share in shares), f"{stage['seconds'] / 3600:.2f}"]) + " |"


if __name__ == "__main__":
    print(write(Path(sys.argv[1])))
