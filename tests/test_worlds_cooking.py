"""TextWorld's cooking games by the real engine: writing them, the contract, the teacher, and what becomes a memory of one."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

import env_contract
from duomem import embed, prompts
from duomem.agent import Player
from duomem.bank import Bank
from duomem.envs import cooking
from duomem.errors import DataError, UsageError
from duomem.memory._script import calls_script
from duomem.models import chef
from duomem.pipeline import collect, games, remember
from duomem.rollout import Job, rollout
from duomem.rundir import open_run
from duomem.types import Message, Sampling, StopReason, ToolCall

pytestmark = pytest.mark.skipif(importlib.util.find_spec("textworld") is None, reason="textworld is not installed")
ROOT = Path(__file__).resolve().parents[1]
LAYOUT = prompts.load_layout("pocket")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the page's commands write: three kitchens to train on, two small houses as tests. And a kitchen of dev."""
    from typer.testing import CliRunner

    from duomem.cli import app

    folder = tmp_path_factory.mktemp("kitchens")
    lines = re.findall(r"^duomem games (kitchen .*)$", (ROOT / "docs/environments.md").read_text(), re.M)
    assert len(lines) == 2
    for line in lines:
        words = ["games", str(folder), *shlex.split(line)[1:]]
        result = CliRunner().invoke(app, words, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    cooking.write_games(cooking.Config(), folder, "dev", 1, 5)
    return folder


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> cooking.CookingEnv:
    """A game in nine rooms: doors, three ingredients of which two have to be found, perhaps a barbecue."""
    folder = tmp_path_factory.mktemp("house")
    config = cooking.Config(data_root=str(folder), go=9, recipe=3, take=2)
    cooking.write_games(config, folder, "train", 1, 1)
    return cooking.build(config)


def kitchens(root: Path) -> cooking.CookingEnv:
    return cooking.build(cooking.Config(data_root=str(root)))


def player(env: cooking.CookingEnv, **options: Any) -> Player:
    slip = options.pop("slip", 0.0)
    return Player(env, chef.build(chef.Config(slip=slip)), LAYOUT, **options)


def test_the_contract(root: Path) -> None:
    env_contract.holds(lambda: kitchens(root), "cooking", ToolCall.act("dance"), secret=str(root))
    assert kitchens(root).tasks("test")[0].id == "test/0000"


def test_the_same_seed_gives_the_same_games_and_a_cut_writing_goes_on(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    folder = tmp_path / "tw-cooking/train"
    shutil.copytree(root / "tw-cooking/train", folder)
    (folder / "games.json").unlink()
    for file in folder.glob("0002.*"):
        file.unlink()
    kept = (folder / "0000.z8").stat().st_mtime_ns
    told: list[tuple[int, int]] = []
    cooking.write_games(cooking.Config(), tmp_path, "train", 3, 1, progress=lambda done, n: told.append((done, n)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert (folder / "0000.z8").stat().st_mtime_ns == kept, "what lies there is not made again"
    assert kitchens(tmp_path).tasks("train") == kitchens(root).tasks("train")


def test_splits_have_food_or_ways_to_prepare_it_that_the_others_do_not_have(root: Path) -> None:
    from textworld.challenges.tw_cooking.cooking import FOOD_PREPARATIONS_SPLITS

    train = FOOD_PREPARATIONS_SPLITS["train"]
    for split in ("train", "dev", "test"):
        manifest = json.loads((root / f"tw-cooking/{split}/games.json").read_text())
        for game in manifest["games"]:
            for name, cook, cut in game["ingredients"]:
                assert ((cook, cut) in train.get(name, ())) is (split == "train"), (split, name, cook, cut)


def test_the_teacher_wins_on_what_it_saw_and_its_runs_become_memories(root: Path) -> None:
    env = kitchens(root)
    jobs = [Job(task, attempt) for task in env.tasks("train") for attempt in (0, 1)]
    played = rollout(jobs, player(env, slip=0.2), concurrency=4).trajectories
    assert [trajectory.stop for trajectory in played] == [StopReason.WON] * 6
    assert {len(trajectory.turns) for trajectory in played} > {7} or all(len(each.turns) > 7 for each in played)
    plain = player(env).play(env.tasks("train")[0])
    assert plain.won
    script = calls_script(plain).splitlines()
    assert script[0] == cooking.GOAL
    assert script[1] == "1. examine cookbook"
    assert script[-2:] == [f"{len(script) - 2}. prepare meal", f"{len(script) - 1}. eat meal"]
    food = env.labels(env.tasks("train")[0]).object
    assert any(line.endswith(f"take {food}") for line in script)


def test_the_teacher_finds_its_way_through_a_house_with_doors(house: cooking.CookingEnv) -> None:
    task = house.tasks("train")[0]
    trajectory = player(house, max_steps=80).play(task)
    assert trajectory.won
    commands = [turn.call.command for turn in trajectory.turns if turn.call]
    assert any(command.startswith("go ") for command in commands)
    assert all(turn.valid for turn in trajectory.turns)


def test_the_teacher_refuses_what_is_no_cooking_game() -> None:
    with pytest.raises(ValueError, match="cooking game"):
        chef.build(chef.Config()).reply([Message.of("user", "You are in a room.\nTask: put a mug in desk.")], (), Sampling())


def test_a_wrong_way_to_cook_loses_and_what_does_nothing_is_not_valid(root: Path) -> None:
    env = kitchens(root)
    task = env.tasks("train")[0]
    food, kind = env.labels(task).object, env.labels(task).kind
    episode = env.open(task)
    opening = episode.observe()
    assert opening.text.startswith("-= Kitchen =-\n")
    assert "\n\n" not in opening.text
    assert "$$" not in opening.text
    for command, valid in (("inventory", True), ("dance", False), ("", False), ("open fridge", True), ("open fridge", False)):
        seen = episode.step(ToolCall.act(command))
        assert seen.valid is valid, command
        assert not seen.text.rstrip().endswith("/1"), "the status line is not part of what was said"
    assert not episode.step(ToolCall("other", '{"command": "look"}')).valid
    assert episode.step(ToolCall.act(f"take {food}")).valid, "without where it lies, which the engine does not list"
    device = "oven" if "fry" in kind else "stove"
    last = episode.step(ToolCall.act(f"cook {food} with {device}"))
    assert (last.done, last.won) == (True, False)
    with pytest.raises(RuntimeError, match="done"):
        episode.step(ToolCall.act("look"))
    episode.close()


def test_step_cap_and_time_out_are_reasons_of_their_own(root: Path) -> None:
    env = kitchens(root)
    task = env.tasks("train")[0]
    assert player(env, max_steps=2).play(task).stop is StopReason.STEP_CAP
    assert player(env, timeout_s=0.0).play(task).stop is StopReason.TIMEOUT


def test_games_that_are_not_what_was_written_are_refused(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "copy")
    env = kitchens(tmp_path / "copy")
    one, two, three = env.tasks("train")
    folder = tmp_path / "copy/tw-cooking/train"
    (folder / "0000.json").write_text((folder / "0000.json").read_text() + " ")
    (folder / "0001.z8").unlink()
    (folder / "0002.json").unlink()
    for task, words in ((one, "has changed"), (two, "is not there"), (three, "Write the games again")):
        with pytest.raises(DataError, match=words):
            env.open(task)
    with pytest.raises(UsageError, match="holds other games"):
        cooking.write_games(cooking.Config(), root, "train", 3, 6)
    with pytest.raises(UsageError, match="no split 'valid_seen'"):
        cooking.write_games(cooking.Config(), root, "valid_seen", 3, 6)
    (folder / "games.json").write_text("{}")
    with pytest.raises(DataError, match=r"games\.json"):
        kitchens(tmp_path / "copy").tasks("train")


def test_settings_that_no_game_has() -> None:
    for options, words in (({"go": 3}, "1, 6, 9 or 12"), ({"take": 2}, r"more than the 1 ingredients")):
        with pytest.raises(UsageError, match=words):
            cooking.build(cooking.Config(**options))
    with pytest.raises(UsageError, match="duomem games OUT --env cooking"):
        cooking.build(cooking.Config()).tasks("train")


def test_a_run_writes_its_own_games_and_collects_on_them(tmp_path: Path) -> None:
    (tmp_path / "cook.toml").write_text(
        '[env]\nname = "cooking"\n[games]\ntrain = { n = 1, seed = 5 }\n[teacher]\nmodel = "chef"\ntasks = 1\n'
        '[student]\nmodel = "scripted"\nlayout = "pocket"\n[memory]\nembedder = "lexical"\n[evaluate]\nsplit = "test"\n'
    )
    run = open_run(tmp_path / "run", tmp_path / "cook.toml")
    assert games(run).data == {"train": 1}
    assert games(run).data == {}, "done already"
    assert collect(run).data["won"] == 1
    assert remember(run).data["memories"] == 1
    with Bank.open(run.bank, embed.build("lexical"), LAYOUT.hash) as bank:
        assert "1. examine cookbook" in bank.view().memories()[0].text
