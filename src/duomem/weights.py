"""Base models and adapters on disk: finding, hashing, loading.

In: a name ("pocket": the model that ships with the package; a folder; a hub name) and perhaps an adapter's folder. Out: a
transformers model and tokenizer, and the hashes that pin them. Weights are read from safetensors only; an adapter made for
other weights is refused before anything is loaded. Not here: training, generating.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from importlib import resources
from pathlib import Path
from typing import Any

from duomem.errors import DataError, MismatchError, MissingExtra, UsageError
from duomem.types import digest

POCKET = "duomem/pocket"
"""What an adapter's files call the shipped base: no path of the machine that trained it."""


def pocket_names() -> list[str]:
    """The models that ship with the package, by the name of their folder; "model" is the one called plain "pocket"."""
    root = Path(str(resources.files("duomem"))) / "pocket"
    return sorted(path.parent.name for path in root.glob("*/config.json"))


def resolve(name: str) -> str:
    """The folder or hub name that transformers can load. "pocket" and "pocket/NAME" are models of the package."""
    plain = name.removeprefix("duomem/")
    if plain == "pocket" or plain.startswith("pocket/"):
        folder = Path(str(resources.files("duomem"))) / "pocket" / (plain.removeprefix("pocket").strip("/") or "model")
        if not (folder / "config.json").is_file():
            raise UsageError(f"No model {name!r} in the package. There are: {', '.join(pocket_names()) or 'none'}.")
        return str(folder)
    if name.startswith((".", "/", "~")) and not Path(name).expanduser().is_dir():
        raise UsageError(f"Model folder {name} does not exist.")
    return str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name


def stable_name(name: str) -> str:
    """A name to write into an adapter: the package's name, the hub's, or only the last part of a folder's path."""
    plain = name.removeprefix("duomem/")
    if plain == "pocket" or plain.startswith("pocket/"):
        return f"duomem/{plain}"
    return Path(name).name if Path(name).expanduser().is_dir() else name


def folder_of(name: str, revision: str | None = None) -> Path:
    """The local folder of a model; a hub name is looked up in the hub's cache, where loading put it."""
    place = resolve(name)
    if Path(place).is_dir():
        return Path(place)
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError as error:
        raise MissingExtra("huggingface_hub", "train") from error
    kept = try_to_load_from_cache(place, "config.json", revision=revision)
    if isinstance(kept, str):
        return Path(kept).parent
    _transformers()
    from transformers.utils.hub import cached_file

    try:
        found = cached_file(place, "config.json", revision=revision)
    except OSError as error:
        raise UsageError(f"Model {name!r} is neither a folder nor a model of the hub that can be reached: {error}") from error
    return Path(str(found)).parent


def base_hash(name: str, revision: str | None = None) -> str:
    """sha256 over the names and contents of a model's safetensors files. Raises `DataError` where there are none."""
    folder = folder_of(name, revision)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise DataError(f"{folder} holds no .safetensors file. Pickled weights (.bin) are refused: convert them first.")
    return digest({file.name: _file_hash(file, file.stat().st_mtime_ns, file.stat().st_size) for file in files})


def file_hash(path: Path) -> str:
    """sha256 of a file's content."""
    return _file_hash(path, path.stat().st_mtime_ns, path.stat().st_size)


@functools.lru_cache(maxsize=64)
def _file_hash(path: Path, changed_ns: int, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tokenizer_hash(tokenizer: Any) -> str:
    """sha256 over the tokenizer's vocabulary and rules and its chat template: what decides the ids of a prompt."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    # A call sets these two; they are no part of what the tokenizer is.
    rules.pop("truncation", None)
    rules.pop("padding", None)
    return digest({"tokenizer": rules, "template": tokenizer.chat_template})


def load_tokenizer(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    transformers = _transformers()
    return transformers.AutoTokenizer.from_pretrained(resolve(name), revision=revision, trust_remote_code=trust_remote_code)


def load_base(name: str, *, dtype: str, revision: str | None = None, trust_remote_code: bool = False, **how: Any) -> Any:
    """The causal language model, on the CPU, from safetensors; `how` goes to transformers (quantisation, a device).

    Raises `DataError` where its files cannot be used.
    """
    transformers = _transformers()
    if Path(resolve(name)).is_dir():
        base_hash(name, revision)  # says so when there are only pickled weights
    try:
        return transformers.AutoModelForCausalLM.from_pretrained(
            resolve(name), revision=revision, dtype=dtype, use_safetensors=True, trust_remote_code=trust_remote_code, **how
        )
    except (OSError, ValueError) as error:
        raise DataError(f"Model {name}: {error}") from error


def read_manifest(adapter: str | Path) -> dict[str, Any]:
    """An adapter's manifest. Raises `DataError` for a folder that is no adapter of this project."""
    folder = Path(adapter)
    if not (folder / "adapter_model.safetensors").is_file():
        pickled = " Only a pickled one (.bin), which is refused." if any(folder.glob("*.bin")) else ""
        raise DataError(f"{folder} holds no adapter_model.safetensors.{pickled}")
    try:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}/manifest.json cannot be read: {error}. `duomem tune` writes it.") from error
    return manifest


def adapter_hash(adapter: str | Path) -> str:
    """sha256 over an adapter's weights and PEFT config."""
    files = [Path(adapter) / name for name in ("adapter_model.safetensors", "adapter_config.json")]
    return digest({file.name: _file_hash(file, file.stat().st_mtime_ns, file.stat().st_size) for file in files})


def check_adapter(adapter: str | Path, base: str, tokenizer: Any, revision: str | None = None) -> dict[str, Any]:
    """Raise `MismatchError` unless the adapter was trained on exactly these weights, this tokenizer and this chat template."""
    manifest = read_manifest(adapter)
    found = {"base_sha256": base_hash(base, revision), "tokenizer_sha256": tokenizer_hash(tokenizer)}
    for key, value in found.items():
        if manifest.get(key) != value:
            raise MismatchError(
                f"Adapter {adapter} was trained for {manifest.get('base')} with {key} {str(manifest.get(key))[:12]}; "
                f"{base} has {value[:12]}. Use the base it was trained on, or train again."
            )
    return manifest


def attach(model: Any, adapter: str | Path, *, merge: bool) -> Any:
    """The model with a checked adapter: folded into the weights, or beside them."""
    from peft import PeftModel

    with_adapter = PeftModel.from_pretrained(model, str(adapter), use_safetensors=True)
    return with_adapter.merge_and_unload() if merge else with_adapter


def quiet_threads() -> None:
    """Let waiting threads sleep. A team that spins on cores others use made a step 30 times slower. Before torch loads."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise MissingExtra("transformers", "train") from error
    return transformers
