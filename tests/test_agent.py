"""One episode: what the model sees, what is acted on, why it stops, how it goes on after a cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from corridor import Corridor, walker
from duomem import prompts
from duomem._episode import episode_seed
from duomem.agent import Player
from duomem.errors import DataError, InfraError, LeakError
from duomem.journal import Journal
from duomem.models import ContextFull
from duomem.models.scripted import Config, Scripted, build
from duomem.prompts import load_layout
from duomem.types import (
    Budget,
    EpisodeView,
    Hit,
    Memory,
    Message,
    Provenance,
    Recall,
    Reply,
    Sampling,
    StopReason,
    Task,
    ToolCall,
    Usage,
)

LAYOUT = load_layout("default")
TASK = Task("train/003", "train", "corridor", "hash3")  # a corridor of 4 steps: 4 times walk, then take prize


def player(env: Corridor | None = None, script: Any = walker, **fields: Any) -> Player:
    model = script if isinstance(script, Scripted) else Scripted(script)
    return Player(env or Corridor(), model, LAYOUT, **fields)


def saying(*replies: str) -> Scripted:
    return build(Config(replies=list(replies)))


class Gate:
    """Halts after some calls of the model."""

    def __init__(self, calls: int, reason: StopReason) -> None:
        self.calls, self.reason, self.usage = calls, reason, Usage()

    def halt(self) -> StopReason | None:
        self.calls -= 1
        return self.reason if self.calls < 0 else None

    def paid(self, usage: Usage) -> None:
        self.usage += usage


# What the model sees


def test_a_scripted_oracle_wins_through_the_same_prompt_parser_and_loop() -> None:
    env = Corridor()
    for task in env.tasks("train"):
        walk = env.open(task)
        trajectory = player(env).play(task)
        assert trajectory.won is not walk.dark
        if trajectory.won:
            assert [turn.call and turn.call.command for turn in trajectory.turns] == ["walk"] * walk.length + ["take prize"]


def test_each_prompt_is_a_prefix_of_the_next_and_the_trajectory_renders_to_the_last() -> None:
    seen: list[list[Message]] = []

    def script(messages: Sequence[Message]) -> str:
        seen.append(list(messages))
        return walker(messages)

    trajectory = player(script=script).play(TASK)
    for before, after in pairwise(seen):
        assert after[: len(before)] == before
        assert len(after) == len(before) + 2
    assert tuple(seen[0]) == trajectory.prompt
    assert prompts.conversation(LAYOUT, trajectory) == (*seen[-1], trajectory.turns[-1].reply.message)


def test_no_task_id_or_split_reaches_a_prompt() -> None:
    trajectory = player().play(TASK)
    text = "\n".join(message.text for message in prompts.conversation(LAYOUT, trajectory))
    assert "003" not in text
    assert "train" not in text


def test_sampling_seeds_depend_on_run_task_and_attempt_alone() -> None:
    seeds: list[int] = []

    class Model(Scripted):
        def reply(self, messages: Any, tools: Any, sampling: Sampling) -> Reply:
            seeds.append(sampling.seed)
            return super().reply(messages, tools, sampling)

    def first(seed: int, task: str, attempt: int) -> int:
        seeds.clear()
        player(script=Model(walker), sampling=Sampling(seed=seed)).play(Task(task, "train", "corridor"), attempt)
        assert len(set(seeds)) == 1
        return seeds[0]

    assert first(1, "train/000", 0) == first(1, "train/000", 0) == episode_seed(1, "train/000", 0)
    others = {first(1, "train/001", 0), first(2, "train/000", 0), first(1, "train/000", 1), first(1, "train/000", 0)}
    assert len(others) == 4
    assert all(0 <= seed < 2**31 for seed in others)


def test_the_trajectory_says_where_it_came_from() -> None:
    origin = player(sampling=Sampling(seed=7)).play(TASK).origin
    assert (origin.model, origin.layout, origin.seed) == ("scripted", LAYOUT.hash, 7)
    assert '"env": "corridor"' in origin.env


# What is acted on


def test_a_reply_without_a_command_is_an_invalid_turn_that_the_environment_never_sees() -> None:
    stepped: list[str] = []
    env = Corridor(on_step=lambda task, step, command: stepped.append(command))
    trajectory = player(env, saying("I would rather think.", "Action: walk", "hm"), max_steps=3).play(TASK)
    assert stepped == ["walk"]
    assert trajectory.stop is StopReason.STEP_CAP
    assert [(turn.call is None, turn.valid, turn.observation) for turn in trajectory.turns] == [
        (True, False, "Nothing happens."),
        (False, True, "You are at step 1 of 4."),
        (True, False, "Nothing happens."),
    ]


@pytest.mark.parametrize(
    "reply",
    [
        Reply(Message.of("assistant", "Action: walk"), finish="length"),
        Reply(Message("assistant", tool_calls=(ToolCall("act", "{not json"),)), finish="tool_calls"),
        Reply(Message("assistant", tool_calls=(ToolCall("act", '["walk"]'),)), finish="tool_calls"),
    ],
)
def test_truncated_replies_and_malformed_calls_are_not_acted_on(reply: Reply) -> None:
    stepped: list[str] = []
    env = Corridor(on_step=lambda task, step, command: stepped.append(command))
    trajectory = player(env, lambda messages: reply, max_steps=2).play(TASK)
    assert stepped == []
    assert [turn.call for turn in trajectory.turns] == [None, None]


def test_a_real_tool_call_is_acted_on() -> None:
    reply = Reply(Message("assistant", tool_calls=(ToolCall.act("walk", "call-1"),)), finish="tool_calls")
    trajectory = player(script=lambda messages: reply, max_steps=1).play(TASK)
    assert trajectory.turns[0].observation == "You are at step 1 of 4."


@pytest.mark.parametrize(("repair", "observation"), [(False, "Nothing happens."), (True, "You are at step 1 of 4.")])
def test_repair_is_off_unless_asked_for_and_is_counted(repair: bool, observation: str) -> None:
    trajectory = player(script=saying("Action: Walk.", "Action: walk"), repair=repair, max_steps=2).play(TASK)
    assert trajectory.turns[0].observation == observation
    assert [turn.repaired for turn in trajectory.turns] == [repair, False]
    assert trajectory.turns[0].reply.message.text == "Action: Walk."


def test_a_reply_is_journalled_before_it_is_acted_on(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    kept: list[tuple[int, str, bool]] = []

    def on_step(task: Task, step: int, command: str) -> None:
        with Journal.open(path, readonly=True) as other:
            turns = other.recorded(1)
            assert turns[-1].call is not None
            kept.append((len(turns), turns[-1].call.command, turns[-1].observation is None))

    with Journal.open(path) as journal:
        player(Corridor(on_step=on_step)).play(TASK, 0, journal, "collect")
    assert kept == [(number, "walk", True) for number in range(1, 5)] + [(5, "take prize", True)]


# Why it stops


def failing(error: BaseException) -> Callable[[Sequence[Message]], str]:
    def script(messages: Sequence[Message]) -> str:
        if len(messages) > 4:
            raise error
        return walker(messages)

    return script


@pytest.mark.parametrize(
    ("fields", "stop", "turns"),
    [
        ({}, StopReason.WON, 5),
        ({"script": saying("Action: jump out")}, StopReason.LOST, 1),
        ({"max_steps": 3}, StopReason.STEP_CAP, 3),
        ({"script": failing(ContextFull("4,100 of 4,096 tokens"))}, StopReason.CONTEXT, 2),
        ({"timeout_s": -1.0}, StopReason.TIMEOUT, 0),
        ({"script": failing(InfraError("503 from the endpoint"))}, StopReason.ERROR, 2),
    ],
)
def test_stop_reasons(tmp_path: Path, fields: dict[str, Any], stop: StopReason, turns: int) -> None:
    env = Corridor()
    with Journal.open(tmp_path / "j.sqlite") as journal:
        trajectory = player(env, **fields).play(TASK, 0, journal, "collect")
        assert (trajectory.stop, len(trajectory.turns)) == (stop, turns)
        assert list(journal.trajectories("collect", errors=True)) == [trajectory]
    assert env.opened == env.closed == 1


@pytest.mark.parametrize("reason", [StopReason.INTERRUPTED, StopReason.BUDGET])
def test_a_gate_halts_before_the_next_call_of_the_model(reason: StopReason) -> None:
    gate = Gate(2, reason)
    trajectory = player().play(TASK, gate=gate)
    assert (trajectory.stop, len(trajectory.turns)) == (reason, 2)
    assert gate.usage == trajectory.usage != Usage()


def test_error_text_stands_apart_from_what_was_said() -> None:
    trajectory = player(script=failing(InfraError("503 from the endpoint"))).play(TASK)
    assert trajectory.error == "InfraError: 503 from the endpoint"
    assert "503" not in "".join(message.text for message in prompts.conversation(LAYOUT, trajectory))


def test_a_broken_game_is_an_error_of_its_episode(tmp_path: Path) -> None:
    def broken(task: Task) -> None:
        raise DataError("games/train/003/game.tw-pddl is cut off. Write it again.")

    with Journal.open(tmp_path / "j.sqlite") as journal:
        trajectory = player(Corridor(on_open=broken)).play(TASK, 0, journal, "collect")
        assert trajectory.stop is StopReason.ERROR
        assert "game.tw-pddl is cut off" in trajectory.error
        assert journal.finished("collect") == set()
        again = player().play(TASK, 0, journal, "collect")
        assert list(journal.trajectories("collect", errors=True)) == [again]


def test_a_programming_error_is_journalled_and_raised(tmp_path: Path) -> None:
    env = Corridor()
    with Journal.open(tmp_path / "j.sqlite") as journal:
        with pytest.raises(KeyError, match="typo"):
            player(env, failing(KeyError("typo"))).play(TASK, 0, journal, "collect")
        (failure,) = journal.failures("collect")
        assert (failure.stop, failure.turns, failure.error) == (StopReason.ERROR, 2, "KeyError: 'typo'")
    assert env.closed == 1


def test_control_c_leaves_the_episode_resumable(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j.sqlite") as journal:
        with pytest.raises(KeyboardInterrupt):
            player(script=failing(KeyboardInterrupt())).play(TASK, 0, journal, "collect")
        assert [failure.stop for failure in journal.failures("collect")] == [StopReason.INTERRUPTED]
        assert player().play(TASK, 0, journal, "collect").content_hash == player().play(TASK).content_hash


# How it goes on after a cut


@pytest.mark.parametrize("cut", range(5))
@pytest.mark.parametrize("where", ["model", "env"])
def test_a_cut_episode_pays_for_nothing_twice_and_ends_as_if_uncut(tmp_path: Path, cut: int, where: str) -> None:
    calls: list[int] = []

    def script(messages: Sequence[Message]) -> str:
        calls.append(len(messages))
        return walker(messages)

    def on_step(task: Task, step: int, command: str) -> None:
        if where == "env" and step == cut:
            raise InfraError("the engine died")

    clean = player().play(TASK)
    with Journal.open(tmp_path / "j.sqlite") as journal:
        first = Scripted(script, raise_at=[cut] if where == "model" else [])
        assert player(Corridor(on_step=on_step), first).play(TASK, 0, journal, "collect").stop is StopReason.ERROR
        resumed = player(script=script).play(TASK, 0, journal, "collect")
        assert len(calls) == len(set(calls)) == 5
        assert resumed.content_hash == clean.content_hash == next(journal.trajectories("collect")).content_hash
        assert journal._db.execute("SELECT count(*) FROM episodes").fetchone()[0] == 1


@pytest.mark.parametrize("drift", ["", " It is cold."])
def test_an_episode_that_answers_otherwise_on_resume_starts_again(tmp_path: Path, drift: str) -> None:
    """The world differs only behind the first observation, so the divergence shows in the replay."""

    class Drifting(Corridor):
        def open(self, task: Task) -> Any:
            walk = super().open(task)
            first = walk.observe()
            self.drift = drift
            walk.observe = lambda: first  # type: ignore[method-assign]
            return walk

    with Journal.open(tmp_path / "j.sqlite") as journal:
        player(script=Scripted(walker, raise_at=[3])).play(TASK, 0, journal, "collect")
        env = Drifting()
        trajectory = player(env, max_steps=4).play(TASK, 0, journal, "collect")
        assert trajectory.turns[0].observation == f"You are at step 1 of 4.{drift}"
        assert list(journal.trajectories("collect")) == [trajectory]
        assert journal._db.execute("SELECT count(*) FROM episodes").fetchone()[0] == (2 if drift else 1)
        assert env.opened == env.closed == (2 if drift else 1)


def test_a_change_of_repair_does_not_mix_with_a_cut_episode(tmp_path: Path) -> None:
    model = saying("Action: WALK")
    with Journal.open(tmp_path / "j.sqlite") as journal:
        player(script=model, max_steps=4).play(TASK, 0, journal, "collect", gate=Gate(2, StopReason.BUDGET))
        repaired = player(script=model, max_steps=4, repair=True).play(TASK, 0, journal, "collect")
        assert [turn.repaired for turn in repaired.turns] == [True] * 4
        assert list(journal.trajectories("collect")) == [repaired]


# Memories


def memory(text: str, task: str = "train/900", trajectory: str = "t900") -> Memory:
    return Memory(text, text, "script", Provenance(task, 0, trajectory, "expert", "rules"))


class Bank:
    def search(self, query: str, k: int, *, floor: float = -1.0, allow: Any = None) -> list[Hit]:
        return []

    def get(self, memory: str) -> Memory:
        raise KeyError(memory)

    def memories(self) -> Sequence[Memory]:
        return ()


class Strategy:
    """Shows what it is told to, by turn, and keeps the views it got."""

    def __init__(self, *by_turn: Sequence[Memory]) -> None:
        self.by_turn, self.views = by_turn, list[EpisodeView]()

    def write(self, trajectory: Any, bank: Any, teacher: Any) -> Any:
        return ()

    def recall(self, view: EpisodeView, bank: Any, budget: Budget) -> Recall:
        self.views.append(view)
        number = len(view.turns)
        return Recall(tuple(Hit(found, 1.0) for found in self.by_turn[number])) if number < len(self.by_turn) else Recall()

    def feedback(self, outcome: Any, shown: Any) -> Any:
        return ()


def test_memories_are_shown_once_at_the_start() -> None:
    strategy = Strategy([memory("walk on"), memory("take it")])
    trajectory = player(strategy=strategy, bank=Bank()).play(TASK, exclude=frozenset({"h1"}))
    assert trajectory.shown == (memory("walk on").id, memory("take it").id)
    assert "walk on\ntake it" in trajectory.prompt[0].text
    assert all(turn.recalled == "" for turn in trajectory.turns)
    view = strategy.views[0]
    assert (view.goal, view.turns) == ("take the prize.", ())
    assert (view.exclude, view.exclude_tasks) == (frozenset({"h1"}), frozenset({TASK.id}))


def test_later_recalls_go_to_the_tail_and_into_the_record(tmp_path: Path) -> None:
    one, two = memory("walk on"), memory("take it")
    seen: list[list[Message]] = []

    def script(messages: Sequence[Message]) -> str:
        seen.append(list(messages))
        return "Action: walk"

    strategy = Strategy([one], [one], [one, two])
    with Journal.open(tmp_path / "j.sqlite") as journal:
        arguments: dict[str, Any] = {"strategy": strategy, "bank": Bank(), "max_steps": 4}
        trajectory = player(script=script, **arguments).play(TASK, 0, journal, "collect")
        assert list(journal.trajectories("collect")) == [trajectory]
    assert trajectory.shown == (one.id, two.id)
    assert [turn.recalled != "" for turn in trajectory.turns] == [False, True, False, False]
    assert trajectory.turns[1].observation == "You are at step 2 of 4."
    assert seen[2][-1].text.startswith("You are at step 2 of 4.")
    assert "take it" in seen[2][-1].text
    assert "walk on" not in seen[2][-1].text
    for before, after in pairwise(seen):
        assert after[: len(before)] == before
    assert prompts.conversation(LAYOUT, trajectory)[:-1] == tuple(seen[-1])


def test_an_episode_with_later_recalls_resumes(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"strategy": Strategy([], [memory("one")], [], [memory("two")]), "bank": Bank()}
    clean = player(**arguments).play(TASK)
    with Journal.open(tmp_path / "j.sqlite") as journal:
        player(script=Scripted(walker, raise_at=[3]), **arguments).play(TASK, 0, journal, "collect")
        resumed = player(**arguments).play(TASK, 0, journal, "collect")
        assert (resumed.content_hash, resumed.shown) == (clean.content_hash, clean.shown)
        assert journal._db.execute("SELECT count(*) FROM episodes").fetchone()[0] == 1


@pytest.mark.parametrize(("own", "exclude"), [(memory("x", TASK.id), ()), (memory("x", "train/900", "t1"), ("t1",))])
def test_a_strategy_that_shows_a_task_its_own_memory_is_stopped(own: Memory, exclude: Sequence[str]) -> None:
    asked: list[int] = []
    strategy = Strategy([own])
    model = Scripted(lambda messages: asked.append(1) or "Action: walk")  # type: ignore[func-returns-value]
    played = player(script=model, strategy=strategy, bank=Bank()).run(TASK, exclude=frozenset(exclude))
    assert isinstance(played.failure, LeakError)
    assert played.trajectory.stop is StopReason.ERROR
    assert asked == []


def test_no_memory_is_k_zero() -> None:
    strategy = Strategy([memory("walk on")])
    with_none = player(strategy=strategy, bank=Bank(), budget=Budget(k=0)).play(TASK)
    assert strategy.views == []
    assert with_none.content_hash == player().play(TASK).content_hash


def test_the_format_only_control_shows_the_example_in_the_memories_place() -> None:
    strategy = Strategy([memory("walk on")])
    trajectory = player(strategy=strategy, bank=Bank(), example=True).play(TASK)
    assert trajectory.prompt == prompts.opening(LAYOUT, trajectory.goal, trajectory.scene, [LAYOUT.example])
    assert LAYOUT.example in trajectory.prompt[0].text
    assert trajectory.shown == ()
    assert strategy.views == []


# The scripted model


def test_the_scripted_model_answers_by_the_conversation_alone() -> None:
    model = build(Config(replies=["a", "b"], scripts={"mug": ["m"], "mug on desk": ["d", "e"]}))

    def ask(first: str, answered: int) -> str:
        turn = [Message.of("assistant", "x"), Message.of("user", "y")]
        return model.reply(
            [Message.of("system", "mug"), Message.of("user", first), *turn * answered], (), Sampling()
        ).message.text

    assert [ask("a box", number) for number in (2, 0, 1)] == ["b", "a", "b"]
    assert [ask("put mug on desk.", number) for number in (0, 1)] == ["d", "e"]
    assert ask("find a mug.", 0) == "m"


def test_the_scripted_model_fails_and_fills_up_where_it_is_told_to() -> None:
    model = build(Config(replies=["one two"], raise_at=[1], context=12))
    words = [Message.of("user", "word " * 8)]
    assert model.reply(words, (), Sampling(max_tokens=4)).usage == Usage(prompt=8, completion=2)
    with pytest.raises(InfraError, match="call 1"):
        model.reply(words, (), Sampling(max_tokens=4))
    with pytest.raises(ContextFull, match=r"8 \+ 5 words exceed the context of 12"):
        model.reply(words, (), Sampling(max_tokens=5))
