"""What a run does, as data: a TOML file, overridden by `--set table.key=value`.

In: a TOML file and overrides. Out: frozen `Settings` whose keys are all known and whose component tables their components
have validated, with a hash. An unknown key fails with the nearest real one and the place it was found. Not here: secrets and
data paths of a machine, which come from environment variables.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from duomem._chat_options import SHARED
from duomem.errors import ConfigError, UsageError
from duomem.registry import component
from duomem.types import digest


class Table(BaseModel):
    """One table of a config. A component's own fields stand in the same table; the component validates them."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ComponentTable(Table):
    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)


class RunTable(Table):
    """The run as a whole."""

    name: str = "run"
    """A name for reports; it has no other effect."""
    seed: int = 0
    """Seed of task samples, rollouts and training."""
    seeds: tuple[int, ...] = ()
    """Several seeds: each collects, remembers and tunes in its own seed<N>/; evaluation pools them. Empty: `seed` alone."""


class GameSpec(Table):
    """How many games of a split to write."""

    n: int = Field(gt=0)
    """Number of games."""
    seed: int = 0
    """Seed of the generator."""


class EnvTable(ComponentTable):
    """The environment: where tasks come from."""

    name: str = "alfworld"
    """A component of envs/ (see `duomem list`)."""


class TeacherTable(ComponentTable):
    """The teacher, and what it is asked to solve."""

    model: str = "expert"
    """A component of models/."""
    split: str = "train"
    """Where its tasks come from; an evaluation split is refused."""
    tasks: int = Field(default=120, ge=0)
    """How many tasks, as a seeded sample that is recorded in the run folder; 0: all."""
    attempts: int = Field(default=1, ge=1)
    """Attempts at each task."""
    max_tokens: int = Field(default=128, gt=0)
    """Longest reply, in tokens."""
    temperature: float = Field(default=0.0, ge=0)
    """Sampling temperature; 0 is greedy."""


class StudentTable(ComponentTable):
    """The student: the small model that learns."""

    model: str = "hf"
    """A component of models/."""
    layout: str = "pocket"
    """The prompt layout of student and teacher: a name in layouts/ or the path of a TOML file."""
    max_tokens: int = Field(default=48, gt=0)
    """Longest reply, in tokens."""
    temperature: float = Field(default=0.0, ge=0)
    """Sampling temperature; 0 is greedy."""


class MemoryTable(ComponentTable):
    """Context space: how memories are written and shown. No such table, or k = 0: no memories."""

    name: str = "procedure"
    """A component of memory/."""
    embedder: str = "minilm"
    """What turns a key into a vector (see `duomem list`)."""
    k: int = Field(default=2, ge=0)
    """At most so many memories in a prompt."""
    floor: float = Field(default=-1.0, ge=-1, le=1)
    """Smallest cosine similarity of a memory that is shown; -1: any."""
    tokens: int = Field(default=512, gt=0)
    """At most so many tokens of memories in a prompt."""
    retrieval: Literal["dense", "bm25", "hybrid"] = "dense"
    """How keys are searched: by cosine, by BM25 over their words (extra bm25), or by the mean of both."""
    merge: float = Field(default=0.0, ge=0, le=1)
    """Merge a new memory into one of the bank whose key and steps are at least so alike; 0: never."""
    practice: int = Field(default=0, ge=0)
    """So many training tasks the student plays with the memories, and the bank learns from them (MemP's loop); 0: none."""
    group: int = Field(default=20, gt=0)
    """So many practised tasks between two updates of the bank."""


class TuningTable(ComponentTable):
    """Parameter space: how the adapter is trained. No such table: no adapter."""

    name: str = "lora"
    """A component of tuning/."""
    dagger: int = Field(default=0, ge=0)
    """So many of the log's tasks the student plays with a first adapter; the teacher labels its states, and the adapter is
    trained on these too (DAgger). 0: none."""
    dagger_labels: dict[str, Any] = {}
    """Keys of the teacher that are others while it labels, for example { slip = 0.0 }."""


class RolloutTable(Table):
    """How episodes are played."""

    concurrency: int = Field(default=8, ge=1)
    """Episodes at once. Results do not depend on it."""
    max_steps: int = Field(default=30, ge=1)
    """Turns after which an episode is cut off."""
    timeout_s: float = Field(default=600.0, gt=0)
    """Seconds after which an episode is cut off."""
    actions: Literal["free", "grammar", "legal"] = "free"
    """What the student may say: anything; commands in the environment's forms ("grammar"); only what is legal right now, where
    the environment tells it ("legal", a strong hint). Student arms alone; reported."""
    repair: bool = False
    """Strip a trailing period from commands and lower-case them, in every arm. The report counts what that changed."""

    @property
    def held(self) -> list[str]:
        """What a student's episode depends on beside `decides`."""
        return [self.actions] if self.actions != "free" else []

    @property
    def decides(self) -> list[int | str]:
        """What of this table decides an episode."""
        return [self.max_steps, *(["repair"] if self.repair else [])]


class EvaluateTable(Table):
    """What the arms are measured on."""

    split: str = "valid_unseen"
    """The split of the games."""
    games: int = Field(default=0, ge=0)
    """How many games, as a seeded sample; 0: all."""
    seed: int = 0
    """Seed of the sample, of the episodes and of the bootstrap."""
    arms: tuple[str, ...] = ("none", "format_only", "memory", "adapter", "both", "decoy", "teacher")
    """The arms to play; both_decoy, no_same_room and both_no_same_room are there too. Arms that need a part the run lacks are
    left out."""
    also: tuple[str, ...] | None = None
    """Further splits that `distill` plays, all their games, each with a report in a folder of its name in the run folder."""


class RateTable(Table):
    """Prices of a million tokens of one model."""

    input: float = Field(default=0.0, ge=0)
    """Prompt tokens."""
    cached: float | None = Field(default=None, ge=0)
    """Prompt tokens that the endpoint had read before; none: as `input`."""
    output: float = Field(default=0.0, ge=0)
    """Completion tokens, reasoning included."""


class PriceTable(Table):
    """What paid models cost, and how much of it a run may use. No prices are built in: they are your endpoint's."""

    currency: str = "USD"
    """The unit of every price here; it has no other effect."""
    teacher: RateTable = RateTable()
    """The teacher's prices: { input = ..., cached = ..., output = ... } for a million tokens."""
    student: RateTable = RateTable()
    """The student's, where an endpoint serves it."""
    writer: RateTable | None = None
    """Those of a model of its own that writes memories; none: as the model that writes."""
    machine_hour: float = Field(default=0.0, ge=0)
    """An hour of the machine that tunes and runs the student."""
    max_cost: float | None = Field(default=None, gt=0)
    """The run stops before a call that may bring its cost above this, and goes on with a higher one. None: no limit."""
    max_tokens: int | None = Field(default=None, gt=0)
    """The same for tokens of paid models, prompt and completion."""
    turns: float = Field(default=12.0, gt=0)
    """Turns of an episode to expect, for the estimate until episodes have been played."""
    first_tokens: int = Field(default=800, gt=0)
    """Tokens of an episode's first prompt to expect."""
    turn_tokens: int = Field(default=120, gt=0)
    """Tokens that a turn adds to the prompt, reply and observation, to expect."""
    reply_tokens: int = Field(default=50, gt=0)
    """Tokens of a reply to expect, reasoning included."""


class BundleTable(Table):
    """What `distill` ends with: one artefact of what the decision ships. No such table: no bundle."""

    out: str = ""
    """Where: NAME.duo is one file, any other name a folder; relative to the run folder. Empty: the run's name with .duo."""
    sign: str = ""
    """Path of a private key that `duomem keygen` made; empty: not signed, and served only with --allow-unsigned."""
    gguf: Literal["auto", "adapter", "merged", "none"] = "auto"
    """What llama.cpp gets: the adapter, base and adapter merged, nothing; auto: the adapter where it can be written."""
    weights: str = "f32"
    """Precision of a merged file."""
    parity: int = Field(default=24, ge=0)
    """Recorded episodes that are replayed through the server before a bundle is written; 0: none."""
    max_mb: float = Field(default=10.0, gt=0)
    """Most megabytes of adapter, bank and embedder together."""
    licence: str = "other"
    """The bundle's licence, for its model card."""


class Settings(BaseModel):
    """A whole config."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: RunTable = RunTable()
    env: EnvTable = EnvTable()
    games: dict[str, GameSpec] = {}
    teacher: TeacherTable = TeacherTable()
    student: StudentTable = StudentTable()
    memory: MemoryTable | None = None
    tuning: TuningTable | None = None
    rollout: RolloutTable = RolloutTable()
    evaluate: EvaluateTable = EvaluateTable()
    price: PriceTable | None = None
    bundle: BundleTable | None = None
    each: dict[str, tuple[str, ...]] = {}
    """One key ("student.path") with several values: `distill` does the whole job once for each. The teacher plays once."""

    def options(self, table: str) -> dict[str, Any]:
        """The keys of a table that are its component's own, in full: what `Config(**...)` takes."""
        content = getattr(self, table).model_dump(mode="json")
        if KIND_OF[table] == "models" and "layout" not in content:
            content["layout"] = self.student.layout  # a model that speaks in a layout speaks in the student's
        if table == "tuning" and not self.remembers:
            content.setdefault("memories", "none")  # without memories there are none to train with
        if table == "tuning":  # what decides the tokens of a conversation must be the same in training and serving
            student = self.student.model_dump(mode="json")
            content = {name: student[name] for name in SHARED if name in student} | content
        return _component_options(table, content)

    def resolved(self) -> dict[str, Any]:
        """Every key with its value, the components' defaults too; no table for a part that is absent."""
        plain = self.model_dump(mode="json", exclude_none=True)
        for table in KIND_OF:
            if table in plain:
                plain[table] |= self.options(table)
        return {key: value for key, value in plain.items() if value != {}}

    @property
    def remembers(self) -> bool:
        """Whether the run has memories to show."""
        return self.memory is not None and self.memory.k > 0

    @property
    def hash(self) -> str:
        return digest(self.resolved())[:16]


TABLES: dict[str, type[Table]] = {
    "run": RunTable,
    "env": EnvTable,
    "teacher": TeacherTable,
    "student": StudentTable,
    "memory": MemoryTable,
    "tuning": TuningTable,
    "rollout": RolloutTable,
    "evaluate": EvaluateTable,
    "price": PriceTable,
    "bundle": BundleTable,
}
KIND_OF = {"env": "envs", "teacher": "models", "student": "models", "memory": "memory", "tuning": "tuning"}


def load(path: Path | None = None, overrides: Sequence[str] = ()) -> Settings:
    """Settings from a TOML file (None: the defaults) and `table.key=value` overrides. Raises `ConfigError`."""
    source = str(path) if path else "--set"
    return settings_of(override(read(path) if path else {}, overrides), source)


def shipped(name: str) -> Path:
    """A config of this repository: configs/<name>.toml here or in the source tree. Raises `ConfigError`."""
    for folder in (Path(), Path(__file__).resolve().parents[2]):
        path = folder / "configs" / f"{name}.toml"
        if path.is_file():
            return path
    raise ConfigError(f"configs/{name}.toml is not here. It is part of the source tree: run the command there.")


def read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config. Make one with: duomem init {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: {error}") from error


def override(tables: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy with `a.b=value` applied; a value is TOML where it parses as such, else a string; `a=` removes a table or key."""
    result = _copy(tables)
    for text in overrides:
        name, equals, value = text.partition("=")
        *parents, last = (part.strip() for part in name.split("."))
        if not equals or not last:
            raise ConfigError(f"--set {text}: write it as table.key=value, for example --set memory.k=1.")
        place = result
        for part in parents:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ConfigError(f"--set {text}: {part!r} is a value, not a table.")
        if value.strip():
            place[last] = _value(value.strip())
        else:
            place.pop(last, None)
    return result


def settings_of(tables: Mapping[str, Any], source: str) -> Settings:
    """Validated settings from plain tables; `source` is named in errors."""
    _known(tables, list(Settings.model_fields), "", source)
    for table, model in TABLES.items():
        content = tables.get(table)
        if content is None:
            continue
        if not isinstance(content, Mapping):
            raise ConfigError(f"{source}: [{table}] has to be a table.")
        _known(content, [*model.model_fields, *_component_fields(table, content)], f"{table}.", source)
    try:
        settings = Settings.model_validate(tables)
    except ValidationError as error:
        raise ConfigError(_sentence(error, source, "")) from error
    _check_arms(settings, source)
    for table in KIND_OF:
        if getattr(settings, table) is not None:
            try:
                settings.options(table)
            except ValidationError as error:
                raise ConfigError(_sentence(error, source, f"{table}.")) from error
    return settings


def _check_arms(settings: Settings, source: str) -> None:
    from duomem.scores import arms_named  # brings numpy, which --help can do without

    try:
        arms_named(settings.evaluate.arms)
    except UsageError as error:
        raise ConfigError(f"{source}: evaluate.arms: {error}") from error


def component_config(table: str, content: Mapping[str, Any]) -> type[BaseModel] | None:
    """The `Config` of the component that a table names."""
    if table not in KIND_OF:
        return None
    key = "name" if "name" in TABLES[table].model_fields else "model"
    name = content.get(key, TABLES[table].model_fields[key].default)
    config: type[BaseModel] = component(KIND_OF[table], str(name)).Config
    return config


def _component_fields(table: str, content: Mapping[str, Any]) -> list[str]:
    config = component_config(table, content)
    return list(config.model_fields) if config else []


def _component_options(table: str, content: Mapping[str, Any]) -> dict[str, Any]:
    config = component_config(table, content)
    if config is None:
        return {}
    given = {key: value for key, value in content.items() if key in config.model_fields}
    return config.model_validate(given).model_dump(mode="json", exclude_none=True)


def _known(content: Mapping[str, Any], known: Sequence[str], prefix: str, source: str) -> None:
    for key in content:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1, cutoff=0.5)
            hint = f" Did you mean {prefix}{near[0]}?" if near else ""
            raise ConfigError(f"{source}: unknown key {prefix}{key}.{hint} There are: {', '.join(sorted(set(known)))}.")


def _sentence(error: ValidationError, source: str, prefix: str) -> str:
    """The first complaint of pydantic as one sentence with its place."""
    first = error.errors(include_url=False)[0]
    place = prefix + ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{source}: unknown key {place}."
    return f"{source}: {place} = {first['input']!r}: {first['msg']}."


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _copy(tables: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in tables.items()}
