"""Episodes of a run out to a file that other tools train on.

In: a run folder, a path, a format. Out: the file, whole or not at all, and a `Done` with the count. It doesn't filter turns:
what was said is written as it was said.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from duomem import parts
from duomem.errors import DataError, UsageError
from duomem.journal import Journal
from duomem.logs import writable, writer
from duomem.rundir import RunFolder
from duomem.talk import Done
from duomem.types import Trajectory

Which = Literal["won", "outcome", "all"]


def export_logs(run: RunFolder, path: Path, form: str, which: Which = "won", *, phase: str = "", bare: bool = False) -> Done:
    """Write episodes to `path`: those that were won, those with an outcome, or all. `phase` is one of the journal's; empty: the
    teacher's episodes of every seed. Raises `UsageError` for a format or phase that is not there, `DataError` where nothing
    fits."""
    chosen = writer(form)
    episodes = [each for seed in run.seeds() for each in _episodes(seed, which, phase)]
    episodes = [each for each in episodes if each.turns]
    if not episodes:
        raise DataError(f"{run.root} has no such episode ({which}). Take more with --only all, or another --phase.")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")
    try:
        count = chosen.write(episodes, draft, parts.layout(run.settings), bare)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    won = sum(each.won for each in episodes)
    data = {
        "file": str(path),
        "format": form,
        "episodes": count,
        "won": won,
        "licences": sorted({each.origin.licence for each in episodes}),
    }
    return Done(data, f"Wrote {count} episodes ({won} won) to {path} ({form}).")


def form_of(path: Path) -> str:
    """The format that a file's name asks for; `UsageError` where several or none have its ending."""
    fits = [name for name in writable() if path.suffix == writer(name).SUFFIX]
    if len(fits) != 1:
        raise UsageError(f"{path}: say which format with --format. There are: {', '.join(writable())}.")
    return fits[0]


def _episodes(run: RunFolder, which: Which, phase: str) -> list[Trajectory]:
    collected = None if phase else run.result("collect")
    with Journal.open(run.journal, readonly=True) as journal:
        known = journal.phases()
        wanted = phase or str(collected["phase"] if collected else "")
        if wanted not in known:
            raise UsageError(f"{run.root} has no phase {wanted!r}. There are: {', '.join(known) or 'none'}.")
        found = list(journal.trajectories(wanted, won=True if which == "won" else None, errors=which == "all"))
    tasks = set(collected["tasks"]) if collected else None
    return [each for each in found if tasks is None or each.task.id in tasks]
