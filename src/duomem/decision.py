"""The verdict: which parts of a distillation to ship, drawn from the 2x2 of memory off/on and adapter off/on.

In: each arm's success and the paired differences between arms. Out: a `Decision` with its words and its rule. It computes no
statistics and looks at nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ORDER = ("none", "memory", "adapter", "both")
"""The arms of the 2x2, smallest first: a text bank is smaller and easier to undo than an adapter, both are more than either."""
RULE = (
    "Of none < memory < adapter < both, the smallest arm whose paired 95% interval against the best arm includes 0; "
    "the best arm is the one with the highest success, the smaller one on a tie."
)
_VERDICTS = {
    "none": "Ship neither part: the student as it is does as well as with them.",
    "memory": "Ship the memories, without the adapter.",
    "adapter": "Ship the adapter, without the memories.",
    "both": "Ship both, the memories and the adapter.",
}


@dataclass(frozen=True, slots=True)
class Pair:
    """The paired difference of two arms (first less second), as a fraction, with its 95% interval.

    `wins` and `losses` count games that one of the two arms does better on, `n` all games that both played.
    """

    difference: float
    interval: tuple[float, float]
    mcnemar_p: float
    wins: int
    losses: int
    n: int
    seeds: int

    @property
    def includes_zero(self) -> bool:
        return self.interval[0] <= 0 <= self.interval[1]

    def points(self) -> str:
        """The difference and its interval in percentage points."""
        low, high = self.interval
        return f"{100 * self.difference:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"


@dataclass(frozen=True, slots=True)
class Decision:
    """What to ship. `arm` is empty where nothing could be decided; then `memory` and `adapter` say nothing.

    `words` is the whole decision, `verdict` its first sentence, `reason` the rest; `details` are further sentences.
    """

    memory: bool
    adapter: bool
    arm: str
    words: str
    verdict: str
    reason: str
    details: tuple[str, ...]
    rule: str = RULE


def undecided(why: str) -> Decision:
    return Decision(False, False, "", f"No decision: {why}", "No decision:", why, ())


def best_of(success: Mapping[str, float]) -> str:
    """The arm of the 2x2 with the highest success, the smaller one on a tie; empty where none was measured."""
    measured = [arm for arm in ORDER if arm in success]
    return max(measured, key=lambda arm: (success[arm], -measured.index(arm)), default="")


def decide(success: Mapping[str, float], pairs: Mapping[str, Pair], detectable: float) -> Decision:
    """Apply `RULE`. `pairs` must hold "BEST-ARM" for every arm of the 2x2 that is in `success`."""
    measured = [arm for arm in ORDER if arm in success]
    best = best_of(success)
    if not best:
        return undecided("none of the arms none, memory, adapter and both was played.")
    smaller = measured[: measured.index(best)]
    chosen = next((arm for arm in smaller if pairs[f"{best}-{arm}"].includes_zero), best)
    reason = _reason(chosen, best, smaller, success, pairs)
    details = _effects(pairs, chosen)
    left_out = [arm for arm in ORDER if arm not in success]
    if left_out:
        details.append(f"Not measured: {', '.join(left_out)}.")
    details.append(
        f"A true difference of less than about {100 * detectable:.1f} points would often be missed with these games."
    )
    return Decision(
        memory=chosen in ("memory", "both"),
        adapter=chosen in ("adapter", "both"),
        arm=chosen,
        words=f"{_VERDICTS[chosen]} {reason}",
        verdict=_VERDICTS[chosen],
        reason=reason,
        details=tuple(details),
    )


def _reason(chosen: str, best: str, smaller: Sequence[str], success: Mapping[str, float], pairs: Mapping[str, Pair]) -> str:
    share = f"{100 * success[chosen]:.1f}%"
    if chosen != best:
        pair = pairs[f"{best}-{chosen}"]
        return (
            f"With {share} of games won, {chosen} is the smallest arm that the best one, {best} "
            f"({100 * success[best]:.1f}%), is not measurably better than: {pair.points()}."
        )
    if not smaller:
        return f"No arm won more games than {chosen} ({share})."
    gaps = ", ".join(f"{arm} by {pairs[f'{best}-{arm}'].points()}" for arm in smaller)
    return f"It wins {share} of games and is measurably better than each smaller arm: {gaps}."


def _effects(pairs: Mapping[str, Pair], chosen: str) -> list[str]:
    """What each part adds, one sentence each."""
    names = (
        ("memory-decoy", "What the memories say (real less decoy memories)"),
        ("adapter-none", "The adapter alone"),
        ("both-adapter", "Memory beside the adapter"),
        ("both-memory", "The adapter beside memory"),
    )
    sentences = [f"{words} {_adds(pairs[name])}." for name, words in names if name in pairs]
    placebo = pairs.get("memory-decoy")
    if chosen in ("memory", "both") and placebo and placebo.interval[0] <= 0:
        sentences.append(
            "Decoy memories do about as well as real ones: it is not shown that what the memories say is what helps."
        )
    return sentences


def _adds(pair: Pair) -> str:
    if pair.includes_zero:
        return f"adds nothing measurable here: {pair.points()}"
    return f"{'adds' if pair.difference > 0 else 'costs'} {pair.points()}"
