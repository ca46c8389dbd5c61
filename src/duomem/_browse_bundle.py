"""The bundles of a run for people: what is inside, who signed it, its card, its size by part.

In: a `Run` and the folder of all runs. Out: a `BundleView` for every bundle in the run's folder, or made of it beside the runs.
Each is checked as `duomem inspect` checks it; nothing in it is loaded or installed. Not here: making, trusting, serving.
"""

from __future__ import annotations

import zipfile
from functools import lru_cache
from pathlib import Path

from duomem._browse_db import whole
from duomem._browse_runs import Run
from duomem._browse_types import BundleMember, BundleView
from duomem.errors import DuomemError

CARD_CHARS = 50_000


def bundles(run: Run, root: Path) -> tuple[BundleView, ...]:
    """Every bundle of the run, by path; empty where there is none. One that is damaged has only its problem."""
    from duomem.bundle.keys import trust_file

    trusted = _stamp(trust_file()) if trust_file().is_file() else 0
    found = []
    for path in _paths(run, root):
        view = _looked(path, _stamp(path), trusted)
        if path.is_relative_to(run.root) or view.config == run.settings.hash:
            found.append(view)
    return tuple(found)


def _paths(run: Run, root: Path) -> list[Path]:
    inside = [path for name in ("*.duo", "*.zip") for folder in {run.root, root} for path in folder.glob(name)]
    folders = [path.parent for path in run.root.glob("*/manifest.json")]
    return sorted(dict.fromkeys((*inside, *folders)))


def _stamp(path: Path) -> int:
    return (path / "manifest.json" if path.is_dir() else path).stat().st_mtime_ns


@lru_cache(maxsize=32)
def _looked(path: Path, stamp: int, trusted: int) -> BundleView:
    """What is there, until the bundle or the user's trust file changes."""
    from duomem.bundle.page import page
    from duomem.bundle.read import look
    from duomem.bundle.sizes import held, sizes

    try:
        found, signed, signature = look(path)
    except DuomemError as error:
        return BundleView(path.name, problem=whole(str(error)))
    return BundleView(
        path=path.name,
        name=whole(found.name),
        version=found.version,
        signed=signed is not None,
        signature=whole(signature),
        ships=whole(found.verdict.words),
        card=whole(_card(path)),
        page=whole(page(found, signature)),
        bytes=sizes(found),
        held=held(found),
        members=tuple(BundleMember(each.path, each.size, each.sha256) for each in found.members),
        config=found.config_hash,
    )


def _card(path: Path) -> str:
    """The model card, as text."""
    if path.is_dir():
        return (path / "README.md").read_text(encoding="utf-8", errors="replace")[:CARD_CHARS]
    with zipfile.ZipFile(path) as packed:
        name = next((each for each in packed.namelist() if each.rpartition("/")[2] == "README.md"), None)
        if name is None:
            return ""
        with packed.open(name) as file:
            return file.read(CARD_CHARS).decode("utf-8", "replace")
