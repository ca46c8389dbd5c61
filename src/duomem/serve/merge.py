"""Reviews what a server learned and folds it into a run's bank, where the next bundle takes it from.

In: the overlay bank of a server's state folder, a bank, ids and a reason. Out: candidates with what they were good for; edits
in both banks. A memory that was taken or refused is retired in the overlay, so nobody decides twice. Not here: the command.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from duomem.bank import Bank, Usefulness
from duomem.errors import UsageError
from duomem.types import BankEdit, Memory, MemoryId

BY_MERGE = "merged from a server: "


@dataclass(frozen=True, slots=True)
class Candidate:
    """A learned memory. `use` counts episodes that were shown it, `there` says that the bank has it already."""

    memory: Memory
    use: Usefulness
    reason: str
    there: bool


def candidates(overlay: Bank, bank: Bank) -> list[Candidate]:
    """What waits for a decision, by id."""
    uses, known = overlay.usefulness(), set(bank.stored())
    reasons = {entry.memory: entry.reason for entry in overlay.history() if entry.memory}
    return [
        Candidate(memory, uses.get(memory.id, Usefulness()), reasons.get(memory.id, ""), memory.id in known)
        for memory in overlay.view().memories()
    ]


def chosen(found: Sequence[Candidate], beginnings: Sequence[str]) -> list[Candidate]:
    """Candidates by the beginnings of their ids. Raises `UsageError` for one that fits none or several."""
    picked: dict[MemoryId, Candidate] = {}
    for beginning in beginnings:
        fits = [each for each in found if beginning and each.memory.id.startswith(beginning.lower())]
        if len(fits) != 1:
            raise UsageError(
                f"{len(fits)} learned memories begin with {beginning!r}. List them with: duomem merge STATE --into RUN"
            )
        picked[fits[0].memory.id] = fits[0]
    return list(picked.values())


def accept(overlay: Bank, bank: Bank, picked: Sequence[Candidate], reason: str) -> int:
    """Add them to the bank, with their sources; then they leave the overlay. Returns the bank's new version.

    Raises `LeakError` for a memory of a split that the bank does not allow; nothing has changed then.
    """
    why = BY_MERGE + _said(reason)
    version = bank.apply([BankEdit("add", why, each.memory) for each in picked])
    overlay.apply([BankEdit("retire", why, target=each.memory.id) for each in picked])
    return version


def refuse(overlay: Bank, picked: Sequence[Candidate], reason: str) -> None:
    """Retire them in the overlay: they are not shown any more, after the server's next start."""
    why = "refused: " + _said(reason)
    overlay.apply([BankEdit("retire", why, target=each.memory.id) for each in picked])


def _said(reason: str) -> str:
    if not reason.strip():
        raise UsageError("Say why, with --reason: it stands in the bank's journal.")
    return " ".join(reason.split())
