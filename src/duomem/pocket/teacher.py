"""Trains the pocket teacher: `python -m duomem.pocket.teacher OUT`.

In: the shipped pocket base and a seed. Out: a larger model (Hugging Face folder, bf16) that plays the six tasks without
memories and writes scripts of episodes, with its card and `training.json`. It is grown from the base (`grow`) and goes on
learning from `teacher_corpus`; the loop is the base's own (`train`). It measures nothing.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from duomem import weights
from duomem.pocket import teacher_corpus
from duomem.pocket.grow import grow
from duomem.pocket.play import Recipe
from duomem.pocket.train import Settings, train

LAYERS, INNER = 6, 768
"""The size: 3.8M parameters, half as many again as the base."""
RECIPE = Recipe(slip=0.09, lost=0.5, traps=0.6, strange=0.15)
"""The invented world as in the base's last stage (stage2.toml)."""
SETTINGS = Settings(seed=7, episodes=1500, tokens_per_step=4096, rate=2e-3, short_until=0.0, decay_from=0.05, recipe=RECIPE)


def grown(base: str, out: Path, layers: int, inner: int, seed: int) -> Path:
    """The base as a larger model in `out`, with its tokenizer and a `training.json` that says where it comes from."""
    model = grow(weights.load_base(base, dtype="float32"), layers, inner, seed)
    model.save_pretrained(out)
    weights.load_tokenizer(base).save_pretrained(out)
    source = {"base": weights.stable_name(base), "base_sha256": weights.base_hash(base), "layers": layers, "inner": inner}
    (out / "training.json").write_text(json.dumps(source | {"seed": seed}, indent=1) + "\n")
    return out


def make(out: Path, settings: Settings, base: str = "pocket", layers: int = LAYERS, inner: int = INNER) -> Path:
    """Grow, train, store in bf16, write the card."""
    import torch
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        start = grown(base, Path(folder) / "grown", layers, inner, settings.seed)
        train(out, replace(settings, start=str(start), layers=layers, inner=inner), teacher_corpus.episodes)
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.bfloat16, use_safetensors=True)
    model.save_pretrained(out)
    return write_card(out)


def write_card(folder: Path) -> Path:
    """FOLDER/README.md from its `training.json`. Raises FileNotFoundError where the folder is not a trained model."""
    record: dict[str, Any] = json.loads((folder / "training.json").read_text())
    file = folder / "model.safetensors"
    values = record["settings"] | record | {f"grown_{key}": value for key, value in record["before"].items()}
    values |= {
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "megabytes": round(file.stat().st_size / 1e6, 1),
        "writing": teacher_corpus.WRITING,
        "real": teacher_corpus.REAL,
        "rest": 1 - teacher_corpus.WRITING - teacher_corpus.REAL,
        "turn_slips": teacher_corpus.SLIP,
    }
    path = folder / "README.md"
    path.write_text((Path(__file__).parent / "teacher_card.md").read_text().format(**values))
    return path


def main(
    out: Annotated[Path, typer.Argument(help="Folder of the new model.")],
    seed: Annotated[int, typer.Option(help="Seed of growth, corpus and order.")] = SETTINGS.seed,
    episodes: Annotated[int, typer.Option(help="Episodes of the corpus; a multiple of 500.")] = SETTINGS.episodes,
    base: Annotated[str, typer.Option(help="The pocket model to grow: the shipped one, or a folder.")] = "pocket",
    layers: Annotated[int, typer.Option(help="Layers of the new model.")] = LAYERS,
    inner: Annotated[int, typer.Option(help="Inner units of each of its layers.")] = INNER,
    stop: Annotated[int, typer.Option(help="End after so many steps; 0: when every episode was seen.")] = 0,
) -> None:
    """Train the pocket teacher from the shipped base."""
    print(make(out, replace(SETTINGS, seed=seed, episodes=episodes, stop=stop), base, layers, inner))


if __name__ == "__main__":
    typer.run(main)
