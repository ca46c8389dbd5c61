"""Writes a bundle from a run: what the decision ships, described, hashed and signed; a folder, or a zip of it.

In: a finished run, where to write, options. Out: the manifest; the same bytes for the same run, version and options, but for
the signature. Nothing is at its place before all of it is. Not here: training, measuring, serving.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from duomem import __version__, parts
from duomem._chat_options import SHARED
from duomem.bundle import archive, keys
from duomem.bundle.card import card
from duomem.bundle.check import sha256
from duomem.bundle.gather import adapter, bank, base, ggufs, prompts, task_rule, teacher
from duomem.bundle.manifest import (
    ADAPTER,
    CARD,
    FORMAT,
    LAYOUT,
    MANIFEST,
    PARITY,
    SIGNATURE,
    TEMPLATE,
    Manifest,
    Rescored,
    Student,
    Verdict,
)
from duomem.bundle.measured import Measured, data, measured
from duomem.bundle.sizes import held, sizes, too_large, words
from duomem.decision import Decision
from duomem.errors import DataError, UsageError
from duomem.rundir import RunFolder
from duomem.talk import SILENT, Done, Talk
from duomem.types import digest

ARMS = ("memory", "adapter", "both")


@dataclass(frozen=True, slots=True)
class Options:
    """What a user may choose."""

    arm: str = ""
    """One of `ARMS` in place of the decision's."""
    seed: int | None = None
    """Whose parts, of a run of several seeds; None: the first, so that nobody picks by the result."""
    sign: Path | None = None
    """A private key; None: not signed."""
    version: int | None = None
    """None: one more than the run's last bundle, the same where nothing changed."""
    name: str = ""
    """None of its own: the run's."""
    licence: str = "other"
    """Of the bundle, for the model card."""
    gguf: Literal["auto", "adapter", "merged", "none"] = "auto"
    """Which GGUF file llama.cpp gets: the adapter's, both merged, or none; auto: the adapter's, where it can be."""
    weights: str = "f32"
    """Precision of a merged file's matrices (an adapter's stay as they were trained)."""
    games: int = 600
    """Most games on which a quantised student is compared with the measured one before it ships; 0: its words alone."""
    parity: int = 24
    """Recorded episodes that the bundle is held to before it is written; 0: none."""
    largest: float = 10.0
    """Most megabytes (10^6 bytes) of adapter, bank and embedder together."""


def write_bundle(run: RunFolder, out: Path, options: Options | None = None, talk: Talk = SILENT) -> Manifest:
    """Bundle a run at `out`: a zip where its name ends in .duo or .zip, else a folder.

    Raises `UsageError` for a run without a decision and for a place that is taken by something else, `DataError` for parts that
    cannot be shipped.
    """
    options = options or Options()
    _free(out)
    found = measured(run)
    verdict = _verdict(found.decision, options)
    seed = _seed(run, options)
    with _staged(out) as folder:
        draft = _draft(folder, run, seed, found, verdict, options, talk)
        if over := too_large(draft, options.largest):
            raise DataError(over)
        if options.parity:
            talk.note(f"Replaying {options.parity} recorded episodes through the server's code.")
            draft = _held(folder, run, seed, draft, options.parity)
        draft = _rescored(folder, seed, draft, options, talk)
        made = _finished(folder, run, draft, options)
        if options.sign:
            files = {member.path: member.sha256 for member in made.members} | {MANIFEST: sha256(folder / MANIFEST)}
            (folder / SIGNATURE).write_bytes(keys.sign(files, made.name, options.sign))
    return made


def bundle_as_configured(run: RunFolder, talk: Talk) -> Done:
    """What `distill` ends with. A decision that ships nothing is told, and is no error."""
    table = run.settings.bundle
    assert table is not None
    arm = measured(run).decision.arm
    if arm not in ARMS:
        return Done({}, "No bundle: the decision ships neither part.")
    out = run.root / (table.out or f"{run.settings.run.name}.duo")
    key = Path(table.sign).expanduser() if table.sign else None
    options = Options(
        sign=key,
        licence=table.licence,
        gguf=table.gguf,
        weights=table.weights,
        parity=table.parity,
        largest=table.max_mb,
    )
    return told(write_bundle(run, out, options, talk), out)


def told(made: Manifest, out: Path) -> Done:
    """A finished bundle, for programs and for people."""
    signed = "signed" if _is_signed(out) else ""
    data = {"bundle": str(out), "name": made.name, "version": made.version, "arm": made.verdict.arm, "signed": bool(signed)}
    data |= {"bytes": sizes(made), "held_bytes": held(made), "parity": made.parity and made.parity.model_dump()}
    lines = [f"{made.name} version {made.version}, arm {made.verdict.arm}, {signed or 'not signed'}: {out}", words(made)]
    if made.memory:
        lines.append(f"search by int8 vectors finds what float32 ones find in {100 * made.memory.agreement:.1f}% of checks")
    lines += [f"{made.parity.requests} recorded requests replayed through the server's code, all equal"] if made.parity else []
    return Done(data, "\n".join([*lines, f"Next: duomem serve {out}" + ("" if signed else " --allow-unsigned")]))


def _draft(
    folder: Path, run: RunFolder, seed: RunFolder, found: Measured, verdict: Verdict, options: Options, talk: Talk
) -> Manifest:
    """The parts in the folder, and a manifest of them that says all but version and parity."""
    settings = seed.settings
    layout, table, chat = parts.layout(settings), settings.student, settings.options("student")
    (folder / LAYOUT).write_text(layout.model_dump_json(indent=1) + "\n", encoding="utf-8")
    if chat.get("chat_template"):
        shutil.copyfile(Path(chat["chat_template"]).expanduser(), folder / TEMPLATE)
    for name in ("report.json", "report.md", "report.html"):
        if (run.root / name).is_file():
            shutil.copyfile(run.root / name, folder / name)
    prompts(settings, folder)
    (folder / CARD).touch()
    draft = Manifest.model_construct(
        format=FORMAT,
        name=options.name or settings.run.name,
        version=1,
        duomem=__version__,
        commit=found.commit,
        made=found.made,
        config_hash=run.settings.hash,
        seed=settings.run.seed,
        base=base(settings),
        student=Student(
            model=table.model,
            thinking=chat.get("thinking", "off"),
            tool_calls=chat.get("tool_calls", "auto"),
            temperature=table.temperature,
            max_tokens=table.max_tokens,
            max_steps=settings.rollout.max_steps,
        ),
        layout_hash=layout.hash,
        task=task_rule(run),
        verdict=verdict,
        figures=found.figures,
        teacher=teacher(seed),
        data=data(seed, found),
        adapter_sha256=adapter(seed, folder / ADAPTER) if verdict.adapter else "",
        gguf=ggufs(seed, folder, options.gguf, options.weights, adapter=verdict.adapter, note=talk.note),
        memory=bank(seed, folder) if verdict.memory else None,
        parity=None,
        members=(),
    )
    return _listed(folder, draft)


def _held(folder: Path, run: RunFolder, seed: RunFolder, draft: Manifest, episodes: int) -> Manifest:
    """The draft with what the replay-parity gate compared. Raises `DataError` for the first difference."""
    from duomem.bundle.parity import hold

    (folder / MANIFEST).write_bytes(draft.to_json())
    passed, rows = hold(run, seed, folder, draft.verdict.arm, episodes)
    (folder / PARITY).write_text(json.dumps(rows, separators=(",", ":")) + "\n", encoding="utf-8")
    return draft.model_copy(update={"parity": passed})


def _rescored(folder: Path, seed: RunFolder, draft: Manifest, options: Options, talk: Talk) -> Manifest:
    """The draft with how the GGUF file's student did. Raises `DataError` where quantising may cost more than the bar."""
    from duomem import requantise
    from duomem.models.llamacpp import Config

    arm = draft.verdict.arm
    if not draft.gguf or (draft.gguf[0].weights == "f32" and not requantise.golden(seed, arm, 1)):
        return draft
    file, student = draft.gguf[0], seed.settings.options("student")
    engine = {key: student[key] for key in (*SHARED, "path", "context") if student.get(key) and key in Config.model_fields}
    if file.kind == "merged":
        engine["gguf"] = str(folder / file.path)
    else:
        engine |= {"adapter": str(seed.adapter), "lora": str(folder / file.path)}
    score = requantise.require if options.games else requantise.rescore
    found = score(seed, arm, engine, most=options.games, talk=talk)
    talk.note(f"Scored again: {found.words}.")
    change = {"change": round(found.change.estimate, 4), "low": round(found.change.low, 4)} if found.change else {}
    same = found.parity
    row = Rescored(weights=file.weights, replies=same.replies, equal=same.equal, games=found.games, split=found.split, **change)
    return draft.model_copy(update={"rescored": row})


def _finished(folder: Path, run: RunFolder, draft: Manifest, options: Options) -> Manifest:
    """Version, card and the list of members; writes manifest.json."""
    draft = _listed(folder, draft)
    content = digest(draft.model_dump(mode="json", exclude={"version"}))
    last = run.left("bundle") or {"version": 0, "content": ""}
    counted = last["version"] if last["content"] == content else last["version"] + 1
    found = draft.model_copy(update={"version": options.version or counted})
    (folder / CARD).write_text(card(found, options.licence), encoding="utf-8")
    found = _listed(folder, found)
    (folder / MANIFEST).write_bytes(found.to_json())
    run.record("bundle", content[:16], {"version": found.version, "content": content, "name": found.name})
    return found


def _listed(folder: Path, found: Manifest) -> Manifest:
    """The manifest with the files of the folder as its members, checked."""
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    listed = [
        {"path": name, "size": path.stat().st_size, "sha256": sha256(path)}
        for name, path in sorted(paths.items())
        if name not in (MANIFEST, SIGNATURE)
    ]
    return Manifest.model_validate_json(json.dumps(found.model_dump(mode="json") | {"members": listed}))


def _verdict(decision: Decision, options: Options) -> Verdict:
    arm = options.arm or decision.arm
    if arm not in ARMS:
        raise UsageError(
            f"The decision ships {'neither part' if decision.arm else 'nothing yet'} ({decision.words}) "
            f"To bundle an arm all the same: --arm {'|'.join(ARMS)}"
        )
    forced = bool(options.arm) and options.arm != decision.arm
    words = f"Chosen by hand: {arm}. The measured decision was: {decision.words}" if forced else decision.words
    return Verdict.model_validate(
        {
            "arm": arm,
            "memory": arm != "adapter",
            "adapter": arm != "memory",
            "words": words,
            "rule": decision.rule,
            "forced": forced,
        }
    )


def _seed(run: RunFolder, options: Options) -> RunFolder:
    folders = {each.settings.run.seed: each for each in run.seeds()}
    if options.seed is None:
        return next(iter(folders.values()))
    if options.seed not in folders:
        raise UsageError(f"{run.root} has no seed {options.seed}. There are: {', '.join(map(str, folders))}.")
    return folders[options.seed]


def is_archive(out: Path) -> bool:
    """Whether a bundle of that name is written as a zip."""
    return out.suffix in (".duo", ".zip")


def _is_signed(out: Path) -> bool:
    if out.is_dir():
        return (out / SIGNATURE).is_file()
    with zipfile.ZipFile(out) as opened:
        return SIGNATURE in opened.namelist()


def _free(out: Path) -> None:
    if out.is_dir() and any(out.iterdir()) and not (out / MANIFEST).is_file():
        raise UsageError(f"{out} is a folder with something else in it. Choose another place for the bundle: -o NAME.duo")


@contextmanager
def _staged(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place, or is packed there, when all went well."""
    out.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        folder = stage / "bundle"
        folder.mkdir()
        yield folder
        if is_archive(out):
            files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
            archive.pack(files, stage / "packed")
            (stage / "packed").replace(out)
        else:
            if out.exists():
                out.rename(stage / "old")
            folder.rename(out)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
