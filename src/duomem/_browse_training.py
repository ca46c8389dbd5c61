"""A run's training for people: the log of its steps, and training examples with the tokens that are learned.

In: a `Run` and a seed. Out: `TrainingView`, `ExampleView`. Examples are made by the very functions that training calls, so a
wrong mask shows here as it was learned. Needs the extra `train` for examples, nothing for the log. It trains nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from duomem import examples, parts
from duomem._browse_db import reading, whole
from duomem._browse_memories import _stamp
from duomem._browse_runs import Run, _training
from duomem._browse_types import ExampleView, Logged, Span, TrainingView
from duomem.chat import Encoded, encode
from duomem.errors import DataError, UsageError
from duomem.remember import recorded
from duomem.rundir import RunFolder
from duomem.types import Example, Trajectory
from duomem.weights import read_manifest

_FACTS = ("base", "dtype", "device", "parameters", "examples", "sequences", "steps", "tokens", "padding", "seconds", "seed")


def training(run: Run, seed: int | None = None) -> TrainingView:
    """The training of one seed (the first where none is named), also while it goes on. Raises `DataError` for none."""
    seed = run.first_seed(seed)
    root = run.seed_root(seed)
    folder = root / "tune" / "adapter"
    if not folder.is_dir():
        raise DataError(f"{root} has no adapter yet. Train one with: duomem tune {run.home}")
    manifest: dict[str, Any] = read_manifest(folder) if (folder / "manifest.json").is_file() else {}
    log = _log(folder / "log.jsonl")
    if not log and "losses" in manifest:
        log = _as_planned(manifest)
    steps = run.steps(root).get("tune", {})
    seconds = float(manifest.get("seconds") or (log[-1].seconds if log else 0.0))
    tokens = int(manifest.get("tokens") or sum(each.tokens for each in log))
    table = manifest.get("config", {})
    facts = {name: _told(manifest[name]) for name in _FACTS if name in manifest}
    facts = {name.replace("_", " "): _told(value) for name, value in table.items() if value not in (None, [], "")} | facts
    return TrainingView(
        seed=seed,
        seeds=run.seeds,
        live=not manifest and _training(run),
        total=int(manifest.get("steps") or _planned(folder / "log.jsonl") or len(log)),
        log=tuple(log),
        examples=int(manifest.get("examples", 0)),
        tokens=tokens,
        seconds=seconds,
        tokens_per_second=tokens / seconds if seconds else None,
        facts=facts,
        words=str(steps.get("words", "")),
    )


def example(run: Run, index: int = 0, seed: int | None = None) -> ExampleView:
    """One training example, token by token. Raises `UsageError` where there is no such one, `MissingExtra` without `train`."""
    seed = run.first_seed(seed)
    if run.settings.tuning is None:
        raise UsageError(f"{run.root} trains no adapter: its config has no [tuning] table.")
    root = run.seed_root(seed)
    won = _won(run, seed, root, _stamp(root / "journal.sqlite"))
    if not 0 <= index < len(won):
        raise UsageError(f"{run.id} has {len(won)} training examples; there is no number {index}.")
    folder = _seed_folder(run, seed, root)
    made, tokenizer = _example(folder, won[index])
    table = parts.tuner(folder.settings)
    style = getattr(getattr(table, "_config", None), "style", None)
    encoded = encode(tokenizer, made.messages, made.learn, tools=made.tools, **({"style": style} if style else {}))
    return ExampleView(
        index=index,
        of=len(won),
        task=won[index].task.id,
        episode=_ref(run, seed, won[index]),
        memories=made.memories,
        tokens=len(encoded.ids),
        learned=sum(weight > 0 for weight in encoded.weights),
        spans=tuple(spans(tokenizer, encoded)),
    )


def spans(tokenizer: Any, encoded: Encoded) -> list[Span]:
    """Runs of equal loss weight, each with its tokens as text. A character of several tokens is shown with the last of them."""
    found: list[Span] = []
    start = 0
    for end in range(1, len(encoded.ids) + 1):
        if end == len(encoded.ids) or encoded.weights[end] != encoded.weights[start]:
            found.append(Span(float(encoded.weights[start]), tuple(_pieces(tokenizer, encoded.ids[start:end]))))
            start = end
    return found


def _pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of each token. Tokens are decoded together with those before, so that characters and spaces come out whole."""
    pieces, pending, done = [], 0, ""
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(list(ids[pending:end]), skip_special_tokens=False)
        if text.endswith("\ufffd") and end < len(ids):
            pieces.append("")
            continue
        pieces.append(whole(text[len(done) :]))
        # A window of eight tokens keeps this linear; the white space before a word needs only its neighbour.
        pending, done = (end - 1, _one(tokenizer, ids[end - 1])) if end - pending >= 8 else (pending, text)
    return pieces


def _one(tokenizer: Any, token: int) -> str:
    return str(tokenizer.decode([token], skip_special_tokens=False))


def _seed_folder(run: Run, seed: int | None, root: Path) -> RunFolder:
    """The folder of a seed as the pipeline has it, without writing its config."""
    table = run.settings.run.model_copy(update={"seed": run.settings.run.seed if seed is None else seed, "seeds": ()})
    return RunFolder(root, run.settings.model_copy(update={"run": table}), run.home if run.seeds else None)


@lru_cache(maxsize=4)
def _won(run: Run, seed: int | None, root: Path, *stamps: tuple[int, ...]) -> list[Trajectory]:
    """The won episodes of the teacher, in the order of training examples."""
    return sorted(recorded(_seed_folder(run, seed, root), won=True), key=lambda each: each.content_hash)


def _example(folder: RunFolder, trajectory: Trajectory) -> tuple[Example, Any]:
    """What training makes of one trajectory; the others decide nothing of it."""
    from duomem.weights import load_tokenizer

    settings = folder.settings
    chosen = parts.example_options(settings)
    with parts.Parts() as loaded:
        bank = loaded.bank(folder) if chosen.memories != "none" else None
        prepared = examples.prepare(
            [trajectory],
            parts.layout(settings),
            chosen,
            strategy=parts.strategy(settings, parts.counter(settings) if bank else None),
            bank=bank.view() if bank else None,
            budget=parts.budget(settings),
            seed=settings.run.seed,
        )
    return prepared.examples[0], load_tokenizer(parts.trainable(settings))


def _ref(run: Run, seed: int | None, trajectory: Trajectory) -> str:
    label = f"seed{seed}" if run.seeds else ""
    if label not in run.journals:
        return ""
    with reading(run.journals[label][0]) as db:
        found = db.execute("SELECT id FROM episodes WHERE content_hash = ?", (trajectory.content_hash,)).fetchone()
    return "" if found is None else f"{label}:{found[0]}" if label else str(found[0])


def _log(path: Path) -> list[Logged]:
    """The steps in a training log; of a step that was done again after a kill, the last word."""
    if not path.is_file():
        return []
    found: dict[int, Logged] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            said = json.loads(line)
            found[said["step"]] = Logged(said["step"], said["loss"], said["rate"], said["tokens"], said["seconds"])
        except (ValueError, KeyError, TypeError):
            continue  # the line that is being written
    return [found[step] for step in sorted(found)]


def _planned(path: Path) -> int:
    """How many steps a log says that there will be."""
    if not path.is_file():
        return 0
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    try:
        return int(json.loads(first).get("total", 0))
    except ValueError:
        return 0


def _as_planned(manifest: dict[str, Any]) -> list[Logged]:
    """The steps of an adapter that was trained before logs were kept: its losses, and the rate that its schedule names."""
    table, losses = manifest.get("config", {}), manifest["losses"]
    peak, total = float(table.get("learning_rate", 0.0)), len(losses)
    warm = round(float(table.get("warmup", 0.0)) * total)

    def rate(step: int) -> float:
        if step < warm:
            return peak * step / max(1, warm)
        return peak * (total - step) / max(1, total - warm) if table.get("schedule") == "linear" else peak

    return [Logged(step + 1, loss, rate(step)) for step, loss in enumerate(losses)]


def _told(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)
