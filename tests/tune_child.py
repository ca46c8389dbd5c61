"""A training run in a process of its own: python tune_child.py BASE OUT KILL_AT; 0 trains to the end."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from duomem.tuning import lora
from duomem.types import Example, Message

CONFIG = lora.Config(
    rank=8, epochs=4, tokens_per_step=160, dtype="float32", checkpoint_steps=4, threads=1, dropout=0.1, device="cpu"
)


def examples(number: int = 10) -> list[Example]:
    """Small episodes whose answers follow from their prompts."""
    made = []
    for index in range(number):
        said = [f"find mug > go to countertop {index}", f"take > take mug {index}"][: 1 + index % 2]
        messages = [Message.of("user", f"You see mug {index}. Your task: put a clean mug in cabinet.")]
        for text in said:
            messages += [Message.of("assistant", text), Message.of("user", "You arrive at countertop.")]
        learn = [float(message.role == "assistant") for message in messages[:-1]]
        made.append(Example(tuple(messages[:-1]), tuple(learn), f"source {index}"))
    return made


def main() -> None:
    base, out, kill_at = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])

    def progress(step: int, total: int, loss: float) -> None:
        if step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    lora.build(CONFIG, layout="layout").tune(examples(), base, out, seed=3, progress=progress)


if __name__ == "__main__":
    main()
