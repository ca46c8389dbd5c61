"""The household: word for word the real engine, solvable by proof, and a well-behaved environment."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from duomem.envs.household import NOTHING, Config, Goal, House, Place, Thing, World, build, solve
from duomem.errors import UsageError
from duomem.types import ToolCall


def test_the_twin_says_what_the_real_engine_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve games of the six types, random commands, valid and not: observations, admissible commands and success agree."""
    pytest.importorskip("textworld", reason="the alfworld extra is not installed")
    from duomem.envs import alfworld
    from duomem.games.write import write_games

    monkeypatch.setenv("DUOMEM_CACHE", str(tmp_path / "cache"))
    write_games(tmp_path, "train", 12, seed=5)
    env = alfworld.build(alfworld.Config(data_root=str(tmp_path), admissible=True))
    steps = 0
    for task in env.tasks("train"):
        rng = random.Random(task.id)
        episode = env.open(task)
        first = episode.observe()
        folder = next(tmp_path.glob(f"**/{task.id.split('/', 1)[1]}"))
        game = json.loads((folder if folder.is_file() else folder / "game.tw-pddl").read_text())
        house = House.from_pddl(game["pddl_problem"], first.goal)
        world = World(house)
        assert first.text == house.scene
        seen = first
        for _ in range(25):
            assert list(seen.admissible or ()) == world.admissible(), task.id
            local = [command for command in seen.admissible or () if not command.startswith("go to")]
            command = rng.choice(
                [*local, rng.choice(list(seen.admissible or ())), "go to nowhere 1", "take mug 1", "eat apple 1"]
            )
            seen = episode.step(ToolCall.act(command))
            assert seen.text.strip() == world.act(command).strip(), (task.id, command)
            assert seen.won == world.won
            steps += 1
            if seen.done:
                break
        episode.close()
    assert steps > 200


def test_official_games_are_the_same_house(tmp_path: Path) -> None:
    """The six kinds of goal are read from official PDDL."""
    from alfworld_roots import games_in, unpack

    kinds = {}
    for path in games_in(unpack("valid_seen", tmp_path)):
        game = json.loads(path.read_text() if path.is_file() else (path / "game.tw-pddl").read_text())
        text = re.search(r'Your task is to: (.*?)"', game["grammar"])
        assert text
        house = House.from_pddl(game["pddl_problem"], text[1])
        goal = house.goal
        kinds[("light" if goal.light else "") or goal.state or str(goal.count)] = goal
        assert goal.object in text[1]
        assert (goal.light or goal.target) in text[1]
        assert solve(house)
    assert set(kinds) == {"light", "clean", "hot", "cool", "1", "2"}


def test_every_house_has_a_shortest_plan_that_wins() -> None:
    env = build(Config(games=12))
    for task in env.tasks("dev"):
        plan = solve(env.house(task))
        assert plan
        episode = env.open(task)
        assert not episode.observe().won
        seen = [episode.step(ToolCall.act(command)) for command in plan]
        assert [observation.won for observation in seen] == [False] * (len(plan) - 1) + [True]


def test_a_house_without_the_thing_has_no_plan() -> None:
    shelf = Place("shelf 1", "shelf", "here")
    house = House((shelf,), (Thing("cup 1", "cup", ("shelf 1",)),), frozenset(), Goal("mug", "shelf"), "put a mug in shelf.")
    assert solve(house) is None


def test_splits_are_their_own_games_and_stay_the_same() -> None:
    env, again = build(Config(games=6)), build(Config(games=6))
    scenes = {split: [env.house(task) for task in env.tasks(split)] for split in ("train", "dev")}
    assert scenes["train"] == [again.house(task) for task in again.tasks("train")]
    assert not set(scenes["train"]) & set(scenes["dev"])
    assert [env.labels(task).kind for task in env.tasks("train")] == ["simple", "clean", "hot", "cool", "two", "look"]
    with pytest.raises(UsageError, match="no split 'test'"):
        env.tasks("test")


def test_an_episode_is_single_use() -> None:
    env = build(Config(games=1))
    episode = env.open(env.tasks("train")[0])
    episode.observe()
    with pytest.raises(RuntimeError, match="once"):
        episode.observe()
    assert not episode.step(ToolCall.act("dance")).valid
    assert episode.step(ToolCall.act("dance")).text == NOTHING
    episode.close()
    episode.close()
    with pytest.raises(RuntimeError, match="closed"):
        episode.step(ToolCall.act("look"))
