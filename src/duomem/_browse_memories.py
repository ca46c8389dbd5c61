"""A run's memories for people: the bank as a list that can be searched, and each memory with its neighbours and what it did.

In: a `Run`, a seed where each has a bank, a query. Out: `MemoryPage`, `MemoryFull`; and `change`, the way of the page to the
edits of `duomem.curate`. Counts are `duomem.usefulness`'s, similarities the bank's own. Not here: what an edit does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Literal

from duomem import curate, embed
from duomem._browse_db import reading, whole
from duomem._browse_runs import Run
from duomem._browse_types import Change, Injected, MemoryFull, MemoryPage, MemoryRow, Near, Source
from duomem.bank import Bank, pins
from duomem.bankview import View
from duomem.curate import Kept
from duomem.journal import Journal
from duomem.rundir import RunFolder
from duomem.types import Memory, MemoryId, Provenance
from duomem.usefulness import Uses, measured

NEAREST = 20
"""So many of the nearest memories answer a query that no memory has the words of."""
Order = Literal["", "hits", "helped", "harmed", "won"]


def memories(
    run: Run,
    seed: int | None = None,
    *,
    query: str = "",
    status: curate.Status | Literal[""] = "",
    order: Order = "",
    arm: str = "memory",
    copies: bool = False,
    offset: int = 0,
    limit: int = 50,
) -> MemoryPage:
    """One page of a bank (of the first seed where none is named). With a query, the memories that have its words, the nearest
    first; where none has, the nearest. `order` is by a count of `arm`; `copies` leaves only those that are there twice.

    Raises `DataError` where there is no bank, `UsageError` for a seed that the run has not.
    """
    seed = run.first_seed(seed)
    found = _bank(run, seed)
    rows = [each for each in _rows(found) if status in ("", each.status) and (each.copies or not copies)]
    if query.strip():
        rows = _searched(found.view, rows, query)
    if order:
        rows.sort(key=lambda row: (-getattr(row.uses[arm], order) if arm in row.uses else 0, row.id))
    live = sum(each.status == "live" for each in found.kept)
    page = tuple(rows[max(0, offset) : max(0, offset) + max(0, limit)])
    return MemoryPage(seed, run.seeds, found.uses.split, found.version, live, len(found.kept), len(rows), max(0, offset), page)


def memory(run: Run, beginning: str, seed: int | None = None, near: int = 8) -> MemoryFull:
    """One memory in full, by its id or the beginning of it, with the live memories nearest to it. Raises `UsageError`."""
    seed = run.first_seed(seed)
    found = _bank(run, seed)
    own = curate.one_of(found.kept, beginning, found.path)
    row = next(each for each in _rows(found) if each.id == own.memory.id)
    changes = tuple(Change(each.version, each.op, whole(each.reason), each.time) for each in own.edits)
    return MemoryFull(
        row, seed, found.uses.split, _sources(run, seed, own.sources), changes, nearest(found.view, own.memory, near)
    )


def change(run: Run, what: Literal["quarantine", "restore"], memory_id: str, reason: str, seed: int | None = None) -> None:
    """Quarantine or restore one memory, and note it in the run, as `duomem memories` does. Raises `UsageError`."""
    seed = run.first_seed(seed)
    root = run.seed_root(seed)
    with _open(run, root) as bank:
        kept = curate.find(bank, memory_id)
        (curate.quarantine if what == "quarantine" else curate.restore)(bank, kept, reason)
        curate.note(RunFolder(root, run.settings), bank)


def texts_of(run: Run, seed: int | None) -> dict[MemoryId, Injected]:
    """Every memory of the bank that an episode with this seed was shown memories of; empty where there is no bank."""
    if bool(run.seeds) != (seed is not None) or (run.seeds and seed not in run.seeds):
        return {}
    if not _path(run.seed_root(seed)).is_file():
        return {}
    kept = _bank(run, seed).kept
    return {
        each.memory.id: Injected(each.memory.id, whole(each.memory.key), whole(each.memory.text), each.status) for each in kept
    }


class _Found:
    """A bank as it was read: what it holds, one view to search, and what memories were good for."""

    def __init__(self, path: Path, kept: Sequence[Kept], view: View, version: int, uses: Uses) -> None:
        self.path, self.kept, self.view, self.version, self.uses = path, kept, view, version, uses


def _bank(run: Run, seed: int | None) -> _Found:
    root = run.seed_root(seed)
    journal = run.root / "journal.sqlite"
    return _read(run, seed, root, _stamp(_path(root)), _stamp(journal))


@lru_cache(maxsize=8)
def _read(run: Run, seed: int | None, root: Path, *stamps: tuple[int, ...]) -> _Found:
    with _open(run, root) as bank:
        kept, view, version = curate.kept(bank), bank.view(), bank.version
    uses = Uses()
    if (run.root / "journal.sqlite").is_file():
        with Journal.open(run.root / "journal.sqlite", readonly=True) as journal:
            uses = measured(journal, seed)
    return _Found(_path(root), kept, view, version, uses)


@contextmanager
def _open(run: Run, root: Path) -> Iterator[Bank]:
    path, table = _path(root), run.settings.memory
    with Bank.open(path, embed.build(pins(path).embedder), retrieval=table.retrieval if table else "dense") as bank:
        yield bank


def _path(root: Path) -> Path:
    return root / "remember" / "bank.sqlite"


def _stamp(path: Path) -> tuple[int, ...]:
    """Changes whenever the file or its write-ahead log does."""
    found = [each.stat() for each in (path, Path(f"{path}-wal")) if each.is_file()]
    return tuple(number for stat in found if stat.st_size for number in (stat.st_mtime_ns, stat.st_size))


def _rows(found: _Found) -> list[MemoryRow]:
    twins, rows = copies_of(found.kept), []
    for each in found.kept:
        uses = {arm: counts[each.memory.id] for arm, counts in (found.uses.arms or {}).items() if each.memory.id in counts}
        rows.append(
            MemoryRow(
                each.memory.id, each.status, each.memory.kind, whole(each.memory.key), whole(each.memory.text),
                len(each.sources), uses, twins[each.memory.id],
            )
        )  # fmt: skip
    return rows


def copies_of(kept: Sequence[Kept]) -> dict[MemoryId, int]:
    """For each memory how many others have the same key or the same text, but for case and white space."""
    keys = Counter(_plain(each.memory.key) for each in kept)
    texts = Counter(_plain(each.memory.text) for each in kept)
    both = Counter((_plain(each.memory.key), _plain(each.memory.text)) for each in kept)
    found = {}
    for each in kept:
        key, text = _plain(each.memory.key), _plain(each.memory.text)
        found[each.memory.id] = keys[key] + texts[text] - both[key, text] - 1
    return found


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _searched(view: View, rows: Sequence[MemoryRow], query: str) -> list[MemoryRow]:
    scores = {hit.memory.id: hit.score for hit in view.search(query, len(view))}
    words = query.lower().split()
    having = [row for row in rows if all(word in f"{row.id} {row.key} {row.text}".lower() for word in words)]
    ranked = sorted(having or rows, key=lambda row: (-scores.get(row.id, -2.0), row.id))[: None if having else NEAREST]
    return [_scored(row, scores.get(row.id)) for row in ranked]


def _scored(row: MemoryRow, score: float | None) -> MemoryRow:
    return MemoryRow(row.id, row.status, row.kind, row.key, row.text, row.sources, row.uses, row.copies, score)


def nearest(view: View, own: Memory, count: int = 8) -> tuple[Near, ...]:
    """The live memories whose keys are nearest, without itself."""
    hits = [hit for hit in view.search(own.key, count + 1) if hit.memory.id != own.id][:count]
    key, text = _plain(own.key), _plain(own.text)
    return tuple(
        Near(
            hit.memory.id, whole(hit.memory.key), whole(hit.memory.text), hit.score,
            _plain(hit.memory.key) == key or _plain(hit.memory.text) == text,
        )
        for hit in hits
    )  # fmt: skip


def _sources(run: Run, seed: int | None, sources: Sequence[Provenance]) -> tuple[Source, ...]:
    """Where a memory came from, with the refs of the teacher's episodes."""
    label, refs = f"seed{seed}" if run.seeds else "", dict[str, str]()
    owner = run.id if run.home == run.root else run.id.rpartition("/")[0]
    path = run.seed_root(seed) / "journal.sqlite"
    if owner and path.is_file():
        marks = ",".join("?" * len(sources))
        with reading(path) as db:
            query = f"SELECT id, content_hash FROM episodes WHERE content_hash IN ({marks})"
            for number, content in db.execute(query, [source.trajectory for source in sources]):
                refs[content] = f"{label}:{number}" if label else str(number)
    return tuple(
        Source(
            each.task_id, each.attempt, each.teacher, each.written_by, each.prompt, each.licence, each.trajectory,
            owner if each.trajectory in refs else "",
            refs.get(each.trajectory, ""),
        )
        for each in sources
    )  # fmt: skip
