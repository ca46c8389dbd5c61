"""Which version of each bundle is in use on this machine, so that nobody slips an older one under a device.

In: a checked manifest and who signed it. Out: a refusal, or a note in the user's state folder. What nobody signed has no
version to hold on to: anybody could have written it. Not here: signatures.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from duomem.bundle.keys import Signed
from duomem.bundle.manifest import Manifest
from duomem.errors import DataError
from duomem.rundir import replace


def state_file() -> Path:
    """$XDG_STATE_HOME/duomem/bundles.json, else under ~/.local/state."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "duomem" / "bundles.json"


def check(found: Manifest, signed: Signed | None, where: str) -> None:
    """Raises `DataError` for a version older than the newest in use of the same name and key."""
    newest = _read().get(_name(found, signed), 0) if signed else 0
    if found.version < newest:
        raise DataError(
            f"{where} is version {found.version} of {found.name}, older than version {newest}, which was in use here. "
            "If you mean to go back, say so: --allow-older"
        )


def remember(found: Manifest, signed: Signed | None) -> None:
    """Note a version that is in use now. One that its user went back to becomes the newest. Where the state folder cannot be
    written, as on a device without a disk, nothing is remembered."""
    if signed and _read().get(_name(found, signed)) != found.version:
        with suppress(OSError):
            replace(state_file(), json.dumps({**_read(), _name(found, signed): found.version}, indent=1, sort_keys=True) + "\n")


def _name(found: Manifest, signed: Signed | None) -> str:
    return f"{signed.key.fingerprint[:32] if signed else ''}/{found.name}"


def _read() -> dict[str, int]:
    path = state_file()
    if not path.is_file():
        return {}
    try:
        return {str(name): int(version) for name, version in json.loads(path.read_text(encoding="utf-8")).items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}). Delete it if nobody else writes there; versions count anew.") from error
