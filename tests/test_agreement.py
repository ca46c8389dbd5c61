"""Agreement with a log: an oracle agrees, a parrot does not, the split is by time, memories know only what was before."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from duomem import agreement, log_split, pipeline
from duomem.cli import app
from duomem.config import settings_of
from duomem.errors import DataError, UsageError
from duomem.journal import Journal
from duomem.prompts import AS_RECORDED, load_layout
from duomem.rundir import RunFolder
from duomem.types import (
    Message,
    Origin,
    Reply,
    Sampling,
    StopReason,
    Task,
    TextPart,
    Tool,
    ToolCall,
    Trajectory,
    Turn,
    run_hash,
)

TABLES: dict[str, Any] = {
    "env": {"name": "household"},
    "teacher": {"model": "expert", "tasks": 12},
    "student": {"model": "expert"},
    "memory": {"embedder": "lexical", "k": 1},
    "evaluate": {"split": "valid_unseen", "games": 3, "arms": ["none", "memory"]},
}
ASK = Tool("ask", "Asks.")


def run_of(folder: Path, **student: Any) -> RunFolder:
    run = RunFolder(folder, settings_of({**TABLES, "student": student or TABLES["student"]}, "test"))
    run.write_config()
    pipeline.collect(run)
    return run


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run_of(tmp_path_factory.mktemp("oracle") / "run")


def test_the_teacher_itself_agrees_with_every_action(oracle: RunFolder) -> None:
    found = pipeline.agree(oracle).data
    assert {arm: each["same"] for arm, each in found["arms"].items()} == {"none": 1.0, "format_only": 1.0, "memory": 1.0}
    assert found["learned_from"] == 9
    assert found["episodes"] <= 3
    assert found["actions"] > found["episodes"]
    assert found["pairs"]["memory - none"]["estimate"] == 0.0
    assert json.loads((oracle.root / "log" / "agreement.json").read_text())["arms"] == found["arms"]


def test_a_parrot_agrees_now_and_then_and_is_not_asked_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(tmp_path / "run", model="scripted", replies=["hm > look", "I think"])
    first = pipeline.agree(run).data
    assert 0 <= first["arms"]["none"]["same"] < 0.3
    assert first["arms"]["none"]["unreadable"] > 0.5
    monkeypatch.setattr(agreement, "_episode", None)
    assert pipeline.agree(run).data == first
    words = CliRunner().invoke(app, ["evaluate", str(run.root), "--log", "--arms", "none"]).stdout
    assert "same action" in words
    assert "memory" not in words.replace("memories", "")


def test_the_split_is_by_time_and_parts_know_only_the_earlier(oracle: RunFolder) -> None:
    log, later, earlier = log_split.split(oracle, 0.25)
    with Journal.open(oracle.journal, readonly=True) as journal:
        order = [task for task, _ in journal.order(oracle.result("collect")["phase"])]
    assert set(log.result("collect")["tasks"]) == set(order[:earlier])
    assert {each.task.id for each in later} <= set(order[earlier:])
    pipeline.remember(log)
    from duomem import parts

    with parts.Parts() as loaded:
        bank = loaded.bank(log)
        assert bank is not None
        sources = {memory.provenance.task_id for memory in bank.view().memories()}
    assert sources <= set(order[:earlier])


def test_what_cannot_be_asked_says_so(oracle: RunFolder) -> None:
    with pytest.raises(UsageError, match="'decoy' cannot be asked"):
        pipeline.agree(oracle, arms=["decoy"])
    with pytest.raises(UsageError, match="between 0 and 1"):
        pipeline.agree(oracle, share=1.5)
    with pytest.raises(DataError, match="later part"):
        pipeline.agree(oracle, share=0.01)


class Answers:
    """A model with tools that says what it is told, and remembers what it was asked."""

    def __init__(self, replies: Sequence[Message]) -> None:
        self.replies, self.seen = list(replies), []  # type: tuple[list[Message], list[tuple[Any, ...]]]

    def reply(self, messages: Sequence[Message], tools: Sequence[Tool], sampling: Sampling) -> Reply:
        self.seen.append((tuple(messages), tuple(tools)))
        return Reply(self.replies[len(self.seen) - 1])


def called(arguments: str, name: str = "ask") -> Message:
    return Message("assistant", (), (ToolCall(name, arguments, "x"),))


def recorded(messages: Sequence[Message]) -> Trajectory:
    """An agent's own episode: its prompt, two calls and a last word."""
    turns = tuple(
        Turn(
            Reply(message),
            message.tool_calls[0] if message.tool_calls else ToolCall("say", json.dumps({"text": message.text})),
            "ok",
            results=(Message("tool", (TextPart("ok"),), tool_call_id="x"),),
        )
        for message in messages
    )
    prompt = (Message.of("system", "You are mine."), Message.of("user", "Do it."))
    task = Task("t/1", "t", "recorded")
    origin = Origin(layout=AS_RECORDED)
    return Trajectory(task, 0, "Do it.", "", prompt, turns, StopReason.WON, origin=origin, tools=(ASK,))


def test_tool_calls_are_compared_by_meaning_after_the_agents_own_history() -> None:
    log = recorded([called('{"a": 1, "b": [2]}'), called('{"a": 2}'), Message.of("assistant", "Done.")])
    model = Answers([called('{"b": [2], "a": 1}'), called('{"a": 3}')])
    shares = agreement._episode(model, load_layout("default"), Sampling(), lambda _: ["a memory"], log)  # type: ignore[arg-type]
    assert shares == [0.5, 1.0, 0.0], (
        "one of two the same, both the same tool; the last word of an agent with tools is not asked"
    )
    first, second = model.seen
    assert "a memory" in first[0][0].text
    assert first[0][0].text.startswith("You are mine.")
    assert second[0][2].tool_calls[0].arguments == '{"a": 1, "b": [2]}', "what the agent did, not what the student said"
    assert second[1] == (ASK,)


def test_the_rank_correlation_needs_three_arms() -> None:
    def made(success: dict[str, float]) -> agreement.Agreement:
        arms = {arm: agreement.Agreed(same, 0, 1, same, 0) for arm, same in (("none", 0.1), ("memory", 0.2), ("both", 0.5))}
        return agreement.Agreement(arms, {}, (0,), 1, 1, 1, success)

    assert made({"none": 0.0, "memory": 0.3}).correlation is None
    assert made({"none": 0.0, "memory": 0.3, "both": 0.6}).correlation == pytest.approx(1.0)
    assert made({"none": 0.6, "memory": 0.3, "both": 0.0}).correlation == pytest.approx(-1.0)


def test_a_runs_hash_of_the_earlier_part_names_its_phase(oracle: RunFolder) -> None:
    log, _, _ = log_split.split(oracle, 0.25)
    with Journal.open(log.journal, readonly=True) as journal:
        phase = log.result("collect")["phase"]
        assert run_hash(list(journal.trajectories(phase))).startswith(phase.removeprefix("log/"))
