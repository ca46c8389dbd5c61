"""The training loop of the lora tuner: transformers' Trainer over a fixed plan of batches.

In: a PEFT model, encoded episodes, a plan. Out: the model trained, losses and seconds; checkpoints on the way, from which a
killed run goes on to the same bits. Not here: what is learned, files of the finished adapter.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from duomem.chat import Encoded
from duomem.tuning._batches import Step, batch

_COMPLETE = "complete.json"
"""Written last into a checkpoint: one without it was cut off by a kill and is not used."""

LOG = "log.jsonl"
"""A line for each step, as it is done, for people who watch. A step that is done again after a kill has a second line."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """What the optimizer needs."""

    learning_rate: float
    warmup: float
    decay: str
    weight_decay: float
    seed: int
    checkpoint_steps: int
    bfloat16: bool


@dataclass(frozen=True, slots=True)
class Trained:
    losses: tuple[float, ...]
    seconds: float


def train(
    model: Any,
    data: Sequence[Encoded],
    steps: Sequence[Step],
    schedule: Schedule,
    folder: Path,
    progress: Callable[[int, int, float], None] | None,
) -> Trained:
    """Train in place. Goes on from the newest complete checkpoint in `folder`."""
    last = _last_checkpoint(folder)
    before = float(json.loads((last / _COMPLETE).read_text())["seconds"]) if last else 0.0
    tokens = [sum(len(data[row].ids) for row in step.rows) for step in steps]
    watch = _Watch(folder.parent / LOG, tokens, before, progress)
    trainer = _Weighted(
        model=model,
        args=_arguments(schedule, len(steps), folder, next(model.parameters()).device.type == "cpu"),
        train_dataset=_Batches(data, steps),
        callbacks=[watch],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.bfloat16 = schedule.bfloat16
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    return Trained(tuple(entry["loss"] for entry in trainer.state.log_history if "loss" in entry), watch.seconds)


def _arguments(schedule: Schedule, steps: int, folder: Path, cpu: bool) -> Any:
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=1,  # an item is a whole batch already
        learning_rate=schedule.learning_rate,
        lr_scheduler_type=schedule.decay,
        warmup_steps=round(schedule.warmup * steps),
        weight_decay=schedule.weight_decay,
        seed=schedule.seed,
        save_strategy="steps",
        save_steps=schedule.checkpoint_steps,
        save_total_limit=2,
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        use_cpu=cpu,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )


class _Batches(Dataset[dict[str, torch.Tensor]]):
    """Item i is the batch of step i."""

    def __init__(self, data: Sequence[Encoded], steps: Sequence[Step]) -> None:
        self._data, self._steps = data, steps

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return batch(self._data, self._steps[index]).tensors()


class _Weighted(Trainer):
    """Loss on weighted tokens only; logits are made for those alone, which spares the largest matrix of a big vocabulary."""

    bfloat16 = False

    def get_train_dataloader(self) -> Any:
        """The plan in its order, nothing shuffled again."""
        assert isinstance(self.train_dataset, _Batches)
        return DataLoader(self.train_dataset, batch_size=1, collate_fn=lambda items: items[0])

    def compute_loss(
        self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        context = torch.autocast(inputs["ids"].device.type, torch.bfloat16) if self.bfloat16 else nullcontext()
        with context:
            logits = model(input_ids=inputs["ids"], logits_to_keep=inputs["keep"], use_cache=False).logits
        losses = torch.nn.functional.cross_entropy(logits.float(), inputs["labels"], reduction="none")
        loss = (losses * inputs["weights"]).sum() / inputs["weights"].sum()
        return (loss, logits) if return_outputs else loss


class _Watch(TrainerCallback):
    """Reports and logs each step, keeps the time, and marks checkpoints that are whole."""

    def __init__(
        self, log: Path, tokens: Sequence[int], before: float, progress: Callable[[int, int, float], None] | None
    ) -> None:
        self._log, self._tokens, self._before, self._progress = log, tokens, before, progress
        self._total = len(tokens)
        self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds of training, those before a kill up to its last checkpoint included."""
        return self._before + time.perf_counter() - self._started

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs:
            return
        step, loss = state.global_step, float(logs["loss"])
        said = {"step": step, "total": self._total, "loss": loss, "rate": float(logs.get("learning_rate", 0.0))}
        said |= {"tokens": self._tokens[step - 1], "seconds": round(self.seconds, 3)}
        with self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(said) + "\n")
        if self._progress:
            self._progress(step, self._total, loss)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        done = Path(args.output_dir) / f"checkpoint-{state.global_step}" / _COMPLETE
        done.write_text(json.dumps({"seconds": self.seconds}))


def _last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint; cut-off ones are removed."""
    whole = []
    for found in folder.glob("checkpoint-*"):
        if (found / _COMPLETE).is_file():
            whole.append(found)
        else:
            shutil.rmtree(found)
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
