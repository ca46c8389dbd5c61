"""What every memory strategy needs: choosing among hits, counting tokens, and saying where a memory came from.

In: a view of an episode, a bank, a budget; or a trajectory. Out: a `Recall` in canonical order; a `Provenance`; both pure
functions of their arguments. It doesn't decide what a memory says or how it is keyed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import islice

from duomem.memory import BankView
from duomem.types import Budget, EpisodeView, Hit, Memory, MemoryId, Provenance, Recall, Trajectory

Counter = Callable[[str], int]

_WORD = re.compile(r"[^\W\d_]+")
_PIECE = re.compile(r"[^\W\d_]+|\d|[^\w\s]|_|\n")


def count_tokens(text: str) -> int:
    """An upper estimate of a text's tokens without a tokenizer: a word is one token per started three letters, every digit,
    sign and line break is one. Byte-pair vocabularies of 30k and more stay below it on English text."""
    return sum((len(piece) + 2) // 3 for piece in _PIECE.findall(text))


def recall(
    view: EpisodeView, bank: BankView, budget: Budget, query: str, *, distinct: bool, count: Counter, fit: float = 0.0
) -> Recall:
    """The nearest memories that are allowed, distinct and within the budget, by id.

    With `fit` above 0, among the nearest 16 k those come first whose similarity plus `fit` times `share_here` is highest.

    Memories of an excluded trajectory or task are never found. One that no longer fits the token budget is passed over
    for a shorter one further away; none at all is a valid answer.
    """
    found = nearest(view, bank, budget, query)
    return choose(fitting(found, view, budget, fit) if fit else found, budget, distinct=distinct, count=count)


def choose(hits: Iterable[Hit], budget: Budget, *, distinct: bool, count: Counter) -> Recall:
    """The first of the hits, best first, that are distinct and within the budget, by id."""
    chosen: list[Hit] = []
    left = budget.tokens
    seen: set[str] = set()
    for hit in hits:
        if len(chosen) == budget.k:
            break
        body = steps_of(hit.memory.text) if distinct else hit.memory.id
        cost = count(hit.memory.text)
        if body not in seen and cost <= left:
            chosen.append(hit)
            seen.add(body)
            left -= cost
    return Recall(tuple(sorted(chosen, key=lambda hit: hit.memory.id)))


def allowed(view: EpisodeView, kinds: Collection[str] = ()) -> Callable[[Memory], bool]:
    """Whether a memory may be shown at all: not from an excluded trajectory or task, and of one of the kinds (none: any)."""

    def allow(memory: Memory) -> bool:
        source = memory.provenance
        if kinds and memory.kind not in kinds:
            return False
        return source.trajectory not in view.exclude and source.task_id not in view.exclude_tasks

    return allow


def nearest(view: EpisodeView, bank: BankView, budget: Budget, query: str, kinds: Collection[str] = ()) -> Iterator[Hit]:
    """Allowed hits from the nearest on, fetched in growing portions: most of the bank is never needed."""
    allow = allowed(view, kinds)
    given, portion = 0, 4 * budget.k
    while budget.k > 0:
        hits = bank.search(query, portion, floor=budget.floor, allow=allow)
        yield from hits[given:]
        if len(hits) < portion:
            return
        given, portion = portion, 4 * portion


def fitting(found: Iterable[Hit], view: EpisodeView, budget: Budget, fit: float) -> list[Hit]:
    pool = list(islice(found, 16 * budget.k))
    here = frozenset(_WORD.findall(f"{view.goal} {view.scene}".lower()))
    return sorted(pool, key=lambda hit: (-hit.score - fit * share_here(hit.memory.text, here), hit.memory.id))


def share_here(text: str, here: frozenset[str]) -> float:
    """Share of the different words of a memory's steps that stand in the present goal or scene.

    A memory from a room with other furniture sends its reader to places that are not here.
    """
    words = frozenset(_WORD.findall(steps_of(text).lower()))
    return len(words & here) / len(words) if words else 0.0


def steps_of(text: str) -> str:
    """A memory's text without its first line, the goal: two memories with the same steps teach the same."""
    return text.partition("\n")[2]


def provenance(trajectory: Trajectory, written_by: str, *, prompt: str = "", licence: str = "") -> Provenance:
    """Where a memory of this trajectory came from; with the prompt and the licence of the output of a model that wrote it."""
    licences = dict.fromkeys(part for part in (trajectory.origin.licence, licence) if part)
    return Provenance(
        task_id=trajectory.task.id,
        attempt=trajectory.attempt,
        trajectory=trajectory.content_hash,
        teacher=trajectory.origin.model,
        written_by=written_by,
        prompt=prompt,
        licence=" and ".join(licences),
    )


class Tally:
    """How often each memory was shown and won in this process: the evidence for retiring one (MemP's update rule)."""

    def __init__(self, uses: int, share: float) -> None:
        self._uses, self._share = uses, share
        self._seen: dict[MemoryId, tuple[int, int]] = {}

    def count(self, memory: MemoryId, won: bool) -> str:
        """Count one use; the reason to retire the memory, empty while there is none. No uses asked for: never."""
        shown, wins = self._seen.get(memory, (0, 0))
        self._seen[memory] = shown, wins = shown + 1, wins + won
        poor = self._uses > 0 and shown >= self._uses and wins < self._share * shown
        return f"won {wins} of the {shown} episodes it was shown in" if poor else ""
