"""The tool world from a recorded agent to an evaluation: typed tool calls all the way, through real sockets and clients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

import recorded_world
from duomem import embed, parts, prompts, wire
from duomem.bank import Bank
from duomem.envs import tools
from duomem.envs._office import KINDS, TOOLS
from duomem.models import clerk
from duomem.pipeline import collect, evaluate, remember, successes
from duomem.rundir import open_run
from duomem.types import Sampling, Task, ToolCall
from duomem.wire import Answer

openai = pytest.importorskip("openai", reason="the client openai is not installed (extra: api)")

LAYOUT = prompts.load_layout("tools")
OFFICE = """
[env]
name = "tools"
games = 4

[teacher]
model = "clerk"

[student]
model = "clerk"
layout = "tools"

[memory]
embedder = "lexical"
k = 1

[rollout]
max_steps = 8

[evaluate]
split = "test"
arms = ["none", "memory", "teacher"]
"""


def by_clerk(request: wire.Request, number: int) -> Answer:
    reply = clerk.build(clerk.Config()).reply(request.messages, request.tools, Sampling())
    return Answer(f"{request.api}-{number}", request.model, (reply,))


def work(base: str, env: tools.ToolWorld, task: Task) -> bool:
    """Somebody's agent: the openai client, an office, and a loop around them."""
    client = openai.OpenAI(base_url=base, api_key="none-at-all")
    episode = env.open(task)
    first = episode.observe()
    messages: list[Any] = [
        {"role": message.role, "content": message.text} for message in prompts.opening(LAYOUT, first.goal, first.text, [])
    ]
    offered = [
        {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": json.loads(tool.parameters)},
        }
        for tool in TOOLS
    ]
    for _ in range(8):
        said = client.chat.completions.create(model="big", messages=messages, tools=offered).choices[0].message
        messages.append(said.model_dump(exclude_none=True))
        for call in said.tool_calls:
            seen = episode.step(ToolCall(call.function.name, call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": seen.text})
            if seen.done:
                return seen.won
    return False


def test_from_a_recorded_agent_to_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded_world, "think", by_clerk)
    (tmp_path / "office.toml").write_text(OFFICE)
    run = open_run(tmp_path / "run", tmp_path / "office.toml")
    env = tools.build(tools.Config(games=4))
    with recorded_world.world(tmp_path / "run", task=r"path:user.0") as made:
        for number in range(4):
            won = work(f"{made.url}/e/office-{number}/v1", env, env.tasks("train")[number])
            made.store.judge(f"office-{number}", won, "the office")
    assert collect(run).data["won"] == 4
    episodes = successes(run)
    assert {each.tools for each in episodes} == {TOOLS}
    assert {turn.call.name for each in episodes for turn in each.turns if turn.call} <= {tool.name for tool in TOOLS}
    assert remember(run).data["memories"] == len(KINDS)
    with Bank.open(run.bank, embed.build("lexical"), LAYOUT.hash) as bank:
        texts = [memory.text for memory in bank.view().memories()]
    assert any("1. list_mails\n2. read_mail: number\n3. add_event: day, hour, title" in text for text in texts)
    results = evaluate(run).data
    assert {name: arm["success"] for name, arm in results["arms"].items()} == {"none": 1.0, "memory": 1.0, "teacher": 1.0}
    assert results["arms"]["memory"]["memories"] == 1.0


def test_the_same_agent_works_with_the_served_student(tmp_path: Path) -> None:
    """`duomem serve` in the place of a model, memories included: the client's loop wins what the student wins in process."""
    pytest.importorskip("uvicorn", reason="needs the extra 'record'")
    from duomem.serve.app import application
    from duomem.serve.desk import Desk
    from duomem.serve.engine import LocalEngine
    from duomem.serve.run import running
    from duomem.serve.service import Alone, Service
    from duomem.serve.student import Choice, open_student

    (tmp_path / "office.toml").write_text(OFFICE)
    run = open_run(tmp_path / "run", tmp_path / "office.toml")
    collect(run)
    remember(run)
    env = tools.build(tools.Config(games=4))
    tasks = env.tasks("test")
    student = open_student(run.root, Choice(arm="memory"))
    desk = Desk(Service(student, Alone(LocalEngine.of(student.model)), close=student.close))
    with running(application(desk)) as url:
        served = [work(f"{url}/v1", env, task) for task in tasks]
        metrics = httpx.get(f"{url}/metrics").text
    desk.close()
    with parts.Parts(run) as loaded:
        player = loaded.student(run, env)
        assert served == [player.play(task).won for task in tasks] == [True] * len(tasks)
    placed = next(line for line in metrics.splitlines() if line.startswith("duomem_memories_injected_total"))
    assert float(placed.split()[1]) >= len(tasks)
