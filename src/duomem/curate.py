"""What a person may do with a bank: look, search, correct, put aside, bring back, delete. Every change is a journalled edit.

In: an open bank, the id of a memory or its beginning, a reason. Out: new versions of the bank, and what it holds in words
of its own: live, quarantined, retired. Quarantine and restore lose nothing; delete removes a text for good. Not here: the
command line, and what a strategy does by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from duomem.bank import Bank, Entry
from duomem.errors import UsageError
from duomem.rundir import RunFolder
from duomem.types import BankEdit, Memory, MemoryId, Provenance

BY_HAND = "by hand: "
"""Begins the reason of every edit that a person made."""
_QUARANTINE = BY_HAND + "quarantined: "
_DELETE = BY_HAND + "deleted: "

Status = Literal["live", "quarantined", "retired"]


@dataclass(frozen=True, slots=True)
class Kept:
    """A memory whose text is in the bank. `edits` are those that name it, oldest first."""

    memory: Memory
    status: Status
    sources: tuple[Provenance, ...]
    edits: tuple[Entry, ...]

    @property
    def reason(self) -> str:
        """Why it is as it is: the reason of its last edit."""
        return self.edits[-1].reason if self.edits else ""


def kept(bank: Bank) -> list[Kept]:
    """Every memory in the file, by id."""
    alive = {memory.id for memory in bank.view().memories()}
    edits: dict[MemoryId, list[Entry]] = {}
    for entry in bank.history():
        for named in dict.fromkeys(each for each in (entry.memory, entry.target) if each):
            edits.setdefault(named, []).append(entry)
    found, sources = [], bank.all_sources()
    for memory_id, memory in sorted(bank.stored().items()):
        own = tuple(edits.get(memory_id, ()))
        aside: Status = "quarantined" if own and own[-1].reason.startswith(_QUARANTINE) else "retired"
        found.append(Kept(memory, "live" if memory_id in alive else aside, sources.get(memory_id, ()), own))
    return found


def find(bank: Bank, beginning: str) -> Kept:
    """The memory with this id or this beginning of one. Raises `UsageError` for none or several."""
    return one_of(kept(bank), beginning, bank.path)


def one_of(memories: Sequence[Kept], beginning: str, where: Path) -> Kept:
    """The one of these, those of the bank at `where`, whose id begins so. Raises `UsageError` for none or several."""
    found = [each for each in memories if beginning and each.memory.id.startswith(beginning.lower())]
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(f"No memory {beginning!r} in {where}. Ids are listed by: duomem memories list")
    raise UsageError(
        f"{len(found)} memories of {where} begin with {beginning!r}, such as {found[0].memory.id}. Give more of it."
    )


def note(run: RunFolder, bank: Bank) -> None:
    """Note the bank's new content in its run (the seed's own folder), so that what depends on it is done again."""
    view = bank.view()
    run.amend("remember", memories=len(view), content_hash=view.content_hash)


def edit(bank: Bank, memory: Kept, reason: str, *, text: str | None = None, key: str | None = None) -> Memory:
    """Put a corrected memory in the place of one; it keeps the sources, so it is still never shown to them."""
    old = _live(bank, memory, "edited")
    written_by = old.provenance.written_by.removesuffix(" + hand") + " + hand"
    new = replace(
        old,
        text=old.text if text is None else text.strip(),
        key=old.key if key is None else key.strip(),
        provenance=replace(old.provenance, written_by=written_by),
    )
    if not new.text or not new.key:
        raise UsageError(f"Memory {old.id} would be left without a {'key' if new.text else 'text'}. To remove it: delete.")
    if new.id == old.id:
        raise UsageError(f"Memory {old.id} says that already: nothing was changed.")
    bank.apply([BankEdit("revise", _why(BY_HAND + "edited: ", reason), new, old.id)])
    return new


def quarantine(bank: Bank, memory: Kept, reason: str) -> None:
    """Take a memory out of every recall; `restore` brings it back."""
    bank.apply([BankEdit("retire", _why(_QUARANTINE, reason), target=_live(bank, memory, "quarantined").id)])


def put_aside(bank: Bank, memory: Memory, reason: str) -> None:
    """Add a memory that nobody has checked, quarantined from the start."""
    why = " ".join(reason.split())
    bank.apply([BankEdit("add", why, memory), BankEdit("retire", _why(_QUARANTINE, reason), target=memory.id)])


def restore(bank: Bank, memory: Kept, reason: str) -> None:
    """Bring back a memory that was quarantined, or retired for any other reason."""
    if memory.status == "live":
        raise UsageError(f"Memory {memory.memory.id} of {bank.path} is live: there is nothing to restore.")
    bank.apply([BankEdit("add", _why(BY_HAND + "restored: ", reason), memory.memory)])


def delete(bank: Bank, memory: Kept, reason: str) -> None:
    """Remove a memory's text for good, from every version of the bank."""
    bank.erase(memory.memory.id, _why(_DELETE, reason))


def by_hand(entries: list[Entry]) -> int:
    """How many of a bank's edits a person made."""
    return sum(entry.reason.startswith(BY_HAND) for entry in entries)


def _live(bank: Bank, memory: Kept, what: str) -> Memory:
    if memory.status != "live":
        raise UsageError(f"Memory {memory.memory.id} of {bank.path} is {memory.status}: it cannot be {what}. Restore it first.")
    return memory.memory


def _why(beginning: str, reason: str) -> str:
    if not reason.strip():
        raise UsageError("Say why, with --reason: it stands in the bank's journal.")
    return beginning + " ".join(reason.split())
