"""A fault proxy between a whole collection and the local engine: after every fault the log is that of a clean run.

The engine is llama.cpp with the pocket model, the client the official one. Calls are counted where an engine would bill them.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import paid_child
from duomem.agent import Player
from duomem.envs import household
from duomem.journal import Journal
from duomem.models import llamacpp
from duomem.prompts import load_layout
from duomem.rollout import Job, Rollout, rollout
from duomem.types import Sampling, StopReason
from fault_proxy import Fault, FaultProxy, no_choices, replaced, says

pytest.importorskip("openai", reason="needs the extra 'api'")
from duomem.models import openai_api

GAMES, STEPS = 3, 5
PHASE = "collect"
Clean = dict[bool, tuple[str, int]]
"""Content hash and number of calls of the clean run, with and without streaming."""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[llamacpp.Served]:
    pytest.importorskip("xllamacpp", reason="needs the extra 'llamacpp'")
    pytest.importorskip("transformers", reason="needs the extra 'train'")
    folder = str(tmp_path_factory.mktemp("gguf"))
    with llamacpp.serve(llamacpp.Config(folder=folder, threads=1, max_batch=2)) as served:
        yield served


@pytest.fixture(scope="module")
def relay(engine: llamacpp.Served) -> Iterator[FaultProxy]:
    with FaultProxy(engine.url) as proxy:
        yield proxy


@pytest.fixture
def proxy(relay: FaultProxy) -> FaultProxy:
    relay.plan = lambda number, body: None
    relay.forget()
    return relay


def play(proxy: FaultProxy, name: str, journal: Path, **settings: Any) -> tuple[Rollout, str, openai_api.OpenAiModel]:
    """A collection through the proxy: what came of it, the log's content hash, the client."""
    timeout = settings.pop("episode_s", 600.0)
    plain = {"remote_model": name, "key_env": "", "backoff_s": 0.01, "retries": 6, "stall_s": 20.0}
    model = openai_api.build(openai_api.Config(**{"base_url": proxy.url, **plain, **settings}))
    env = household.build(household.Config(games=GAMES, seed=5))
    player = Player(env, model, load_layout("pocket"), sampling=Sampling(max_tokens=32), max_steps=STEPS, timeout_s=timeout)
    jobs = [Job(task) for task in env.tasks("train")]
    with Journal.open(journal) as opened:
        done = rollout(jobs, player, journal=opened, phase=PHASE, concurrency=3, retries=1, backoff_s=0.01)
        found = opened.content_hash(PHASE)
    model.close()
    return done, found, model


@pytest.fixture(scope="module")
def clean(relay: FaultProxy, engine: llamacpp.Served, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, tuple[str, int]]:
    found = {}
    for stream in (True, False):
        relay.forget()
        done, log, _ = play(relay, engine.model, tmp_path_factory.mktemp("clean") / "journal.sqlite", stream=stream)
        assert done.complete
        found[stream] = (log, len(relay.paid))
    assert found[True] == found[False], "streamed or not, the model says the same"
    assert found[True][1] > GAMES
    return found


FAULTS: dict[str, Fault] = {
    "429": Fault(429),
    "429 with Retry-After": Fault(429, (("Retry-After", "0.2"),)),
    "500": Fault(500),
    "502": Fault(502),
    "503": Fault(503),
    "reset in mid-reply": Fault(cut=250, how="reset"),
    "stream cut off": Fault(cut=250),
    "fewer bytes than promised": Fault(cut=250, how="length"),
    "last chunk missing": Fault(cut=250, how="chunked"),
    "malformed JSON": Fault(edit=replaced(b'"choices":', b'"choices"')),
    "empty choices": Fault(edit=no_choices),
    "wrong model": Fault(edit=lambda reply: reply.replace(b"duomem/pocket", b"another")),
}


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
@pytest.mark.parametrize("name", FAULTS)
def test_the_log_is_that_of_a_clean_run(
    proxy: FaultProxy, engine: llamacpp.Served, clean: Clean, tmp_path: Path, name: str, stream: bool
) -> None:
    fault = FAULTS[name]
    proxy.plan = lambda number, body: fault if number % 3 == 1 else None
    done, log, model = play(proxy, engine.model, tmp_path / "journal.sqlite", stream=stream)
    wanted, calls = clean[stream]
    faults = sum(met is not None for _, met in proxy.arrived)
    assert faults >= 3
    assert (log, done.complete, done.errors) == (wanted, True, ())
    assert len(proxy.arrived) == calls + faults
    assert len(proxy.paid) == calls + (0 if fault.status else faults)
    assert model.tally.replies == calls


SLOW = {"stall": (Fault(cut=120, how="stall"), {"stall_s": 0.3}), "drip": (Fault(drip_s=0.01), {"timeout_s": 0.4})}


@pytest.mark.parametrize("name", SLOW)
def test_stalls_and_slow_drips(proxy: FaultProxy, engine: llamacpp.Served, clean: Clean, tmp_path: Path, name: str) -> None:
    fault, limit = SLOW[name]
    met = iter([True, False, True])
    proxy.plan = lambda number, body: fault if next(met, False) else None
    done, log, _ = play(proxy, engine.model, tmp_path / "journal.sqlite", **limit)
    assert (log, done.complete) == (clean[True][0], True)


def test_a_long_outage_scores_nothing_and_is_made_good(
    proxy: FaultProxy, engine: llamacpp.Served, clean: Clean, tmp_path: Path
) -> None:
    wanted, calls = clean[True]
    journal = tmp_path / "journal.sqlite"
    # The endpoint goes away in the middle of the first episodes, for longer than anyone is patient.
    proxy.plan = lambda number, body: Fault(503) if number >= 4 else None
    first, _, _ = play(proxy, engine.model, journal, retries=1)
    proxy.down()
    second, _, _ = play(proxy, engine.model, journal, retries=1)
    proxy.up()
    for done in (first, second):
        assert len(done.undone) == GAMES
        assert done.trajectories == (), "an outage is no failure of the agent"
        assert {each.stop for each in done.errors} == {StopReason.ERROR}
        assert all("did not answer" in each.error for each in done.errors)
    proxy.plan = lambda number, body: None
    third, log, _ = play(proxy, engine.model, journal)
    assert (log, third.complete) == (wanted, True)
    assert len(proxy.paid) == calls, "what was paid before the outage was not paid again"


def test_time_lost_to_an_outage_is_not_the_agent_s(
    proxy: FaultProxy, engine: llamacpp.Served, clean: Clean, tmp_path: Path
) -> None:
    """An outage longer than an episode may take must not end one as a time-out, which counts as a failure."""
    play(proxy, engine.model, tmp_path / "warm.sqlite")  # the engine's own seconds stay small
    proxy.forget()
    proxy.plan = lambda number, body: Fault(429, (("Retry-After", "2.5"),)) if number < 3 else None
    done, log, _ = play(proxy, engine.model, tmp_path / "journal.sqlite", episode_s=2.0)
    assert {each.stop for each in done.trajectories} <= {StopReason.STEP_CAP, StopReason.WON}
    assert log == clean[True][0]


def test_killed_at_random_moments_nothing_is_lost_and_little_paid_twice(tmp_path: Path) -> None:
    """SIGKILL while a paid collection runs: the same log at the end, and at most the calls in flight are paid again."""
    episodes, kills = 6, 3

    def engine(body: bytes) -> tuple[int, str, bytes]:
        said = json.loads(body)["messages"]
        return says(f"{len(said)} > {'look' if len(said) % 4 else 'inventory'}", stream=True)

    def slow(reply: bytes) -> bytes:
        time.sleep(0.02)
        return reply

    with FaultProxy(engine) as proxy:
        proxy.plan = lambda number, body: Fault(edit=slow)

        def child(journal: Path) -> subprocess.Popen[str]:
            command = [sys.executable, paid_child.__file__, str(journal), proxy.url, str(episodes)]
            return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

        clean = child(tmp_path / "clean.sqlite").communicate(timeout=300)[0].split()
        calls = len(proxy.paid)
        assert clean[:2] == [str(episodes), "0"]
        proxy.forget()
        draw = random.Random(11)
        for number in range(kills):
            running = child(tmp_path / "cut.sqlite")
            until = len(proxy.paid) + draw.randint(2, calls // (kills + 1))
            wait_for(lambda until=until: len(proxy.paid) >= until, running)  # type: ignore[misc]
            time.sleep(draw.uniform(0, 0.03))
            running.send_signal(signal.SIGKILL)
            assert running.wait() == -signal.SIGKILL, f"kill {number} came too late"
        done = child(tmp_path / "cut.sqlite").communicate(timeout=300)[0].split()
        repeated = {body: count - 1 for body, count in Counter(proxy.paid).items() if count > 1}
    assert done == clean
    assert sum(repeated.values()) <= kills * paid_child.CONCURRENCY
    assert len(proxy.paid) == calls + sum(repeated.values()), "nothing else was asked"


def wait_for(happened: Callable[[], bool], child: subprocess.Popen[str], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert child.poll() is None, "the child ended by itself"
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.002)
