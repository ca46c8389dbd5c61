"""The contract of a tuner. One file per tuner beside this one; the file's name is its name in a config.

A component file defines `Config` (a pydantic model, unknown keys refused) and `build(config) -> Tuner`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from duomem.types import Adapter, Example


class Tuner(Protocol):
    """Trains an adapter for `base` (a model folder or hub name) from masked conversations and writes it to `out`.

    Loss falls only on messages whose `learn` weight is above 0. Raises `DataError` when nothing is left to learn and
    `UsageError` when the adapter would exceed the parameter limit. Resumes from its own checkpoints in `out`.
    `progress(step, total, loss)` is called after every optimizer step.
    """

    def tune(
        self,
        examples: Iterable[Example],
        base: str,
        out: Path,
        *,
        seed: int,
        progress: Callable[[int, int, float], None] | None = None,
    ) -> Adapter: ...
