"""A base that solves some tasks alone: `python -m duomem.pocket.competent RUN OUT --episodes 30`.

In: a run folder with a teacher's won episodes. Out: a model folder, the shipped base with an adapter of a few of those episodes
(no memories in the prompts) merged into its weights. It serves to ask what memories and adapters add to students of other
competence; it is not shipped, and its adapter is no result.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Annotated

import typer

from duomem import examples, parts, pipeline, weights
from duomem.rundir import open_run
from duomem.tuning import lora


def make(run: Path, out: Path, episodes: int, epochs: int, seed: int) -> Path:
    """Tune on a seeded sample of the run's won episodes and merge. Raises `UsageError` where the run has no episodes."""
    folder = next(iter(open_run(run).seeds()))
    layout, base = parts.layout(folder.settings), folder.settings.options("student").get("path", "pocket")
    won = sorted(pipeline.successes(folder), key=lambda each: each.content_hash)
    chosen = random.Random(seed).sample(won, min(episodes, len(won)))
    config = lora.Config(memories="none", filter="mask", epochs=epochs)
    prepared = examples.prepare(chosen, layout, config)
    adapter = lora.build(config, layout=layout.hash).tune(prepared.examples, base, out / "tuned", seed=seed)
    model = weights.attach(weights.load_base(base, dtype="float32"), adapter.path, merge=True)
    model.save_pretrained(out)
    weights.load_tokenizer(base).save_pretrained(out)
    record = {
        "base": weights.stable_name(base),
        "episodes": len(chosen),
        "epochs": epochs,
        "seed": seed,
        "tokens": adapter.tokens,
    }
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    return out


def main(
    run: Annotated[Path, typer.Argument(help="Run folder with the teacher's episodes.")],
    out: Annotated[Path, typer.Argument(help="Folder of the new model.")],
    episodes: int = 30,
    epochs: int = 2,
    seed: int = 100,
) -> None:
    """Make a base that solves some tasks alone."""
    print(make(run, out, episodes, epochs, seed))


if __name__ == "__main__":
    typer.run(main)
