"""What each memory was good for: hits, wins, and wins and losses against the same games without memories.

In: the journal of a run that has been evaluated. Out: counts by memory and arm. A memory helped where the episode that it
was shown in was won and its control was not, and harmed where it is the other way round. It edits nothing: retiring
memories by games of an evaluation would teach the bank its own test.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from duomem.journal import Ended, Journal
from duomem.types import MemoryId

CONTROLS = {"memory": "none", "both": "adapter"}
"""The arm without memories that an arm with them is compared with: the same student, with the same adapter or none."""


@dataclass(frozen=True, slots=True)
class Use:
    """`hits` episodes showed the memory and `won` of them were won; `compared` have a control, `helped` and `harmed` differ."""

    hits: int = 0
    won: int = 0
    compared: int = 0
    helped: int = 0
    harmed: int = 0

    def __add__(self, other: Use) -> Use:
        return Use(
            self.hits + other.hits,
            self.won + other.won,
            self.compared + other.compared,
            self.helped + other.helped,
            self.harmed + other.harmed,
        )


@dataclass(frozen=True, slots=True)
class Uses:
    """Counts of the newest evaluation in a journal: `split` names its games; `arms` hold the counts by arm and memory."""

    split: str = ""
    arms: dict[str, dict[MemoryId, Use]] | None = None

    def of(self, memory: MemoryId, arm: str) -> Use:
        return (self.arms or {}).get(arm, {}).get(memory, Use())


def measured(journal: Journal, seed: int | None = None) -> Uses:
    """The counts of the newest evaluation, of one seed or of all. Empty where nothing with memories has been played."""
    _, split, _, _, *key = (journal.latest("evaluate/") or "evaluate///").split("/")
    known = set(journal.phases())
    arms: dict[str, dict[MemoryId, Use]] = {}
    for phase in sorted(known):
        parts = phase.split("/")
        if len(parts) < 4 or parts[0] != "evaluate" or parts[1] != split or parts[4:] != key or parts[2] not in CONTROLS:
            continue
        if seed is not None and parts[3] != f"seed{seed}":
            continue
        control = _control(known, parts)
        lost_or_won = {each.task_id: each.won for each in journal.ended(control)} if control else {}
        counts = arms.setdefault(parts[2], {})
        for memory, use in _counted(journal.ended(phase), lost_or_won):
            counts[memory] = counts.get(memory, Use()) + use
    return Uses(split if arms else "", arms)


def _control(known: set[str], parts: list[str]) -> str:
    """The phase of the control: of the same seed, or of the one seed that was played where no seed changes it."""
    arm = CONTROLS[parts[2]]
    same = "/".join([*parts[:2], arm, *parts[3:]])
    others = sorted(
        phase for phase in known if phase.startswith(f"evaluate/{parts[1]}/{arm}/") and phase.split("/")[4:] == parts[4:]
    )
    return same if same in known else others[0] if len(others) == 1 else ""


def _counted(played: Iterable[Ended], control: dict[str, bool]) -> Iterable[tuple[MemoryId, Use]]:
    for each in played:
        without = control.get(each.task_id)
        helped, harmed = each.won and without is False, not each.won and without is True
        use = Use(1, int(each.won), int(without is not None), int(helped), int(harmed))
        yield from ((memory, use) for memory in each.shown)
