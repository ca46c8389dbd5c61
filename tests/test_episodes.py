"""From exchanges to episodes: growing conversations, retries, forks, sub-agents, new beginnings; tasks; trajectories."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from duomem.errors import DataError, LeakError, UsageError
from duomem.examples import Options, prepare
from duomem.pipeline import collect, remember, tune
from duomem.prompts import load_layout, with_memories
from duomem.record._rows import Begun, Ended, State
from duomem.record.episodes import Episode, read, read_all
from duomem.record.functions import DEFAULT, locator
from duomem.record.store import FILE, RecordStore
from duomem.record.trajectories import trajectories
from duomem.rundir import open_run
from duomem.types import Message, Reply, StopReason, Tool, ToolCall, Usage, dump
from duomem.wire import Answer

SYSTEM = Message.of("system", "You help.")
TASK = Message.of("user", "Book a table.")


def user(text: str) -> Message:
    return Message.of("user", text)


def said(text: str, *calls: ToolCall) -> Message:
    return Message("assistant", Message.of("assistant", text).parts if text else (), calls)


def result(text: str, call: str) -> Message:
    return Message("tool", Message.of("tool", text).parts, tool_call_id=call)


@dataclass
class Log:
    """Writes exchanges as the recorder would."""

    store: RecordStore
    replies: int = 0
    messages: list[Message] = field(default_factory=list)

    def say(
        self,
        messages: Sequence[Message],
        *replies: Message | str,
        episode: str = "",
        state: State = "whole",
        delivered: bool = True,
        tools: tuple[Tool, ...] = (),
        **more: Any,
    ) -> int:
        """One exchange; its number."""
        task = locator(DEFAULT).task(tuple(messages), {})
        named: Any = "url" if episode else "conversation" if more else "prefix"
        number, _ = self.store.begin(
            Begun(
                "chat",
                "/v1/chat/completions",
                {"messages": []},
                episode,
                named,
                "m",
                messages=tuple(messages),
                tools=tools,
                task=task,
                **more,
            )
        )
        self.replies += 1
        spoken = [said(reply) if isinstance(reply, str) else reply for reply in replies]
        answer = (
            Answer(f"r{self.replies}", "m", tuple(Reply(reply, usage=Usage(3, 0, 2)) for reply in spoken)) if spoken else None
        )
        self.store.end(number, Ended(state, 200, {}, answer, delivered))
        return number

    def episode(self, name: str = "") -> Episode:
        (only,) = [name] if name else self.store.episodes()
        return read(self.store, only, self.store.outcomes().get(only))

    def won(self, name: str = "") -> Episode:
        for each in [name] if name else self.store.episodes():
            self.store.judge(each, True, "test")
        return self.episode(name)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with RecordStore.open(tmp_path / "run" / FILE, "record") as store:
        yield Log(store)


def test_a_growing_conversation_is_one_episode(log: Log) -> None:
    call = ToolCall("find", '{"city": "Rome"}', "c1")
    log.say([SYSTEM, TASK], said("", call))
    resent = ToolCall("find", '{"city":"Rome"}', "other-id")  # clients spell arguments anew
    log.say([SYSTEM, TASK, said("", resent), result("one", "c1")], "Done.")
    log.say([SYSTEM, TASK, said("", resent), result("one", "c1"), said(" Done. "), user("Thanks")], "Bye.")
    log.say([SYSTEM, user("Another task.")], "Other.")
    first, second = log.store.episodes()
    episode = log.won(first)
    assert (episode.turns, episode.task, episode.problem, len(episode.trees)) == (3, "Book a table.", "", 1)
    assert log.episode(second).task == "Another task."
    assert [each.fresh for each in episode.exchanges] == [2, 1, 1]


def test_reasoning_that_a_client_leaves_out_does_not_part_a_conversation(log: Log) -> None:
    thought = Message("assistant", said("Yes.").parts, reasoning="hm")
    log.say([TASK], thought)
    log.say([TASK, said("Yes."), user("Go on.")], "Done.")
    log.say([TASK, said("<think>\nhm\n</think>\nYes."), user("Go on."), said("Done."), user("Bye.")], "Bye.")
    assert log.episode().turns == 3


def test_a_retry_after_a_failure_is_the_same_episode(log: Log) -> None:
    log.say([SYSTEM, TASK], state="failed")
    log.say([SYSTEM, TASK], "cut he", state="broken")
    log.say([SYSTEM, TASK], "One.")
    log.say([SYSTEM, TASK, said("One."), user("and")], state="failed")
    log.say([SYSTEM, TASK, said("One."), user("and")], "Two.")
    episode = log.won()
    assert (episode.turns, episode.problem, len(episode.exchanges)) == (2, "", 5)


def test_a_reply_that_came_too_late_gives_way_to_its_retry(log: Log) -> None:
    log.say([TASK], "late", delivered=False)
    log.say([TASK], "in time")
    episode = log.won()
    assert (episode.problem, episode.messages[-1].text) == ("", "in time")


def test_the_retry_that_was_used_counts(log: Log) -> None:
    for text in ("first", "second"):
        log.say([TASK], text, episode="e")
    log.say([TASK, said("first"), user("go on")], "end", episode="e")
    episode = log.won("e")
    assert (episode.problem, [message.text for message in episode.messages]) == ("", ["Book a table.", "first", "go on", "end"])


@pytest.mark.parametrize(
    "branches",
    [
        [([TASK], "a"), ([TASK], "b")],
        [([TASK], "a"), ([TASK, said("a"), user("x")], "b"), ([TASK, said("a"), user("y")], "c")],
        [([TASK], "a"), ([TASK], "b"), ([TASK, said("a"), user("x")], "c"), ([TASK, said("b"), user("x")], "d")],
    ],
    ids=["two last replies", "two ways on", "two lives"],
)
def test_ambiguous_branches_are_listed_and_never_learned_from(log: Log, branches: list[Any]) -> None:
    for messages, text in branches:
        log.say(messages, text, episode="e")
    episode = log.won("e")
    assert episode.problem.startswith("ambiguous")
    assert trajectories([episode], "train") == []


def test_several_choices_are_told_apart_by_what_follows(log: Log) -> None:
    log.say([TASK], "a", "b")
    assert "2 last replies" in log.won().problem
    log.say([TASK, said("b"), user("x")], "end")
    episode = log.episode()
    assert (episode.problem, episode.main[0].reply(0).message.text) == ("", "b")


def test_equal_beginnings_at_once_are_in_doubt_and_one_after_the_other_are_not(log: Log) -> None:
    def turn(history: list[Message]) -> list[Message]:
        return [*history, said("same"), user("next")]

    for _ in range(2):
        log.say([TASK], "same")
        log.say(turn([TASK]), "end")
    assert [log.won(name).problem for name in log.store.episodes()] == ["", ""]
    other = user("Another one.")
    for messages in ([other], [other], turn([other]), turn([other])):
        log.say(messages, "same")
    names = log.store.episodes()[2:]
    assert len(names) == 2
    assert all("could belong to another" in log.won(name).problem for name in names)


def test_a_sub_agent_stands_beside_the_main_line(log: Log) -> None:
    log.say([SYSTEM, TASK], said("", ToolCall("ask", "{}", "c")), episode="e")
    log.say([Message.of("system", "You search."), user("Find.")], "Found.", episode="e")
    log.say([SYSTEM, TASK, said("", ToolCall("ask", "{}", "c")), result("Found.", "c")], "Done.", episode="e")
    episode = log.won("e")
    assert [tree.kind for tree in episode.trees] == ["main", "side"]
    (made,) = trajectories([episode], "train")
    assert [turn.reply.message.text for turn in made.turns] == ["", "Done."]


def test_a_history_that_was_put_together_anew_goes_on_as_a_second_part(log: Log) -> None:
    summary = "We have asked three restaurants; the second has a table."
    log.say([SYSTEM, TASK], "Asking.", episode="e")
    log.say([SYSTEM, TASK, said("Asking."), user("Sum up.")], summary, episode="e")
    log.say([Message.of("system", "Other words."), user(f"So far: {summary}")], "Booked.", episode="e")
    episode = log.won("e")
    assert [tree.kind for tree in episode.trees] == ["main", "continued"]
    made = trajectories([episode], "train")
    assert [(each.task.id == made[0].task.id, each.attempt, len(each.turns)) for each in made] == [(True, 0, 2), (True, 1, 1)]


def test_a_cut_reply_that_the_agent_went_on_from_is_no_example(log: Log) -> None:
    log.say([TASK], "Half a th", state="broken")
    log.say([TASK, said("Half a th"), user("go on")], "Done.")
    assert "went on from a reply that was cut" in log.won().problem


def test_an_episode_whose_last_reply_was_cut_is_no_example(log: Log) -> None:
    log.say([TASK], "One.", episode="e")
    log.say([TASK, said("One."), user("x")], "Tw", episode="e", state="broken")
    assert "was cut" in log.won("e").problem


def test_responses_go_on_by_id(log: Log) -> None:
    log.say([SYSTEM, TASK], "One.")
    log.say([user("and")], "Two.", previous="r1")
    episode = log.won()
    assert [message.text for message in episode.messages] == ["You help.", "Book a table.", "One.", "and", "Two."]
    assert (episode.turns, episode.problem) == (2, "")
    log.say([user("lost")], "Three.", previous="r99")
    other = log.won(log.store.episodes()[1])
    assert "not recorded" in other.problem
    for text in ("a", "b"):
        log.say([user(text)], f"re {text}", conversation="conv-1")
    talk = log.episode("conv-1")
    assert [message.text for message in talk.messages] == ["a", "re a", "b", "re b"]


def test_what_repeats_is_kept_once(log: Log) -> None:
    messages = [SYSTEM, TASK]
    tool = (Tool("find", "Finds.", "{}"),)
    for number in range(30):
        log.say(messages, f"reply {number}", tools=tool)
        messages += [said(f"reply {number}"), user(f"result {number} " + "x" * 1000)]
    assert log.episode().turns == 30
    log.store.close()
    assert log.store.path.stat().st_size < 500_000


def test_what_was_open_is_broken_when_the_recorder_comes_back(tmp_path: Path) -> None:
    store = RecordStore.open(tmp_path / FILE, "record")
    store.begin(Begun("chat", "/v1/chat/completions", {}, "e", "url"))
    assert read(store, "e", None).problem == "an exchange is under way"
    store.close()
    with RecordStore.open(tmp_path / FILE, "record") as store:
        assert store.exchanges("e")[0].state == "broken"


def test_a_recording_of_the_first_schema_can_be_read(tmp_path: Path) -> None:
    with RecordStore.open(tmp_path / FILE, "record") as store:
        store.begin(Begun("chat", "/v1/chat/completions", {}, "e", "url", task="old"))
    db = sqlite3.connect(tmp_path / FILE)
    db.execute("ALTER TABLE exchanges DROP COLUMN task_error")
    db.execute("PRAGMA user_version = 1")
    db.commit()
    db.close()
    with RecordStore.open(tmp_path / FILE) as store:
        assert [(each.task, each.task_error) for each in store.exchanges("e")] == [("old", "")]


def test_a_recording_is_declared_once_and_other_files_are_refused(tmp_path: Path) -> None:
    with RecordStore.open(tmp_path / FILE, "record") as store:
        store.declare("task locator", "path:user.0")
        with pytest.raises(UsageError, match="was recorded with"):
            store.declare("task locator", "path:user.1")
    with pytest.raises(DataError, match="No recording"):
        RecordStore.open(tmp_path / "none.sqlite")
    (tmp_path / "other.sqlite").write_text("no database, but long enough to be read as one" * 50)
    with pytest.raises(DataError, match="not a recording"):
        RecordStore.open(tmp_path / "other.sqlite", "add")
    with RecordStore.open(tmp_path / FILE, "add") as store, pytest.raises(DataError, match="no episode"):
        store.judge("nobody", True, "test")


def test_task_locators(tmp_path: Path) -> None:
    messages = (SYSTEM, user("Context.\nYour task: book a table\nNow."), said("ok"), user("second"))
    body = {"metadata": {"task": "from the body"}, "messages": [{"content": [{"type": "text", "text": "a part"}]}]}
    file = tmp_path / "mine.py"
    file.write_text("def find(messages):\n    return messages[-1].text.upper()\n")
    wanted = {
        "path:user.1": "second",
        "path:user.-1": "second",
        "path:system": "You help.",
        "path:metadata.task": "from the body",
        "path:messages.0.content": "a part",
        "path:messages.5.content": "",
        "regex:Your task: (.+)": "book a table",
        "regex:(?P<x>Your) task: (?P<task>\\w+)": "book",
        "regex:nothing": "",
        f"python:{file}:find": "SECOND",
    }
    assert {spec: locator(spec).task(messages, body) for spec in wanted} == wanted
    assert locator(f"python:{file}:find").pin
    for spec in ("user.0", "path:", "regex:(", f"python:{file}:none", "python:nowhere.py:f", "python:os:sep"):
        with pytest.raises(UsageError):
            locator(spec)


# Trajectories.

CALLS = (ToolCall("find", '{"city": "Rome"}', "c1"), ToolCall("find", '{"city": "Oslo"}', "c2"))


def table(log: Log, episode: str, city: str) -> None:
    """An episode with parallel calls; `city` makes its task."""
    task = user(f"Book a table in {city}.")
    opening = [SYSTEM, task]
    tools = (Tool("find", "Finds.", '{"type": "object"}'),)
    log.say(opening, said("Looking.", *CALLS), episode=episode, tools=tools)
    after = [said("Looking.", *CALLS), result("full", "c1"), result("free", "c2"), user("(one minute left)")]
    log.say([*opening, *after], "Booked.", episode=episode, tools=tools)


def test_a_won_episode_becomes_the_conversation_that_it_was(log: Log) -> None:
    table(log, "e", "Rome")
    (made,) = trajectories([log.won("e")], "train", licence="mine", revision="https://endpoint")
    assert (made.won, made.goal, made.attempt, made.task.split) == (True, "Book a table in Rome.", 0, "train")
    assert (made.origin.model, made.origin.revision, made.origin.licence) == ("m", "https://endpoint", "mine")
    assert [message.role for message in made.prompt] == ["system", "user"]
    assert [tool.name for tool in made.tools] == ["find"]
    first, last = made.turns
    assert first.call == CALLS[0]
    assert first.observation == "full\nfree\n(one minute left)"
    assert first.results is not None
    assert [message.role for message in first.results] == ["tool", "tool", "user"]
    assert (last.results, last.reply.message.text, last.valid) == ((), "Booked.", True)


def test_examples_of_a_recording_are_its_own_prompts_with_every_reply_learned(log: Log) -> None:
    table(log, "e", "Rome")
    layout = load_layout("pocket")
    prepared = prepare(trajectories([log.won("e")], "train"), layout, Options(memories="none"))
    (example,) = prepared.examples
    assert example.messages == (*log.episode("e").messages,)
    assert [weight > 0 for weight in example.learn] == [message.role == "assistant" for message in example.messages]


def test_a_run_with_a_recording_collects_and_remembers_it(log: Log, tmp_path: Path) -> None:
    for number, city in enumerate(("Rome", "Oslo", "Rome", "Bern", "Kyiv")):
        table(log, f"e{number}", city)
    for number, won in enumerate((True, True, True, False)):
        log.store.judge(f"e{number}", won, "test")
    config = tmp_path / "mine.toml"
    config.write_text('[memory]\nname = "verbatim"\nembedder = "lexical"\n')
    run = open_run(tmp_path / "run", config)
    found = collect(run).data
    assert (found["episodes"], found["won"], found["recorded"]) == (4, 3, 5)
    assert found["left_out"] == {"lost": 1, "no outcome": 1}
    assert remember(run).data["memories"] == 2, "two of the three say the same"
    assert collect(run).data == found, "the same recording is not collected again"
    log.store.judge("e4", True, "test")
    assert collect(run).data["won"] == 4
    assert remember(run).data["memories"] == 3
    with pytest.raises(LeakError):
        collect(open_run(tmp_path / "run", config, ["teacher.split=valid_seen"]))


def test_an_adapter_can_be_trained_on_a_recording(log: Log, tmp_path: Path) -> None:
    for library in ("torch", "transformers", "peft"):
        pytest.importorskip(library, reason=f"{library} is not installed (extra: train)")
    table(log, "e", "Rome")
    log.won("e")
    config = tmp_path / "mine.toml"
    config.write_text("[tuning]\nmax_steps = 1\nthreads = 1\n")
    run = open_run(tmp_path / "run", config)
    collect(run)
    assert tune(run).data["examples"] == 1


def test_memories_stand_at_the_end_of_an_agents_own_instructions() -> None:
    layout = load_layout("pocket")
    with_system = with_memories(layout, [SYSTEM, TASK], ["take the bus"])
    assert with_system[0].text.startswith("You help.\n\n")
    assert "take the bus" in with_system[0].text
    assert with_system[1:] == (TASK,)
    without = with_memories(layout, [TASK], ["take the bus"])
    assert [message.role for message in without] == ["system", "user"]
    assert with_memories(layout, [SYSTEM, TASK], []) == (SYSTEM, TASK)


def test_a_recording_without_a_success_says_so(log: Log, tmp_path: Path) -> None:
    table(log, "e", "Rome")
    config = tmp_path / "mine.toml"
    config.write_text("")
    with pytest.raises(DataError, match="1 no outcome"):
        collect(open_run(tmp_path / "run", config))


def test_attempts_at_one_task_share_it(log: Log) -> None:
    for number in range(3):
        table(log, f"e{number}", "Rome")
        log.won(f"e{number}")
    made = trajectories(read_all(log.store), "train")
    assert len({each.task.id for each in made}) == 1
    assert [each.attempt for each in made] == [0, 1, 2]
    assert {each.stop for each in made} == {StopReason.WON}
    assert json.loads(made[1].origin.env)["episode"] == "e1"


# Calls on the side.

TOOLS = (Tool("find", "Finds.", '{"type": "object"}'),)
ASKED = user("Book a table for two in Rome tonight, please.")
FOUND = "I have found three places that are open tonight."
BOOKED = "The second one has a table at eight; it is booked."
TITLE = Message.of("system", "You name conversations.")
SHORT_TITLE = "A table in Rome"


def about(*texts: str) -> Message:
    """A helper's request that holds a transcript."""
    return user("Name this conversation in five words:\n" + "\n".join(texts))


def worked(log: Log, tools: tuple[Tool, ...], before: Any = None, between: Any = None) -> list[Message]:
    """The main conversation of episode e, of two turns, with something before it and between its turns; all of it."""
    opening = [SYSTEM, ASKED]
    if before:
        log.say(before, SHORT_TITLE, episode="e")
    log.say(opening, FOUND, episode="e", tools=tools)
    if between:
        log.say(between, SHORT_TITLE, episode="e")
    log.say([*opening, said(FOUND), user("Take the second.")], BOOKED, episode="e", tools=tools)
    return [*opening, said(FOUND), user("Take the second."), said(BOOKED)]


CONVERSATION = [SYSTEM, ASKED, said(FOUND), user("Take the second."), said(BOOKED)]
BY_TEXT = about(ASKED.text, FOUND)
HELPERS: dict[str, tuple[str, list[Message]]] = {
    "a title first": ("before", [TITLE, about(ASKED.text)]),
    "a title first, with the same system message": ("before", [SYSTEM, about(ASKED.text)]),
    "a title first, without one": ("before", [about(ASKED.text)]),
    "a title between": ("between", [TITLE, BY_TEXT]),
    "a title between, without a system message": ("between", [BY_TEXT]),
    "a title after": ("after", [TITLE, about(ASKED.text, FOUND, BOOKED)]),
    "a title after, with the same system message": ("after", [SYSTEM, about(ASKED.text, FOUND, BOOKED)]),
    "a title after, without one": ("after", [about(ASKED.text, FOUND, BOOKED)]),
    "a title after, of the task alone": ("after", [SYSTEM, about(ASKED.text)]),
}


@pytest.mark.parametrize("tools", [(), TOOLS], ids=["talk", "tools"])
@pytest.mark.parametrize("name", HELPERS)
def test_a_helper_s_call_is_listed_apart_and_not_learned(log: Log, name: str, tools: tuple[Tool, ...]) -> None:
    when, helper = HELPERS[name]
    worked(log, tools, **{when: helper} if when != "after" else {})
    if when == "after":
        log.say(helper, SHORT_TITLE, episode="e")
    episode = log.won("e")
    assert sorted(tree.kind for tree in episode.trees) == ["main", "side"]
    assert (episode.problem, episode.task) == ("", ASKED.text)
    assert list(episode.messages) == CONVERSATION
    (made,) = trajectories([episode], "train")
    assert [turn.reply.message.text for turn in made.turns] == [FOUND, BOOKED]
    assert SHORT_TITLE not in json.dumps(json.loads(dump(made)))


@pytest.mark.parametrize("tools", [(), TOOLS], ids=["talk", "tools"])
def test_a_summary_by_a_helper_is_taken_up_and_not_learned(log: Log, tools: tuple[Tool, ...]) -> None:
    """The agent's history is summed up by a call of its own, and the agent goes on from the summary."""
    summary = "Three places were found in Rome, the second is booked for eight."
    worked(log, tools)
    log.say([Message.of("system", "You sum up."), about(ASKED.text, FOUND, BOOKED)], summary, episode="e")
    log.say([SYSTEM, user(f"So far: {summary} Now tell them.")], "They know.", episode="e", tools=tools)
    episode = log.won("e")
    assert [tree.kind for tree in episode.trees] == ["main", "side", "continued"]
    made = trajectories([episode], "train")
    assert [[turn.reply.message.text for turn in each.turns] for each in made] == [[FOUND, BOOKED], ["They know."]]


def test_sub_agents_with_tools_of_their_own_are_not_the_main_line(log: Log) -> None:
    hands = (Tool("grep", "Searches.", '{"type": "object"}'),)
    calls = tuple(ToolCall("ask", json.dumps({"city": city}), city) for city in ("Rome", "Oslo"))
    log.say([SYSTEM, ASKED], said("", *calls), episode="e", tools=TOOLS)
    for city in ("Rome", "Oslo"):  # side by side, several turns each
        log.say([TITLE, user(f"Search {city}.")], said("", ToolCall("grep", "{}", city)), episode="e", tools=hands)
    for city in ("Rome", "Oslo"):
        history = [TITLE, user(f"Search {city}."), said("", ToolCall("grep", "{}", city)), result("rows", city)]
        log.say(history, f"{city} has one.", episode="e", tools=hands)
    results = [result(f"{city} has one.", city) for city in ("Rome", "Oslo")]
    log.say([SYSTEM, ASKED, said("", *calls), *results], BOOKED, episode="e", tools=TOOLS)
    log.say([TITLE, user(f"Check it: {BOOKED}")], "Fine.", episode="e", tools=hands)
    episode = log.won("e")
    assert [(tree.kind, len(tree.line)) for tree in episode.trees] == [("main", 2), ("side", 2), ("side", 2), ("side", 1)]
    (made,) = trajectories([episode], "train")
    assert [turn.reply.message.text for turn in made.turns] == ["", BOOKED]


def test_prompts_that_are_written_anew_at_each_turn_are_parts(log: Log) -> None:
    rules = "Answer with one command. " * 5
    log.say([user(f"{rules}\nTask: {ASKED.text}\n")], "look around the place for a table", episode="e")
    log.say([user(f"{rules}\nTask: {ASKED.text}\n> look around the place for a table\nA table.\n")], "take it", episode="e")
    episode = log.won("e")
    assert ([tree.kind for tree in episode.trees], len(trajectories([episode], "train"))) == (["main", "continued"], 2)


ON_TOP = [SYSTEM, ASKED, said(FOUND), user("Name this conversation.")]


def test_a_call_on_top_of_the_conversation_is_told_by_its_tools_or_by_what_follows(log: Log) -> None:
    worked(log, TOOLS, between=ON_TOP)
    episode = log.won("e")
    assert ([tree.kind for tree in episode.trees], episode.problem) == (["main", "side"], "")
    assert list(episode.messages) == CONVERSATION


def test_a_call_on_top_of_mere_talk_is_told_once_the_talk_goes_on(log: Log) -> None:
    history = worked(log, (), between=ON_TOP)
    assert log.won("e").problem.startswith("ambiguous"), "either could be what the agent went on with"
    log.say([*history, user("Thanks.")], "Bye.", episode="e")
    episode = log.episode("e")
    assert (episode.problem, episode.turns, [tree.kind for tree in episode.trees]) == ("", 3, ["main", "side"])
    (made,) = trajectories([episode], "train")
    assert SHORT_TITLE not in [turn.reply.message.text for turn in made.turns]


def test_a_way_with_calls_that_was_left_stays_ambiguous(log: Log) -> None:
    """Its calls may have been carried out, and the world changed by them."""
    log.say([SYSTEM, ASKED], FOUND, episode="e")
    log.say([SYSTEM, ASKED, said(FOUND), user("Take one.")], said("", ToolCall("take", "{}", "c")), episode="e")
    log.say([SYSTEM, ASKED, said(FOUND), user("Wait.")], "I wait.", episode="e")
    log.say([SYSTEM, ASKED, said(FOUND), user("Wait."), said("I wait."), user("Go.")], BOOKED, episode="e")
    assert log.won("e").problem.startswith("ambiguous")


def test_the_same_request_sent_again_after_a_whole_reply_goes_on_from_the_same_place(log: Log) -> None:
    for history, text in (([TASK], "one"), ([TASK, said("one"), user("and")], "two")):
        log.say(history, text, episode="e")
        log.say(history, text, episode="e")  # the agent did not trust it
    assert (log.won("e").problem, log.episode("e").turns) == ("", 2)
