"""lora: a LoRA adapter by PEFT and transformers' Trainer, one sequence an episode, loss on the student's own turns.

In: examples and a base model. Out: an adapter folder (PEFT safetensors and `manifest.json`); checkpoints while it trains.
Trainer and not TRL's SFTTrainer, because the tokens and their loss weights are made by the renderer that also serves (TRL would
render again, with its own patched templates), loss weights are not only 0 and 1, and batches have a token budget and a dozen
fixed shapes. "Packing" is by length: sequences of about equal length share a batch, padded behind, so that attention stays
causal without a mask; rows packed from several episodes need a dense mask, whose attention costs twice as much on a CPU.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from duomem import weights
from duomem._chat_options import ChatOptions, tokenizer_of
from duomem.chat import PLAIN, Encoded, Style, encode
from duomem.errors import DataError, MissingExtra, UsageError
from duomem.examples import Options
from duomem.tuning import _quantised
from duomem.tuning._batches import plan
from duomem.tuning._files import MANIFEST, STARTED, Job, agrees, read, versions, write
from duomem.types import SCHEMA, Adapter, Example, digest


class Config(Options, ChatOptions):
    """Settings of LoRA training. `duomem.examples.Options` says what is learned; `ChatOptions` are the student's if not set."""

    rank: int = Field(default=16, ge=1)
    """Rank of the adapter, 8 to 32."""
    alpha: int | None = Field(default=None, ge=1)
    """Scale of the adapter; none: twice the rank."""
    targets: tuple[str, ...] = ()
    """Names of the linear layers that get an adapter, such as q_proj and v_proj; none: all but the output's."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout in front of the adapter."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Highest learning rate."""
    epochs: int = Field(default=3, ge=1)
    """Passes over the examples."""
    max_steps: int | None = Field(default=None, ge=1)
    """Steps after which training ends, whatever is left of the epochs."""
    tokens_per_step: int = Field(default=4096, ge=1)
    """Padded tokens of one optimizer step; at least one episode."""
    warmup: float = Field(default=0.05, ge=0, le=1)
    """Share of the steps over which the learning rate rises."""
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    """How the learning rate falls after that."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay of AdamW."""
    checkpoint_steps: int = Field(default=50, ge=1)
    """Steps between checkpoints."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the matrix products; auto: bfloat16 where the processor or GPU has it. The adapter is float32 always."""
    quantize: Literal["none", "4bit"] = "none"
    """"4bit": the frozen base is held in 4 bits while it is trained on (QLoRA, Dettmers et al. 2023): a third of the memory.
    Needs bitsandbytes and a GPU, or a processor that it has kernels for."""
    recompute: bool = False
    """Compute activations again in the backward pass: about a third slower, and far less memory for long episodes."""
    threads: int | None = Field(default=None, ge=1)
    """Threads on the CPU; none: torch's own choice. Bit-identical adapters need the same number."""
    device: str = "auto"
    """"cpu", "cuda", ...; auto: a GPU where there is one."""
    unrestricted: bool = False
    """Allow any rank and 10 million trained parameters or more."""
    revision: str | None = None
    """Revision of a base from the hub."""
    trust_remote_code: bool = False
    """Run Python code that comes with the base. Only for models whose code you have read."""

    @model_validator(mode="after")
    def _restricted(self) -> Config:
        if not self.unrestricted and not 8 <= self.rank <= 32:
            raise ValueError(f"rank {self.rank} is outside 8 to 32; set unrestricted = true to allow it")
        return self

    @property
    def scale(self) -> int:
        """Alpha as it is used."""
        return self.alpha or 2 * self.rank


PARAMETER_LIMIT = 10_000_000
"""An adapter has fewer trained parameters than this, as the paper's do."""


_OTHER_SENSES = r".*(vision|visual|audio|image|multi_modal|embed_vision|embed_audio).*"
"""Modules that a text conversation never reaches, in bases that also see or hear: they get no adapter."""


class Lora:
    """The tuner; see `duomem.tuning.Tuner`."""

    def __init__(self, config: Config, layout: str) -> None:
        self._config = config
        self._layout = layout

    def tune(
        self,
        examples: Iterable[Example],
        base: str,
        out: Path,
        *,
        seed: int,
        progress: Callable[[int, int, float], None] | None = None,
    ) -> Adapter:
        """Train, or go on where a killed run stopped. A finished adapter of exactly this run is returned as it is.

        Raises `DataError` when nothing is left to learn, `MismatchError` when `out` holds another run's adapter or checkpoints,
        `UsageError` when the adapter would have 10 million parameters or more.
        """
        config = self._config
        weights.quiet_threads()
        _libraries()
        if config.quantize == "4bit":
            _quantised.check(_device(config))
        job = self._job(sorted(examples, key=lambda example: (example.source, example.memories)), base, seed)
        out.mkdir(parents=True, exist_ok=True)
        if agrees(out / MANIFEST, job):
            return read(out)
        agrees(out / STARTED, job)
        (out / STARTED).write_text(json.dumps(job.pins, indent=1))
        return _train(job, config, out, progress)

    def _job(self, examples: Sequence[Example], base: str, seed: int) -> Job:
        config = self._config
        tokenizer = tokenizer_of(base, config, revision=config.revision, trust_remote_code=config.trust_remote_code)
        data = encode_all(tokenizer, examples, _context(base, config), config.style)
        steps = plan(
            [len(encoded.ids) for encoded in data],
            tokens=config.tokens_per_step,
            epochs=config.epochs,
            max_steps=config.max_steps,
            seed=seed,
        )
        content = sorted(digest([example.source, list(example.memories), list(example.learn)]) for example in examples)
        return Job(
            config.model_dump(mode="json") | {"alpha": config.scale},
            base,
            weights.base_hash(base, config.revision),
            weights.tokenizer_hash(tokenizer),
            self._layout,
            digest(content),
            data,
            len(examples),
            steps,
            seed,
        )


def build(config: Config, *, layout: str = "") -> Lora:
    """`layout` is the hash of the layout that the examples were rendered in, for the manifest."""
    return Lora(config, layout)


def encode_all(tokenizer: Any, examples: Sequence[Example], context: int, style: Style = PLAIN) -> list[Encoded]:
    """Token ids and loss weights of the examples that hold something to learn and fit the context.

    Raises `DataError` when that is none, saying why.
    """
    empty = long = 0
    found: list[Encoded] = []
    for example in examples:
        encoded = encode(tokenizer, example.messages, example.learn, tools=example.tools, style=style)
        if not any(encoded.weights[1:]):
            empty += 1
        elif len(encoded.ids) > context:
            long += 1
        else:
            found.append(encoded)
    if not found:
        raise DataError(
            f"Nothing is left to learn: of {len(examples)} examples {empty} hold no learned token and {long} are longer than "
            f"the base's context of {context} tokens. Collect more won episodes, or set tuning.filter=mask or none."
        )
    return found


def use_bfloat16(dtype: str, device: str) -> bool:
    """Whether matrix products run in bfloat16."""
    import torch

    if dtype != "auto":
        return dtype == "bfloat16"
    if device != "cpu":
        return bool(torch.cuda.is_available() and torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _libraries() -> None:
    try:
        for library in ("torch", "transformers", "accelerate", "peft"):
            importlib.import_module(library)
    except ImportError as error:
        raise MissingExtra(str(error.name), "train") from error


def _context(base: str, config: Config) -> int:
    from transformers import AutoConfig

    found = AutoConfig.from_pretrained(
        weights.resolve(base), revision=config.revision, trust_remote_code=config.trust_remote_code
    )
    return int(getattr(found.get_text_config(), "max_position_embeddings", None) or 1 << 30)


def _device(config: Config) -> str:
    import torch

    return config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def _train(job: Job, config: Config, out: Path, progress: Callable[[int, int, float], None] | None) -> Adapter:
    import torch

    from duomem.tuning._train import Schedule, train

    if config.threads:
        torch.set_num_threads(config.threads)
    device = _device(config)
    bfloat16 = use_bfloat16(config.dtype, device)
    model = _with_adapter(job, config, bfloat16)
    if config.quantize == "none":  # a quantised one was loaded where it runs
        model = model.to(device)
    if config.recompute:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    parameters = _count(model, config)
    schedule = Schedule(
        config.learning_rate,
        config.warmup,
        config.schedule,
        config.weight_decay,
        job.seed,
        config.checkpoint_steps,
        bfloat16,
    )
    trained = train(model, job.data, job.steps, schedule, out / "checkpoints", progress)
    manifest = job.pins | {
        "schema": SCHEMA,
        "base": weights.stable_name(job.base),
        "parameters": parameters,
        "examples": job.examples,
        "sequences": len(job.data),
        "steps": len(job.steps),
        "tokens": job.tokens,
        "padding": round(job.padding, 4),
        "seconds": round(trained.seconds, 2),
        "losses": trained.losses,
        "dtype": "bfloat16" if bfloat16 else "float32",
        "device": device,
        "versions": versions(),
    }
    return write(model, out, manifest)


def _with_adapter(job: Job, config: Config, bfloat16: bool) -> Any:
    """The base with a fresh adapter on every linear layer but the output's."""
    import torch
    from peft import LoraConfig, get_peft_model

    trust, revision = config.trust_remote_code, config.revision
    if config.quantize == "4bit":
        base = _quantised.load(job.base, _device(config), bfloat16=bfloat16, revision=revision, trust_remote_code=trust)
    else:
        base = weights.load_base(job.base, dtype="float32", revision=revision, trust_remote_code=trust)
    torch.manual_seed(job.seed)
    model = get_peft_model(
        base,
        LoraConfig(
            r=config.rank,
            lora_alpha=config.scale,
            lora_dropout=config.dropout,
            target_modules=list(config.targets) or "all-linear",
            exclude_modules=_OTHER_SENSES if base.config is not base.config.get_text_config() else None,
            task_type="CAUSAL_LM",
        ),
    )
    if bfloat16 and config.quantize == "none":
        # Autocast casts a frozen weight again in every forward; cast once instead. Only the product's operands change.
        for module in model.modules():
            if hasattr(module, "base_layer") and hasattr(module.base_layer, "weight"):
                module.base_layer.weight.data = module.base_layer.weight.data.to(torch.bfloat16)
    return model


def _count(model: Any, config: Config) -> int:
    """Trained parameters. Raises `UsageError` at the limit."""
    count: int = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    if count >= PARAMETER_LIMIT and not config.unrestricted:
        raise UsageError(
            f"The adapter would have {count:,} trained parameters; the limit is {PARAMETER_LIMIT:,}. Lower tuning.rank "
            f"(now {config.rank}), name fewer layers in tuning.targets, or allow it with tuning.unrestricted=true."
        )
    return count
