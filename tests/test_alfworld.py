"""The ALFWorld environment: what it accepts, what it refuses and how, and that threads and processes may play."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import re
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from alfworld_roots import copy_game, games_in, kind_of, unpack

pytest.importorskip("textworld", reason="the alfworld extra is not installed")
pytest.importorskip("alfworld", reason="the alfworld extra is not installed")

from duomem.envs import _alfworld_index as index
from duomem.envs.alfworld import AlfworldEnv, Config, build
from duomem.errors import DataError, MissingExtra, UsageError
from duomem.games.write import write_games
from duomem.types import Labels, Observation, Task, ToolCall


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DUOMEM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ALFWORLD_DATA", raising=False)
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with a game of each task type in `dev`."""
    root = tmp_path_factory.mktemp("generated")
    write_games(root, "dev", 6, seed=0)
    return root


@pytest.fixture(scope="session")
def shared(generated: Path) -> AlfworldEnv:
    """One environment over the generated games, for tests that only play them."""
    return env_of(generated)


@pytest.fixture(scope="session")
def game(generated: Path) -> Path:
    return games_in(generated)[0]


@pytest.fixture(scope="session")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = unpack("valid_seen", tmp_path_factory.mktemp("official"))
    if root is None:
        pytest.skip("the archive of official games is not here")
    return root


def env_of(root: Path, **settings: Any) -> AlfworldEnv:
    return build(Config(data_root=str(root), **settings))


def walkthrough(env: AlfworldEnv, root: Path, task: Task) -> list[str]:
    plan: list[str] = json.loads((root / "json_2.1.1" / task.id / "game.tw-pddl").read_text())["walkthrough"]
    return plan


def play(env: AlfworldEnv, task: Task, commands: list[str]) -> list[Observation]:
    episode = env.open(task)
    try:
        return [episode.observe(), *[episode.step(ToolCall.act(command)) for command in commands]]
    finally:
        episode.close()


def test_one_plan_of_each_task_type_wins(shared: AlfworldEnv, generated: Path) -> None:
    env = shared
    kinds = set()
    for task in env.tasks("dev"):
        seen = play(env, task, walkthrough(env, generated, task))
        assert [observation.won for observation in seen] == [False] * (len(seen) - 1) + [True]
        assert all(observation.valid for observation in seen)
        kinds.add(env.labels(task).kind)
    assert kinds == set(index.KINDS)


def test_the_first_observation_is_the_room_and_the_task(shared: AlfworldEnv) -> None:
    env = shared
    for task in env.tasks("dev"):
        (first,) = play(env, task, [])
        assert first.text.startswith("You are in the middle of a room. Looking quickly around you, you see a ")
        assert "Welcome" not in first.text
        assert "task" not in first.text
        assert re.fullmatch(r"\S.*\S\.", first.goal)
        assert env.labels(task).object.lower() in first.goal
        assert first.admissible is None


def test_nonsense_is_answered_and_counted_invalid(shared: AlfworldEnv) -> None:
    env = shared
    task = env.tasks("dev")[0]
    episode = env.open(task)
    calls = [ToolCall.act("fly away"), ToolCall.act(""), ToolCall("sing", "{}"), ToolCall("act", "[1]"), ToolCall("act", "{")]
    for call in calls:
        assert episode.step(call) == Observation("Nothing happens.", valid=False)
    assert episode.step(ToolCall.act(" look ")).valid


def test_done_is_not_won_and_comes_only_with_it(shared: AlfworldEnv) -> None:
    env = shared
    task = env.tasks("dev")[0]
    seen = play(env, task, ["look", "inventory", "help"] * 40)
    assert not any(observation.done or observation.won for observation in seen)


def test_an_episode_is_played_once(shared: AlfworldEnv, generated: Path) -> None:
    env = shared
    task = env.tasks("dev")[0]
    episode = env.open(task)
    episode.observe()
    with pytest.raises(RuntimeError, match="once"):
        episode.observe()
    for command in walkthrough(env, generated, task):
        last = episode.step(ToolCall.act(command))
    assert last.won
    with pytest.raises(RuntimeError, match="done"):
        episode.step(ToolCall.act("look"))
    episode.close()
    episode.close()
    for again in (episode.observe, lambda: episode.step(ToolCall.act("look"))):
        with pytest.raises(RuntimeError, match="closed"):
            again()
    late = env.open(task)
    late.step(ToolCall.act("look"))
    with pytest.raises(RuntimeError, match="once"):
        late.observe()


def test_admissible_commands_are_told_only_when_asked_for(generated: Path) -> None:
    env = env_of(generated, admissible=True)
    task = env.tasks("dev")[0]
    first, second = play(env, task, ["look"])
    assert first.admissible is not None
    assert "look" in first.admissible
    assert list(first.admissible) == sorted(set(first.admissible))
    assert second.admissible
    assert env.provenance()["admissible"] == "true"


def test_ids_are_sorted_unique_and_the_same_each_time(generated: Path) -> None:
    tasks = env_of(generated).tasks("dev")
    ids = [task.id for task in tasks]
    assert ids == sorted(set(ids))
    assert len(ids) == 6
    assert tasks == env_of(generated).tasks("dev")
    assert tasks == env_of(generated / "json_2.1.1").tasks("dev")
    assert ids == [str(game.parent.relative_to(generated / "json_2.1.1")) for game in games_in(generated)]


def test_the_official_counts_hold(official: Path) -> None:
    env = env_of(official, official=True)
    assert len(env.tasks("valid_seen")) == 140
    assert env.provenance()["valid_seen.games"] == "140 (official: 140)"


def test_a_wrong_count_is_an_error_only_where_official_is_asked_for(game: Path, tmp_path: Path) -> None:
    copy_game(game, tmp_path, "valid_unseen", "one")
    with pytest.raises(DataError, match=r"holds 1 playable.*official valid_unseen has 134"):
        env_of(tmp_path, official=True).tasks("valid_unseen")
    env = env_of(tmp_path)
    assert len(env.tasks("valid_unseen")) == 1
    assert env.provenance()["valid_unseen.games"] == "1 (official: 134)"


def test_labels_come_from_the_trajectory_file(game: Path, tmp_path: Path) -> None:
    file = copy_game(game, tmp_path, "dev", "one").with_name("traj_data.json")
    data = json.loads(file.read_text())
    env = env_of(tmp_path)
    (task,) = env.tasks("dev")
    goal = data["pddl_params"]
    target = goal["parent_target"] or goal["toggle_target"]
    assert env.labels(task) == Labels(data["task_type"], str(data["scene"]["scene_num"]), goal["object_target"], target)
    goal["object_target"] = "Spoon"
    file.write_text(json.dumps(data))
    assert env.labels(task).object == "Spoon"


def make_old(data: dict[str, Any]) -> None:
    """The words of releases before 0.4.0, as alfworld's own converter knows them."""
    for new, old in {
        '"move {o} to {r}"': '"put {o} in/on {r}"',
        "You move the {o.name} to the {r.name}.": "You put the {o.name} in/on the {r.name}.",
        "You arrive at {r.name}.": "You arrive at {lend.name}.",
    }.items():
        assert new in data["grammar"]
        data["grammar"] = data["grammar"].replace(new, old)


def test_old_games_are_refused_without_the_switch_and_played_in_present_words_with_it(generated: Path, tmp_path: Path) -> None:
    source = next(game for game in games_in(generated) if kind_of(game) == "pick_and_place_simple")
    file = copy_game(source, tmp_path, "dev", "old", make_old)
    copy_game(source, tmp_path, "valid_seen", "new")
    with pytest.raises(DataError, match="legacy_verbs = true") as caught:
        env_of(tmp_path).tasks("dev")
    assert str(file) in str(caught.value)
    env = env_of(tmp_path, legacy_verbs=True, admissible=True)
    (task,), (new,) = env.tasks("dev"), env.tasks("valid_seen")
    plan = walkthrough(env, tmp_path, task)
    move = next(command for command in plan if command.startswith("move "))
    assert play(env, task, plan) == play(env, new, plan)
    put = move.replace("move ", "put ").replace(" to ", " in/on ")
    assert not play(env, task, [*plan[: plan.index(move)], put])[-1].valid
    assert env.provenance()["legacy_verbs"] == "true"
    assert env.provenance()["dev.old_grammar"] == "1"
    assert env.provenance()["valid_seen.old_grammar"] == "0"


def test_what_the_stock_environment_skips_is_skipped_and_counted(game: Path, tmp_path: Path) -> None:
    copy_game(game, tmp_path, "dev", "good")
    copy_game(game, tmp_path, "dev", "pick_and_place_with_movable_recep-Mug")
    copy_game(game, tmp_path, "dev", "pick-AppleSliced-None")
    copy_game(game, tmp_path, "dev", "unsolvable", lambda data: data.update(solvable=False))
    copy_game(game, tmp_path, "dev", "unknown", lambda data: data.pop("solvable"))
    copy_game(game, tmp_path, "dev", "lost").unlink()
    copy_game(game, tmp_path, "dev", "bare").with_name("traj_data.json").unlink()
    odd = copy_game(game, tmp_path, "dev", "odd").with_name("traj_data.json")
    odd.write_text(odd.read_text().replace(kind_of(game), "juggle"))
    for _ in range(2):  # the second time from the index
        env = env_of(tmp_path)
        assert [task.id for task in env.tasks("dev")] == ["dev/good/trial"]
        assert env.skipped["dev"] == {
            "movable receptacle or sliced object": 2,
            "no game.tw-pddl": 1,
            "no solvable key": 1,
            "no traj_data.json": 1,
            "unknown task type": 1,
            "unsolvable": 1,
        }


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("game.tw-pddl", "{", "is not JSON"),
        ("game.tw-pddl", "[]", "is not a JSON object"),
        ("game.tw-pddl", '{"solvable": true}', "pddl_domain"),
        ("traj_data.json", "", "is not JSON"),
        ("traj_data.json", '{"task_type": "pick_and_place_simple"}', "pddl_params"),
        ("traj_data.json", '{"task_type": "a", "pddl_params": 3, "scene": {}}', "wrong form"),
    ],
)
def test_a_broken_file_is_named(game: Path, tmp_path: Path, name: str, text: str, said: str) -> None:
    file = copy_game(game, tmp_path, "dev", "one").with_name(name)
    file.write_text(text)
    with pytest.raises(DataError, match=said) as caught:
        env_of(tmp_path).tasks("dev")
    assert str(file) in str(caught.value)


def test_a_game_that_cannot_be_won_is_named_when_it_is_opened(game: Path, tmp_path: Path) -> None:
    def spoil(data: dict[str, Any]) -> None:
        data["pddl_problem"] = re.sub(r"\(atLocation agent1 [^)]*\)", "", data["pddl_problem"])

    file = copy_game(game, tmp_path, "dev", "one", spoil)
    env = env_of(tmp_path)
    with pytest.raises(DataError, match="cannot be won") as caught:
        env.open(env.tasks("dev")[0])
    assert str(file) in str(caught.value)


def test_without_a_data_root_the_error_says_where_games_come_from(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"alfworld-download.*duomem games"):
        build(Config())
    with pytest.raises(UsageError, match="is not a folder"):
        env_of(tmp_path / "nowhere")
    (tmp_path / "json_2.1.1" / "dev").mkdir(parents=True)
    with pytest.raises(DataError, match="holds 0 playable games"):
        env_of(tmp_path).tasks("dev")


def test_the_data_root_may_come_from_the_environment(generated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALFWORLD_DATA", str(generated))
    assert len(build(Config()).tasks("dev")) == 6


@pytest.mark.parametrize("library", ["alfworld", "textworld", "fast_downward"])
def test_a_missing_library_names_the_extra(generated: Path, monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtra, match=r"duomem\[alfworld\]") as caught:
        env_of(generated)
    assert library in str(caught.value)


def test_unknown_names_are_refused_with_what_there_is(generated: Path) -> None:
    env = env_of(generated)
    with pytest.raises(UsageError, match="There are: dev"):
        env.tasks("train")
    with pytest.raises(UsageError, match="no task 'dev/x'"):
        env.open(Task("dev/x", "dev", "alfworld"))
    with pytest.raises(ValidationError, match="step_cap"):
        Config(step_cap=3)  # type: ignore[call-arg]


def test_a_further_split_is_a_line_of_the_config(generated: Path, game: Path, tmp_path: Path) -> None:
    copy_game(game, tmp_path, "mine", "one")
    env = env_of(generated, splits={"mine": str(tmp_path / "json_2.1.1" / "mine"), "gone": "nowhere"})
    assert [task.id for task in env.tasks("mine")] == ["mine/one/trial"]
    assert env.splits == ["dev", "gone", "mine"]
    with pytest.raises(UsageError, match="is not there"):
        env.tasks("gone")


def test_dev_rooms_can_be_taken_out_of_train(generated: Path, tmp_path: Path) -> None:
    for number, game in enumerate(games_in(generated)[:2]):
        file = copy_game(game, tmp_path, "train", f"game{number}").with_name("traj_data.json")
        data = json.loads(file.read_text())
        data["scene"]["scene_num"] = (5, 6)[number]
        file.write_text(json.dumps(data))
    env = env_of(tmp_path, dev_from_train=True)
    assert [task.id for task in env.tasks("train")] == ["train/game1/trial"]
    assert [task.id for task in env.tasks("dev")] == ["dev/game0/trial"]
    assert play(env, env.tasks("dev")[0], ["look"])[-1].valid
    assert len(env_of(tmp_path).tasks("train")) == 2


def let_times_settle(root: Path) -> None:
    """The index trusts no time of change of the last moments; tests make files and open them at once."""
    past = time.time() - 60
    for path in (root, *root.rglob("*")):
        os.utime(path, (past, past))


def test_a_second_opening_reads_no_game(generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(generated, tmp_path / "root")
    let_times_settle(tmp_path / "root")
    first = env_of(tmp_path / "root").tasks("dev")
    monkeypatch.setattr(index, "_read_json", lambda path: pytest.fail(f"{path} was read again"))
    env = env_of(tmp_path / "root")
    assert env.tasks("dev") == first
    assert {env.labels(task).kind for task in first} == set(index.KINDS)


def test_a_new_game_and_a_lost_one_are_noticed_and_only_they_are_read(
    game: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        copy_game(game, tmp_path, "dev", name)
    let_times_settle(tmp_path)
    assert len(env_of(tmp_path).tasks("dev")) == 2
    copy_game(game, tmp_path, "dev", "c")
    shutil.rmtree(tmp_path / "json_2.1.1" / "dev" / "a")
    read = []
    real = index._read_json
    monkeypatch.setattr(index, "_read_json", lambda path: (read.append(path.parent.parent.name), real(path))[1])
    assert [task.id for task in env_of(tmp_path).tasks("dev")] == ["dev/b/trial", "dev/c/trial"]
    assert set(read) == {"c"}


@pytest.mark.parametrize("lost", ["game.tw-pddl", "traj_data.json"])
def test_a_file_deleted_beside_its_folder_is_noticed(game: Path, tmp_path: Path, lost: str) -> None:
    for name in ("a", "b"):
        copy_game(game, tmp_path, "dev", name)
    let_times_settle(tmp_path)
    assert len(env_of(tmp_path).tasks("dev")) == 2
    copied = tmp_path / "json_2.1.1" / "dev" / "a" / "trial"
    (copied / lost).unlink()
    env = env_of(tmp_path)
    assert [task.id for task in env.tasks("dev")] == ["dev/b/trial"]
    assert env.skipped["dev"] == {f"no {lost}": 1}


def test_in_a_large_split_a_deleted_game_is_noticed_before_one_is_opened(
    game: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "FEW", 1)
    for name in ("a", "b"):
        copy_game(game, tmp_path, "dev", name)
    let_times_settle(tmp_path)
    before = env_of(tmp_path).tasks("dev")
    (tmp_path / "json_2.1.1" / "dev" / "a" / "trial" / "game.tw-pddl").unlink()
    env = env_of(tmp_path)
    with pytest.raises(UsageError, match="no task 'dev/a/trial'"):
        env.open(before[0])
    assert [task.id for task in env.tasks("dev")] == ["dev/b/trial"]


def test_a_game_edited_in_place_is_never_played_or_recorded_under_its_old_hash(game: Path, tmp_path: Path) -> None:
    file = copy_game(game, tmp_path, "dev", "a")
    let_times_settle(tmp_path)
    old = env_of(tmp_path)
    (task,) = old.tasks("dev")
    said = old.provenance()["dev.data_hash"]
    file.write_text(file.read_text() + " ")
    with pytest.raises(DataError, match="has changed"):
        old.open(task)
    new = env_of(tmp_path)
    new.tasks("dev")
    assert new.provenance()["dev.data_hash"] != said
    assert new.tasks("dev")[0].data_hash != task.data_hash
    with pytest.raises(DataError, match="has changed"):
        new.open(task)
    assert play(new, new.tasks("dev")[0], ["look"])[-1].valid


@pytest.mark.parametrize("text", [b"", b"{}\n", b"[1]\n\x00", b'{"version": 1}\nrows', b"\xff\xfe"])
def test_a_damaged_index_is_made_again(generated: Path, own_cache: Path, text: bytes) -> None:
    tasks = env_of(generated).tasks("dev")
    (file,) = own_cache.rglob("*.json")
    whole = file.read_bytes()
    for damage in (text, whole[:-9], whole.replace(b'"version": %d' % index.VERSION, b'"version": 0')):
        file.write_bytes(damage)
        assert env_of(generated).tasks("dev") == tasks
        assert env_of(generated).labels(tasks[0])


def test_without_a_cache_everything_works(generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DUOMEM_CACHE", str(tmp_path / "file" / "cache"))
    assert len(env_of(generated).tasks("dev")) == 6


def test_provenance_pins_the_data_and_names_no_path(generated: Path, game: Path, tmp_path: Path) -> None:
    env = env_of(generated)
    env.tasks("dev")
    said = env.provenance()
    assert said["alfworld"] == "0.4.2"
    assert said["textworld"] == "1.7.0"
    assert not any(str(generated) in value for value in said.values())
    again = env_of(generated)
    again.tasks("dev")
    assert again.provenance() == said
    copy_game(game, tmp_path, "dev", "one")
    other = env_of(tmp_path)
    other.tasks("dev")
    assert other.provenance()["data_hash"] != said["data_hash"]


def transcript(env: AlfworldEnv, task: Task, commands: list[str]) -> list[tuple[str, bool]]:
    return [(observation.text, observation.won) for observation in play(env, task, commands)]


def test_many_threads_play_at_once(shared: AlfworldEnv, generated: Path) -> None:
    env = shared
    jobs = [(task, walkthrough(env, generated, task)) for task in env.tasks("dev")[:3]] * 8
    alone = [transcript(env, *job) for job in jobs[:3]] * 8
    fresh = env_of(generated)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda job: transcript(fresh, *job), jobs)) == alone
    assert all(lines[-1][1] for lines in alone)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_play(generated: Path, method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} on this system")
    env = env_of(generated)
    task = env.tasks("dev")[0]
    plan = walkthrough(env, generated, task)
    here = transcript(env, task, plan)
    held = env.open(task)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        assert pool.submit(transcript, env, task, plan).result(timeout=120) == here
    assert held.observe().text == here[0][0]


def test_an_environment_pickles_as_its_config(generated: Path) -> None:
    env = env_of(generated, admissible=True)
    twin = pickle.loads(pickle.dumps(env))  # noqa: S301 - our own bytes
    assert twin.config == env.config
    assert twin.tasks("dev") == env.tasks("dev")
