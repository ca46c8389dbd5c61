"""Collects what goes into a bundle from a run: the parts as files, and what the manifest says of each.

In: a run folder, a folder to write to. Out: files there, and tables of the manifest. No path of the machine gets into either.
Not here: hashing, signing, packing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np

from duomem import embed, parts, weights
from duomem._chat_options import ChatOptions, tokenizer_of
from duomem.bank import Bank
from duomem.bundle.check import sha256
from duomem.bundle.manifest import BANK, GGUF, PROMPTS, TOKENIZER, Base, Embedder, Gguf, Memories, TaskRule, Teacher
from duomem.chat import end_of_turn
from duomem.config import Settings
from duomem.errors import DataError, MissingExtra, UsageError
from duomem.journal import Journal
from duomem.memory._prompts import load_prompts
from duomem.models._gguf import write_adapter, write_base
from duomem.models._gguf_quants import KINDS
from duomem.record.functions import DEFAULT, locator
from duomem.record.store import FILE, RecordStore
from duomem.rundir import RunFolder
from duomem.vectors import best

PINNED = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "tokenizer.model",
    "special_tokens_map.json",
)
"""Files of a base, beside its weights, that decide how text becomes tokens; those that it has are pinned."""
CHECKED = 200
"""Searches compared between int8 and float32 vectors."""


def base(settings: Settings) -> Base:
    """The student's base by name and hashes. Raises `UsageError` for one that has no name to be found by."""
    options = settings.options("student")
    name = str(options.get("path") or "")
    if not name:
        return Base(name=str(options.get("model") or settings.student.model), source="endpoint")
    here = weights.folder_of(name, options.get("revision"))
    chat = ChatOptions(**{key: options[key] for key in ChatOptions.model_fields if key in options})
    tokenizer = tokenizer_of(name, chat, revision=options.get("revision"))
    stable = weights.stable_name(name)
    packaged = stable.startswith("duomem/")
    return Base(
        name=stable,
        source="package" if packaged else "folder" if Path(name).expanduser().is_dir() else "hub",
        revision=str(options.get("revision") or ""),
        weights_sha256=weights.base_hash(name, options.get("revision")),
        tokenizer_sha256=weights.tokenizer_hash(tokenizer),
        template_sha256=hashlib.sha256(tokenizer.chat_template.encode()).hexdigest(),
        files={file: sha256(here / file) for file in PINNED if (here / file).is_file()},
    )


def adapter(seed: RunFolder, folder: Path) -> str:
    """Copy the adapter; returns its hash. Raises `DataError` where it is no adapter of safetensors."""
    weights.read_manifest(seed.adapter)
    folder.mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json", "manifest.json"):
        shutil.copyfile(seed.adapter / name, folder / name)
    return weights.adapter_hash(folder)


def ggufs(
    seed: RunFolder, folder: Path, kind: str, precision: str, *, adapter: bool, note: Callable[[str], None]
) -> tuple[Gguf, ...]:
    """Write the GGUF file that llama.cpp gets (see `Options.gguf`). A merged model comes with its tokenizer's files, since a
    device may have nothing else of the base.

    Raises `UsageError` for a student without weights, `DataError` for a base or adapter that cannot be written as GGUF; with
    "auto" these are told as a `note`.
    """
    options = seed.settings.options("student")
    name = str(options.get("path") or "")
    if kind == "merged":
        if not name:
            raise UsageError(f"A merged GGUF needs a student with weights; {seed.settings.student.model} has none: --gguf none")
        return (_merged(seed, folder, name, precision, adapter=adapter),)
    if kind == "none" or not adapter or not name:
        return ()
    try:
        made = write_adapter(weights.folder_of(name, options.get("revision")), seed.adapter, folder / GGUF / "adapter.gguf")
    except (DataError, MissingExtra) as error:
        if kind == "adapter":
            raise
        note(f"The bundle has no GGUF of the adapter: {error}")
        return ()
    return (Gguf(path=made.relative_to(folder).as_posix(), kind="adapter", weights="f32"),)


def _merged(seed: RunFolder, folder: Path, name: str, precision: str, *, adapter: bool) -> Gguf:
    if precision not in KINDS:
        raise UsageError(f"Weights {precision!r} are of no known precision. There are: {', '.join(KINDS)}.")
    options = seed.settings.options("student")
    here = weights.folder_of(name, options.get("revision"))
    if not weights.stable_name(name).startswith("duomem/"):
        (folder / TOKENIZER).mkdir()
        for file in PINNED:
            if (here / file).is_file():
                shutil.copyfile(here / file, folder / TOKENIZER / file)
    chat = ChatOptions(**{key: options[key] for key in ChatOptions.model_fields if key in options})
    end = end_of_turn(tokenizer_of(name, chat, revision=options.get("revision")))[0]
    target = folder / GGUF / f"model-{precision}.gguf"
    write_base(here, target, kind=precision, end=end, adapter=seed.adapter if adapter else None)
    return Gguf(path=target.relative_to(folder).as_posix(), kind="merged", weights=precision)


def bank(seed: RunFolder, folder: Path) -> Memories:
    """Copy the bank as one packed file that SQLite can read without writing; returns how it is asked."""
    settings, table = seed.settings, seed.settings.memory
    assert table is not None
    target = folder / BANK
    with sqlite3.connect(f"{seed.bank.resolve().as_uri()}?mode=ro", uri=True) as source:
        source.execute("VACUUM INTO ?", (str(target),))
    source.close()
    embedder = embed.build(table.embedder)
    with Bank.open(seed.bank, embedder, parts.layout(settings).hash, retrieval=table.retrieval) as opened:
        view = opened.view()
        keys = sorted({memory.key for memory in view.memories()})
    return Memories(
        version=view.version,
        content_sha256=view.content_hash,
        count=len(view),
        strategy=table.name,
        options=settings.options("memory"),
        k=table.k,
        floor=table.floor,
        tokens=table.tokens,
        retrieval=table.retrieval,
        embedder=Embedder(name=embedder.name, revision=embedder.revision, dim=embedder.dim),
        agreement=agreement(keys, embedder, table.k),
    )


def agreement(keys: list[str], embedder: embed.Embedder, k: int) -> float:
    """Share of searches, each with a key of the bank itself, whose nearest `k` others by int8 codes are those by float32."""
    from duomem.vectors import Index, quantise

    if len(keys) < 2:
        return 1.0
    vectors = embedder.embed(keys)
    codes, exact = quantise(vectors), vectors.astype(np.float64)
    index = Index(codes)
    step = max(1, len(keys) // CHECKED)
    asked = range(0, len(keys), step)
    same = [set(best(index.cosines(codes[row]), k + 1)) == set(best(exact @ exact[row], k + 1)) for row in asked]
    return round(sum(same) / len(same), 4)


def prompts(settings: Settings, folder: Path) -> None:
    """The prompts of the model that wrote the memories; nothing where rules wrote them."""
    options = settings.options("memory") if settings.memory else {}
    if options.get("writer", "rules") != "rules" and "writer_prompts" in options:
        found = load_prompts(str(options["writer_prompts"])).model_dump(mode="json")
        (folder / PROMPTS).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def task_rule(run: RunFolder) -> TaskRule:
    """The task locator that the run's recording declared; the default where nothing was recorded."""
    path = (run.home or run.root) / FILE
    spec = DEFAULT
    if path.is_file():
        with RecordStore.open(path) as store:
            declared = store.declared("task locator")
        spec = (declared.rpartition(" ")[0] if declared.startswith("python:") else declared) or DEFAULT
    return TaskRule(locator=spec, pin=locator(spec).pin)


def teacher(seed: RunFolder) -> Teacher:
    """Name and licence as the teacher's own episodes say them. Raises `DataError` where there is none."""
    phase = str(seed.result("collect")["phase"])
    with Journal.open(seed.journal, readonly=True) as journal:
        first = next(journal.trajectories(phase), None)
    if first is None:
        raise DataError(f"{seed.journal} holds no episode of phase {phase}. Collect again: duomem collect {seed.root}")
    return Teacher(name=first.origin.model or seed.settings.teacher.model, licence=first.origin.licence or "unknown")
