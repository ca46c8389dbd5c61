"""The user's own agent against the arms: run for each, recorded, judged by its word or its exit code, its failures no zeros."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from duomem import arm_server, pipeline
from duomem.cli import app
from duomem.config import settings_of
from duomem.errors import Incomplete, InfraError, UsageError
from duomem.models.scripted import Scripted
from duomem.own_agent import Order
from duomem.prompts import load_layout
from duomem.rundir import RunFolder
from duomem.types import Sampling

pytest.importorskip("uvicorn", reason="needs the extra 'record'")
openai = pytest.importorskip("openai", reason="needs the extra 'api'")

AGENT = """
import json, os, sys, urllib.request
def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    return json.load(urllib.request.urlopen(request, timeout=60))
task, base = sys.argv[1], os.environ["OPENAI_BASE_URL"]
if "crash" in task and not os.path.exists("mended"):
    sys.exit(7)
reply = post(base + "/chat/completions", {"model": "any", "messages": [{"role": "user", "content": task}]})
text = reply["choices"][0]["message"]["content"]
if "told" in task:
    post(base.removesuffix("/v1") + "/duomem/outcome", {"won": True})
print(text)
sys.exit(0 if text == "yes" else 1)
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "agent.py").write_text(AGENT)
    tables: dict[str, Any] = {
        "env": {"name": "household"},
        "teacher": {"model": "expert", "tasks": 4},
        "student": {"model": "scripted", "replies": ["no"], "scripts": {"easy": ["yes"]}},
        "memory": {"embedder": "lexical", "k": 1},
        "rollout": {"concurrency": 2},
        "evaluate": {"split": "valid_unseen", "games": 2},
    }
    made = RunFolder(tmp_path / "run", settings_of(tables, "test"))
    made.write_config()
    pipeline.collect(made)
    pipeline.remember(made)
    return made


def test_each_arm_is_played_recorded_and_counted(run: RunFolder, tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.txt"
    tasks.write_text("easy one\nhard one; echo 'x'\n\nhard but told\neasy one\n")
    line = f"{sys.executable} agent.py {{task}}"
    words = CliRunner().invoke(app, ["evaluate", str(run.root), "--command", line, "--tasks", str(tasks)])
    assert words.exit_code == 0, words.output
    found = json.loads((run.root / "command" / "results.json").read_text())
    ended = {"easy one": True, "hard one; echo 'x'": False, "hard but told": True}
    assert found["outcomes"] == {"none": ended, "memory": ended}
    assert found["pairs"]["memory - none"][0] == 0.0
    listed = CliRunner().invoke(app, ["episodes", str(run.root / "command" / "memory"), "--json"])
    episodes = json.loads(listed.stdout.splitlines()[-1])["episodes"]
    assert sorted(each["task"] for each in episodes) == sorted(ended)


def test_a_failing_agent_is_no_zero_and_only_it_runs_again(run: RunFolder, tmp_path: Path) -> None:
    order = Order(f"{sys.executable} agent.py {{task}}", ("easy one", "easy crash"))
    with pytest.raises(Incomplete, match="1 runs of the agent failed"):
        pipeline.command(run, line=order.command, tasks=_file(tmp_path, order), arms=["none"])
    logs = len(list((run.root / "command" / "none").glob("*.log")))
    (tmp_path / "mended").touch()
    done = pipeline.command(run, line=order.command, tasks=_file(tmp_path, order), arms=["none"])
    assert done.data["arms"]["none"]["done"] == 2
    assert len(list((run.root / "command" / "none").glob("*.log"))) == logs + 1


def _file(folder: Path, order: Order) -> Path:
    (folder / "some.txt").write_text("\n".join(order.tasks))
    return folder / "some.txt"


def test_what_is_asked_wrongly_says_so(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"put \{task\}"):
        Order.of("python agent.py", tmp_path / "tasks.txt")
    with pytest.raises(UsageError, match="--tasks FILE"):
        Order.of("python agent.py {task}", None)
    with pytest.raises(UsageError, match="'decoy' cannot be run"):
        pipeline.command(run, line="x {task}", tasks=_file(tmp_path, Order("", ("a",))), arms=["decoy"])
    with pytest.raises(UsageError, match="cannot be started"):
        pipeline.command(run, line="./not-there {task}", tasks=_file(tmp_path, Order("", ("a",))), arms=["none"])


def test_the_served_arm_speaks_as_its_api_and_shows_memories() -> None:
    seen = []

    def script(messages: Any) -> str:
        seen.append(messages)
        if "fail" in messages[-1].text:
            raise InfraError("the engine is gone")
        return "here"

    layout = load_layout("default")
    with arm_server.serving(Scripted(script), layout, lambda messages, body: ["a way"], Sampling(), "both") as url:
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
        said = client.chat.completions.create(
            model="x", messages=[{"role": "system", "content": "Mine."}, {"role": "user", "content": "go"}]
        )
        assert said.choices[0].message.content == "here"
        stream = client.chat.completions.create(model="x", messages=[{"role": "user", "content": "go"}], stream=True)
        assert "".join(part.choices[0].delta.content or "" for part in stream if part.choices) == "here"
        with pytest.raises(openai.InternalServerError, match="engine is gone"):
            client.chat.completions.create(model="x", messages=[{"role": "user", "content": "fail"}])
        with pytest.raises(openai.NotFoundError):
            client.embeddings.create(model="x", input="go")
    assert seen[0][0].text.startswith("Mine.")
    assert "a way" in seen[0][0].text
    assert "a way" in seen[1][0].text
