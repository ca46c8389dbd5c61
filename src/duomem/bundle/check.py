"""What is checked of a bundle, in this order: its files, signature, manifest, every hash, every member's form, the base.

In: a folder, or what an archive says of itself. Out: nothing, or a `DataError` that names the file and what is wrong. Nothing
is unpickled, executed or handed to an engine here.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path

from duomem import embed, weights
from duomem._bank_file import Pins
from duomem.bank import Bank
from duomem.bundle import keys
from duomem.bundle.archive import check_name
from duomem.bundle.keys import IGNORED, Key, Signed
from duomem.bundle.manifest import MANIFEST, SIGNATURE, Manifest, read_manifest
from duomem.errors import DataError, MismatchError


def files(root: Path, where: str) -> dict[str, int]:
    """Sizes of the files of a folder by name. Raises `DataError` for a link, a device or a name that no bundle has."""
    found: dict[str, int] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if name.split("/")[0] in IGNORED[1:]:
            continue
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise DataError(f"{where}: {name} is a link or no plain file. A bundle holds plain files only.")
        if path.is_file():
            check_name(name, where)
            found[name] = path.stat().st_size
    return found


def head(
    read: Mapping[str, bytes], where: str, trusted: Sequence[Key], allow_unsigned: bool, sizes: Mapping[str, int]
) -> tuple[Manifest, Signed | None]:
    """Signature first, then the manifest, then whether exactly its members are there, with their sizes."""
    if MANIFEST not in read:
        raise DataError(f"{where} holds no {MANIFEST}: it is no bundle. Make one with: duomem bundle RUN -o {where}")
    signed = None
    if SIGNATURE in read:
        signed = keys.verify(read[SIGNATURE], trusted, where)
        if signed.files.get(MANIFEST) != hashlib.sha256(read[MANIFEST]).hexdigest():
            raise DataError(f"{where}: {MANIFEST} is not the one that {signed.key.name!r} signed.")
    elif not allow_unsigned:
        raise DataError(
            f"{where} is not signed. Sign it (duomem bundle --sign KEY), or use it at your own risk: --allow-unsigned"
        )
    found = read_manifest(read[MANIFEST], where)
    listed = {member.path: member.size for member in found.members}
    there = {name: size for name, size in sizes.items() if name not in (MANIFEST, SIGNATURE)}
    if odd := sorted(set(listed) ^ set(there)):
        said = "is missing" if odd[0] in listed else "is not in its manifest"
        raise DataError(f"{where}: {odd[0]} {said}.")
    if odd := sorted(name for name in listed if listed[name] != there[name]):
        raise DataError(f"{where}: {odd[0]} has {there[odd[0]]} bytes, not {listed[odd[0]]}: it was cut or changed.")
    if signed and {member.path: member.sha256 for member in found.members} != {
        name: sha for name, sha in signed.files.items() if name != MANIFEST
    }:
        raise DataError(f"{where}: the signature covers other files than the manifest lists.")
    return found, signed


def members(root: Path, found: Manifest, where: str) -> None:
    """Every member's hash."""
    for member in found.members:
        if sha256(root / member.path) != member.sha256:
            raise DataError(f"{where}: {member.path} is not the file that its manifest names: it was damaged or changed.")


def contents(root: Path, found: Manifest, where: str) -> None:
    """Every member's form."""


def base(found: Manifest, folder: Path, where: str) -> None:
    """Raises `MismatchError` where the base's tokenizer, template, config or weights are not those of the manifest."""
    for name, sha in found.base.files.items():
        path = folder / name
        if not path.is_file() or sha256(path) != sha:
            raise MismatchError(f"{where} was made for a base whose {name} is another than that of {folder}. Use that base.")
    if found.base.weights_sha256 and weights.base_hash(str(folder)) != found.base.weights_sha256:
        raise MismatchError(f"{where} was made for other weights than those in {folder}. Use the base {found.base.name}.")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_bank(path: Path, found: Manifest) -> Bank:
    """The bank, for reading only. SQLite is told that the file never changes, so it locks nothing and leaves nothing beside it."""
    assert found.memory is not None
    embedder = embed.build(found.memory.embedder.name)
    if (embedder.revision, embedder.dim) != (found.memory.embedder.revision, found.memory.embedder.dim):
        raise MismatchError(
            f"{path} was made with the embedder {embedder.name} {found.memory.embedder.revision}, not {embedder.revision}."
        )
    db = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True, isolation_level=None, check_same_thread=False
    )
    values = json.loads(db.execute("SELECT value FROM meta WHERE name = 'pins'").fetchone()[0])
    pins = Pins(**values | {"splits": tuple(values["splits"])})
    return Bank(path, db, embedder, pins, found.memory.retrieval)
