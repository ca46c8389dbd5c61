"""What a run would do: its counts, memory, disk, price and the difference it can detect. Nothing is started or written.

In: a run folder's settings. Out: a `Plan`, as data and as words. Sizes are estimates from the shapes of the models; what they
rest on is said where they are made. Not here: doing it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from duomem import parts, price, shapes, stats
from duomem.config import Settings, override, settings_of
from duomem.envs.alfworld import OFFICIAL
from duomem.errors import DuomemError
from duomem.rundir import RunFolder
from duomem.scores import arms_named
from duomem.shapes import Shape
from duomem.tuning.lora import PARAMETER_LIMIT

_ACTIVATIONS = 34
"""Bytes of activations per token, layer and hidden unit at 16 bits (Korthikanti et al. 2022, table 2, without the attention
matrix, which fused attention does not store)."""
_RECOMPUTED = 2
"""The same where only each layer's input is stored."""
_LEARNED = 0.4
"""Share of tokens that are learned, so have logits: 0.3 to 0.4 in ALFWorld episodes."""
_ADAPTER_BYTES = 16
"""A trained parameter in float32 with its gradient and AdamW's two moments."""
_FOUR_BITS = 0.53
"""Bytes of a parameter in NF4 with double quantisation: 4.127 bits and its container (Dettmers et al. 2023, section 3)."""
_TURN_BYTES, _MEMORY_BYTES = 900, 1100
"""A turn in the journal, and a memory in the bank with its vector (measured on the demo's runs; the paper's bank: 12 MB)."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One run. Sizes in bytes, differences as fractions. `notes` say what is not known or will be refused."""

    name: str
    counts: dict[str, int]
    models: dict[str, Any]
    memory: dict[str, int]
    disk: dict[str, int]
    price: list[dict[str, Any]]
    price_words: str
    detectable: dict[str, float]
    notes: tuple[str, ...]

    def data(self) -> dict[str, Any]:
        return asdict(self)


def plans(run: RunFolder) -> list[Plan]:
    """The plan of a run; one for each value where the config has an [each] table."""
    return [plan(RunFolder(run.root / name if name else run.root, settings)) for name, settings in variants(run.settings)]


def variants(settings: Settings) -> list[tuple[str, Settings]]:
    """The runs of a config: itself, or with [each] one for every value, named by the last part of it."""
    if not settings.each:
        return [("", settings)]
    whole = settings.model_dump(mode="json", exclude_none=True, exclude={"each"})
    found = []
    for key, values in settings.each.items():
        for value in values:
            name = value.rstrip("/").rpartition("/")[2].lower()
            found.append((name, settings_of(override(whole, [f'{key}="{value}"', f'run.name="{name}"']), f"each.{key}")))
    return found


def plan(run: RunFolder) -> Plan:
    """What `duomem distill` would do. Opens an environment only to count its tasks."""
    settings = run.settings
    notes: list[str] = []
    tasks = settings.teacher.tasks or _tasks(run, settings.teacher.split, notes)
    spread = max(1, len(settings.run.seeds))
    episodes = tasks * settings.teacher.attempts * spread
    splits = {settings.evaluate.split: settings.evaluate.games or _tasks(run, settings.evaluate.split, notes)}
    splits |= {split: _tasks(run, split, notes) for split in settings.evaluate.also or ()}
    arms = [arm.name for arm in arms_named(settings.evaluate.arms) if _has_parts(settings, arm.adapter, arm.memories)]
    games = sum(splits.values())
    counts = {
        "teacher_tasks": tasks,
        "teacher_episodes": episodes,
        "seeds": spread,
        **{f"games_{split}": number for split, number in splits.items()},
        "arms": len(arms),
        "evaluation_episodes": games * len(arms) * spread,
        "max_steps": settings.rollout.max_steps,
        "k": settings.memory.k if settings.memory else 0,
    }
    base = str(settings.options("student").get("path") or "")
    shape = shapes.shape_of(base) if base else None
    if base and shape is None:
        notes.append(
            f"The shape of {base} is not known here (no config.json in the hub's cache): memory and disk are left out."
        )
    items = price.estimate(settings, episodes=episodes, games=games * spread)
    return Plan(
        settings.run.name,
        counts,
        _models(settings, base, shape, notes),
        _memory(settings, shape) if shape else {},
        _disk(settings, base, shape, episodes + counts["evaluation_episodes"], tasks * settings.teacher.attempts),
        [asdict(item) for item in items],
        price.estimate_words(settings, items) or "Nothing is paid for: no model is behind a paid endpoint.",
        {split: stats.detectable_difference(number, spread) for split, number in splits.items() if number},
        tuple(notes),
    )


def _has_parts(settings: Settings, adapter: bool, memories: str) -> bool:
    return (not adapter or settings.tuning is not None) and (settings.remembers or memories in ("none", "example"))


def _tasks(run: RunFolder, split: str, notes: list[str]) -> int:
    """Tasks of a split: the config's own games, what the environment finds, or the official count."""
    settings = run.settings
    if split in settings.games:
        return settings.games[split].n
    try:
        return len(parts.environment(run).tasks(split))
    except DuomemError as error:
        if settings.env.name == "alfworld" and split in OFFICIAL:
            notes.append(f"{split}: the games are not here; {OFFICIAL[split]} is the official count.")
            return OFFICIAL[split]
        notes.append(f"{split}: its tasks cannot be counted: {error}")
        return 0


def _models(settings: Settings, base: str, shape: Shape | None, notes: list[str]) -> dict[str, Any]:
    teacher = settings.options("teacher")
    found: dict[str, Any] = {
        "teacher": teacher.get("remote_model") or teacher.get("path") or settings.teacher.model,
        "student": base or settings.student.model,
    }
    if shape is None:
        return found
    found["student_parameters"] = shape.parameters
    if settings.tuning is not None:
        tuning = settings.options("tuning")
        rank, targets = int(tuning.get("rank", 16)), tuple(tuning.get("targets", ()))
        found |= {"rank": rank, "alpha": tuning.get("alpha") or 2 * rank, "adapter_parameters": shape.adapter(rank, targets)}
        if found["adapter_parameters"] >= PARAMETER_LIMIT and not tuning.get("unrestricted"):
            notes.append(
                f"The adapter would have {found['adapter_parameters']:,} trained parameters, and `tune` refuses "
                f"{PARAMETER_LIMIT:,} or more: lower tuning.rank, name fewer tuning.targets, or set tuning.unrestricted=true."
            )
    return found


def _memory(settings: Settings, shape: Shape) -> dict[str, int]:
    """Bytes that training and serving take on the device, without the libraries' own (1 to 2 GB on a GPU)."""
    student = settings.options("student")
    bytes_each = 4 if student.get("dtype", "float32") == "float32" else 2
    context = int(student.get("context") or 4096)
    serving = shape.parameters * bytes_each + int(student.get("max_batch", 1)) * context * shape.cached * bytes_each
    found = {"serving": serving}
    if settings.tuning is not None:
        tuning = settings.options("tuning")
        tokens = int(tuning.get("tokens_per_step", 4096))
        quantised = tuning.get("quantize") == "4bit"
        held = shape.blocks * (_FOUR_BITS if quantised else 2) + shape.embeddings * (2 if quantised else 4)
        adapter = shape.adapter(int(tuning.get("rank", 16)), tuple(tuning.get("targets", ()))) * _ADAPTER_BYTES
        layers = shape.layers * _RECOMPUTED + _ACTIVATIONS if tuning.get("recompute") else shape.layers * _ACTIVATIONS
        logits = _LEARNED * tokens * shape.vocabulary * 4 * 2
        found["training"] = int(held + adapter + tokens * shape.hidden * layers + logits)
    return found


def _disk(settings: Settings, base: str, shape: Shape | None, episodes: int, memories: int) -> dict[str, int]:
    """Bytes in the run folder, and of what has to be downloaded. Every success is taken to become a memory."""
    turns = min(settings.price.turns if settings.price else 12.0, settings.rollout.max_steps)
    found = {"journal": int(episodes * turns * _TURN_BYTES)}
    spread = max(1, len(settings.run.seeds))
    if settings.remembers:
        found["bank"] = spread * memories * _MEMORY_BYTES
    if shape is not None:
        found["base_to_download"] = 0 if shapes.is_here(base) else shape.parameters * 2
        if settings.tuning is not None:
            tuning = settings.options("tuning")
            adapter = shape.adapter(int(tuning.get("rank", 16)), tuple(tuning.get("targets", ())))
            found["adapter"] = spread * adapter * 4
            found["checkpoints_while_training"] = 2 * adapter * 12
    return found


def words(found: Sequence[Plan]) -> str:
    """Plans to read."""
    return "\n\n".join(_words(each, shared=bool(index)) for index, each in enumerate(found))


def _words(found: Plan, *, shared: bool) -> str:
    """`shared`: the teacher's episodes are those of the plan before."""
    counts, models = found.counts, found.models
    splits = ", ".join(
        f"{number} {name.removeprefix('games_')}" for name, number in counts.items() if name.startswith("games_")
    )
    lines = [
        f"Plan of {found.name} (nothing is started):",
        f"  teacher   {models['teacher']}: {counts['teacher_tasks']:,} tasks, {counts['teacher_episodes']:,} episodes "
        f"of at most {counts['max_steps']} steps",
        f"  student   {models['student']}" + _parameters(models),
        f"  evaluate  {splits} games x {counts['arms']} arms x {counts['seeds']} seeds = {counts['evaluation_episodes']:,} "
        f"episodes, k = {counts['k']}",
        f"  memory    {_sizes(found.memory)}" if found.memory else "",
        f"  disk      {_sizes(found.disk)}",
        "  price     the teacher plays once for all of them" if shared else f"  price     {found.price_words}",
    ]
    for split, share in found.detectable.items():
        games = counts[f"games_{split}"]
        lines.append(
            f"  detects   {split}: a paired difference of about {100 * share:.1f} points or more ({games} games, power "
            f"{stats.POWER:.0%}, if arms differ on {stats.DISCORDANCE:.0%} of games)"
        )
    lines += [f"  note      {note}" for note in found.notes]
    return "\n".join(line for line in lines if line)


def _parameters(models: dict[str, Any]) -> str:
    if "student_parameters" not in models:
        return ""
    number = models["student_parameters"]
    words = f": {number / 1e9:.2f}B parameters" if number >= 1e8 else f": {number / 1e6:.1f}M parameters"
    if "adapter_parameters" in models:
        words += f", adapter of rank {models['rank']}, alpha {models['alpha']}: {models['adapter_parameters'] / 1e6:.1f}M"
    return words


def _sizes(found: dict[str, int]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} about {_size(number)}" for name, number in found.items())


def _size(number: int) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e8 else f"{number / 1e6:.1f} MB"
