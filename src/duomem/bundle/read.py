"""Opens a bundle: everything about it is checked before anything in it is loaded, then its parts are handed out, typed.

In: a folder or a zip, the keys that the user trusts. Out: a `Bundle`, or a `DataError` that says what is wrong with it. Not
here: what is checked (`duomem.bundle.check`), engines and serving.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from duomem import weights
from duomem.bank import Bank
from duomem.bundle import archive, check, keys, manifest, versions
from duomem.bundle.keys import Key, Signed
from duomem.bundle.manifest import Manifest
from duomem.errors import DataError, UsageError
from duomem.memory import MemoryStrategy
from duomem.prompts import Layout
from duomem.record.functions import Locator, locator

Trust = Path | Sequence[Key] | None
"""A file of public keys, keys, or None: the user's own trust file."""


@dataclass(frozen=True)
class Bundle:
    """A checked bundle. Use it as a context manager: one that came as a zip lies in a folder of its own until `close`."""

    root: Path
    """Where its members lie."""
    manifest: Manifest
    signed: Signed | None
    """Who signed it; None where the caller allowed one that is not signed."""
    base: str = ""
    """The folder or name of the base that the user gave in place of the manifest's."""
    temporary: bool = False

    def installed(self) -> None:
        """Remember that this version is in use here: an older one of its maker's is refused from now on."""
        versions.remember(self.manifest, self.signed)

    def __enter__(self) -> Bundle:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Removes what was unpacked from a zip. May be called again."""
        if self.temporary:
            shutil.rmtree(self.root, ignore_errors=True)

    @property
    def base_path(self) -> str:
        """What `models/hf` and `models/llamacpp` take as `path`: a name of the package, a hub name, a folder."""
        if self.base:
            return self.base
        if self.gguf("merged") and self.manifest.member(f"{manifest.TOKENIZER}/tokenizer.json"):
            return str(self.root / manifest.TOKENIZER)
        if self.manifest.base.source == "folder":
            raise UsageError(
                f"The bundle {self.manifest.name} needs the base {self.manifest.base.name}, which was a folder where it was "
                "made. Say where it is here: --base FOLDER"
            )
        return self.manifest.base.name

    @property
    def adapter(self) -> Path | None:
        """The folder of the adapter, as `duomem tune` wrote it and PEFT reads it."""
        return self.root / manifest.ADAPTER if self.manifest.verdict.adapter else None

    def gguf(self, kind: str) -> Path | None:
        """The GGUF file of a kind: "adapter" or "merged"."""
        return next((self.root / each.path for each in self.manifest.gguf if each.kind == kind), None)

    @property
    def bank(self) -> Path | None:
        return self.root / manifest.BANK if self.manifest.memory else None

    @property
    def layout(self) -> Layout:
        return Layout.model_validate_json((self.root / manifest.LAYOUT).read_bytes())

    @property
    def locator(self) -> Locator:
        """Finds the task in a request. Raises `UsageError` where it is a function of the user's that is not here as it was."""
        rule = self.manifest.task
        found = locator(rule.locator)
        if found.pin != rule.pin:
            raise UsageError(
                f"The task locator {rule.locator} is another one here than where the bundle was made. Bring the same file."
            )
        return found

    @property
    def template(self) -> Path | None:
        """A chat template that stands in for the base's own."""
        return self.root / manifest.TEMPLATE if self.manifest.member(manifest.TEMPLATE) else None

    @property
    def options(self) -> dict[str, Any]:
        """The options that `models/hf` and `models/llamacpp` share: base, adapter, and how conversations are written."""
        found: dict[str, Any] = {"path": self.base_path, "thinking": self.manifest.student.thinking}
        found["tool_calls"] = self.manifest.student.tool_calls
        if self.manifest.base.revision and not self.base:
            found["revision"] = self.manifest.base.revision
        if self.adapter:
            found["adapter"] = str(self.adapter)
        if self.template:
            found["chat_template"] = str(self.template)
        return found

    def options_for(self, engine: str) -> dict[str, Any]:
        """The options of one component of models/: llama.cpp reads the bundle's own GGUF files where it has any."""
        found = self.options
        if engine == "llamacpp":
            merged, lora = self.gguf("merged"), self.gguf("adapter")
            found |= {"gguf": str(merged)} if merged else {"lora": str(lora)} if lora else {}
            if merged:
                found.pop("adapter", None)  # it is in the weights already
        return found

    def open_bank(self) -> Bank | None:
        """The bank, for reading only; None where the decision left the memories out. Close it."""
        return check.open_bank(self.root / manifest.BANK, self.manifest) if self.manifest.memory else None

    def strategy(self, count: Callable[[str], int] | None = None) -> MemoryStrategy | None:
        """What chooses memories, with the evaluation's options. `count` says how long a text is in the student's tokens."""
        from duomem.parts import build

        memory = self.manifest.memory
        if memory is None or memory.k == 0:
            return None
        made: MemoryStrategy = build("memory", memory.strategy, memory.options, **({"count": count} if count else {}))
        return made


def open_bundle(
    path: Path | str,
    *,
    trust: Trust = None,
    allow_unsigned: bool = False,
    allow_older: bool = False,
    base: str = "",
    check_base: bool = True,
) -> Bundle:
    """A bundle whose every part is what its maker signed.

    `trust` decides whose signature counts; `allow_unsigned` lets one pass that nobody signed (never one that is signed wrongly
    or by a stranger), `allow_older` one that is older than what was installed here. `base` names the base where the manifest's
    is not here; with `check_base` its files are compared with the manifest's hashes. Raises `DataError` for a bundle that is
    not to be used, `UsageError` for a missing one and for no keys.
    """
    path = Path(path)
    if not path.exists():
        raise UsageError(f"There is no bundle at {path}. Make one with: duomem bundle RUN -o {path}")
    return _Want(path, trust, allow_unsigned, allow_older, base, check_base).opened()


def look(path: Path | str, trust: Trust = None) -> tuple[Manifest, Signed | None, str]:
    """What a bundle says of itself, who of the trusted signed it, and that in words. Trust is not asked for.

    Hashes and forms are checked; raises `DataError` for a bundle that is damaged.
    """
    path = Path(path)
    trusting: Trust = trust or (keys.trust_file() if keys.trust_file().is_file() else ())
    try:
        with open_bundle(path, trust=trusting, allow_older=True, check_base=False) as opened:
            signed = opened.signed
            assert signed is not None
            return opened.manifest, signed, f"by {signed.key.name}, whom you trust ({signed.key.fingerprint[:16]})"
    except keys.Untrusted as why:
        with _Want(path, (), True, True, "", False).opened(strangers=True) as opened:
            return opened.manifest, None, str(why)


_HEAD = (manifest.MANIFEST, manifest.SIGNATURE)


@dataclass(frozen=True, slots=True)
class _Want:
    """One call of `open_bundle`: what is opened, and what its user accepts."""

    path: Path
    trust: Trust
    allow_unsigned: bool
    allow_older: bool
    base: str
    check_base: bool

    def opened(self, *, strangers: bool = False) -> Bundle:
        """With `strangers` a signature is not looked at: for showing what is there, never for using it."""
        if self.path.is_dir():
            return self.checked(self.path, strangers, temporary=False)
        folder = Path(tempfile.mkdtemp(prefix="duomem-bundle-"))
        try:
            with archive.Archive(self.path) as found:
                self.head({name: found.read(name, keys.LARGEST) for name in _HEAD if name in found}, found.sizes, strangers)
                found.extract(folder)
            return self.checked(folder, strangers, temporary=True)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def checked(self, root: Path, strangers: bool, *, temporary: bool) -> Bundle:
        """The bundle in a folder, every check done."""
        where = str(self.path)
        sizes = check.files(root, where)
        found, signed = self.head(_read_head(root, sizes, where), sizes, strangers)
        check.members(root, found, where)
        check.contents(root, found, where)
        bundle = Bundle(root, found, signed, self.base, temporary)
        if self.check_base and found.base.source != "endpoint" and not bundle.gguf("merged"):
            check.base(found, weights.folder_of(bundle.base_path, found.base.revision or None), where)
        return bundle

    def head(self, read: dict[str, bytes], sizes: Mapping[str, int], strangers: bool) -> tuple[Manifest, Signed | None]:
        """Signature, manifest, list of files, version: all that is known before a member is read."""
        if strangers:
            read.pop(manifest.SIGNATURE, None)
        trusted = _keys(self.trust, self.path) if manifest.SIGNATURE in read else ()
        found, signed = check.head(read, str(self.path), trusted, self.allow_unsigned, sizes)
        if not self.allow_older:
            versions.check(found, signed, str(self.path))
        return found, signed


def _read_head(root: Path, sizes: Mapping[str, int], where: str) -> dict[str, bytes]:
    for name in _HEAD:
        if sizes.get(name, 0) > keys.LARGEST:
            raise DataError(f"{where}: {name} has {sizes[name]} bytes; no bundle has one that large.")
    return {name: (root / name).read_bytes() for name in _HEAD if name in sizes}


def _keys(trust: Trust, where: Path) -> tuple[Key, ...]:
    if isinstance(trust, Path):
        return keys.read_keys(trust)
    if trust is not None:
        return tuple(trust)
    own = keys.trust_file()
    if not own.is_file():
        raise keys.Untrusted(
            f"{where} is signed, and you trust no key yet ({own} is not there). Get its maker's public key from them, "
            "not with the bundle, and add it: duomem trust KEY.pub"
        )
    return keys.read_keys(own)
