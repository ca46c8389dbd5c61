"""Scoring a converted student again: what counts as the same, how many games it takes, and what stops a bundle."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from duomem import requantise, stats
from duomem.agent import Player
from duomem.envs import household
from duomem.errors import DataError, UsageError
from duomem.models import expert, scripted
from duomem.prompts import load_layout
from duomem.requantise import Parity, Rescored
from duomem.types import Message, Reply, Sampling, TextPart

LAYOUT = load_layout("pocket")
SAME = Parity(10, 9, 100, 95)


def player(slip: float, games: int = 400) -> Player:
    env = household.build(household.Config(games=games, seed=1))
    return Player(env, expert.build(expert.Config(layout="pocket", slip=slip)), LAYOUT, max_steps=30)


class Forgets(expert.Expert):
    """The expert, which gives up in some games: `share` of them by the words of the task."""

    share = 0.0

    def reply(self, messages: Any, tools: Any, sampling: Sampling) -> Reply:
        if sampling.seed % 100 < 100 * self.share:
            return Reply(Message("assistant", (TextPart("look > look"),)))
        return super().reply(messages, tools, sampling)


def forgetting(share: float) -> Player:
    model = Forgets(expert.Config(layout="pocket", slip=0.0))
    model.share = share
    return replace(player(0.0), model=model)


def test_the_paired_interval_is_agresti_and_min_s() -> None:
    """Their formula by hand for 6 and 10 of 100 pairs; and no pair that differs still leaves room."""
    found = stats.paired_interval(6, 10, 100)
    assert found.estimate == pytest.approx(-0.04)
    middle, spread = -4 / 102, (17 - 16 / 102) ** 0.5 / 102
    assert (found.low, found.high) == pytest.approx((middle - 1.959964 * spread, middle + 1.959964 * spread), abs=1e-6)
    none = stats.paired_interval(0, 0, 200)
    assert none.low == pytest.approx(-1.96 / 202, abs=1e-4)
    assert none.high == -none.low
    with pytest.raises(ValueError, match="no pairs"):
        stats.paired_interval(3, 3, 5)


def test_it_plays_as_many_games_as_the_bar_needs() -> None:
    assert requantise.needed(0.0) == requantise.FIRST
    few, many = requantise.needed(0.05), requantise.needed(0.1)
    assert few < many
    for share, games in ((0.05, few), (0.1, many)):
        pairs = round(share * games / 2)
        assert stats.paired_interval(pairs, pairs, games).low == pytest.approx(-requantise.BAR, abs=0.003)


def test_the_same_student_passes_and_a_worse_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requantise, "FIRST", 16)
    tasks = player(0.0).env.tasks("dev")[:40]
    begin = Rescored("q8_0", SAME, bar=0.15)
    same = requantise.play(player(0.0), player(0.0), tasks, begin)
    assert (same.games, same.differ, same.split) == (16, 0, "dev")
    assert same.passed
    assert same.before == same.after > 0.5
    worse = requantise.play(player(0.0), forgetting(0.5), tasks, begin)
    assert not worse.passed
    assert worse.games > 16, "where they differ, more games are played"
    assert worse.before > worse.after
    assert worse.change
    assert worse.change.high < 0
    assert "points" in worse.words
    assert "9 of 10 recorded replies" in worse.words


def test_recorded_replies_are_asked_for_again() -> None:
    one = player(0.0)
    episodes = [one.play(task) for task in one.env.tasks("dev")[:4]]
    turns = sum(len(episode.turns) for episode in episodes)
    exact = requantise.parity(one.model, episodes, LAYOUT, Sampling())
    assert exact.exact
    assert exact.replies == turns
    assert exact.agreed == exact.tokens
    first = episodes[0].turns[0].reply.message.text
    dumb = scripted.build(scripted.Config(replies=[f"{first} and more"]))
    other = requantise.parity(dumb, episodes[:1], LAYOUT, Sampling(), callers=1)
    assert not other.exact
    assert other.equal == 0
    assert 0 < other.agreed < other.tokens, "the words before the first difference count"
    assert repr(first) in other.first


def test_a_loss_stops_the_bundle_with_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = replace(
        Rescored("q4_0", SAME), games=300, before=0.8, after=0.75, change=stats.paired_interval(5, 20, 300), split="dev"
    )
    monkeypatch.setattr(requantise, "rescore", lambda *_, **__: lost)
    with pytest.raises(DataError, match=r"may lose more than 3 points: q4_0.*75\.0% of 300 dev games.*--weights q8_0"):
        requantise.require(None, "adapter", {})  # type: ignore[arg-type]
    monkeypatch.setattr(requantise, "rescore", lambda *_, **__: Rescored("q4_0", SAME))
    with pytest.raises(UsageError, match=r"no evaluated games.*--weights f32"):
        requantise.require(None, "adapter", {})  # type: ignore[arg-type]
    fine = Rescored("f32", Parity(4, 4, 9, 9))
    monkeypatch.setattr(requantise, "rescore", lambda *_, **__: fine)
    assert requantise.require(None, "adapter", {}) is fine  # type: ignore[arg-type]
