"""Logs of other tools: each format in, three out, nothing lost on the way round; a bad record never takes the rest with it."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from duomem import examples, prompts
from duomem.errors import DataError, LeakError, UsageError
from duomem.journal import Journal
from duomem.logs import Bad, BadField, Place, Record, Row, guess, names, reader, writable, writer
from duomem.logs._episode import SAY, Options, trajectory
from duomem.logs._export import export_logs, form_of
from duomem.logs._fold import fold
from duomem.logs._import import PHASE, import_logs
from duomem.logs._rows import files, rows
from duomem.pipeline import collect, remember, tune
from duomem.rundir import RunFolder, open_run
from duomem.talk import Talk
from duomem.types import (
    Message,
    Origin,
    Reply,
    StopReason,
    Task,
    TextPart,
    Tool,
    ToolCall,
    Trajectory,
    Turn,
)

POCKET = prompts.load_layout("pocket")
MIT = Options("MIT")
CONFIG = """
[env]
name = "household"

[teacher]
tasks = 6

[student]
model = "hf"
path = "pocket"

[memory]
embedder = "lexical"
k = 1

[tuning]
name = "lora"
epochs = 1
rank = 8

[rollout]
concurrency = 2
"""


def run_in(folder: Path, *overrides: str) -> RunFolder:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "c.toml").write_text(CONFIG)
    return open_run(folder / "run", folder / "c.toml", overrides)


def lines(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def read(form: str, *bodies: Any) -> list[Record | Bad]:
    return list(reader(form).read(Row(body, Place("f", number)) for number, body in enumerate(bodies, 1)))


def record(form: str, body: Any) -> Record:
    (found,) = read(form, body)
    assert isinstance(found, Record), found
    return found


def made(form: str, body: Any, **options: Any) -> Trajectory:
    return trajectory(record(form, body), replace(MIT, **options), POCKET, form, "train")


def chat(*texts: str) -> list[dict[str, Any]]:
    """Messages of user and assistant in turn."""
    return [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]


def call(name: str, arguments: Any, call_id: str = "") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


MAIL = {"type": "function", "function": {"name": "mail", "description": "Send.", "parameters": {"type": "object"}}}
TOOLED = [
    {"role": "system", "content": "You are an office agent."},
    {"role": "user", "content": "Tell Ann and Bob."},
    {
        "role": "assistant",
        "content": None,
        "reasoning_content": "both",
        "tool_calls": [call("mail", {"to": "ann"}, "1"), call("mail", {"to": "bob"}, "2")],
    },
    {"role": "tool", "tool_call_id": "1", "content": "sent to ann"},
    {"role": "tool", "tool_call_id": "2", "content": "sent to bob"},
    {"role": "assistant", "content": "Both are told."},
]


# Each format in.


def test_a_conversation_with_tools_is_kept_whole() -> None:
    episode = made("openai", {"messages": TOOLED, "tools": [MAIL], "metadata": {"success": "true"}})
    assert episode.won
    assert episode.goal == "Tell Ann and Bob."
    assert [message.role for message in episode.prompt] == ["system", "user"]
    first, last = episode.turns
    assert first.call == ToolCall("mail", '{"to": "ann"}', "1")
    assert [each.arguments for each in first.reply.message.tool_calls] == ['{"to": "ann"}', '{"to": "bob"}']
    assert first.reply.message.reasoning == "both"
    assert [(each.role, each.text, each.tool_call_id) for each in first.results or ()] == [
        ("tool", "sent to ann", "1"),
        ("tool", "sent to bob", "2"),
    ]
    assert first.observation == "sent to ann\nsent to bob"
    assert last.call
    assert last.call.name == SAY
    assert [tool.name for tool in episode.tools] == ["mail"]
    assert json.loads(episode.origin.env) == {"import": "openai", "file": "f", "line": 1}
    assert episode.origin.licence == "MIT"
    prepared = examples.prepare([episode], POCKET, examples.Options(memories="none"))
    (example,) = prepared.examples
    assert [message.role for message in example.messages] == ["system", "user", "assistant", "tool", "tool", "assistant"]
    assert example.learn == (0, 0, 1, 0, 0, 1)
    assert example.tools == episode.tools


def test_the_runs_own_layout_is_recognised_and_taken_apart() -> None:
    texts = (
        "You see a mug 1.\nTask: take the mug.",
        "1. mug: take > take mug 1",
        "You take it.",
        "dunno",
        "Nothing happens.",
        "x > bow",
    )
    episode = made("openai", {"messages": chat(*texts)}, won=True)
    assert (episode.goal, episode.scene, episode.origin.layout) == ("take the mug.", "You see a mug 1.", POCKET.hash)
    assert [turn.call and turn.call.command for turn in episode.turns] == ["take mug 1", None, "bow"]
    assert [turn.valid for turn in episode.turns] == [True, False, True]
    own = made("openai", {"messages": chat("hello", *texts[1:])})
    assert own.origin.layout == prompts.AS_RECORDED


def test_openai_stored_completions_grow_to_episodes() -> None:
    """What the client gives: completions, and what each answers from `messages.list`."""
    openai = pytest.importorskip("openai.types.chat", reason="the openai package is not installed")

    def stored(number: int, asked: Sequence[dict[str, Any]], said: str, **facts: Any) -> dict[str, Any]:
        choice = {"index": 0, "finish_reason": "stop", "logprobs": None, "message": {"role": "assistant", "content": said}}
        whole = {"id": f"c{number}", "object": "chat.completion", "created": 1, "model": "big", "choices": [choice], **facts}
        completion = openai.ChatCompletion.model_validate(whole).model_dump()
        page = [{"id": f"m{index}", **message} for index, message in enumerate(asked)]
        return {**completion, "messages": {"object": "list", "data": page, "has_more": False}}

    first, second = chat("do it"), chat("do it", "doing", "go on")
    found = read(
        "openai", stored(1, first, "doing"), stored(2, second, "done", metadata={"success": "yes"}), stored(3, first, "no")
    )
    kept, folded = fold(each for each in found if isinstance(each, Record))
    assert folded == 1
    assert [[message.text for message in each.messages] for each in kept] == [
        ["do it", "doing", "go on", "done"],
        ["do it", "no"],
    ]
    assert [each.branched for each in kept] == [False, False], "two first answers are two attempts, not a branch"
    assert kept[0].model == "big"
    assert kept[0].success is True
    (bad,) = read("openai", {key: value for key, value in stored(1, first, "x").items() if key != "messages"})
    assert isinstance(bad, Bad)
    assert bad.field == "messages"
    cut = stored(1, first, "half a")
    cut["choices"][0]["finish_reason"] = "length"
    assert [getattr(each, "field", "") for each in read("openai", cut)] == ["choices[0].finish_reason"]


def test_ends_that_grew_from_one_reply_tell_no_outcome() -> None:
    body = {"messages": chat("q", "a", "more"), "choices": [], "metadata": {"success": True}}
    both = [{**body, "choices": [{"message": {"role": "assistant", "content": text}}]} for text in ("one", "two")]
    kept, _ = fold(each for each in read("openai", *both) if isinstance(each, Record))
    assert [each.branched for each in kept] == [True, True]
    assert [trajectory(each, MIT, POCKET, "openai", "train").stop for each in kept] == [StopReason.UNKNOWN] * 2


def test_request_and_response_pairs_and_functions_of_2023() -> None:
    asked = [*chat("q"), {"role": "assistant", "content": None, "function_call": {"name": "mail", "arguments": "{}"}}]
    asked.append({"role": "function", "name": "mail", "content": "ok"})
    reply = {"choices": [{"message": {"role": "assistant", "content": "done"}, "finish_reason": "stop"}], "model": "m"}
    episode = made(
        "openai", {"request": {"body": {"messages": asked}}, "response": {"body": reply}, "solved": 1}, outcome="solved"
    )
    assert episode.won
    assert [turn.call and turn.call.name for turn in episode.turns] == ["mail", SAY]


def test_sharegpt_as_llamafactory_writes_it() -> None:
    body = {
        "system": "Help.",
        "tools": json.dumps([{"name": "mail", "description": "Send.", "parameters": {}}]),
        "conversations": [
            {"from": "human", "value": "Tell Ann."},
            {"from": "function_call", "value": '{"name": "mail", "arguments": {"to": "ann"}}'},
            {"from": "observation", "value": "sent"},
            {"from": "gpt", "value": "Done."},
        ],
    }
    episode = made("sharegpt", body, won=True)
    assert [message.role for message in episode.prompt] == ["system", "user"]
    assert episode.turns[0].call == ToolCall("mail", '{"to": "ann"}')
    assert episode.turns[0].observation == "sent"
    assert episode.tools[0].name == "mail"


def test_verifiers_results_and_their_errors() -> None:
    calls = [json.dumps(call("mail", {"to": "ann"}, "1"))]  # as its sanitize_tool_calls writes them
    completion = [
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "1", "content": "ok"},
    ]
    shown = [{"role": "user", "content": "like this"}, {"role": "assistant", "content": "so"}, {"role": "user", "content": "q"}]
    body = {"example_id": 7, "task": "office", "prompt": shown, "completion": completion, "reward": 0.6, "error": None}
    episode = made("rollouts", body)
    assert (episode.task.id, episode.stop, len(episode.prompt)) == ("train/office/7", StopReason.LOST, 3)
    assert episode.goal == "q"
    assert made("rollouts", body, threshold=0.5).won
    assert made("rollouts", {**body, "is_truncated": True}).stop is StopReason.STEP_CAP
    failed = made("rollouts", {**body, "error": {"error": "Timeout", "error_chain_str": "TimeoutError: 60 s"}})
    assert (failed.stop, failed.error) == (StopReason.ERROR, "TimeoutError: 60 s")
    assert made("rollouts", {"prompt": "2+2?", "completion": "4", "reward": 1}).won
    (bad,) = read("rollouts", {**body, "reward": "high"})
    assert isinstance(bad, Bad)
    assert bad.field == "reward"


def test_art_groups_with_choices() -> None:
    choice = {"finish_reason": "stop", "index": 0, "logprobs": None, "message": {"role": "assistant", "content": "yes"}}
    good = {
        "messages_and_choices": [*chat("q"), choice],
        "reward": 1.0,
        "metrics": {"acc": 1},
        "metadata": {"task_id": "t"},
        "tools": [MAIL],
    }
    found = read("rollouts", {"trajectories": [good, {"messages_and_choices": "no", "reward": 1}, 3]})
    assert [type(each) for each in found] == [Record, Bad, Bad]
    assert [each.field for each in found if isinstance(each, Bad)] == [
        "trajectories[1].messages_and_choices",
        "trajectories[2]",
    ]
    assert trajectory(found[0], MIT, POCKET, "rollouts", "train").task.id == "train/t"  # type: ignore[arg-type]
    assert made("rollouts", good, outcome="metrics.acc").won


def test_memp_and_eto() -> None:
    talk = [
        ("human", "Interact with a household."),
        ("gpt", "OK"),
        ("human", "You see a mug. Your task is to: take it."),
        ("gpt", "Action: take"),
    ]
    said = [{"from": side, "value": text} for side, text in talk]
    expert = made("memp", {"id": 3, "conversations": said, "game_file": "x/train/pick-1/trial_2/game.tw-pddl"}, won=True)
    assert (expert.task.id, len(expert.prompt), expert.won) == ("train/pick-1/trial_2", 3, True)
    meta = {"steps": 1, "reward": False, "finished": True, "success": True, "terminate_reason": "success", "error": None}
    assert made("memp", {"meta": meta, "conversations": said}).stop is StopReason.LOST, "done is not won"
    assert made("memp", {"meta": {**meta, "reward": True}, "conversations": said}).won
    assert (
        made("memp", {"meta": {**meta, "reward": 0, "terminate_reason": "max_steps"}, "conversations": said}).stop
        is StopReason.STEP_CAP
    )
    outage = {**meta, "reward": None, "success": False, "terminate_reason": "exceeding maximum input length"}
    assert made("memp", {"meta": outage, "conversations": said}).stop is StopReason.ERROR
    shown = [{"role": "system", "content": "s"}, *chat("Example: a", "b", "Now it's your turn.\nc", "d")]
    played = made("memp", {"messages": shown, "reward": True, "name": "pick-1/trial_2"})
    assert (len(played.prompt), played.won, played.task.id) == (4, True, "train/pick-1/trial_2")
    assert made("memp", {"query": "take it", "trajectory": said, "source": "alfworld"}, task="path:query").goal == "take it"
    (bad,) = read("memp", {"query": "q", "trajectory": "Thought 1: ..."})
    assert isinstance(bad, Bad)
    assert bad.field == "trajectory"
    unseen = record("memp", {"conversations": said, "game_file": "x/valid_unseen/pick-1/trial_2/game.tw-pddl"})
    with pytest.raises(BadField, match="evaluation"):
        trajectory(unseen, replace(MIT, forbidden=("valid_unseen",)), POCKET, "memp", "train")


def generation(trace: str, asked: Any, said: Any, at: int, **more: Any) -> dict[str, Any]:
    start = f"2026-01-01 00:00:{at:02}.000000"
    return {
        "id": f"{trace}{at}",
        "trace_id": trace,
        "type": "GENERATION",
        "start_time": start,
        "input": asked,
        "output": said,
        **more,
    }


def test_langfuse_observations_scores_and_traces() -> None:
    """The blob storage export: texts that hold JSON, scores in files of their own, parts in any order."""
    first, second = chat("q"), chat("q", "a", "go on")
    reply = {"role": "assistant", "content": None, "tool_calls": [call("mail", {}, "1")]}
    found = read(
        "langfuse",
        {
            "id": "s",
            "trace_id": "t1",
            "observation_id": None,
            "name": "solved",
            "value": 1,
            "data_type": "BOOLEAN",
            "source": "API",
        },
        generation(
            "t1",
            json.dumps(second),
            json.dumps(reply),
            2,
            provided_model_name="big",
            tool_definitions={"mail": '{"parameters": {}}'},
        ),
        generation("t1", json.dumps(first), '{"role": "assistant", "content": "a"}', 1),
        {"id": "x", "trace_id": "t1", "type": "SPAN", "input": "", "output": ""},
        generation("t2", json.dumps(first), "", 3, level="ERROR", status_message="429"),
    )
    one, bad = sorted(found, key=lambda each: isinstance(each, Bad))
    assert isinstance(one, Record)
    assert isinstance(bad, Bad)
    assert (bad.field, bad.why) == ("output", "is empty: ERROR 429")
    assert [message.text for message in one.messages] == ["q", "a", "go on", ""]
    assert one.messages[-1].tool_calls[0].name == "mail"
    assert [tool.name for tool in one.tools] == ["mail"]
    assert one.model == "big"
    assert trajectory(one, replace(MIT, outcome="scores.solved"), POCKET, "langfuse", "train").won
    assert trajectory(one, MIT, POCKET, "langfuse", "train").stop is StopReason.UNKNOWN


def test_a_langfuse_trace_with_sub_agents_tells_no_outcome() -> None:
    """One trace as its page is downloaded, in the API's spelling."""
    parts = [
        {
            "id": "1",
            "traceId": "t",
            "type": "GENERATION",
            "startTime": "1",
            "input": {"messages": chat("plan")},
            "output": "planned",
        },
        {
            "id": "2",
            "traceId": "t",
            "type": "GENERATION",
            "startTime": "2",
            "input": chat("sub"),
            "output": {"content": "found"},
        },
    ]
    scores = [{"name": "solved", "value": 1, "dataType": "NUMERIC", "traceId": "t"}]
    found = read("langfuse", {"id": "t", "metadata": {"user": 1}, "observations": parts, "scores": scores})
    assert [each.branched for each in found if isinstance(each, Record)] == [True, True]
    ended = [trajectory(each, replace(MIT, outcome="scores.solved"), POCKET, "langfuse", "train") for each in found]  # type: ignore[arg-type]
    assert [each.stop for each in ended] == [StopReason.UNKNOWN] * 2


# Around: what is written comes back.

TEXT = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12).filter(lambda text: text.strip() == text)
ARGUMENTS = st.dictionaries(
    st.sampled_from(["to", "n"]), st.one_of(st.integers(-9, 9), TEXT, st.none(), st.lists(TEXT, max_size=2)), max_size=2
)
CALLS = st.builds(
    lambda name, value, number: ToolCall(name, json.dumps(value, ensure_ascii=False), number),
    st.sampled_from(["mail", "find"]),
    ARGUMENTS,
    st.sampled_from(["a", "b"]),
)
ENDS = st.sampled_from([StopReason.WON, StopReason.LOST, StopReason.UNKNOWN, StopReason.STEP_CAP])


@st.composite
def agents(draw: st.DrawFn) -> Trajectory:
    """An agent with tools, in its own words."""
    prompt = [Message.of("user", draw(TEXT))]
    if draw(st.booleans()):
        prompt.insert(0, Message.of("system", draw(TEXT)))
    turns = []
    for last in [False] * draw(st.integers(0, 2)) + [True]:
        calls = () if last else tuple(draw(st.lists(CALLS, max_size=2)))
        parts = (TextPart(draw(TEXT)),) if not calls or draw(st.booleans()) else ()
        message = Message("assistant", parts, calls, reasoning=draw(st.one_of(st.just(""), TEXT)))
        results = tuple(Message("tool", (TextPart(draw(TEXT)),), tool_call_id=each.id) for each in calls)
        if not last and not results:
            results = (Message.of("user", draw(TEXT)),)
        chosen = calls[0] if calls else ToolCall(SAY, json.dumps({"text": message.text}, ensure_ascii=False))
        observation = "\n".join(result.text for result in results)
        turns.append(Turn(Reply(message, "tool_calls" if calls else "stop"), chosen, observation, results=results))
    task = Task(f"train/{draw(st.integers(0, 99))}", "train", "office", "hash")
    origin = Origin("big", "1", prompts.AS_RECORDED, "e", 3, "MIT")
    tools = (Tool("mail", "Send.", '{"type": "object"}'),) if draw(st.booleans()) else ()
    goal = prompt[-1].text
    return Trajectory(
        task, draw(st.integers(0, 2)), goal, "", tuple(prompt), tuple(turns), draw(ENDS), origin=origin, tools=tools
    )


@st.composite
def players(draw: st.DrawFn) -> Trajectory:
    """A player of a text game in the pocket layout, with slips."""
    goal, scene = draw(TEXT), draw(TEXT)
    turns = []
    for _ in range(draw(st.integers(1, 3))):
        command = draw(TEXT.map(lambda text: re.sub(r"[>\s]", "x", text)))
        silent = draw(st.booleans())
        reply = Reply(Message.of("assistant", command if silent else f"next > {command}"))
        turns.append(Turn(reply, None if silent else ToolCall.act(command), draw(TEXT), not silent and draw(st.booleans())))
    task = Task(f"train/{draw(st.integers(0, 99))}", "train", "house", "hash")
    prompt = prompts.opening(POCKET, goal, scene, [])
    return Trajectory(task, 0, goal, scene, prompt, tuple(turns), draw(ENDS), origin=Origin("expert", layout=POCKET.hash))


def back(form: str, path: Path) -> list[Trajectory]:
    found = list(reader(form).read(rows(path)))
    assert all(isinstance(each, Record) for each in found), found
    return [trajectory(each, MIT, POCKET, form, "train") for each in found]  # type: ignore[arg-type]


def same(before: Iterable[Trajectory], after: Iterable[Trajectory]) -> None:
    for one, other in zip(before, after, strict=True):
        assert other.turns == one.turns
        assert other == replace(one, origin=other.origin)
        assert other.content_hash == one.content_hash
        origin = replace(other.origin, env=one.origin.env, licence=one.origin.licence)
        assert origin == one.origin


def rounds(form: str, episodes: Sequence[Trajectory], folder: Path) -> None:
    path = folder / f"f{writer(form).SUFFIX}"
    assert writer(form).write(episodes, path, POCKET, False) == len(episodes)
    same(episodes, back(form, path))


QUICK = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), phases=(Phase.reuse, Phase.generate))


@pytest.mark.parametrize("form", ["openai", "sharegpt"])
@QUICK
@given(episodes=st.lists(st.one_of(agents(), players()), min_size=1, max_size=2))
def test_what_is_written_comes_back(form: str, episodes: list[Trajectory], tmp_path_factory: pytest.TempPathFactory) -> None:
    rounds(form, episodes, tmp_path_factory.mktemp("round"))


@settings(QUICK, max_examples=4)
@given(episodes=st.lists(st.one_of(agents(), players()), min_size=1, max_size=2))
def test_what_is_written_as_parquet_comes_back(episodes: list[Trajectory], tmp_path_factory: pytest.TempPathFactory) -> None:
    pytest.importorskip("datasets", reason="needs the extra 'train'")
    rounds("trl", episodes, tmp_path_factory.mktemp("round"))


def office() -> Trajectory:
    return made("openai", {"messages": TOOLED, "tools": [MAIL]}, won=True)


def test_trl_reads_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data_utils = pytest.importorskip("trl.data_utils", reason="needs the extra 'train'")
    import datasets

    import tiny_models

    path = tmp_path / "f.parquet"
    plain = made("openai", {"messages": chat("q", "a")})
    writer("trl").write([office(), plain], path, POCKET, True)
    table = datasets.load_dataset("parquet", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert table.column_names == ["messages", "tools"]
    first, second = table
    assert data_utils.is_conversational(first)
    assert first["messages"][2]["tool_calls"][0]["function"]["arguments"] == {"to": "ann"}
    tokenizer = tiny_models.tokenizer("chatml")
    assert data_utils.apply_chat_template(second, tokenizer)["text"] == (
        "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"
    )


def test_openai_takes_what_is_written(tmp_path: Path) -> None:
    types = pytest.importorskip("openai.types.chat", reason="the openai package is not installed")
    from pydantic import TypeAdapter

    path = tmp_path / "f.jsonl"
    writer("openai").write([office()], path, POCKET, True)
    body = json.loads(path.read_text())
    assert set(body) == {"messages", "tools"}
    assert all("reasoning_content" not in message for message in body["messages"])
    for message in body["messages"]:
        TypeAdapter(types.ChatCompletionMessageParam).validate_python(message)
    for tool in body["tools"]:
        TypeAdapter(types.ChatCompletionToolParam).validate_python(tool)


def test_bare_sharegpt_has_its_own_keys_only_and_its_two_sides_in_turn(tmp_path: Path) -> None:
    writer("sharegpt").write([office()], tmp_path / "f.json", POCKET, True)
    (body,) = json.loads((tmp_path / "f.json").read_text())
    assert set(body) == {"conversations", "system", "tools"}
    assert [each["from"] for each in body["conversations"]] == ["human", "function_call", "observation", "gpt"]
    assert all(set(each) == {"from", "value"} for each in body["conversations"])


# Bad records.

SOUND = {
    "openai": {"messages": TOOLED, "tools": [MAIL], "choices": [{"message": {"content": "x"}}], "metadata": {"success": True}},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": '{"name": "f"}'}],
        "system": "s",
    },
    "rollouts": {
        "prompt": chat("q"),
        "completion": TOOLED[2:],
        "reward": 1.0,
        "example_id": 1,
        "info": {"oai_tools": [MAIL]},
        "error": None,
    },
    "memp": {
        "meta": {"reward": 1, "success": True},
        "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}],
    },
    "langfuse": {
        "id": "t",
        "observations": [generation("t", TOOLED[:2], TOOLED[2], 1)],
        "scores": [{"name": "s", "value": 1, "data_type": "NUMERIC"}],
    },
    "trl": {"messages": chat("q", "a"), "tools": json.dumps([MAIL])},
}
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=5,
)


@st.composite
def spoilt(draw: st.DrawFn, value: Any) -> Any:
    """A sound record with one value in it replaced by another, at any depth."""
    if isinstance(value, dict) and value and draw(st.integers(0, 4)):
        key = draw(st.sampled_from(sorted(value)))
        return {**value, key: draw(spoilt(value[key]))}
    if isinstance(value, list) and value and draw(st.integers(0, 4)):
        index = draw(st.integers(0, len(value) - 1))
        return [*value[:index], draw(spoilt(value[index])), *value[index + 1 :]]
    return draw(JSON)


@pytest.mark.parametrize("form", sorted(SOUND))
@settings(QUICK, max_examples=60)
@given(data=st.data())
def test_no_record_takes_the_reading_down(form: str, data: st.DataObject) -> None:
    body = data.draw(spoilt(SOUND[form]))
    options = replace(MIT, outcome=data.draw(st.sampled_from(["", "metadata.success", "scores.s", "messages.0"])))
    sound = read(form, body if isinstance(body, dict) else {"record": body}, SOUND[form])
    for each in sound:
        assert isinstance(each, Record | Bad)
        if isinstance(each, Record):
            with suppress(BadField):
                assert trajectory(each, options, POCKET, form, "train").content_hash
    assert any(isinstance(each, Record) for each in sound), "the sound record is read all the same"


def test_every_format_knows_its_own_records_and_is_tested_here() -> None:
    assert sorted(SOUND) == names()
    assert writable() == ["openai", "sharegpt", "trl"]
    assert {form: guess(body) for form, body in SOUND.items()} == {**{form: form for form in SOUND}, "trl": "openai"}
    with pytest.raises(UsageError, match="Did you mean 'openai'"):
        reader("opnai")
    with pytest.raises(UsageError, match="No log format 'memp'"):
        writer("memp")
    with pytest.raises(UsageError, match="--format"):
        form_of(Path("x.csv"))


def test_files_of_every_kind(tmp_path: Path) -> None:
    good = {"messages": chat("q", "a")}
    (tmp_path / "a.jsonl").write_bytes(
        b'\xef\xbb\xbf{"n": 1}\n\n{"n": \n\xff\n[1]\n{"n": "\\ud800"}\n{"n": 2}\n{"d": '
        + b"[" * 400
        + b"]" * 400
        + b"}\n"
        + b"[" * 99999
    )
    (tmp_path / "b.json").write_text('[\n {"n": 3},\n\n {"n": 4},\n 5\n]')
    (tmp_path / "c.json").write_text(json.dumps(good, indent=1))
    (tmp_path / "d.json").write_text('[{"n": 6},\n{"n": ]')
    (tmp_path / "e.jsonl.gz").write_bytes(gzip.compress(b'{"n": 7}\n'))
    (tmp_path / "f.json").write_text('{"n": 8}\n{"n": 9}\n')
    (tmp_path / "g.json").write_text('{"object": "list", "data": [{"n": 10}], "has_more": false}')
    (tmp_path / "h.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "ignored.txt").write_text("no log")
    found = [row for path in files([tmp_path]) for row in rows(path)]
    assert [row.body.get("n") for row in found if isinstance(row, Row) and "n" in row.body] == [1, 2, 3, 4, 6, 7, 8, 9, 10]
    bad = {str(each.place): each for each in found if isinstance(each, Bad)}
    assert list(bad) == [
        "a.jsonl:3",
        "a.jsonl:4",
        "a.jsonl:5",
        "a.jsonl:6",
        "a.jsonl:8",
        "a.jsonl:9",
        "b.json:5",
        "d.json:2",
        "h.parquet:1",
    ]
    assert bad["a.jsonl:6"].field == "n"
    assert [row.place.line for row in found if isinstance(row, Row) and row.place.file == "b.json"] == [2, 4]
    with pytest.raises(UsageError, match="no such file"):
        files([tmp_path / "none"])


# Into a run, and out of it.


def test_a_bad_record_is_told_by_file_line_and_field_and_the_rest_goes_on(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    good = {"messages": chat("q", "a"), "metadata": {"success": True}}
    wrong = {"messages": [{"role": "wizard", "content": "q"}]}
    log = lines(
        tmp_path / "log.jsonl", good, wrong, {"messages": chat("only a question")}, {**good, "metadata": {"success": "perhaps"}}
    )
    done = import_logs(run, [log], MIT)
    refused = [json.loads(line) for line in (run.root / "import/refused.jsonl").read_text().splitlines()]
    assert [(each["line"], each["field"]) for each in refused] == [
        (2, "messages[0].role"),
        (4, "metadata.success"),
        (3, "messages"),
    ]
    assert {each["file"] for each in refused} == {"log.jsonl"}
    assert (done.data["records"], done.data["episodes"], done.data["won"], done.data["refused"]) == (4, 1, 1, 3)
    with pytest.raises(DataError, match=r"Nothing could be imported: 1 of 1 .*messages\[0\].role"):
        import_logs(run, [lines(tmp_path / "bad.jsonl", wrong)], MIT)


def test_the_same_log_twice_is_kept_once_and_an_outcome_may_come_later(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    body = {"messages": chat("q", "a"), "solved": True}
    log = lines(tmp_path / "log.jsonl", body, body, {"messages": chat("q", "b")})
    first = import_logs(run, [log], MIT).data
    assert (first["new"], first["twice"], first["unknown"], first["won"]) == (2, 1, 2, 0)
    again = import_logs(run, [log], replace(MIT, outcome="solved")).data
    assert (again["new"], again["unknown"], again["won"], again["episodes"]) == (0, 1, 1, 2)
    with Journal.open(run.journal, readonly=True) as journal:
        kept = list(journal.trajectories(PHASE, errors=True))
        assert [(each.attempt, each.stop.value) for each in kept] == [(0, "won"), (1, "unknown")]
        assert len({each.task.id for each in kept}) == 1, "the same words are attempts at the same task"
    assert [each.turns[0].reply.message.text for each in examples_of(run)] == ["a"]


def examples_of(run: RunFolder) -> list[Trajectory]:
    from duomem.pipeline import successes

    return successes(run)


def test_nothing_comes_from_an_evaluation_split_and_no_teacher_is_played_over(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    episode = replace(office(), task=Task("valid_seen/1", "valid_seen", "office"))
    writer("openai").write([episode, office()], tmp_path / "log.jsonl", POCKET, False)
    assert import_logs(run, [tmp_path / "log.jsonl"], MIT).data["refused"] == 1
    assert "evaluation" in (run.root / "import/refused.jsonl").read_text()
    assert collect(run).data["episodes"] == 1, "collect leaves the imported episodes as they are"
    with pytest.raises(LeakError):
        import_logs(run_in(tmp_path / "b", "teacher.split=dev"), [tmp_path / "log.jsonl"], MIT)
    played = run_in(tmp_path / "c", "teacher.tasks=1")
    collect(played)
    with pytest.raises(UsageError, match="another run folder"):
        import_logs(played, [tmp_path / "log.jsonl"], MIT)


def test_branches_are_listed(tmp_path: Path) -> None:
    notes: list[str] = []
    run = run_in(tmp_path)
    ends = [
        {"messages": chat("q", "a", "more"), "choices": [{"message": {"content": text}}], "metadata": {"success": True}}
        for text in "xy"
    ]
    done = import_logs(run, [lines(tmp_path / "log.jsonl", *ends)], MIT, talk=Talk(note=notes.append))
    assert (done.data["branched"], done.data["unknown"], done.data["won"]) == (2, 2, 0)
    assert "log.jsonl:1, log.jsonl:2" in notes[0]


def test_secrets_do_not_reach_the_disk(tmp_path: Path) -> None:
    pytest.importorskip("detect_secrets", reason="needs the extra 'record'")
    from duomem.record.redact import Redactor

    run = run_in(tmp_path)
    secret = "sk-" + "Abc123" * 6
    import_logs(run, [lines(tmp_path / "log.jsonl", {"messages": chat(f"use {secret}", "done")})], MIT, redactor=Redactor())
    assert all(secret.encode() not in path.read_bytes() for path in run.root.rglob("*") if path.is_file())


def test_a_run_of_the_household_out_and_in_again_remembers_and_tunes(tmp_path: Path) -> None:
    """The whole way with the pocket model: the imported run is the exported one, and goes on as it would have."""
    pytest.importorskip("peft", reason="needs the extra 'train'")
    run = run_in(tmp_path, "teacher.tasks=4", "teacher.slip=0.2")
    collect(run)
    export_logs(run, tmp_path / "log.jsonl", "openai", "all")
    other = run_in(tmp_path / "other", "teacher.tasks=4")
    import_logs(other, [tmp_path / "log.jsonl"], Options("Apache-2.0"))
    assert other.result("collect")["content_hash"] == run.result("collect")["content_hash"]
    assert remember(other).data["content_hash"] != ""
    assert remember(other).data["memories"] == remember(run).data["memories"] > 0
    done = tune(other).data
    assert done["examples"] == len(examples_of(run))
    assert (other.adapter / "adapter_model.safetensors").is_file()
    with Journal.open(other.journal, readonly=True) as journal:
        assert {each.origin.licence for each in journal.trajectories(PHASE)} == {"Apache-2.0"}


def test_the_commands_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/logs.md, command by command, on logs as it describes them."""
    from typer.testing import CliRunner

    from duomem.cli import app

    page = (Path(__file__).resolve().parents[1] / "docs/logs.md").read_text()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.toml").write_text(CONFIG)
    for name, text in re.findall(r"<!-- file: ([\w.]+) -->\n```json\n(.*?)```", page, re.S):
        Path(name).write_text(text)
    commands = [
        line
        for block in re.findall(r"```sh\n(.*?)```", page, re.S)
        for line in block.splitlines()
        if line.startswith("duomem ")
    ]
    assert len(commands) >= 6
    import shlex

    for command in commands:
        result = CliRunner().invoke(app, [*shlex.split(command, comments=True)[1:]], catch_exceptions=False)
        assert result.exit_code == 0, (command, result.output)
