"""Environments beside ALFWorld: the contract on each, a user's own three functions, and tool calls from playing to training."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

import env_contract
import tiny_models
from duomem import embed, examples, prompts
from duomem.bank import Bank
from duomem.envs import ACT, Env, household, python, tools
from duomem.envs._office import KINDS, TOOLS
from duomem.errors import DataError, UsageError
from duomem.logs._episode import Options
from duomem.logs._export import export_logs
from duomem.logs._import import import_logs
from duomem.pipeline import collect, remember, successes
from duomem.rundir import RunFolder, open_run
from duomem.types import ToolCall

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/environments.md").read_text()
OFFICE = """
[env]
name = "tools"

[teacher]
model = "clerk"
tasks = 8

[student]
model = "scripted"
layout = "tools"

[memory]
embedder = "lexical"

[rollout]
max_steps = 8
"""


def page_files(folder: Path) -> None:
    for name, text in re.findall(r"<!-- file: ([\w.]+) -->\n```\w+\n(.*?)```", PAGE, re.S):
        (folder / name).write_text(text)


def doors(folder: Path) -> Env:
    page_files(folder)
    return python.build(python.Config(file=str(folder / "doors.py")))


ENVIRONMENTS: dict[str, tuple[Callable[[Path], Env], ToolCall]] = {
    "household": (lambda folder: household.build(household.Config(games=3)), ToolCall.act("dance")),
    "python": (doors, ToolCall.act("dance")),
    "tools": (lambda folder: tools.build(tools.Config(games=4)), ToolCall("dance")),
}


@pytest.mark.parametrize("name", sorted(ENVIRONMENTS))
def test_the_contract(name: str, tmp_path: Path) -> None:
    make, nonsense = ENVIRONMENTS[name]
    other = "test" if name == "python" else "dev"
    env_contract.holds(lambda: make(tmp_path), name, nonsense, other=other, secret=str(tmp_path))


def test_the_page_of_your_own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from duomem.cli import app

    page_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    outputs = []
    own = PAGE[: PAGE.index("## The tool world")]  # what follows is run by the tests of those worlds
    for command in re.findall(r"^duomem .*$", "\n".join(re.findall(r"```sh\n(.*?)```", own, re.S)), re.M):
        result = CliRunner().invoke(app, shlex.split(command, comments=True)[1:], catch_exceptions=False)
        assert result.exit_code == 0, (command, result.output)
        outputs.append(result.output)
    assert "4 of 8 teacher episodes were won" in outputs[0]
    results = json.loads((tmp_path / "runs/doors/report.json").read_text())
    assert round(results["arms"]["none"]["success"] * results["arms"]["none"]["n"]) == 2


def own(folder: Path, text: str) -> python.PythonEnv:
    (folder / "own.py").write_text(text)
    return python.build(python.Config(file=str(folder / "own.py"), options={"n": 2}))


SOUND = """
TOOLS = [{"type": "function", "function": {"name": "add", "description": "Add.", "parameters": {"type": "object"}}}]
closed = []
def tasks(split): return range(OPTIONS["n"]) if split == "train" else None
def start(task): return [], {"goal": f"make {task}"}
def step(state, action):
    state.append(action)
    return {"text": str(action["arguments"]["x"]), "won": action == {"name": "add", "arguments": {"x": 1}}}
def close(state): closed.append(state)
"""


def test_three_functions_with_tools_options_and_an_end(tmp_path: Path) -> None:
    env = own(tmp_path, SOUND)
    task = env.tasks("train")[1]
    assert task.id == "train/1"
    episode = env.open(task)
    assert [tool.name for tool in episode.tools()] == ["add"]
    assert ACT not in episode.tools()
    assert episode.observe().goal == "make 1"
    assert not episode.step(ToolCall("add", '{"x": 0}')).done
    last = episode.step(ToolCall("add", '{"x": 1}'))
    assert last.won
    assert last.done
    with pytest.raises(RuntimeError, match="done"):
        episode.step(ToolCall("add", '{"x": 1}'))
    episode.close()
    assert len(env._module.closed) == 1
    assert own(tmp_path, SOUND + "\n# other bytes").tasks("train")[1].data_hash != task.data_hash


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("def tasks(split): return [1, 1]", "tasks has to give different"),
        ("def start(task): return {'goal': 'g'}", "start has to give a state"),
        ("def start(task): return 0, {'text': 't'}", "start has to give the texts goal"),
        ("def step(state, action): return 'seen'", "step has to give"),
        ("def step(state, action): return {'text': '', 'reward': 1}", "step has to give"),
        ("def step(state, action): return {'text': '', 'won': 1}", "True or False"),
        ("def labels(task): return {'kind': 3}", "labels has to give"),
    ],
)
def test_a_function_that_gives_something_else_is_named(text: str, wrong: str, tmp_path: Path) -> None:
    env = own(tmp_path, f"{SOUND}\n{text}\n")
    with pytest.raises(DataError, match=wrong):
        play_once(env)


def play_once(env: python.PythonEnv) -> None:
    task = env.tasks("train")[0]
    episode = env.open(task)
    episode.observe()
    episode.step(ToolCall("add", '{"x": 1}'))
    env.labels(task)


def test_a_file_that_is_not_there_or_lacks_a_function(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such Python file"):
        python.build(python.Config(file=str(tmp_path / "none.py")))
    with pytest.raises(UsageError, match="no such Python file"):
        python.build(python.Config())
    with pytest.raises(UsageError, match="does not define the function start, step"):
        own(tmp_path, "def tasks(split): return [1]")
    with pytest.raises(UsageError, match="does not load"):
        own(tmp_path, "def tasks(split:")


def test_every_call_is_checked_by_its_schema() -> None:
    env = tools.build(tools.Config(games=len(KINDS)))
    office = env.office(env.tasks("train")[0])
    for name, arguments, wrong in (
        ("fly", {}, "no tool fly"),
        ("read_mail", {}, "read_mail takes number"),
        ("read_mail", {"number": "1"}, "has to be of type integer"),
        ("read_mail", {"number": True}, "has to be of type integer"),
        ("read_mail", {"number": 99}, "no mail 99"),
        ("send_mail", {"to": "nobody", "subject": "", "text": ""}, "nobody is called"),
        ("add_event", {"day": "monday", "hour": 3, "title": "t"}, "no such day"),
        ("cancel_event", {"number": 77}, "no event"),
        ("read_file", {"name": "x"}, "no file"),
    ):
        text, valid = office.do(name, arguments)
        assert not valid
        assert wrong in text
    assert not office.won


def bank_texts(run: RunFolder) -> list[str]:
    with Bank.open(run.bank, embed.build("lexical"), prompts.load_layout("tools").hash) as bank:
        return [memory.text for memory in bank.view().memories()]


def test_tool_calls_from_playing_to_training(tmp_path: Path) -> None:
    """The clerk wins every kind of task; its calls are learned, tools stand in the prompt; out and in again nothing is lost."""
    (tmp_path / "office.toml").write_text(OFFICE)
    run = open_run(tmp_path / "run", tmp_path / "office.toml")
    assert collect(run).data["won"] == 8
    episodes = successes(run)
    assert {each.tools for each in episodes} == {TOOLS}
    layout = prompts.load_layout("tools")
    prepared = examples.prepare(episodes, layout, examples.Options(memories="none"))
    tokenizer = tiny_models.tokenizer("chatml")
    for episode in episodes:
        example = next(each for each in prepared.examples if each.source == episode.content_hash)
        assert [message.role for message in example.messages][:4] == ["system", "user", "assistant", "tool"]
        encoded = prompts.encode(tokenizer, example.messages, example.learn, tools=example.tools)
        learned = tokenizer.decode([token for token, weight in zip(encoded.ids, encoded.weights, strict=True) if weight])
        prompt = tokenizer.decode([token for token, weight in zip(encoded.ids, encoded.weights, strict=True) if not weight])
        assert "send_mail" in prompt, "the tools are offered in the prompt"
        for turn in episode.turns:
            assert turn.call
            assert turn.call.name in learned
            assert json.dumps(json.loads(turn.call.arguments)) in learned
            assert turn.observation.splitlines()[0] not in learned or turn.observation in learned
    assert remember(run).data["memories"] == len(KINDS) * 2
    memory = next(each for each in bank_texts(run) if each.startswith("book"))
    assert memory.splitlines()[1:] == ["1. list_mails", "2. read_mail: number", "3. add_event: day, hour, title"]
    export_logs(run, tmp_path / "log.jsonl", "openai")
    other = open_run(tmp_path / "other", tmp_path / "office.toml")
    import_logs(other, [tmp_path / "log.jsonl"], Options("Apache-2.0"))
    assert other.result("collect")["content_hash"] == run.result("collect")["content_hash"]
    assert {each.tools for each in successes(other)} == {TOOLS}
