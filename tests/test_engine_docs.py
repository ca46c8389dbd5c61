"""A small device: the commands of README and docs/engines.md as they stand, on a small run; and a bundle that is stopped."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner

from duomem import grid, pipeline, requantise
from duomem.bundle import Options, write_bundle
from duomem.cli import app
from duomem.errors import DataError
from duomem.rundir import RunFolder, open_run
from duomem.talk import SILENT

pytest.importorskip("xllamacpp", reason="needs the extra 'llamacpp'")
pytest.importorskip("uvicorn", reason="needs the extra 'serve'")
pytest.importorskip("cryptography", reason="needs the extra 'bundle'")

ROOT = Path(__file__).resolve().parents[1]
CONFIG = """
[run]
name = "mine"
[env]
name = "household"
[teacher]
tasks = 6
[student]
model = "llamacpp"
max_tokens = 24
threads = 1
[memory]
embedder = "lexical"
[rollout]
max_steps = 3
[evaluate]
split = "valid_unseen"
games = 3
arms = ["none", "memory"]
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs/mine: collected with room for the teacher, evaluated with three turns a game."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "mine.toml").write_text(CONFIG)
    run = open_run(folder / "runs/mine", folder / "mine.toml", ["rollout.max_steps=30"])
    pipeline.collect(run)
    pipeline.remember(run)
    grid.evaluate(open_run(folder / "runs/mine", None, ["rollout.max_steps=3"]), SILENT)
    return folder


@pytest.fixture(autouse=True)
def _here(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    for name in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))


def commands(page: str, heading: str) -> list[list[str]]:
    """The commands of the first block below a heading."""
    found = re.search(rf"## {heading}\n.*?```sh\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S)
    assert found
    return [shlex.split(line, comments=True) for line in found[1].splitlines()]


@pytest.mark.parametrize(
    ("page", "heading"), [("README.md", "Put it on a small device"), ("docs/engines.md", "A small device")]
)
def test_the_commands_of_a_small_device_run(page: str, heading: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requantise, "NEARLY", 0.5)  # three turns a game are no games to compare students on
    for words in commands(page, heading):
        if words[1] != "serve":
            done = CliRunner().invoke(app, words[1:])
            assert done.exit_code == 0, f"{words}: {done.output}{done.exception}"
            continue
        command = [sys.executable, "-c", "from duomem.cli import main; main()", *words[1:], "--port", "0", "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as running:
            assert running.stdout
            told = json.loads(running.stdout.readline())
            body = {"model": "any", "messages": [{"role": "user", "content": "Task: put a mug in cabinet."}], "max_tokens": 8}
            asked = urllib.request.Request(f"{told['url']}/chat/completions", json.dumps(body).encode())
            asked.add_header("Content-Type", "application/json")
            with urllib.request.urlopen(asked, timeout=120) as reply:
                assert json.load(reply)["usage"]["completion_tokens"] > 0
            running.send_signal(signal.SIGINT)
            assert running.wait(timeout=60) in (0, 130)


def test_a_bundle_is_served_where_torch_cannot_be_imported(home: Path, tmp_path: Path) -> None:
    """All of `duomem serve` but the socket and the engine's own process: bundle, bank, search, tokenizer, llama.cpp."""
    made = tmp_path / "my.duo"
    options = Options(arm="memory", gguf="merged", weights="f32", games=0, parity=1)
    write_bundle(open_run(home / "runs/mine", keep=False), made, options)
    script = f"""
import sys
for name in ("torch", "transformers", "peft", "alfworld", "textworld"):
    sys.modules[name] = None
from pathlib import Path
from duomem.serve.engine import LocalEngine
from duomem.serve.service import Alone, Service
from duomem.serve.student import Choice, open_student
student = open_student(Path({str(made)!r}), Choice(allow_unsigned=True))
engine = LocalEngine.of(student.model)
body = {{"messages": [{{"role": "user", "content": "You see a cabinet 1.\\nTask: put a mug in cabinet."}}], "max_tokens": 8}}
done = Service(student, Alone(engine)).answer("chat", body, "me", {{}})
print(len(done.asked.injected.ids), done.answer.replies[0].usage.completion)
engine.close()
student.close()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    memories, tokens = map(int, done.stdout.split())
    assert memories > 0
    assert tokens > 0


def test_a_quantised_student_that_may_lose_more_stops_the_bundle(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four games say too little: what they leave open is more than 3 points."""
    run: RunFolder = open_run(home / "runs/mine", keep=False)
    monkeypatch.setattr(requantise, "NEARLY", 2.0)  # its words are never enough here
    monkeypatch.setattr(requantise, "FIRST", 4)
    options = Options(arm="memory", gguf="merged", weights="q4_0", games=4, parity=0)
    with pytest.raises(DataError, match=r"may lose more than 3 points: .*q4_0.* of 4 dev games won.*--weights q8_0"):
        write_bundle(run, tmp_path / "my.duo", options)
    assert not (tmp_path / "my.duo").exists()
    asked = requantise.golden(run, "memory")
    assert len(asked) == 3
