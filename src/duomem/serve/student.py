"""What is served: the student of a bundle or of a run folder, with its layout, bank and task locator, and its model's options.

In: a path, what the user chose. Out: a `Student`. Nothing of the model is loaded here: `engine` does that. Not here: HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from duomem import parts
from duomem._chat_options import ChatOptions, tokenizer_of
from duomem.bank import Bank
from duomem.chat import count_tokens
from duomem.errors import UsageError
from duomem.memory import MemoryStrategy
from duomem.own_agent import declared_locator
from duomem.prompts import Layout
from duomem.record.functions import Locator, locator
from duomem.registry import component
from duomem.rundir import RunFolder, open_run
from duomem.scores import ARMS
from duomem.serve.inject import Injector
from duomem.types import Budget, Sampling, digest

if TYPE_CHECKING:
    from duomem.bundle import Bundle

SERVED = ("none", "memory", "adapter", "both")
"""Arms that can be served: what a run may ship."""
SHARED = ("path", "revision", "chat_template", "thinking", "tool_calls", "threads", "context")
"""Options that mean the same in every engine of this machine."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What the user says about what is served."""

    arm: str = ""
    """Of a run folder: one of `SERVED`; empty: the one that the report decided on, else all that the run has."""
    engine: str = ""
    """A component of models/; empty: the one that was measured."""
    threads: int = 0
    """Threads of a forward pass; 0: the engine's own."""
    slots: int = 0
    """Conversations whose caches are kept, and requests computed at once; 0: the engine's own."""
    trust: Path | None = None
    """A file of public keys; None: the user's own trust file."""
    allow_unsigned: bool = False
    base: str = ""
    """The base model's folder, where the bundle's is not here."""
    engine_url: str = ""
    """A running engine with the student's model loaded (`models/engine_url`), in place of one that is started here."""
    allow_older: bool = False
    """Serve a bundle that is older than the one in use here before."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """How a model is built: a component of models/ and its own options, which are plain JSON."""

    name: str
    options: dict[str, Any]

    @property
    def constrains(self) -> bool:
        """Whether its answers can be held to a grammar."""
        return bool(getattr(component("models", self.name), "CONSTRAINS", False))


@dataclass(frozen=True, slots=True)
class Student:
    """One student, ready but for its model. `close` frees its bank and what was unpacked for it."""

    name: str
    """What clients see as the model's name."""
    revision: str
    """16 hex digits of all that decides its answers; another one after a reload that changed anything."""
    injector: Injector
    model: ModelSpec
    sampling: Sampling
    """What it was measured with; a request may ask otherwise."""
    facts: dict[str, str] = field(default_factory=dict)
    """Where it comes from, in words for people."""
    bank: Bank | None = None
    """Where its memories come from; read only."""
    close: Callable[[], None] = lambda: None


def open_student(path: Path, choice: Choice | None = None) -> Student:
    """The student of a bundle (a folder or a zip) or of a run folder. Raises `UsageError` and `DataError`."""
    choice = choice or Choice()
    if (path / "config.toml").is_file():
        return _of_run(open_run(path, keep=False), choice)
    if path.is_file() or (path / "manifest.json").is_file():
        return _of_bundle(path, choice)
    raise UsageError(f"{path} is neither a bundle nor a run folder. Make a bundle with: duomem bundle RUN -o my.duo")


def _of_run(run: RunFolder, choice: Choice) -> Student:
    """Of a run of several seeds the first one's parts, as bundles have them."""
    seed, arm = run.seeds()[0], choice.arm or decided_arm(run)
    if arm not in SERVED:
        raise UsageError(f"Arm {arm!r} cannot be served. There are: {', '.join(SERVED)}.")
    wanted = ARMS[arm]
    if wanted.adapter and not seed.adapter.is_dir():
        raise UsageError(f"{seed.adapter} is not there: arm {arm!r} cannot be served. Run first: duomem tune {run.root}")
    settings, table = seed.settings, seed.settings.student
    options = settings.options("student") | ({"adapter": str(seed.adapter.resolve())} if wanted.adapter else {})
    model = _model(table.model, options, choice)
    layout, find = parts.layout(settings), locator(declared_locator(run))
    sampling = Sampling(table.temperature, table.max_tokens, seed=settings.run.seed)
    facts = {"source": str(run.root), "arm": arm}
    with ExitStack() as opened:
        bank = None
        if wanted.memories == "bank":
            bank = opened.enter_context(parts.Parts(seed, "serve")).bank(seed)
            if bank is None:
                raise UsageError(f"{run.root} shows no memories: its config has no [memory] table, or k = 0.")
        strategy = parts.strategy(settings, _counter(model)) if bank else None
        injector = _injector(layout, find, strategy, bank, parts.budget(settings))
        return _student(settings.run.name or run.root.name, injector, model, sampling, facts, bank, opened)


def _of_bundle(path: Path, choice: Choice) -> Student:
    from duomem.bundle import open_bundle

    if choice.arm:
        raise UsageError(f"{path} is a bundle: what it holds is decided. --arm is for run folders.")
    with ExitStack() as opened:
        trust, unsigned = choice.trust, choice.allow_unsigned
        older = choice.allow_older
        bundle = opened.enter_context(
            open_bundle(path, trust=trust, allow_unsigned=unsigned, allow_older=older, base=choice.base)
        )
        bundle.installed()
        said = bundle.manifest
        model = _model(said.student.model, _engine_options(bundle, choice), choice)
        bank = bundle.open_bank()
        if bank is not None:
            opened.callback(bank.close)
        budget = said.memory.budget if said.memory else Budget(k=0)
        strategy = bundle.strategy(_counter(model)) if bank else None
        injector = _injector(bundle.layout, bundle.locator, strategy, bank, budget)
        facts = {"source": str(path), "arm": said.verdict.arm, "bundle": f"{said.name} {said.version}"}
        facts["signed"] = "yes" if bundle.signed else "no"
        return _student(said.name, injector, model, said.student.sampling, facts, bank, opened)


def _engine_options(bundle: Bundle, choice: Choice) -> dict[str, Any]:
    """The bundle's own options, with its GGUF files for the engine that reads them."""
    options = dict(bundle.options)
    if (choice.engine or bundle.manifest.student.model) == "llamacpp":
        if merged := bundle.gguf("merged"):
            options["gguf"] = str(merged)
            options.pop("adapter", None)
        elif lora := bundle.gguf("adapter"):
            options["lora"] = str(lora)
    return options


def _student(
    name: str,
    injector: Injector,
    model: ModelSpec,
    sampling: Sampling,
    facts: dict[str, str],
    bank: Bank | None,
    opened: ExitStack,
) -> Student:
    """What is open is the student's from here on."""
    facts |= {"engine": model.name, "layout": injector.layout.hash, "bank_version": injector.version}
    adapter = model.options.get("adapter")
    weights = [parts.weights_hash(model.options), parts.adapter_hash(Path(adapter)) if adapter else ""]
    shown = [getattr(injector.bank, "content_hash", ""), injector.budget.k, injector.budget.floor, injector.budget.tokens]
    plain = {key: value for key, value in model.options.items() if key not in ("adapter", "path", "gguf", "lora")}
    decides = [
        weights,
        model.name,
        plain,
        facts["layout"],
        injector.find.spec,
        injector.find.pin,
        shown,
        facts.get("bundle", ""),
    ]
    close = opened.pop_all().close
    return Student(f"duomem-{name}", digest(decides)[:16], injector, model, sampling, facts, bank, close)


def decided_arm(run: RunFolder) -> str:
    """The arm of the report's decision, where there is a report."""
    report = run.root / "report.json"
    if report.is_file():
        shipped = json.loads(report.read_text(encoding="utf-8")).get("decision", {}).get("arm", "")
        if shipped in SERVED:
            return str(shipped)
    adapter, memories = run.seeds()[0].adapter.is_dir(), run.settings.remembers
    return "both" if adapter and memories else "adapter" if adapter else "memory" if memories else "none"


def _model(measured: str, options: dict[str, Any], choice: Choice) -> ModelSpec:
    """The model that was measured, or the same weights in another engine with what is common to both."""
    name = "engine_url" if choice.engine_url else choice.engine or measured
    known = component("models", name).Config.model_fields
    if name != measured:
        kept = (*SHARED, "adapter", "gguf", "lora")
        options = {key: options[key] for key in kept if options.get(key) is not None and key in known}
    for key, value in (("threads", choice.threads), ("max_batch", choice.slots), ("url", choice.engine_url)):
        if value and key in known:
            options = {**options, key: value}
    return ModelSpec(name, options)


def _counter(model: ModelSpec) -> Callable[[str], int] | None:
    """Counts tokens as the model will, by its tokenizer alone and without transformers, which takes seconds to import."""
    if not hasattr(component("models", model.name), "counter"):
        return None
    own = {key: value for key, value in model.options.items() if key in ChatOptions.model_fields}
    tokenizer = tokenizer_of(model.options["path"], ChatOptions(**own), revision=model.options.get("revision"), light=True)
    return partial(count_tokens, tokenizer)


def _injector(layout: Layout, find: Locator, strategy: MemoryStrategy | None, bank: Bank | None, budget: Budget) -> Injector:
    if bank is None or strategy is None:
        return Injector(layout, find)
    return Injector(layout, find, strategy, bank.view(), str(bank.version), budget)
