"""What is served: a run's student (or a bundle's) with its layout, bank and task locator, and how its model is built.

In: a path, perhaps an arm. Out: a `Student`. Nothing of the model is loaded here: `engine` does that. Not here: HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from duomem import parts
from duomem.errors import UsageError
from duomem.own_agent import declared_locator
from duomem.record.functions import locator
from duomem.registry import component
from duomem.rundir import RunFolder, open_run
from duomem.scores import ARMS
from duomem.serve.inject import Injector
from duomem.types import Sampling, digest

SERVED = ("none", "memory", "adapter", "both")
"""Arms that can be served: what a run may ship."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """How a model is built: a component of models/ and its own options, which are plain JSON."""

    name: str
    options: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Student:
    """One student, ready but for its model. `close` frees its bank."""

    name: str
    """What clients see as the model's name."""
    revision: str
    """Hash of all that decides its answers; it changes with a reload that changes anything."""
    injector: Injector
    model: ModelSpec
    sampling: Sampling
    """What it was measured with; a request may ask otherwise."""
    facts: dict[str, str] = field(default_factory=dict)
    close: Callable[[], None] = lambda: None


def open_student(path: Path, arm: str = "", engine: str = "") -> Student:
    """The student of a run folder. `arm` is one of `SERVED`; empty: the one that the report decided on, else all that the run
    has. `engine` names another component of models/ for the same weights. Raises `UsageError`."""
    run = open_run(path, keep=False)
    seed = run.seeds()[0]
    arm = arm or _decided(run)
    if arm not in SERVED:
        raise UsageError(f"Arm {arm!r} cannot be served. There are: {', '.join(SERVED)}.")
    wanted = ARMS[arm]
    if wanted.adapter and not seed.adapter.is_dir():
        raise UsageError(f"{seed.adapter} is not there, so arm {arm!r} cannot be served. Run first: duomem tune {path}")
    model = _model(seed, seed.adapter if wanted.adapter else None, engine)
    injector, close = _injector(seed, model, memories=wanted.memories == "bank")
    table = seed.settings.student
    sampling = Sampling(table.temperature, table.max_tokens, seed=seed.settings.run.seed)
    facts = {"source": str(path), "arm": arm, "layout": injector.layout.hash, "bank_version": str(injector.version)}
    weights = [parts.weights_hash(model.options), parts.adapter_hash(seed.adapter) if wanted.adapter else ""]
    revision = digest([weights, model.name, facts["layout"], injector.find.spec, getattr(injector.bank, "content_hash", "")])
    return Student(f"duomem-{seed.settings.run.name or path.name}", revision[:16], injector, model, sampling, facts, close)


def _decided(run: RunFolder) -> str:
    """The arm of the report's decision, where there is a report."""
    report = run.root / "report.json"
    if report.is_file():
        shipped = json.loads(report.read_text(encoding="utf-8")).get("decision", {}).get("arm", "")
        if shipped in SERVED:
            return str(shipped)
    adapter, memories = run.seeds()[0].adapter.is_dir(), run.settings.remembers
    return "both" if adapter and memories else "adapter" if adapter else "memory" if memories else "none"


def _model(run: RunFolder, adapter: Path | None, engine: str) -> ModelSpec:
    """The student's model, or the same weights in another engine: options that it doesn't know are left out."""
    options = run.settings.options("student")
    name = engine or run.settings.student.model
    known = component("models", name).Config.model_fields
    if name != run.settings.student.model:
        options = {key: value for key, value in options.items() if key in known}
    return ModelSpec(name, options | ({"adapter": str(adapter.resolve())} if adapter else {}))


def _injector(run: RunFolder, model: ModelSpec, *, memories: bool) -> tuple[Injector, Callable[[], None]]:
    layout, find = parts.layout(run.settings), locator(declared_locator(run))
    if not memories:
        return Injector(layout, find), lambda: None
    loaded = parts.Parts(run, "serve")
    bank = loaded.bank(run)
    if bank is None:
        raise UsageError(f"{run.root} shows no memories: its config has no [memory] table, or k = 0.")
    module = component("models", model.name)
    count = module.counter(module.Config(**model.options)) if hasattr(module, "counter") else None
    strategy = parts.strategy(run.settings, count)
    injector = Injector(layout, find, strategy, bank.view(), bank.version, parts.budget(run.settings))
    return injector, bank.close
