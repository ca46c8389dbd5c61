"""Known traps of ALFWorld evaluations on whole runs: an oracle, the arms, what a report states.

Elsewhere: 1, 2, 7, 9 in test_alfworld; 4, 5, 8, 11, 18 in test_evaluate; 10 in test_agent; 12 in test_bank; 3 in test_report.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from alfworld_roots import unpack
from duomem import config
from duomem._episode import episode_seed
from duomem.agent import Player
from duomem.envs import Env
from duomem.envs.alfworld import Config, build
from duomem.errors import ConfigError
from duomem.games.write import write_games
from duomem.models.expert import Config as ExpertConfig
from duomem.models.expert import Expert
from duomem.models.scripted import Scripted
from duomem.pipeline import distill
from duomem.prompts import load_layout, reply_text
from duomem.rollout import Job, rollout
from duomem.rundir import open_run
from duomem.scores import ARMS
from duomem.types import Message, Reply, Sampling, Task, Tool

ROOT = Path(__file__).resolve().parents[1]
LAYOUT = load_layout("pocket")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUOMEM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ALFWORLD_DATA", raising=False)


class Oracle(Scripted):
    """Says the commands of a plan that wins, one a turn, in the words that any student would use."""

    def __init__(self, plans: dict[int, list[str]]) -> None:
        super().__init__(lambda messages: "")
        self._plans = plans

    def reply(self, messages: Sequence[Message], tools: Sequence[Tool], sampling: Sampling) -> Reply:
        turn = sum(message.role == "assistant" for message in messages)
        return Reply(Message.of("assistant", reply_text(LAYOUT, "as planned", self._plans[sampling.seed][turn])))


def replayed(env: Env, plans: dict[Task, list[str]]) -> list[bool]:
    """Whether each plan wins its game through prompt, parser and loop."""
    oracle = Oracle({episode_seed(0, task.id, 0): plan for task, plan in plans.items()})
    played = rollout([Job(task) for task in plans], Player(env, oracle, LAYOUT, max_steps=100), concurrency=2)
    assert not played.errors, played.errors[0].error
    return [trajectory.won for trajectory in played.trajectories]


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("generated")
    write_games(root, "dev", 6, seed=3)
    return root


def test_trap_16_an_oracle_wins_a_game_of_every_type(generated: Path) -> None:
    """The solver's plan of each written game, said by a script."""
    env = build(Config(data_root=str(generated)))
    files = {task: generated / "json_2.1.1" / task.id / "game.tw-pddl" for task in env.tasks("dev")}
    assert len({env.labels(task).kind for task in files}) == 6
    plans = {task: json.loads(file.read_text())["walkthrough"] for task, file in files.items()}
    assert replayed(env, plans) == [True] * 6


def test_trap_16_an_oracle_wins_official_games(tmp_path: Path) -> None:
    """The commands of runs that were won on official games, said by a script."""
    root = unpack("valid_seen", tmp_path)
    if root is None:
        pytest.skip("the archive of official games is not here")
    env = build(Config(data_root=str(root)))
    teacher = Player(env, Expert(ExpertConfig(layout="pocket")), LAYOUT, max_steps=100)
    runs = [teacher.play(task) for task in env.tasks("valid_seen")[::14]]
    plans = {run.task: [turn.call.command for turn in run.turns if turn.call] for run in runs if run.won}
    assert len(plans) >= 8
    assert replayed(env, plans) == [True] * len(plans)


def test_trap_16_words_without_a_command_win_nothing(generated: Path) -> None:
    """The parser guesses nothing: what it cannot read is an invalid turn."""
    env = build(Config(data_root=str(generated)))
    trajectory = Player(env, Scripted(lambda messages: "I would look around."), LAYOUT, max_steps=3).play(env.tasks("dev")[0])
    assert (trajectory.won, [turn.valid for turn in trajectory.turns]) == (False, [False] * 3)


def test_trap_14_and_19_controls_are_played_with_every_grid() -> None:
    """The control without memories, the format-only one and the placebo are arms of the shipped runs."""
    for name in ("demo", "alfworld-pocket"):
        arms = config.load(ROOT / "configs" / f"{name}.toml").evaluate.arms
        assert {"none", "format_only", "memory", "decoy"} <= set(arms), name


def test_trap_18_and_19_every_arm_can_be_named_in_a_config() -> None:
    assert set(config.load(None, [f"evaluate.arms={list(ARMS)}"]).evaluate.arms) == set(ARMS)
    with pytest.raises(ConfigError, match="no_same_room"):
        config.load(None, ["evaluate.arms=['no_same_rom']"])


def test_trap_6_10_12_17_18_a_report_states_what_the_code_cannot_enforce(tmp_path: Path) -> None:
    """Cap, invalid and repaired actions, nearest memories, rooms and the arm without memories of the room."""
    overrides = ["teacher.tasks=12", "evaluate.games=4", "evaluate.arms=['none', 'memory', 'decoy', 'no_same_room']", "tuning="]
    run = open_run(tmp_path / "run", ROOT / "configs/household.toml", overrides)
    data = distill(run).data
    assert data["settings"]["max_steps"] == "30"
    assert data["settings"]["repair"] == "off"
    assert "rooms_shared_with_teaching" in data["settings"]
    assert {"invalid_rate", "by_room", "repaired", "truncated", "errors", "mean_steps"} <= set(data["arms"]["no_same_room"])
    assert data["retrieval"]["similarity"]
    assert data["rooms"]
