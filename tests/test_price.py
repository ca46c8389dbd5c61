"""Money: estimates add up, a limit is never passed however many ask at once, what was paid is counted once."""

from __future__ import annotations

import json
import re
import shlex
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from duomem import price
from duomem.cli import app
from duomem.config import settings_of
from duomem.errors import BudgetSpent, DataError, UsageError
from duomem.models.scripted import Scripted
from duomem.pipeline import collect
from duomem.rundir import RunFolder, open_run
from duomem.spending import Ledger, Meter, Metered, Rates
from duomem.types import Message, Reply, Sampling, Usage
from fault_proxy import Fault, FaultProxy, says

ROOT = Path(__file__).resolve().parents[1]
KEY = "sk-canary-fedcba9876543210"
RATES = {"teacher": Rates(2.0, 0.5, 8.0), "student": Rates(0.1, 0.1, 0.4)}
ASK = [Message.of("user", "x" * 100)]


def test_rates() -> None:
    assert Rates(2.0, 0.5, 8.0).cost(Usage(prompt=1_000_000, cached=600_000, completion=250_000)) == pytest.approx(
        0.8 + 0.3 + 2.0
    )


def test_counts_stay_and_add_up(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "spent.sqlite")
    for _ in range(3):
        ledger.add("collect", "teacher", "big", replies=1, usage=Usage(100, 40, 7), lost=Usage(5, 0, 2))
    ledger.add("remember", "writer", "big", replies=1, usage=Usage(10, 0, 1))
    # Not closed: the next one finds what a killed process left.
    first, second = Ledger(tmp_path / "spent.sqlite").entries()
    assert (first.replies, first.usage, first.lost) == (3, Usage(300, 120, 21), Usage(15, 0, 6))
    assert (second.what, second.usage) == ("remember", Usage(10, 0, 1))
    (tmp_path / "other").write_bytes(b"no database, but long enough to be looked at" * 20)
    with pytest.raises(DataError, match="other is not a ledger"):
        Ledger(tmp_path / "other")


def test_a_ledger_from_before_versions_goes_on(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "spent.sqlite")
    ledger.add("collect", "teacher", "big", replies=1, usage=Usage(100, 40, 7))
    ledger.close()
    with sqlite3.connect(tmp_path / "spent.sqlite") as db:
        db.execute("PRAGMA user_version = 0")
    db.close()
    again = Ledger(tmp_path / "spent.sqlite")
    again.add("collect", "teacher", "big", replies=1, usage=Usage(100, 40, 7))
    assert again.entries()[0].usage == Usage(200, 80, 14)
    again.close()


def asker(usage: Usage) -> Scripted:
    """A model whose every reply uses so much."""
    return Scripted(lambda messages: Reply(Message.of("assistant", "ok"), usage=usage))


@pytest.mark.parametrize("limit", [{"max_tokens": 1000}, {"max_cost": 0.003}])
def test_a_limit_is_not_passed_by_many_at_once(tmp_path: Path, limit: dict[str, Any]) -> None:
    used = Usage(40, 0, 20)
    meter = Meter(Ledger(tmp_path / "spent.sqlite"), RATES, **limit)
    model = Metered(asker(used), meter, "collect", "teacher")

    def ask(_: int) -> bool:
        try:
            model.reply(ASK, [], Sampling(max_tokens=20))
        except BudgetSpent:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        answered = sum(pool.map(ask, range(64)))
    each = RATES["teacher"].cost(used)
    most = 1000 // 60 if "max_tokens" in limit else int(0.003 / each)
    assert most - 1 <= answered <= most, "it stops before the limit, and not long before"
    assert meter.tokens == answered * 60
    assert meter.cost == pytest.approx(answered * each)
    again = Meter(Ledger(tmp_path / "spent.sqlite"), RATES, **limit)  # another process of the same run
    assert (again.tokens, again.cost) == (meter.tokens, pytest.approx(meter.cost))
    with pytest.raises(BudgetSpent, match="might pass the run's limit"):
        Metered(asker(used), again, "collect", "teacher").reply(ASK, [], Sampling(max_tokens=200))


def test_who_does_not_fit_waits_for_those_in_flight(tmp_path: Path) -> None:
    """Two worst cases do not fit together; what they really use does, one after the other."""
    meter = Meter(Ledger(tmp_path / "spent.sqlite"), RATES, max_tokens=600)
    model = Metered(asker(Usage(30, 0, 10)), meter, "collect", "teacher")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: model.reply(ASK, [], Sampling(max_tokens=350)), range(2)))
    assert meter.tokens == 80


def settings(**tables: Any) -> Any:
    teacher = {"model": "openai_api", "remote_model": "big", "tasks": 50, "attempts": 2, "max_tokens": 100}
    plain: dict[str, Any] = {"env": {"name": "household"}, "teacher": teacher, "student": {"model": "scripted"}}
    return settings_of(plain | tables, "test")


def test_an_estimate_adds_up() -> None:
    expected = {"turns": 4, "first_tokens": 1000, "turn_tokens": 100, "reply_tokens": 20}
    rates = {"input": 2.0, "cached": 0.5, "output": 8.0}
    found = settings(price={"teacher": rates, **expected}, rollout={"max_steps": 10}, evaluate={"games": 5})
    collected, evaluated = price.estimate(found, episodes=100, games=5)
    # The four prompts of an episode have 1000, 1100, 1200 and 1300 tokens; all but what is new was read before.
    assert collected.usage == Usage(100 * 4600, 100 * 3300, 100 * 80)
    assert collected.calls == 400
    assert collected.cost == pytest.approx((460_000 * 2 + 8_000 * 8) / 1e6)
    assert collected.cost_cached == pytest.approx((130_000 * 2 + 330_000 * 0.5 + 8_000 * 8) / 1e6)
    assert collected.cost_worst > 2 * collected.cost
    assert (evaluated.what, evaluated.calls) == ("evaluate", 20)
    assert "more than max_cost" not in price.estimate_words(found, [collected]).lower()
    tight = settings(price={"teacher": rates, "max_cost": 0.5, **expected})
    assert "More than max_cost = 0.5 USD" in price.estimate_words(tight, [collected])
    assert price.estimate(settings(teacher={"model": "expert"}), episodes=100, games=5, writes=5) == []
    writing = settings(memory={"writer": "teacher", "writer_tokens": 100}, price={"teacher": rates, **expected})
    (written,) = price.estimate(writing, writes=7)
    assert (written.what, written.calls, written.usage.completion) == ("remember", 7, 7 * 50)


def test_an_estimate_follows_what_was_measured(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "spent.sqlite")
    ledger.add("collect", "teacher", "big", replies=60, usage=Usage(20_000, 5_000, 1_000))
    (left, *_) = price.estimate(settings(), episodes=100, finished=10, done=ledger.entries())
    assert (left.calls, left.usage) == (90 * 6, Usage(90 * 2000, 90 * 500, 90 * 100))


def test_break_even() -> None:
    assert price.break_even(10.0, 0.05, 0.01) == 250
    assert price.break_even(10.0, 0.05, 0.05) is None
    assert price.break_even(0.0, 0.05, 0.01) == 0


def test_money_without_a_price_cannot_be_limited(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"max_cost = 2 cannot be held.*price.teacher.input"):
        price.meter(RunFolder(tmp_path, settings(price={"max_cost": 2})))
    price.meter(RunFolder(tmp_path, settings(price={"max_tokens": 2}))).ledger.close()


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    pytest.importorskip("openai", reason="needs the extra 'api'")
    monkeypatch.setenv("PRICE_KEY", KEY)

    def engine(body: bytes) -> tuple[int, str, bytes]:
        asked = json.loads(body)
        words = sum(len(message["content"].split()) for message in asked["messages"])
        return says("go on > look", usage=(words, words // 2, 5), model="big", stream=asked.get("stream", False))

    with FaultProxy(engine) as proxy:
        yield proxy


def paid_run(folder: Path, endpoint: FaultProxy, *more: str) -> list[str]:
    """Options of a small run whose teacher is the endpoint."""
    sets = [
        "teacher.model=openai_api",
        "teacher.remote_model=big",
        "teacher.key_env=PRICE_KEY",
        f"teacher.base_url={endpoint.url}",
        "teacher.backoff_s=0.001",
        "teacher.tasks=6",
        "teacher.max_tokens=10",
        "rollout.max_steps=4",
        "rollout.concurrency=3",
        "price.teacher={ input = 1000, cached = 100, output = 2000 }",
        *more,
    ]
    return [str(folder), "--config", str(ROOT / "configs/household.toml"), *(part for each in sets for part in ("--set", each))]


def billed(endpoint: FaultProxy) -> Usage:
    """What the engine itself says it was asked for."""
    total = Usage()
    for body in endpoint.paid:
        words = sum(len(message["content"].split()) for message in json.loads(body)["messages"])
        total += Usage(words, words // 2, 5)
    return total


def test_a_run_stops_at_its_limit_and_goes_on_with_a_higher_one(tmp_path: Path, endpoint: FaultProxy) -> None:
    cli = CliRunner()
    clean = cli.invoke(app, ["collect", *paid_run(tmp_path / "clean", endpoint), "--json"], catch_exceptions=False)
    cost = Rates(1000, 100, 2000).cost(billed(endpoint))
    calls = len(endpoint.paid)
    assert json.loads(clean.stdout)["episodes"] == 6
    endpoint.forget()
    limits = [cost * share for share in (0.2, 0.4, 0.7)]
    for limit in limits:
        with pytest.raises(BudgetSpent, match=r"episodes have no outcome yet.*--max-cost"):
            cli.invoke(
                app, ["collect", *paid_run(tmp_path / "cut", endpoint), "--max-cost", str(limit)], catch_exceptions=False
            )
        assert 0 < Rates(1000, 100, 2000).cost(billed(endpoint)) <= limit
    done = cli.invoke(app, ["collect", *paid_run(tmp_path / "cut", endpoint), "--max-cost", str(cost * 2), "--json"])
    assert json.loads(done.stdout)["content_hash"] == json.loads(clean.stdout)["content_hash"]
    assert len(endpoint.paid) == calls, "nothing was paid for twice"
    (entry,) = price.entries(open_run(tmp_path / "cut"))
    assert (entry.replies, entry.usage) == (calls, billed(endpoint)), "the ledger is the engine's count"
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes(), f"the key is in {file}"


def test_attempts_that_came_to_nothing_count(tmp_path: Path, endpoint: FaultProxy) -> None:
    endpoint.plan = lambda number, body: Fault(cut=60) if number % 3 == 0 else None
    result = CliRunner().invoke(app, ["collect", *paid_run(tmp_path / "run", endpoint), "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    run = open_run(tmp_path / "run")
    (entry,) = price.entries(run)
    lost = len(endpoint.paid) - entry.replies
    assert lost > 0
    assert entry.lost.completion == lost * 10, "each as if it had used its whole limit"
    assert price.account(run)["spent"]["collect"] == pytest.approx(Rates(1000, 100, 2000).cost(entry.total))


def test_the_account_of_a_whole_run(tmp_path: Path, endpoint: FaultProxy) -> None:
    cli = CliRunner()
    options = paid_run(tmp_path / "run", endpoint, "evaluate.games=3", 'evaluate.arms=["none"]', "price.machine_hour=3.6")
    ahead = json.loads(cli.invoke(app, ["price", *options, "--json"], catch_exceptions=False).stdout)
    assert [item["what"] for item in ahead["estimate"]] == ["collect"]
    assert not (tmp_path / "run" / "journal.sqlite").exists(), "an estimate starts nothing"
    assert endpoint.arrived == []
    cli.invoke(app, ["collect", *options], catch_exceptions=False)
    cli.invoke(app, ["evaluate", str(tmp_path / "run"), "--set", "memory="], catch_exceptions=False)
    account = price.account(open_run(tmp_path / "run"))
    assert account["teacher_cost_per_task"] == pytest.approx(Rates(1000, 100, 2000).cost(billed(endpoint)) / 6)
    assert account["teacher_successes"] == 0
    assert account["cost_per_success"] is None, "no success: no cost per success"
    student = account["students"]["none"]
    assert 0 < student["cost_per_task"] < account["teacher_cost_per_task"]
    after = account["fixed_cost"] / (account["teacher_cost_per_task"] - student["cost_per_task"])
    assert after <= student["break_even_tasks"] < after + 1
    words = cli.invoke(app, ["price", str(tmp_path / "run")], catch_exceptions=False).stdout
    assert "none:" in words
    assert f"paid for itself after {student['break_even_tasks']}" in words


def test_a_free_teacher_is_not_counted(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", ROOT / "configs/household.toml", ["teacher.tasks=2", "price.max_tokens=1"])
    collect(run)
    assert price.entries(run) == []


def test_the_page_on_endpoints_runs_as_it_stands(tmp_path: Path, endpoint: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its config with another URL and a small world, and its commands."""
    page = (ROOT / "docs/endpoints.md").read_text()
    table = re.findall(r"```toml\n(.*?)```", page, re.S)[0]
    table = table.replace("https://api.openai.com/v1", endpoint.url).replace("the-model", "big")
    small = '[env]\nname = "household"\n[student]\nmodel = "scripted"\n[rollout]\nmax_steps = 2\n'
    (tmp_path / "paid.toml").write_text(small + table.replace("max_tokens = 200", "max_tokens = 200\ntasks = 2"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    block = next(block for block in re.findall(r"```sh\n(.*?)```", page, re.S) if "duomem price" in block)
    said = []
    for line in block.splitlines():
        result = CliRunner().invoke(app, shlex.split(line, comments=True)[1:], catch_exceptions=False)
        assert result.exit_code == 0, line
        said.append(result.stdout)
    assert "collect: about 4 calls" in said[0]
    assert "0 of 2 teacher episodes were won" in said[1]
    assert "Nothing is left to pay for" not in said[2], "the teacher's arm of the evaluation is"
    assert "per task of the teacher" in said[2]
