"""The statistics of a report: intervals, paired tests, and what a planned run can detect.

In: wins and losses as numbers or arrays (seeds x games) with a room for each game. Out: plain floats and small dataclasses.
Every draw is seeded, so the same input gives the same bytes. It knows nothing of arms, files or words.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

DRAWS = 10_000
"""Bootstrap draws; each bound then rests on 250 of them (Efron & Tibshirani 1993, section 12.3, asks for >= 1,000 draws)."""
CONFIDENCE = 0.95
POWER = 0.8
DISCORDANCE = 0.2
"""Share of games on which two arms are assumed to differ, when nothing better is known; 274 games then detect 7.6 points."""
_CHUNK = 500


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its lower and upper bound, all fractions."""

    estimate: float
    low: float
    high: float

    @property
    def includes_zero(self) -> bool:
        return self.low <= 0.0 <= self.high


@dataclass(frozen=True, slots=True)
class Paired:
    """Two arms on the same games. `wins`: games on which the first does better, `losses`: on which the second does."""

    wins: int
    losses: int
    games: int
    p: float


def wilson(successes: float, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval for a proportion (Wilson 1927, JASA 22:209; Brown, Cai & DasGupta 2001, formula 4).

    `successes` may be a mean over seeds, so need not be whole. With n = 0 nothing is known: (0, 1). Raises `ValueError`.
    """
    if n < 0 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} is not a proportion.")
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / n
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low = 0.0 if successes == 0 else max(0.0, (centre - half) / scale)
    high = 1.0 if successes == n else min(1.0, (centre + half) / scale)
    return low, high


def paired_interval(wins: int, losses: int, n: int, confidence: float = CONFIDENCE) -> Interval:
    """The interval of the difference of two shares on the same `n` games, from the pairs that differ.

    Half a pair is added to each of the four cells (Agresti & Min 2005, Statistics in Medicine 24:729), so that no pair that
    differs in n games still leaves room for about 2 / n. Raises `ValueError`.
    """
    if min(wins, losses) < 0 or wins + losses > n or n < 1:
        raise ValueError(f"{wins} wins and {losses} losses are no pairs of {n} games.")
    better, worse, all_ = wins + 0.5, losses + 0.5, n + 2.0
    middle = (better - worse) / all_
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    half = z * math.sqrt(better + worse - (better - worse) ** 2 / all_) / all_
    return Interval((wins - losses) / n, middle - half, middle + half)


def mcnemar(wins: int, losses: int) -> float:
    """Two-sided p of McNemar's exact test: discordant pairs as a fair coin (McNemar 1947; exact form: Agresti 2013, 11.1.2).

    No discordant pair means no evidence: 1.
    """
    if wins + losses == 0:
        return 1.0
    from scipy import stats as scipy_stats  # here, since a server starts faster than this is imported

    return float(scipy_stats.binomtest(wins, wins + losses, 0.5).pvalue)


def paired_test(differences: Array) -> Paired:
    """McNemar's exact test on an array of paired differences (-1, 0, 1), seeds x games, NaN where a pair is missing.

    Seeds are not independent games, so a game counts as one: the sum of its differences over seeds has its sign flipped at
    random, and p is the exact chance of a total as far from 0 (Fisher's randomisation test for pairs: Fisher 1935, section 21).
    With one seed that is McNemar's exact test. `wins` and `losses` count games by the sign of their sum.
    """
    present = ~np.isnan(differences)
    seen = present.any(axis=0)
    sums = np.rint(np.where(present, differences, 0.0).sum(axis=0)[seen]).astype(int)
    return Paired(int((sums > 0).sum()), int((sums < 0).sum()), int(seen.sum()), sign_flip(sums.tolist()))


def sign_flip(values: Sequence[int]) -> float:
    """Exact two-sided p of the total of `values` when each may as well have the other sign."""
    sizes = [abs(value) for value in values if value]
    chances = np.ones(1)
    for size in sizes:
        flipped = np.zeros(len(chances) + 2 * size)
        flipped[: len(chances)] += chances / 2
        flipped[2 * size :] += chances / 2
        chances = flipped
    totals = np.abs(np.arange(len(chances)) - sum(sizes))
    return min(1.0, float(chances[totals >= abs(sum(values))].sum()))


def crossed_bootstrap(
    values: Array,
    rooms: Sequence[Hashable] | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Percentile interval of the mean of `values` (seeds x games; paired differences or wins), NaN where one is missing.

    Each draw resamples seeds and games independently and weighs a cell by the product of both counts (the pigeonhole bootstrap:
    Owen 2007, Annals of Applied Statistics 1:386). With `rooms` (one per game) whole rooms are drawn instead of games (cluster
    bootstrap: Davison & Hinkley 1997, section 3.8, strategy 1). One seed, or one room, is a constant and not resampled.
    """
    if values.ndim != 2 or values.shape[0] == 0 or np.isnan(values).all():
        raise ValueError(f"A bootstrap needs seeds x games with at least one value, not shape {values.shape}.")
    if rooms is not None and len(rooms) != values.shape[1]:
        raise ValueError(f"{len(rooms)} rooms for {values.shape[1]} games.")
    present = ~np.isnan(values)
    sums, sizes = np.where(present, values, 0.0), present.astype(np.float64)
    estimate = float(sums.sum() / sizes.sum())
    names = list(dict.fromkeys(rooms or ()))
    if len(names) > 1:
        member = np.array([[float(room == name) for name in names] for room in rooms or ()])
        sums, sizes = sums @ member, sizes @ member
    rng = np.random.default_rng(seed)
    chunks = [min(_CHUNK, draws - start) for start in range(0, draws, _CHUNK)]
    means = np.concatenate([_draw_means(rng, sums, sizes, chunk) for chunk in chunks])
    tail = (1 - confidence) / 2 * 100
    low, high = np.percentile(means[~np.isnan(means)], [tail, 100 - tail])
    return Interval(estimate, float(low), float(high))


def interval(values: Array, rooms: Sequence[Hashable], *, draws: int = DRAWS, seed: int = 0) -> Interval:
    """The interval that a report states: the hull of the crossed bootstrap over games and the one over rooms.

    In simulations (room effects of 0 to 10 points, 96 games) rooms alone were too narrow with four or eight of them (coverage
    0.73 to 0.93 of the nominal 0.95), rooms and then games inside them too wide (up to 0.99). The hull held 0.92 to 0.97 with
    eight or twelve rooms; with four 0.89 to 0.96 for three seeds or more and 0.84 to 0.90 for one. One seed cannot show how
    seeds vary.
    """
    games = crossed_bootstrap(values, draws=draws, seed=seed)
    clustered = crossed_bootstrap(values, rooms, draws=draws, seed=seed)
    return Interval(games.estimate, min(games.low, clustered.low), max(games.high, clustered.high))


def _draw_means(rng: np.random.Generator, sums: Array, sizes: Array, draws: int) -> Array:
    """Means of `draws` resampled arrays of seeds x units (games or rooms); NaN where a draw caught no value at all."""
    seeds, units = _counts(rng, sums.shape[0], draws), _counts(rng, sums.shape[1], draws)
    total = ((units @ sums.T) * seeds).sum(axis=1)
    weight = ((units @ sizes.T) * seeds).sum(axis=1)
    means: Array = np.divide(total, weight, out=np.full(draws, np.nan), where=weight > 0)
    return means


def _counts(rng: np.random.Generator, of: int, draws: int) -> Array:
    """How often each of `of` things comes up in `of` draws with replacement, draws x things."""
    picks = rng.integers(0, of, size=(draws, of)) + of * np.arange(draws)[:, None]
    counts: Array = np.bincount(picks.ravel(), minlength=draws * of).reshape(draws, of).astype(np.float64)
    return counts


def detectable_difference(
    games: int,
    seeds: int = 1,
    discordance: float = DISCORDANCE,
    *,
    seed_correlation: float = 1.0,
    power: float = POWER,
    confidence: float = CONFIDENCE,
) -> float:
    """The smallest true difference of two paired arms that a run finds with `power`, as a fraction.

    (z_alpha/2 + z_power) * sqrt(discordance / n): the normal form of the paired sample-size formula (Miettinen 1968, Biometrics
    24:339; Connor 1987, Biometrics 43:207) with the variance at no difference, a little on the safe side. Seeds share games, so
    n = games * seeds / (1 + (seeds - 1) * seed_correlation) (Kish's design effect); the default, correlation 1, counts games
    alone; 0 would count every seed as fresh games.
    """
    if games < 1 or seeds < 1 or not 0 < discordance <= 1:
        raise ValueError(f"Nothing can be planned with {games} games, {seeds} seeds and discordance {discordance}.")
    n = games * seeds / (1 + (seeds - 1) * seed_correlation)
    z = NormalDist().inv_cdf(0.5 + confidence / 2) + NormalDist().inv_cdf(power)
    return min(1.0, z * math.sqrt(discordance / n))


def plan_words(games: int, seeds: int, rooms: int) -> str:
    """What a planned evaluation can see, in words, to be printed before it starts."""
    alone = 100 * detectable_difference(games, seeds)
    best = 100 * detectable_difference(games, seeds, seed_correlation=0.0)
    fewer = f" (at best {best:.1f}, were seeds as good as fresh games)" if seeds > 1 else ""
    return (
        f"{games} games in {rooms} rooms, {seeds} seed{'s' if seeds > 1 else ''}: a paired difference of about {alone:.1f} "
        f"points or more is detectable{fewer}, with power {POWER:.0%} if arms differ on {DISCORDANCE:.0%} of games. "
        "Differences between rooms come on top."
    )
