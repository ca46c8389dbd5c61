"""What is checked of a bundle, in this order: its files, signature, manifest, every hash, every member's form, the base.

In: a folder, or what an archive says of itself. Out: nothing, or a `DataError` that names the file and what is wrong. Nothing
is unpickled, executed or handed to an engine here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from duomem import embed, weights
from duomem._bank_file import Pins
from duomem.bank import Bank
from duomem.bundle import forms, keys, manifest
from duomem.bundle.archive import check_name
from duomem.bundle.keys import IGNORED, Key, Signed
from duomem.bundle.manifest import MANIFEST, SIGNATURE, Manifest, read_manifest
from duomem.errors import DataError, MismatchError
from duomem.prompts import Layout


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
        raise keys.Untrusted(
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
    """Every member's form, and that what the members say of themselves agrees with the manifest."""
    for member in found.members:
        path, said = root / member.path, f"{where}: {member.path}"
        if path.suffix == ".safetensors":
            forms.safetensors(path, said)
        elif path.suffix == ".gguf":
            _gguf(forms.gguf(path, said), member.path, found, said)
        elif path.suffix == ".json":
            forms.json_object(path, said)
        elif path.suffix in (".md", ".html", ".jinja", ".txt") or not path.suffix:
            forms.text(path, said)
        elif member.path == manifest.BANK:
            forms.bank(path, said)
    _layout(root, found, where)
    _template(root, found, where)
    if found.verdict.adapter:
        _adapter(root / manifest.ADAPTER, found, where)


def _layout(root: Path, found: Manifest, where: str) -> None:
    try:
        layout = Layout.model_validate_json((root / manifest.LAYOUT).read_bytes())
    except ValidationError as error:
        raise DataError(f"{where}: {manifest.LAYOUT} is no layout: {error.errors()[0]['msg']}.") from error
    if layout.hash != found.layout_hash:
        raise MismatchError(f"{where}: {manifest.LAYOUT} is another layout than its parts were made for.")


def _template(root: Path, found: Manifest, where: str) -> None:
    """A chat template and a tokenizer of the bundle's own are those that the parts were made with."""
    for name, sha in found.base.files.items():
        member = found.member(f"{manifest.TOKENIZER}/{name}")
        if member and member.sha256 != sha:
            raise MismatchError(f"{where}: {member.path} is another one than the base's.")
    path = root / manifest.TEMPLATE
    if path.is_file() and sha256(path) != found.base.template_sha256:
        raise MismatchError(f"{where}: {manifest.TEMPLATE} is another chat template than its parts were made with.")


def _adapter(folder: Path, found: Manifest, where: str) -> None:
    said = weights.read_manifest(folder)
    for name, value in (("base_sha256", found.base.weights_sha256), ("tokenizer_sha256", found.base.tokenizer_sha256)):
        if said.get(name) != value:
            raise MismatchError(f"{where}: the adapter was trained for another {name} than the manifest names.")
    if weights.adapter_hash(folder) != found.adapter_sha256:
        raise MismatchError(f"{where}: the adapter is another one than the manifest names.")
    config = forms.json_object(folder / "adapter_config.json", f"{where}: adapter/adapter_config.json")
    if config.get("peft_type") != "LORA" or config.get("auto_mapping"):
        raise DataError(f"{where}: adapter/adapter_config.json is no plain LoRA adapter's, or names code to load.")


def _gguf(said: Mapping[str, str], path: str, found: Manifest, where: str) -> None:
    entry = next((each for each in found.gguf if each.path == path), None)
    if entry is None:
        raise DataError(f"{where} is in no list of the manifest.")
    if (said.get("general.type") == "adapter") != (entry.kind == "adapter"):
        raise DataError(f"{where} is no {entry.kind} model.")
    template = said.get("tokenizer.chat_template")
    if template is not None and hashlib.sha256(template.encode()).hexdigest() != found.base.template_sha256:
        raise MismatchError(f"{where} has another chat template than the parts were made with.")


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
    """The bank, for reading only. Raises `MismatchError` for an embedder that is another one here than when it was made."""
    assert found.memory is not None
    embedder, wanted = embed.build(found.memory.embedder.name), found.memory.embedder
    if (embedder.revision, embedder.dim) != (wanted.revision, wanted.dim):
        raise MismatchError(
            f"{path} was made with the embedder {wanted.name} {wanted.revision}; here it is {embedder.revision}. "
            "Install the version of duomem that made the bundle, or bundle the run again."
        )
    db = forms.read_only(path)
    values = json.loads(db.execute("SELECT value FROM meta WHERE name = 'pins'").fetchone()[0])
    pins = Pins(**values | {"splits": tuple(values["splits"])})
    bank = Bank(path, db, embedder, pins, found.memory.retrieval)
    if bank.view().content_hash != found.memory.content_sha256 or pins.layout != found.layout_hash:
        bank.close()
        raise MismatchError(f"{path} holds other memories than the manifest names, or was made for another layout.")
    return bank
