"""hf: a local transformers model, with or without a LoRA adapter; batches its callers and keeps KV caches across turns.

In: a Config. Out: a Model whose `reply` may be called from many threads; a scheduler thread serves all of them in one forward
after another, so a long answer holds nobody up, and prefills only the tokens that no slot knows yet. Models that the slots
cannot hold exactly are served one row after another. Weights from safetensors only. Not here: paid endpoints.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from duomem import weights
from duomem._chat_options import ChatOptions, check_style, tokenizer_of
from duomem.chat import PLAIN, Style, count_tokens, end_of_turn, read_answer
from duomem.errors import DataError, MissingExtra, UsageError
from duomem.models._local import Local
from duomem.types import Message, Reply, Sampling, Tool, Usage

if TYPE_CHECKING:
    from duomem.models._scheduler import Job, Scheduler


class Config(ChatOptions):
    """Settings of a local model."""

    path: str = "pocket"
    """The base: "pocket" (the model that ships with the package), a folder, or a hub name."""
    revision: str | None = None
    """Revision of a hub name."""
    adapter: str | None = None
    """Folder of a LoRA adapter that `duomem tune` wrote for this base; none: the base alone."""
    unpinned: bool = False
    """Allow a PEFT adapter of another tool: no manifest says which weights and template it was trained with."""
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
    lookup: int = Field(default=8, ge=0)
    """Tokens of a greedy answer guessed from the conversation and checked in one forward; 0: none. The answer is the same."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Only for models whose code you have read."""


class HfModel(Local):
    """A loaded model. `reply` blocks; see `duomem.models.Model`."""

    def __init__(self, scheduler: Scheduler, tokenizer: Any, context: int, facts: dict[str, str], style: Style = PLAIN) -> None:
        super().__init__(tokenizer, context, facts, style)
        self._scheduler = scheduler

    def reply(self, messages: Sequence[Message], tools: Sequence[Tool], sampling: Sampling) -> Reply:
        started = time.perf_counter()
        ids, offered = self.prompt(messages, tools, sampling)
        done = self._scheduler.run(ids, sampling)
        said = self._said(done, messages, offered)
        usage = Usage(len(ids), done.cached, len(done.tokens))
        finish = "tool_calls" if said.tool_calls else done.finish
        return Reply(said, finish, usage, time.perf_counter() - started, done.logprob)

    def _said(self, done: Job, messages: Sequence[Message], offered: tuple[Tool, ...]) -> Message:
        text = done.text
        if offered:  # some templates mark calls with special tokens
            text = str(self.tokenizer.decode(done.tokens, skip_special_tokens=False))
            text = text[: min((text.find(stop) for stop in done.sampling.stop if stop in text), default=len(text))]
        whole = done.finish != "length"
        return read_answer(self.tokenizer, text, messages, tools=offered, style=self.style, whole=whole)

    def close(self) -> None:
        self._scheduler.close()


def counter(config: Config) -> Callable[[str], int]:
    """Counts tokens as the built model does, by its tokenizer alone: no weights are loaded."""
    return partial(count_tokens, _tokenizer(config))


def build(config: Config) -> HfModel:
    """Load the model. Raises `MissingExtra`, `UsageError` for no such model, `MismatchError` for a wrong adapter."""
    weights.quiet_threads()
    try:
        import torch
        import transformers
    except ImportError as error:
        raise MissingExtra(str(error.name), "train") from error
    from duomem.models._scheduler import Scheduler
    from duomem.models._slots import Network, reasons_against
    from duomem.models._whole import Whole

    tokenizer = _tokenizer(config)
    if config.adapter:
        _check_adapter(config, config.adapter, tokenizer)
    trust, revision = config.trust_remote_code, config.revision
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
    against = reasons_against(model)
    facts = {
        "model": weights.stable_name(config.path),
        "revision": revision or "",
        "base_sha256": weights.base_hash(config.path, revision),
        "tokenizer_sha256": weights.tokenizer_hash(tokenizer),
        "adapter_sha256": weights.adapter_hash(config.adapter) if config.adapter else "",
        "dtype": config.dtype,
        "device": device,
        "one_by_one": "; ".join(against),
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
    }
    scheduler = Scheduler(
        Whole(model, config.max_batch, context) if against else Network(model, config.max_batch, context),
        decode=lambda tokens: str(tokenizer.decode(tokens, skip_special_tokens=True)),
        ends=frozenset(end_of_turn(tokenizer)),
        slots=config.max_batch,
        chunk=config.chunk,
        threads=config.threads,
        lookup=0 if against else config.lookup,
    )
    return HfModel(scheduler, tokenizer, context, facts, config.style)


def _tokenizer(config: Config) -> Any:
    return tokenizer_of(config.path, config, revision=config.revision, trust_remote_code=config.trust_remote_code)


def _check_adapter(config: Config, adapter: str, tokenizer: Any) -> None:
    folder = Path(adapter)
    if config.unpinned and not (folder / "manifest.json").is_file():
        if not (folder / "adapter_model.safetensors").is_file():
            raise DataError(f"{folder} holds no adapter_model.safetensors. Pickled adapters (.bin) are refused: convert them.")
        return
    check_style(weights.check_adapter(adapter, config.path, tokenizer, config.revision), config, adapter)
