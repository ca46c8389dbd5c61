"""The statistics against published, scipy's and simulated values."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from duomem import stats


def test_wilson_against_scipy_and_a_published_value() -> None:
    for wins, n in [(0, 10), (1, 10), (7, 10), (10, 10), (81, 263), (101, 140)]:
        expected = scipy_stats.binomtest(wins, n).proportion_ci(method="wilson")
        assert stats.wilson(wins, n) == pytest.approx((expected.low, expected.high), abs=1e-12)
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3.
    assert stats.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert stats.wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


def test_wilson_takes_means_over_seeds_and_no_games() -> None:
    low, high = stats.wilson(30.5, 60)
    assert stats.wilson(30, 60)[0] < low < 30.5 / 60 < high < stats.wilson(31, 60)[1]
    assert stats.wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="not a proportion"):
        stats.wilson(3, 2)


@given(st.integers(1, 500), st.data())
def test_wilson_holds_the_share(n: int, data: st.DataObject) -> None:
    wins = data.draw(st.integers(0, n))
    low, high = stats.wilson(wins, n)
    assert 0 <= low <= wins / n <= high <= 1


def test_mcnemar_by_hand() -> None:
    assert stats.mcnemar(0, 0) == 1.0
    assert stats.mcnemar(5, 5) == 1.0
    assert stats.mcnemar(5, 0) == pytest.approx(2 / 2**5)
    assert stats.mcnemar(8, 2) == pytest.approx(2 * (1 + 10 + 45) / 2**10)
    assert stats.mcnemar(2, 8) == stats.mcnemar(8, 2)


def test_paired_test_counts_each_game_once() -> None:
    one = np.array([[1.0, 1.0, -1.0, 0.0, 0.0]])
    assert stats.paired_test(one) == stats.Paired(2, 1, 5, stats.mcnemar(2, 1))
    repeated = np.repeat(one, 5, axis=0)
    assert stats.paired_test(repeated) == stats.paired_test(one), "five equal seeds are no more evidence than one"
    cancelling = np.array([[1.0, 1.0], [-1.0, 1.0]])
    assert stats.paired_test(cancelling) == stats.Paired(1, 0, 2, 1.0)
    missing = np.array([[1.0, np.nan], [1.0, np.nan]])
    assert stats.paired_test(missing).games == 1


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (4, 4), (5, 0), (8, 2), (31, 17), (300, 250)])
def test_sign_flip_is_mcnemar_for_one_seed(wins: int, losses: int) -> None:
    assert stats.sign_flip([1] * wins + [-1] * losses + [0] * 9) == pytest.approx(stats.mcnemar(wins, losses))


def test_sign_flip_against_all_flips() -> None:
    """Many small gains and a few large losses that cancel out are no difference, though the signs alone would say so."""
    assert stats.sign_flip([1, 1, 1, 1, 1, 1, -3, -3]) == 1.0
    for changed in ([3, 2, 2, -1], [1, 1, 1, 2, 3, -1, -2]):
        flips = [np.dot(signs, changed) for signs in product((1, -1), repeat=len(changed))]
        assert stats.sign_flip(changed) == pytest.approx(np.mean([abs(flip) >= abs(sum(changed)) for flip in flips]))


def test_bootstrap_is_seeded_and_exact_where_nothing_varies() -> None:
    values = np.random.default_rng(1).integers(0, 2, (3, 40)).astype(float)
    assert stats.crossed_bootstrap(values, seed=3) == stats.crossed_bootstrap(values, seed=3)
    assert stats.crossed_bootstrap(values, seed=3) != stats.crossed_bootstrap(values, seed=4)
    constant = stats.crossed_bootstrap(np.full((2, 9), 0.25), ["a", "b", "c"] * 3)
    assert (constant.estimate, constant.low, constant.high) == pytest.approx((0.25, 0.25, 0.25))


def test_bootstrap_of_one_seed_is_the_plain_bootstrap() -> None:
    values = (np.arange(200) % 4 == 0).astype(float)[None, :]
    interval = stats.crossed_bootstrap(values)
    spread = 1.96 * math.sqrt(0.25 * 0.75 / 200)
    assert interval.estimate == 0.25
    assert (interval.low, interval.high) == pytest.approx((0.25 - spread, 0.25 + spread), abs=0.01)


def test_bootstrap_widens_with_rooms_and_with_seeds() -> None:
    rooms = [f"room {number // 25}" for number in range(100)]
    by_room = np.array([[1.0 if number // 25 in (0, 1) else 0.0 for number in range(100)]])
    plain, clustered = stats.crossed_bootstrap(by_room), stats.crossed_bootstrap(by_room, rooms)
    assert clustered.high - clustered.low > 3 * (plain.high - plain.low)
    by_seed = np.array([[0.0] * 50, [1.0] * 50])
    assert stats.crossed_bootstrap(by_seed).low == 0.0
    assert stats.crossed_bootstrap(by_seed).high == 1.0


def test_bootstrap_weighs_games_not_rooms() -> None:
    values = np.array([[1.0] * 90 + [0.0] * 10])
    assert stats.crossed_bootstrap(values, ["big"] * 90 + ["small"] * 10).estimate == pytest.approx(0.9)


def test_bootstrap_leaves_out_missing_pairs() -> None:
    values = np.array([[1.0, 1.0, np.nan, 0.0], [1.0, np.nan, np.nan, 0.0]])
    assert stats.crossed_bootstrap(values).estimate == pytest.approx(3 / 5)
    with pytest.raises(ValueError, match="at least one value"):
        stats.crossed_bootstrap(np.full((2, 3), np.nan))
    with pytest.raises(ValueError, match="2 rooms for 3 games"):
        stats.crossed_bootstrap(np.zeros((1, 3)), ["a", "b"])


@pytest.mark.parametrize("room_spread", [0.0, 0.1])
def test_coverage_of_the_reported_interval(room_spread: float) -> None:
    """Paired differences with game, room and seed parts; the interval should hold the true mean about 95 times in 100."""
    rng = np.random.default_rng(7)
    seeds, games, rooms, trials, truth = 5, 96, 8, 250, 0.1
    labels = [number % rooms for number in range(games)]
    held = 0
    for trial in range(trials):
        mean = truth + rng.normal(0, room_spread, rooms)[labels] + rng.normal(0, 0.02, (seeds, 1))
        values = mean + rng.normal(0, 0.35, games) + rng.normal(0, 0.25, (seeds, games))
        interval = stats.interval(values, labels, draws=400, seed=trial)
        held += interval.low <= truth <= interval.high
    assert 0.90 <= held / trials <= 0.985


def test_reported_interval_is_never_narrower_than_either() -> None:
    rng = np.random.default_rng(2)
    rooms = [number % 4 for number in range(60)]
    for values in (rng.integers(-1, 2, (3, 60)).astype(float), np.array([[float(room > 1) for room in rooms]])):
        both = stats.interval(values, rooms, draws=1000)
        for part in (stats.crossed_bootstrap(values, draws=1000), stats.crossed_bootstrap(values, rooms, draws=1000)):
            assert both.low <= part.low <= part.high <= both.high


def test_detectable_difference_matches_the_figures_of_the_plan() -> None:
    """3 seeds x 274 games detect about 7.6 points by games alone, not the 4.4 that independent seeds would give."""
    assert 100 * stats.detectable_difference(274, 3) == pytest.approx(7.6, abs=0.05)
    assert 100 * stats.detectable_difference(274, 3, seed_correlation=0.0) == pytest.approx(4.4, abs=0.05)
    assert stats.detectable_difference(1096) == pytest.approx(stats.detectable_difference(274) / 2)
    assert stats.detectable_difference(1, 1, 1.0) == 1.0
    with pytest.raises(ValueError, match="0 games"):
        stats.detectable_difference(0)
    assert "7.6 points" in stats.plan_words(274, 3, 4)


def test_detectable_difference_has_the_power_it_promises() -> None:
    games, discordance = 600, 0.2
    delta = stats.detectable_difference(games, 1, discordance)
    rng = np.random.default_rng(0)
    wins_losses = rng.multinomial(games, [(discordance + delta) / 2, (discordance - delta) / 2, 1 - discordance], size=1500)
    found = np.mean([stats.mcnemar(int(wins), int(losses)) < 0.05 for wins, losses, _ in wins_losses])
    assert 0.74 <= found <= 0.88
