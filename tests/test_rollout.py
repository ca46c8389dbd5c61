"""Many episodes: no lock-step, errors apart from failures, budgets, Ctrl-C, and twenty real kills."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from collect_child import collection
from corridor import Corridor, walker
from duomem._episode import episode_seed
from duomem.agent import Player
from duomem.errors import DataError, InfraError, StoreError, UsageError
from duomem.journal import Journal
from duomem.models.scripted import Scripted
from duomem.prompts import load_layout
from duomem.rollout import Job, Limits, Progress, Rollout, rollout
from duomem.types import Message, Reply, Sampling, StopReason, Task, run_hash

LAYOUT = load_layout("default")


def player(env: Corridor | None = None, model: Scripted | None = None) -> Player:
    return Player(env or Corridor(12), model or Scripted(walker), LAYOUT, max_steps=12)


def jobs(n: int = 12, attempts: int = 1) -> list[Job]:
    return [Job(task, attempt) for task in Corridor(n).tasks("train") for attempt in range(attempts)]


def play(who: Player | None = None, todo: Sequence[Job] | None = None, **options: Any) -> Rollout:
    return rollout(jobs() if todo is None else todo, who or player(), **{"backoff_s": 0.0, "phase": "collect", **options})


@pytest.fixture
def journal(tmp_path: Path) -> Any:
    with Journal.open(tmp_path / "journal.sqlite") as opened:
        yield opened


def clean_hash() -> str:
    return run_hash(play().trajectories)


# Concurrency


def test_an_oracle_that_replays_winning_runs_wins_everywhere() -> None:
    """The replies of the teacher's winning runs, through the same prompt, parser and loop, score 100%."""
    todo, teacher = collection(30)
    won = [item for item in rollout(todo, replace(teacher, max_steps=60)).trajectories if item.won]
    assert len(won) > 20
    # Two houses may open with the same words, so the episode is known by its sampling seed.
    runs = {episode_seed(0, item.task.id, 0): [turn.reply for turn in item.turns] for item in won}

    class Oracle(Scripted):
        def reply(self, messages: Any, tools: Any, sampling: Sampling) -> Reply:
            return runs[sampling.seed][sum(message.role == "assistant" for message in messages)]

    oracle = replace(teacher, model=Oracle(walker), max_steps=60)
    result = rollout([Job(item.task) for item in won], oracle, concurrency=4)
    assert [item.content_hash for item in result.trajectories] == [item.content_hash for item in won]
    assert all(item.won for item in result.trajectories)


@pytest.mark.parametrize("concurrency", [2, 8, 64])
def test_results_do_not_depend_on_concurrency(concurrency: int) -> None:
    todo = jobs(attempts=2)
    one = play(todo=todo, concurrency=1)
    many = play(todo=list(reversed(todo)), concurrency=concurrency)
    keys = [(item.task.id, item.attempt) for item in one.trajectories]
    assert keys == sorted(keys)
    assert [(item.task.id, item.attempt) for item in many.trajectories] == keys
    assert [item.content_hash for item in many.trajectories] == [item.content_hash for item in one.trajectories]
    assert [item.won for item in many.trajectories] == [item.won for item in one.trajectories]
    assert many.complete


def test_a_stalled_episode_holds_no_other() -> None:
    """The first call of the model returns only when every other episode has ended; lock-step would never get there."""
    others_done = threading.Event()

    def stall(number: int) -> None:
        assert others_done.wait(30), "the other episodes waited for the stalled one"

    def progress(now: Progress) -> None:
        if now.done == 11:
            others_done.set()

    result = play(player(model=Scripted(walker, stall_at=[0], stall=stall)), concurrency=3, progress=progress)
    assert run_hash(result.trajectories) == clean_hash()


def test_progress_counts_in_the_callers_thread(journal: Journal) -> None:
    seen: list[Progress] = []
    threads: set[str] = set()

    def progress(now: Progress) -> None:
        seen.append(now)
        threads.add(threading.current_thread().name)

    play(todo=jobs()[:4], journal=journal)
    result = play(journal=journal, progress=progress)
    assert threads == {threading.current_thread().name}
    assert [now.done for now in seen] == list(range(4, 13))
    assert (seen[-1].kept, seen[-1].total, seen[-1].errors) == (4, 12, 0)
    assert seen[-1].won == sum(item.won for item in result.trajectories) == 10
    assert seen[-1].usage == result.usage


def test_a_job_given_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="twice"):
        play(todo=[*jobs(), jobs()[3]])


def test_no_jobs_is_a_complete_rollout() -> None:
    assert play(todo=[]).complete


# Resume


def test_what_is_finished_is_not_played_again(journal: Journal) -> None:
    first = play(todo=jobs()[3:7], journal=journal)
    env = Corridor(12)
    result = play(player(env), journal=journal)
    assert env.opened == 8
    assert len(result.trajectories) == 12
    assert set(first.trajectories) <= set(result.trajectories)
    assert run_hash(result.trajectories) == journal.content_hash("collect") == clean_hash()


def test_phases_do_not_mix(journal: Journal) -> None:
    play(journal=journal, phase="evaluate/none/seed0")
    env = Corridor(12)
    play(player(env), journal=journal, phase="evaluate/both/seed0")
    assert env.opened == 12


# Errors are not failures


@pytest.mark.parametrize("concurrency", [1, 4])
def test_failed_calls_are_retried_and_leave_the_clean_result(journal: Journal, concurrency: int) -> None:
    asked: Counter[tuple[str, ...]] = Counter()

    def script(messages: Sequence[Message]) -> str:
        asked[tuple(message.text for message in messages)] += 1
        return walker(messages)

    fails = [2, 3, 7, 20, 21, 30]
    env = Corridor(12, numbered=True)
    result = play(player(env, Scripted(script, raise_at=fails)), journal=journal, concurrency=concurrency, retries=6)
    assert (result.complete, result.errors) == (True, ())
    assert run_hash(result.trajectories) == run_hash(play(player(Corridor(12, numbered=True))).trajectories)
    assert set(asked.values()) == {1}, "a reply was paid for twice"
    assert len(journal.failures("collect")) == len(fails)


def test_an_error_that_stays_is_listed_never_scored_and_resumable(journal: Journal) -> None:
    def broken_engine(task: Task, step: int, command: str) -> None:
        if task.id == "train/003" and step == 1:
            raise InfraError("the engine died")

    result = play(player(Corridor(12, on_step=broken_engine)), journal=journal, retries=2)
    assert "train/003" not in {item.task.id for item in result.trajectories}
    assert "train/003" not in {item.task.id for item in journal.trajectories("collect")}
    (error,) = result.errors
    assert (error.task.id, error.stop, error.error) == ("train/003", StopReason.ERROR, "InfraError: the engine died")
    assert result.undone == (Job(Corridor(12).tasks("train")[3]),)
    assert (result.complete, result.stopped) == (False, None)
    assert len(journal.failures("collect")) == 3
    assert run_hash(play(journal=journal).trajectories) == clean_hash()


def test_data_errors_are_not_retried(journal: Journal) -> None:
    def broken_game(task: Task) -> None:
        if task.id == "train/003":
            raise DataError("game file cut off")

    result = play(player(Corridor(12, on_open=broken_game)), journal=journal, retries=5)
    assert [item.error for item in result.errors] == ["DataError: game file cut off"]
    assert len(journal.failures("collect")) == 1
    assert len(result.trajectories) == 11


def test_a_programming_error_surfaces_after_the_others_have_played(journal: Journal) -> None:
    def buggy(task: Task, step: int, command: str) -> None:
        if task.id in ("train/003", "train/005"):
            raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug") as caught:
        play(player(Corridor(12, on_step=buggy)), journal=journal, concurrency=1)
    assert caught.value.__notes__ == ["In train/003; 2 episodes ended with a programming error."]
    assert len(journal.finished("collect")) == 10


def test_a_full_disk_stops_the_rollout_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with Journal.open(path) as journal:
        pages = journal._db.execute("PRAGMA page_count").fetchone()[0]
        journal._db.execute(f"PRAGMA max_page_count = {pages + 6}")
        with pytest.raises(StoreError, match="resume"):
            play(journal=journal, concurrency=4)
    with Journal.open(path) as journal:
        kept = len(journal.finished("collect"))
        assert 0 < kept < 12
        env = Corridor(12)
        assert run_hash(play(player(env), journal=journal).trajectories) == clean_hash()
        assert env.opened == 12 - kept


# Budgets


def test_an_episode_budget_leaves_the_rest_for_later(journal: Journal) -> None:
    result = play(journal=journal, budget=Limits(episodes=5))
    assert (len(result.trajectories), len(result.undone), result.stopped) == (5, 7, StopReason.BUDGET)
    result = play(journal=journal, budget=Limits(episodes=5))
    assert (len(result.trajectories), len(result.undone)) == (10, 2)
    result = play(journal=journal, budget=Limits(episodes=5))
    assert (result.complete, result.stopped) == (True, None)
    assert run_hash(result.trajectories) == clean_hash()


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_token_budget_is_passed_by_the_calls_in_flight_at_most(journal: Journal, concurrency: int) -> None:
    env, calls, longest, spent = Corridor(12, numbered=True), 0, 0, 0
    while True:
        result = play(player(env), journal=journal, budget=Limits(tokens=2000), concurrency=concurrency)
        replies = [turn.reply for item in journal.trajectories("collect", errors=True) for turn in item.turns]
        longest = max(reply.usage.prompt + reply.usage.completion for reply in replies)
        assert result.usage.prompt + result.usage.completion < 2000 + concurrency * longest
        spent += result.usage.prompt + result.usage.completion
        calls += 1
        if result.complete:
            break
        assert result.stopped is StopReason.BUDGET
        assert result.errors == ()
    whole = play(player(env))
    assert calls > 2
    assert spent == whole.usage.prompt + whole.usage.completion, "replayed replies must be free"
    assert run_hash(result.trajectories) == run_hash(whole.trajectories)


def test_a_time_budget_stops_before_the_next_call(journal: Journal) -> None:
    result = play(journal=journal, budget=Limits(seconds=0.0))
    assert (result.trajectories, len(result.undone), result.stopped) == ((), 12, StopReason.BUDGET)


# Stopping


def test_cancel_ends_after_the_calls_in_flight_and_resumes(journal: Journal) -> None:
    cancel = threading.Event()
    count = iter(range(1000))

    def script(messages: Sequence[Message]) -> str:
        if next(count) == 20:
            cancel.set()
        return walker(messages)

    result = play(player(model=Scripted(script)), journal=journal, cancel=cancel, concurrency=4)
    assert result.stopped is StopReason.INTERRUPTED
    assert len(result.undone) > 0
    assert {failure.stop for failure in journal.failures("collect")} <= {StopReason.INTERRUPTED}
    asked = next(count)
    assert 21 <= asked <= 24
    assert run_hash(play(journal=journal).trajectories) == clean_hash()


def test_a_call_that_never_returns_does_not_keep_a_cancelled_rollout(journal: Journal) -> None:
    cancel, release = threading.Event(), threading.Event()

    def stall(number: int) -> None:
        cancel.set()
        release.wait(30)

    model = Scripted(walker, stall_at=[5], stall=stall)
    started = time.monotonic()
    result = play(player(model=model), journal=journal, cancel=cancel, concurrency=2, grace_s=0.1)
    assert time.monotonic() - started < 20
    assert result.stopped is StopReason.INTERRUPTED
    release.set()
    for thread in threading.enumerate():
        if thread.name.startswith("rollout-"):
            thread.join(10)
    assert run_hash(play(journal=journal).trajectories) == clean_hash()


# A child process, really killed

EPISODES, CONCURRENCY = 60, 4


class Child:
    """A collection in a process of its own, and the calls of the model that it made."""

    def __init__(self, folder: Path, number: int) -> None:
        self.log = folder / f"calls-{number}.log"
        self.log.touch()
        script = Path(__file__).with_name("collect_child.py")
        arguments = [str(folder / "journal.sqlite"), str(self.log), str(EPISODES), str(CONCURRENCY)]
        self.process = subprocess.Popen([sys.executable, str(script), *arguments], stdout=subprocess.PIPE, text=True)

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines()

    def wait_for(self, calls: int) -> None:
        deadline = time.monotonic() + 60
        while len(self.calls()) < calls and self.process.poll() is None:
            assert time.monotonic() < deadline, "the child makes no progress"
            time.sleep(0.001)

    def end(self) -> str:
        out, _ = self.process.communicate(timeout=120)
        return out.strip()


def finished_as_uninterrupted(folder: Path) -> None:
    whole = rollout(*collection(EPISODES))
    assert 0 < sum(item.won for item in whole.trajectories) < EPISODES
    with Journal.open(folder / "journal.sqlite", readonly=True) as journal:
        assert [item.task.id for item in journal.trajectories("collect")] == [item.task.id for item in whole.trajectories]
        assert journal.content_hash("collect") == run_hash(whole.trajectories)
        assert journal._db.execute("SELECT count(*) FROM episodes").fetchone()[0] == EPISODES


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_twenty_kills_lose_nothing_and_pay_nothing_twice(tmp_path: Path) -> None:
    """R1: SIGKILL at random moments of collection, then resume; 0 lost, 0 duplicated, at most the calls in flight repeated."""
    chance = random.Random(2)
    paid: set[str] = set()
    kills = 0
    while True:
        child = Child(tmp_path, kills)
        if kills < 20:
            child.wait_for(chance.randint(0, 30))
            time.sleep(chance.random() * 0.005)
            child.process.send_signal(signal.SIGKILL)
        out = child.end()
        calls = child.calls()
        assert len(set(calls)) == len(calls)
        assert len(paid.intersection(calls)) <= CONCURRENCY
        paid.update(calls)
        if child.process.returncode == 0:
            break
        assert child.process.returncode == -signal.SIGKILL
        kills += 1
    assert kills == 20
    assert len(paid) > 400
    assert out == f"{EPISODES} 0 None"
    finished_as_uninterrupted(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
def test_control_c_stops_cleanly_and_says_what_is_left(tmp_path: Path) -> None:
    child = Child(tmp_path, 0)
    child.wait_for(60)
    child.process.send_signal(signal.SIGINT)
    done, left, stopped = child.end().split()
    assert child.process.returncode == 0
    assert stopped == "interrupted"
    assert int(left) == EPISODES - int(done) > 0
    again = Child(tmp_path, 1)
    assert again.end() == f"{EPISODES} 0 None"
    assert not set(again.calls()) & set(child.calls()), "what was paid for before Ctrl-C was paid for again"
    finished_as_uninterrupted(tmp_path)
