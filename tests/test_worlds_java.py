"""ScienceWorld and TextWorldExpress in their own simulators, and what is said where Java or a package is missing."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import env_contract
from duomem.envs import _java, scienceworld, textworld_express
from duomem.envs._java import JavaEpisode
from duomem.errors import InfraError, MissingExtra, UsageError
from duomem.types import ToolCall

WORLDS = {"scienceworld": scienceworld, "textworld_express": textworld_express}


def runs(package: str) -> pytest.MarkDecorator:
    there = importlib.util.find_spec(package) is not None
    reason = "there is no java on PATH" if there else f"{package} is not installed (extra java)"
    return pytest.mark.skipif(not there or shutil.which("java") is None, reason=reason)


@pytest.mark.parametrize("name", sorted(WORLDS))
def test_without_java_or_the_package_it_says_what_to_install(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_java, "find_spec", lambda package: None)
    with pytest.raises(MissingExtra, match=r"pip install 'duomem\[java\]'"):
        WORLDS[name].build(WORLDS[name].Config())
    monkeypatch.setattr(_java, "find_spec", lambda package: object())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"no java on PATH.*default-jre-headless"):
        WORLDS[name].build(WORLDS[name].Config())


@pytest.fixture
def science() -> scienceworld.ScienceWorld:
    return scienceworld.build(scienceworld.Config(experiments=("find-living-thing",), variations=2, simplifications="easy"))


@runs("scienceworld")
def test_scienceworld(science: scienceworld.ScienceWorld) -> None:
    env_contract.holds(lambda: science, "scienceworld", ToolCall.act("dance"))
    task = science.tasks("train")[0]
    episode = science.open(task)
    seen = episode.observe()
    assert seen.goal.startswith("Your task is to find")
    for command in gold(episode, task.id):
        assert not seen.done
        seen = episode.step(ToolCall.act(command))
    assert (seen.won, seen.done) == (True, True)
    with pytest.raises(RuntimeError, match="done"):
        episode.step(ToolCall.act("look around"))
    episode.close()
    failed = science.open(task)
    failed.observe()
    last = failed.step(ToolCall.act("focus on agent"))
    assert (last.won, last.done) == (False, True), "the wrong thing in focus ends it"
    failed.close()
    with pytest.raises(UsageError, match="no experiment 'fly'"):
        scienceworld.build(scienceworld.Config(experiments=("fly",))).tasks("train")
    with pytest.raises(UsageError, match="simplifications = 'none'"):
        scienceworld.build(scienceworld.Config(simplifications="none")).open(task).observe()


def gold(episode: JavaEpisode, task: str) -> list[str]:
    """The package's own way to win, from a simulator of its own; only this test may know it."""
    _, name, number = task.split("/")
    with scienceworld._pool().lent("the gold path") as simulator:
        simulator.load(name, int(number), "easy", generateGoldPath=True)
        return list(simulator.get_gold_action_sequence())


@pytest.fixture
def coins() -> textworld_express.TextWorldExpress:
    return textworld_express.build(textworld_express.Config(settings="numLocations=3,includeDoors=0", games=4, admissible=True))


@pytest.fixture
def left() -> Iterator[None]:
    """Leaves no simulator that a test has broken."""
    yield
    textworld_express._pool.cache_clear()


@runs("textworld_express")
def test_textworld_express(coins: textworld_express.TextWorldExpress, left: None) -> None:
    env_contract.holds(lambda: coins, "textworld_express", ToolCall.act("dance"))
    for task in coins.tasks("train"):
        episode = coins.open(task)
        seen = episode.observe()
        assert "find the coin" in seen.goal
        tried: set[str] = set()
        for _ in range(30):
            assert seen.admissible
            moves = [command for command in seen.admissible if command.startswith("move ")]
            fresh = [move for move in moves if (seen.text, move) not in tried]
            command = "take coin" if "take coin" in seen.admissible else (fresh or moves)[0]
            tried.add((seen.text, command))
            seen = episode.step(ToolCall.act(command))
            if seen.done:
                break
        assert (seen.won, seen.done) == (True, True)
        episode.close()
    for options, words in (({"family": "chess"}, "Unknown game"), ({"settings": "walls=3"}, "Unrecognized property")):
        env = textworld_express.build(textworld_express.Config(**options))
        with pytest.raises(UsageError, match=words):
            env.tasks("train")
    broken = coins.open(coins.tasks("train")[0])
    broken.observe()
    broken.simulator.close()
    broken.simulator._gateway.java_process.wait(timeout=30)
    with pytest.raises(InfraError, match="Java simulator failed at a step"):
        broken.step(ToolCall.act("look around"))
    broken.close()
    again = coins.open(coins.tasks("train")[0])
    assert again.simulator is not broken.simulator, "one that failed is not used again"
    again.close()
