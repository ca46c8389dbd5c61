"""hf: a local transformers model, with or without a LoRA adapter; batches its callers and keeps KV caches across turns.

In: a Config. Out: a Model whose `reply` may be called from many threads; a scheduler thread serves all of them in one forward
after another, so a long answer holds nobody up, and prefills only the tokens that no slot knows yet. Weights from safetensors
only. Not here: parsing replies, tool calls, paid endpoints.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from duomem import weights
from duomem.chat import encode, end_of_turn
from duomem.errors import MissingExtra, UsageError
from duomem.models import ContextFull
from duomem.types import Message, Reply, Sampling, Tool, Usage

if TYPE_CHECKING:
    from duomem.models._scheduler import Scheduler


class Config(BaseModel):
    """Settings of a local model."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    path: str = "pocket"
    """The base: "pocket" (the model that ships with the package), a folder, or a hub name."""
    revision: str | None = None
    """Revision of a hub name."""
    adapter: str | None = None
    """Folder of a LoRA adapter that `duomem tune` wrote for this base; none: the base alone."""
    merge: bool = True
    """Fold the adapter into the weights: faster, and the same up to rounding."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of weights and caches."""
    device: str = "auto"
    """"cpu", "cuda", ...; auto: a GPU where there is one."""
    threads: int = Field(default=2, ge=1)
    """Threads of a forward pass on the CPU."""
    max_batch: int = Field(default=32, ge=1)
    """Callers served at once, and conversations whose caches are kept: at least as many as run at once."""
    context: int | None = Field(default=None, ge=16)
    """Longest conversation in tokens, answer included; none: the model's own, at most 4096."""
    chunk: int = Field(default=512, ge=16)
    """Most prompt tokens read in one forward, so that a long prompt does not hold up other answers."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Only for models whose code you have read."""


class HfModel:
    """A loaded model. `reply` blocks; see `duomem.models.Model`."""

    def __init__(self, scheduler: Scheduler, tokenizer: Any, context: int, facts: dict[str, str]) -> None:
        self.tokenizer = tokenizer
        self.context = context
        self._scheduler = scheduler
        self._facts = facts

    def reply(self, messages: Sequence[Message], tools: Sequence[Tool], sampling: Sampling) -> Reply:
        started = time.perf_counter()
        ids = encode(self.tokenizer, messages, generate=True).ids
        if len(ids) + sampling.max_tokens > self.context:
            raise ContextFull(f"{len(ids)} prompt tokens and {sampling.max_tokens} for an answer exceed {self.context}.")
        done = self._scheduler.run(ids, sampling)
        usage = Usage(len(ids), done.cached, len(done.tokens))
        return Reply(Message.of("assistant", done.text), done.finish, usage, time.perf_counter() - started)

    def count(self, text: str) -> int:
        """Tokens of a text in this model's vocabulary."""
        from duomem.chat import count_tokens

        return count_tokens(self.tokenizer, text)

    def provenance(self) -> dict[str, str]:
        return dict(self._facts)

    def close(self) -> None:
        self._scheduler.close()


def counter(config: Config) -> Callable[[str], int]:
    """Counts tokens as the built model does, by its tokenizer alone: no weights are loaded."""
    from duomem.chat import count_tokens

    revision, trust = config.revision, config.trust_remote_code
    return partial(count_tokens, weights.load_tokenizer(config.path, revision=revision, trust_remote_code=trust))


def build(config: Config) -> HfModel:
    """Load the model. Raises `MissingExtra`, `UsageError` for no such model, `MismatchError` for a wrong adapter."""
    weights.quiet_threads()
    try:
        import torch
        import transformers
    except ImportError as error:
        raise MissingExtra(str(error.name), "train") from error
    from duomem.models._scheduler import Scheduler
    from duomem.models._slots import Network

    trust, revision = config.trust_remote_code, config.revision
    tokenizer = weights.load_tokenizer(config.path, revision=revision, trust_remote_code=trust)
    if config.adapter:
        weights.check_adapter(config.adapter, config.path, tokenizer, revision)
    model = weights.load_base(config.path, dtype=config.dtype, revision=revision, trust_remote_code=trust)
    if config.adapter:
        model = weights.attach(model, config.adapter, merge=config.merge)
    device = config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model = model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"models/hf: device {device!r} cannot be used: {error}") from error
    longest = int(getattr(model.config.get_text_config(), "max_position_embeddings", 4096))
    context = min(config.context or 4096, longest)
    facts = {
        "model": weights.stable_name(config.path),
        "revision": revision or "",
        "base_sha256": weights.base_hash(config.path, revision),
        "tokenizer_sha256": weights.tokenizer_hash(tokenizer),
        "adapter_sha256": weights.adapter_hash(config.adapter) if config.adapter else "",
        "dtype": config.dtype,
        "device": device,
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
    }
    scheduler = Scheduler(
        Network(model, config.max_batch, context),
        decode=lambda tokens: str(tokenizer.decode(tokens, skip_special_tokens=True)),
        ends=frozenset(end_of_turn(tokenizer)),
        slots=config.max_batch,
        chunk=config.chunk,
        threads=config.threads,
    )
    return HfModel(scheduler, tokenizer, context, facts)
