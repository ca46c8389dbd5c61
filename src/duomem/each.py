"""One job for several values of a key: a run in a folder of its own for each, after one collection by the teacher.

In: a run folder whose config has an [each] table. Out: finished runs in RUN/<value>/. What the teacher played and what was
written from it is copied, so that it is paid for once; a part that depends on the value is made anew. Not here: the job itself.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from sqlite3 import connect

from duomem.plan import variants
from duomem.rundir import RunFolder, replace
from duomem.talk import Done, Talk

_SHARED = ("collect", "remember")
WRITING = "writing.sqlite"
"""Replies of a model that wrote memories (`duomem.remember`)."""


def distill_each(run: RunFolder, talk: Talk, distill: Callable[[RunFolder, Talk], Done]) -> Done:
    """`run` has collected and remembered; do the rest of the job for every value."""
    data: dict[str, object] = {}
    words = []
    for name, settings in variants(run.settings):
        child = RunFolder(run.root / name, settings)
        child.write_config()
        for source, target in zip(run.seeds(), child.seeds(), strict=True):
            share(source, target)
        done = distill(child, talk.under(name))
        data[name] = done.data
        words.append(f"{name}:\n{done.words}")
    return Done(data, "\n\n".join(words))


def share(source: RunFolder, target: RunFolder) -> None:
    """Copy the teacher's episodes and the memories, unless the target has a collection already."""
    if target.journal.exists() or not source.journal.exists():
        return
    steps = json.loads((source.root / "steps.json").read_text(encoding="utf-8"))
    copy_database(source.root / WRITING, target.root / WRITING)
    if source.bank.is_file():
        shutil.copytree(source.bank.parent, target.bank.parent, dirs_exist_ok=True)
    shared = {verb: steps[verb] for verb in _SHARED if verb in steps}
    replace(target.root / "steps.json", json.dumps(shared, indent=1))
    copy_database(source.journal, target.journal)  # last: with a journal it is taken to be whole


def copy_database(source: Path, target: Path) -> None:
    """A copy of an SQLite file as it stands, unless there is one already or nothing to copy."""
    if target.exists() or not source.is_file():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    with closing(connect(source)) as here, closing(connect(draft)) as there:
        here.backup(there)
    draft.rename(target)
