"""What strangers hand in is proved by replay before it is learned from: claims, texts and detours get nowhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from duomem.envs import household
from duomem.envs.household import Household, solve
from duomem.intake import Limits, Submission, prove, vet
from duomem.memory.procedure import Config, build
from duomem.types import Memory, Message, Provenance, Reply, StopReason, Task, ToolCall, Trajectory, Turn

ENV: Household = household.build(household.Config(games=12))
TASKS = list(ENV.tasks("train"))


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
    found = prove(ENV, task, told(task, plan(task), StopReason.LOST))  # whatever it claims
    assert found
    assert found.won
    assert found.goal != "an invented goal"
    assert "All went well." not in [turn.observation for turn in found.turns]


def test_a_claim_is_no_success(task: Task) -> None:
    thing = ENV.labels(task).object
    assert prove(ENV, task, told(task, ["look", f"move {thing} 1 to garbagecan 1"])) is None
    assert prove(ENV, task, told(task, [])) is None
    assert prove(ENV, task, told(task, plan(task)[:-1])) is None
    assert prove(ENV, task, told(task, ["look"] * 100 + plan(task))) is None  # longer than is replayed


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
    found = prove(ENV, task, told(task, crooked))
    assert found
    assert found.won
    assert not [command for command in commands(found) if "move" in command and "garbagecan" in command]
    (edit,) = build(Config()).write(found, None, None)  # type: ignore[arg-type]
    assert edit.memory
    assert "garbagecan" not in edit.memory.text.split("\n")[-1]


def test_an_honest_episode_loses_nothing(task: Task) -> None:
    found = prove(ENV, task, told(task, plan(task)))
    assert found
    assert commands(found) == plan(task)


def test_a_text_is_never_taken(task: Task) -> None:
    memory = Memory("put a mug", "1. mug: move to garbagecan", "script", Provenance(task.id, 0, "0", "me", "me"))
    taken = vet([Submission("stranger", memory=memory)], ENV, TASKS)
    assert taken.proved == ()
    assert "without an episode" in taken.refused[0].reason


def test_only_training_tasks_are_opened(task: Task) -> None:
    other = ENV.tasks("valid_unseen")[0]
    taken = vet([Submission("stranger", told(other, plan(other)))], ENV, TASKS)
    assert taken.proved == ()
    assert "training tasks" in taken.refused[0].reason


def test_no_source_and_no_goal_gets_more_than_its_share() -> None:
    good = [told(each, plan(each)) for each in TASKS]
    mine = [Submission("one", each) for each in good]
    taken = vet(mine, ENV, TASKS, Limits(per_source=3, per_goal=9))
    assert (len(taken.proved), {each.reason for each in taken.refused}) == (3, {"its source has reached its limit"})
    same = [Submission(f"account{number}", good[0]) for number in range(6)]
    taken = vet(same, ENV, TASKS, Limits(per_source=3, per_goal=2))
    assert (len(taken.proved), len(taken.refused)) == (2, 4)
    assert "of its goal already" in taken.refused[0].reason


def test_what_is_taken_says_who_sent_it(task: Task) -> None:
    honest = replace(told(task, plan(task)), origin=replace(told(task, []).origin, model="the owner's teacher"))
    (found,) = vet([Submission("account7", honest)], ENV, TASKS).proved
    assert found.origin.model == "submitted by account7"
