"""Builds what a config names: environments, players, banks.

In: a run folder's settings. Out: the components, wired together; `Parts` keeps loaded models and banks and closes them.
Not here: the order of the work (`duomem.pipeline`) and the components themselves.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any

from duomem import embed, examples, price, weights
from duomem.agent import Player
from duomem.bank import Bank
from duomem.config import Settings
from duomem.constrain import constraint
from duomem.envs import Env
from duomem.errors import UsageError
from duomem.memory import MemoryStrategy
from duomem.models import Model
from duomem.prompts import Layout, load_layout
from duomem.registry import component
from duomem.rundir import RunFolder
from duomem.spending import Meter, Metered
from duomem.tuning import Tuner
from duomem.types import Budget, Sampling, digest


def build(kind: str, name: str, options: dict[str, Any], **offers: Any) -> Any:
    """A component from its own options, and from those of the offers that its `build` takes."""
    module = component(kind, name)
    taken = inspect.signature(module.build).parameters
    return module.build(module.Config(**options), **{key: value for key, value in offers.items() if key in taken})


def environment(run: RunFolder, data: Path | None = None) -> Env:
    """The run's environment: on `data` where it is given, else on the config's data root, else on the games the run wrote."""
    settings = run.settings
    options = settings.options("env")
    takes_root = "data_root" in component("envs", settings.env.name).Config.model_fields
    if data is not None and not takes_root:
        raise UsageError(f"--data {data}: the environment {settings.env.name!r} has no data root.")
    if data is not None:
        options["data_root"] = str(data)
    elif settings.games and takes_root and not options.get("data_root"):
        options["data_root"] = str(run.games)
    env: Env = build("envs", settings.env.name, options)
    return env


def games_writer(settings: Settings) -> tuple[Callable[..., Any], list[Any]]:
    """What writes the run's games - its environment's own `write_games`, else ALFWorld's - and what beside split, number and
    seed decides them."""
    module = component("envs", settings.env.name)
    if not hasattr(module, "write_games"):
        from duomem.games.write import write_games

        return write_games, []
    options = settings.options("env")
    decides = {name: value for name, value in options.items() if name != "data_root"}
    return partial(module.write_games, module.Config(**options)), [settings.env.name, decides]


def layout(settings: Settings) -> Layout:
    return load_layout(settings.student.layout)


def counter(settings: Settings) -> Callable[[str], int] | None:
    """Counts tokens as the student will, without loading its weights; None for a student that cannot count."""
    module = component("models", settings.student.model)
    if not hasattr(module, "counter"):
        return None
    made: Callable[[str], int] = module.counter(module.Config(**settings.options("student")))
    return made


def strategy(settings: Settings, count: Callable[[str], int] | None = None) -> MemoryStrategy | None:
    """The memory strategy; None where the config has no memory or shows none. `count` says how long a memory is in tokens."""
    table = settings.memory
    if table is None or not settings.remembers:
        return None
    offers = {"count": count} if count else {}
    made: MemoryStrategy = build("memory", table.name, settings.options("memory"), **offers)
    return made


def tuner(settings: Settings) -> Tuner:
    """The tuner of a config that has one."""
    assert settings.tuning is not None
    made: Tuner = build("tuning", settings.tuning.name, settings.options("tuning"), layout=layout(settings).hash)
    return made


def budget(settings: Settings) -> Budget:
    table = settings.memory
    return Budget(table.k, table.floor, table.tokens) if table else Budget(k=0)


def recalled(settings: Settings) -> list[Any]:
    """What decides which memories of a bank are shown."""
    table = settings.memory
    return [settings.options("memory"), table.k, table.floor, table.tokens, table.retrieval] if table else []


def example_options(settings: Settings) -> examples.Options:
    """How training examples are made: the tuner's own keys of that name; no memories where the run has none."""
    options = settings.options("tuning")
    own = {name: options[name] for name in examples.Options.model_fields if name in options}
    if strategy(settings) is None:
        own.setdefault("memories", "none")
    return examples.Options(**own)


def trainable(settings: Settings) -> str:
    """The base that a tuner trains for. Raises `UsageError` for a student without weights."""
    base = settings.options("student").get("path")
    if not base:
        name = settings.student.model
        raise UsageError(f"[tuning] needs a student with weights; student.model = {name!r} has none. Remove it: --set tuning=")
    return str(base)


def base_hash(settings: Settings) -> str:
    """Of the student's weights, where they are files of this machine; a hub name and its revision stand for themselves."""
    return weights_hash(settings.options("student"))


def weights_hash(options: dict[str, Any]) -> str:
    """Of the weights that a model's own options name by `path`; empty for a model without files on this machine."""
    base = str(options.get("path") or "")
    return weights.base_hash(base) if base and Path(weights.resolve(base)).is_dir() else ""


def adapter_hash(folder: Path) -> str:
    """sha256 over an adapter's weights; of one that is no PEFT adapter, over the names and contents of its files."""
    if (folder / "adapter_model.safetensors").is_file():
        return weights.adapter_hash(folder)
    return digest({file.name: sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir()) if file.is_file()})


class Parts:
    """Loaded models and banks of one command, each once. Use as a context manager.

    With a run, models behind endpoints are counted and limited as its `[price]` table says; `what` is what they are paid for.
    """

    def __init__(self, run: RunFolder | None = None, what: str = "") -> None:
        self._open = ExitStack()
        self._run, self._what = run, what
        self._models: dict[str, Model] = {}
        self._banks: dict[Path, Bank] = {}

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._open.close()

    def model(self, name: str, options: dict[str, Any], role: str = "teacher") -> Model:
        """A model in a role, which decides its price. Raises `UsageError` for a limit of money without a price."""
        key = f"{name} {sorted(options.items())} {role}"
        if key not in self._models:
            meter = self._meter if getattr(component("models", name), "BILLED", False) else None
            model: Model = build("models", name, options)
            self._open.callback(model.close)
            self._models[key] = Metered(model, meter, self._what, role) if meter else model
        return self._models[key]

    @cached_property
    def _meter(self) -> Meter | None:
        if self._run is None:
            return None
        made = price.meter(self._run)
        self._open.callback(made.ledger.close)
        return made

    def bank(self, run: RunFolder) -> Bank | None:
        """The bank of one seed, opened for its embedder and layout; None where the run has no memories."""
        table = run.settings.memory
        if strategy(run.settings) is None or table is None:
            return None
        if run.bank not in self._banks:
            if not run.bank.is_file():
                raise UsageError(f"{run.bank} is not there yet. Run first: duomem remember {run.home or run.root}")
            embedder = embed.build(table.embedder)
            bank = Bank.open(run.bank, embedder, layout(run.settings).hash, retrieval=table.retrieval)
            self._open.callback(bank.close)
            self._banks[run.bank] = bank
        return self._banks[run.bank]

    def teacher(self, run: RunFolder, env: Env) -> Player:
        settings, table = run.settings, run.settings.teacher
        return Player(
            env,
            self.model(table.model, settings.options("teacher")),
            layout(settings),
            sampling=Sampling(table.temperature, table.max_tokens, seed=settings.run.seed),
            max_steps=settings.rollout.max_steps,
            timeout_s=settings.rollout.timeout_s,
            repair=settings.rollout.repair,
        )

    def student(self, run: RunFolder, env: Env, adapter: Path | None = None, bank: Bank | None = None) -> Player:
        """The student of one seed with its memories (or those of `bank`), and with an adapter where one is given."""
        settings, table = run.settings, run.settings.student
        options = settings.options("student") | ({"adapter": str(adapter)} if adapter else {})
        model, bank = self.model(table.model, options, "student"), bank or self.bank(run)
        return Player(
            env,
            model,
            layout(settings),
            strategy=strategy(settings, getattr(model, "count", None)),
            bank=bank.view() if bank else None,
            budget=budget(settings),
            sampling=Sampling(table.temperature, table.max_tokens, seed=settings.run.seed),
            max_steps=settings.rollout.max_steps,
            timeout_s=settings.rollout.timeout_s,
            repair=settings.rollout.repair,
            constrain=constraint(settings, layout(settings)),
        )
