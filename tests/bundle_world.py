"""Bundles made by hand, without a run: parts of the right form, described, hashed and signed, to be broken by tests."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from duomem import weights
from duomem._tokenizer import LightTokenizer
from duomem.bank import Bank
from duomem.bundle import archive, keys
from duomem.bundle.check import sha256
from duomem.bundle.manifest import FORMAT, MANIFEST, SIGNATURE, Manifest
from duomem.embed import Lexical
from duomem.prompts import load_layout
from duomem.types import BankEdit, Memory, Provenance, digest

LAYOUT = load_layout("pocket")


@cache
def pocket() -> dict[str, Any]:
    """The shipped base, as a manifest names it."""
    folder = weights.folder_of("pocket")
    files = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    return {
        "name": "duomem/pocket",
        "source": "package",
        "weights_sha256": weights.base_hash("pocket"),
        "tokenizer_sha256": weights.tokenizer_hash(LightTokenizer(folder)),
        "template_sha256": sha256(folder / "chat_template.jinja"),
        "files": {name: sha256(folder / name) for name in files},
    }


def safetensors(path: Path, header: dict[str, Any] | None = None, data: bytes = b"\0" * 16) -> None:
    """A file with one tensor, or with any header."""
    said = json.dumps(header or {"base.lora_A.weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}).encode()
    path.write_bytes(len(said).to_bytes(8, "little") + said + data)


def gguf(path: Path, **texts: str) -> None:
    """A GGUF file with nothing but texts in its metadata."""
    body = struct.pack("<4sIQQ", b"GGUF", 3, 0, len(texts))
    for key, text in texts.items():
        name = key.replace("__", ".").encode()
        body += struct.pack("<Q", len(name)) + name + struct.pack("<IQ", 8, len(text.encode())) + text.encode()
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(body)


def memory(number: int) -> Memory:
    goal = f"put some mug{number} in cabinet."
    source = Provenance(f"train/{number}", 0, digest(number), "expert", "rules:0", licence="Apache-2.0")
    return Memory(goal, f"{goal}\n1. mug{number}: take from desk\n2. mug{number}: move to cabinet", "script", source)


def bank(path: Path, count: int = 5) -> str:
    """A bank that can be read without writing; returns its content hash."""
    import sqlite3
    from contextlib import closing

    draft = path.with_name("draft.sqlite")
    with Bank.create(draft, Lexical(), LAYOUT.hash) as made:
        made.apply([BankEdit("add", "won in 9 turns", memory(number)) for number in range(count)])
        content = made.view().content_hash
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(draft)) as db:
        db.execute("VACUUM INTO ?", (str(path),))
    draft.unlink()
    return content


def parts(folder: Path) -> dict[str, Any]:
    """Every kind of member in a folder, and the manifest's tables for them."""
    base = pocket()
    (folder / "adapter").mkdir(parents=True)
    safetensors(folder / "adapter/adapter_model.safetensors")
    (folder / "adapter/adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 4}')
    pins = {"base_sha256": base["weights_sha256"], "tokenizer_sha256": base["tokenizer_sha256"]}
    (folder / "adapter/manifest.json").write_text(json.dumps(pins))
    gguf(folder / "gguf/adapter.gguf", general__architecture="llama", general__type="adapter")
    content = bank(folder / "bank.sqlite")
    (folder / "layout.json").write_text(LAYOUT.model_dump_json())
    (folder / "README.md").write_text("---\nlicense: other\n---\n# A bundle\n")
    (folder / "report.json").write_text('{"complete": true}')
    lexical = Lexical()
    return {
        "format": FORMAT,
        "name": "hand-made",
        "version": 3,
        "duomem": "0.1.0",
        "config_hash": "0",
        "seed": 0,
        "base": base,
        "student": {"model": "hf"},
        "layout_hash": LAYOUT.hash,
        "task": {"locator": "path:user.0"},
        "verdict": {"arm": "both", "memory": True, "adapter": True, "words": "Ship both.", "rule": "the smallest"},
        "figures": {"both": {"success": 0.8, "low": 0.7, "high": 0.9, "games": 10}},
        "teacher": {"name": "expert", "licence": "Apache-2.0"},
        "data": {
            "env": "household",
            "train_split": "train",
            "episodes": 5,
            "episodes_sha256": "0" * 64,
            "eval_split": "dev",
            "eval_games": 10,
        },
        "adapter_sha256": weights.adapter_hash(folder / "adapter"),
        "gguf": [{"path": "gguf/adapter.gguf", "kind": "adapter", "weights": "f32"}],
        "memory": {
            "version": 1,
            "content_sha256": content,
            "count": 5,
            "strategy": "procedure",
            "options": {},
            "k": 2,
            "floor": -1.0,
            "tokens": 512,
            "retrieval": "dense",
            "embedder": {"name": lexical.name, "revision": lexical.revision, "dim": lexical.dim},
        },
    }


def listed(folder: Path, tables: dict[str, Any]) -> dict[str, Any]:
    """The manifest of what lies in the folder now."""
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    members = [
        {"path": name, "size": path.stat().st_size, "sha256": sha256(path)}
        for name, path in sorted(paths.items())
        if name not in (MANIFEST, SIGNATURE)
    ]
    return {**tables, "members": members}


def write(folder: Path, tables: dict[str, Any], key: Path | None) -> None:
    """manifest.json as it is told, whatever it says, and a signature over the folder."""
    (folder / MANIFEST).write_text(json.dumps(listed(folder, tables), indent=1))
    sign(folder, key)


def sign(folder: Path, key: Path | None) -> None:
    (folder / SIGNATURE).unlink(missing_ok=True)
    if key is not None:
        files = {path.relative_to(folder).as_posix(): sha256(path) for path in folder.rglob("*") if path.is_file()}
        (folder / SIGNATURE).write_bytes(keys.sign(files, "hand-made", key))


def made(folder: Path, key: Path | None, change: Callable[[Path, dict[str, Any]], None] | None = None) -> Path:
    """A bundle in a folder. `change` may alter parts and tables before they are hashed and signed: a maker who is hostile."""
    tables = parts(folder)
    if change:
        change(folder, tables)
    write(folder, tables, key)
    return folder


def zipped(folder: Path, out: Path) -> Path:
    archive.pack({path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}, out)
    return out


def manifest(folder: Path) -> Manifest:
    return Manifest.model_validate_json((folder / MANIFEST).read_text())


class Shell:
    """The command line in this process: a new Python for each command would take longer than all of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *arguments: str | Path) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        from duomem.cli import main

        self._capsys.readouterr()
        self._monkeypatch.setattr("sys.argv", ["duomem", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = self._capsys.readouterr()
        return code, said.out, said.err
