"""What strangers hand in is proved by replay before it is learned from: claims, texts and detours get nowhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from duomem import pipeline
from duomem.envs import household
from duomem.envs.household import Household, solve
from duomem.intake import Limits, Submission, prove, vet
from duomem.logs._episode import Options
from duomem.logs._export import export_logs
from duomem.logs._import import import_logs
from duomem.memory.procedure import Config, build
from duomem.prompts import load_layout, opening
from duomem.rundir import open_run
from duomem.talk import Talk
from duomem.types import Memory, Message, Provenance, Reply, StopReason, Task, ToolCall, Trajectory, Turn

ENV: Household = household.build(household.Config(games=12))
TASKS = list(ENV.tasks("train"))
POCKET = load_layout("pocket")


def told(task: Task, commands: Sequence[str], claim: StopReason = StopReason.WON) -> Trajectory:
    """What a stranger says happened; the observations are inventions."""
    turns = tuple(Turn(Reply(Message.of("assistant", "")), ToolCall.act(command), "All went well.") for command in commands)
    return Trajectory(task, 7, "an invented goal", "an invented scene", (), turns, claim)


def plan(task: Task) -> list[str]:
    return list(solve(ENV.house(task)))


def commands(found: Trajectory) -> list[str]:
    return [turn.call.command for turn in found.turns if turn.call]


@pytest.fixture
def task() -> Task:
    """One that wants a plain thing put somewhere."""
    return next(each for each in TASKS if ENV.labels(each).kind == "simple")


def test_a_real_success_is_proved_in_the_environments_own_words(task: Task) -> None:
    found = prove(ENV, task, told(task, plan(task), StopReason.LOST), POCKET)  # whatever it claims
    assert found
    assert found.won
    assert found.goal != "an invented goal"
    assert "All went well." not in [turn.observation for turn in found.turns]


def test_a_claim_is_no_success(task: Task) -> None:
    thing = ENV.labels(task).object
    assert prove(ENV, task, told(task, ["look", f"move {thing} 1 to garbagecan 1"]), POCKET) is None
    assert prove(ENV, task, told(task, []), POCKET) is None
    assert prove(ENV, task, told(task, plan(task)[:-1]), POCKET) is None
    assert prove(ENV, task, told(task, ["look"] * 100 + plan(task)), POCKET) is None  # longer than is replayed


def elsewhere(task: Task) -> bool:
    labels = ENV.labels(task)
    return labels.kind in ("simple", "clean", "cool", "hot") and labels.target != "garbagecan"


@pytest.mark.parametrize("task", [each for each in TASKS if elsewhere(each)][:4])
def test_steps_that_winning_did_not_need_are_dropped(task: Task) -> None:
    """A won episode that puts the thing into the garbage can on its way: nothing of that is learned."""
    straight = plan(task)
    at = next(place for place, command in enumerate(straight) if command.startswith("take "))
    thing = " ".join(straight[at].split()[1:3])
    back = next(command for command in reversed(straight[:at]) if command.startswith("go to "))
    detour = ["go to garbagecan 1", f"move {thing} to garbagecan 1", f"take {thing} from garbagecan 1", back]
    crooked = [*straight[: at + 1], *detour, *straight[at + 1 :]]
    found = prove(ENV, task, told(task, crooked), POCKET)
    assert found
    assert found.won
    assert not [command for command in commands(found) if "move" in command and "garbagecan" in command]
    (edit,) = build(Config()).write(found, None, None)  # type: ignore[arg-type]
    assert edit.memory
    assert "garbagecan" not in edit.memory.text.split("\n")[-1]


def test_an_honest_episode_loses_nothing(task: Task) -> None:
    found = prove(ENV, task, told(task, plan(task)), POCKET)
    assert found
    assert commands(found) == plan(task)


def test_a_text_is_never_taken(task: Task) -> None:
    memory = Memory("put a mug", "1. mug: move to garbagecan", "script", Provenance(task.id, 0, "0", "me", "me"))
    taken = vet([Submission("stranger", memory=memory)], ENV, TASKS, POCKET)
    assert taken.proved == ()
    assert "without an episode" in taken.refused[0].reason


def test_only_training_tasks_are_opened(task: Task) -> None:
    other = ENV.tasks("valid_unseen")[0]
    taken = vet([Submission("stranger", told(other, plan(other)))], ENV, TASKS, POCKET)
    assert taken.proved == ()
    assert "training tasks" in taken.refused[0].reason


def test_no_source_and_no_goal_gets_more_than_its_share() -> None:
    good = [told(each, plan(each)) for each in TASKS]
    mine = [Submission("one", each) for each in good]
    taken = vet(mine, ENV, TASKS, POCKET, Limits(per_source=3, per_goal=9))
    assert (len(taken.proved), {each.reason for each in taken.refused}) == (3, {"its source has reached its limit"})
    same = [Submission(f"account{number}", good[0]) for number in range(6)]
    taken = vet(same, ENV, TASKS, POCKET, Limits(per_source=3, per_goal=2))
    assert (len(taken.proved), len(taken.refused)) == (2, 4)
    assert "of its goal already" in taken.refused[0].reason


def test_what_is_taken_says_who_sent_it(task: Task) -> None:
    honest = replace(told(task, plan(task)), origin=replace(told(task, []).origin, model="the owner's teacher"))
    (found,) = vet([Submission("account7", honest)], ENV, TASKS, POCKET).proved
    assert found.origin.model == "submitted by account7"
    assert found.origin.layout == POCKET.hash
    assert found.prompt == opening(POCKET, found.goal, found.scene, ())
    assert found.turns[0].reply.message.text.strip() == f"> {plan(task)[0]}"  # the sender's own words are gone


def test_a_log_is_proved_when_it_is_imported(tmp_path: Path) -> None:
    """One episode of the log claims a success that never was: it is not learned from."""
    sets = ["teacher.tasks=3", "env.games=6", "teacher.slip=0.0"]
    config = Path(__file__).resolve().parents[1] / "configs/household.toml"
    source = open_run(tmp_path / "source", config, sets)
    pipeline.collect(source)
    export_logs(source, tmp_path / "log.jsonl", "openai", "all")
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    for message in records[0]["messages"]:
        if message["role"] == "assistant":
            message["content"] = "> look"
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    notes: list[str] = []
    options = Options(licence="MIT")
    target = open_run(tmp_path / "target", config, sets)
    done = import_logs(target, [tmp_path / "log.jsonl"], options, talk=Talk(note=notes.append), prove=True)
    assert (done.data["episodes"], done.data["won"]) == (2, 2)
    assert any("Not proved, 1 episodes" in note for note in notes)
    trusting = open_run(tmp_path / "trusting", config, sets)
    assert import_logs(trusting, [tmp_path / "log.jsonl"], options).data["won"] == 3
