"""P14: LoRA training tokens/s of the project's tuner against TRL's SFTTrainer out of the box.

In: nothing; the expert's episodes on the household twin, the pocket base. Both get the same token ids and the same learned
tokens, the same LoRA, rate, schedule, epochs and one thread; TRL keeps its defaults else (8 rows a step, recomputed
activations, bfloat16 autocast). Out: one JSON line: `ratio` = useful (unpadded) tokens a second of the processor, ours /
TRL's; `wall_ratio` beside it; `no_recompute_ratio` against TRL with `gradient_checkpointing=False`. `equal`: each arm saw the
same tokens, learned ones too. Each run has a process of its own, so none finds kernels that another made; the order alternates.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from _common import arguments, report
from duomem.agent import Player
from duomem.chat import Encoded
from duomem.envs import household
from duomem.examples import Options, prepare
from duomem.models import expert
from duomem.prompts import load_layout
from duomem.tuning import lora
from duomem.types import Example

ARMS = ("ours", "trl", "trl-no-recompute")
RATE, RANK = 1e-3, 16


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--episodes", type=int, default=36, help="episodes of the expert")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2, help="runs of each arm; the figure is the median")
    parser.add_argument("--arm", choices=ARMS, help="one run of one arm (the benchmark starts these itself)")


def examples(episodes: int) -> list[Example]:
    """Episodes that the expert won, one example each."""
    layout, world = load_layout("pocket"), household.build(household.Config(games=episodes))
    player = Player(world, expert.build(expert.Config()), layout, max_steps=30)
    played = [player.play(task) for task in world.tasks("train")]
    return list(prepare(played, layout, Options(memories="none")).examples)


class Clock:
    """Wall and processor seconds since it was made."""

    def __init__(self) -> None:
        self._wall, self._processor = time.perf_counter(), time.process_time()

    def figures(self) -> dict[str, float]:
        return {"wall_s": time.perf_counter() - self._wall, "processor_s": time.process_time() - self._processor}


def counts(seen: Sequence[Encoded]) -> dict[str, float]:
    """Useful tokens of sequences, and those of them that are learned."""
    learned = sum(weight > 0 for each in seen for weight in each.weights[1:])
    return {"tokens": sum(len(each.ids) for each in seen), "learned": learned}


def ours(config: lora.Config, job: Any, model: Any, folder: Path) -> dict[str, float]:
    from duomem.tuning._train import Schedule, train

    bfloat16 = lora.use_bfloat16("auto", "cpu")
    schedule = Schedule(RATE, config.warmup, config.schedule, 0.0, 0, config.checkpoint_steps, bfloat16)
    clock = Clock()
    train(model, job.data, job.steps, schedule, folder / "checkpoints", None)
    return clock.figures() | {"steps": len(job.steps)} | counts([job.data[row] for step in job.steps for row in step.rows])


def theirs(config: lora.Config, job: Any, base: Any, folder: Path, recompute: bool) -> dict[str, float]:
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    from duomem import weights

    rows = [
        {
            "input_ids": list(each.ids),
            "labels": [token if weight else -100 for token, weight in zip(each.ids, each.weights, strict=True)],
        }
        for each in job.data
    ]
    settings: dict[str, Any] = {} if recompute else {"gradient_checkpointing": False}
    args = SFTConfig(
        output_dir=str(folder),
        num_train_epochs=config.epochs,
        learning_rate=RATE,
        warmup_steps=config.warmup,
        max_length=None,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        **settings,
    )
    adapter = LoraConfig(r=RANK, lora_alpha=config.scale, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    tokenizer = weights.load_tokenizer("pocket")
    trainer = SFTTrainer(base, args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, peft_config=adapter)
    clock = Clock()
    trainer.train()
    spent = clock.figures()
    kept: Any = trainer.train_dataset  # counted as TRL prepared it
    tokens = config.epochs * sum(len(row["input_ids"]) for row in kept)
    learned = config.epochs * sum(label != -100 for row in kept for label in row["labels"][1:])
    return spent | {"steps": trainer.state.global_step, "tokens": tokens, "learned": learned}


def one(arm: str, episodes: int, epochs: int) -> dict[str, float]:
    """One run: seconds, and the tokens that it saw."""
    import torch

    from duomem import weights

    torch.set_num_threads(1)
    config = lora.Config(rank=RANK, learning_rate=RATE, epochs=epochs, threads=1)
    job = lora.build(config)._job(examples(episodes), "pocket", 0)
    with TemporaryDirectory(prefix="duomem-bench-") as name:
        if arm == "ours":
            found = ours(config, job, lora._with_adapter(job, config, lora.use_bfloat16("auto", "cpu")), Path(name))
        else:
            base = weights.load_base("pocket", dtype="float32")
            found = theirs(config, job, base, Path(name), recompute=arm == "trl")
    return found


def started(arm: str, given: argparse.Namespace) -> dict[str, float]:
    """One run in a process of its own."""
    command = [sys.executable, __file__, "--arm", arm, "--episodes", str(given.episodes), "--epochs", str(given.epochs)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{arm} failed:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    given = arguments(__doc__ or "", options)
    if given.arm:
        print(json.dumps(one(given.arm, given.episodes, given.epochs)))
        return
    runs: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    for index in range(given.rounds):
        for arm in ARMS if index % 2 == 0 else ARMS[::-1]:
            runs[arm].append(started(arm, given))
            if not given.json:
                print(arm, runs[arm][-1], flush=True)
    arms = {arm: {name: statistics.median(run[name] for run in done) for name in done[0]} for arm, done in runs.items()}
    mine, trl, plain = (arms[arm] for arm in ARMS)
    report(
        "P14",
        ratio=trl["processor_s"] / mine["processor_s"],
        wall_ratio=round(trl["wall_s"] / mine["wall_s"], 3),
        no_recompute_ratio=round(plain["processor_s"] / mine["processor_s"], 3),
        equal=len({(run["tokens"], run["learned"]) for done in runs.values() for run in done}) == 1,
        tokens_per_processor_s={arm: round(each["tokens"] / each["processor_s"], 1) for arm, each in arms.items()},
        rounds=given.rounds,
        arms={arm: {name: round(value, 3) for name, value in each.items()} for arm, each in arms.items()},
    )


if __name__ == "__main__":
    main()
