"""The commands of docs/decide-without-a-simulator.md, run as they stand there, on a small run."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from duomem.cli import app

pytest.importorskip("uvicorn", reason="needs the extra 'record'")

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "decide-without-a-simulator.md"
MINE = """
[env]
name = "household"
[teacher]
tasks = 8
[student]
model = "scripted"
[memory]
embedder = "lexical"
[rollout]
concurrency = 2
"""
AGENT = """
import os, sys, urllib.request
url = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
request = urllib.request.Request(url, headers={"content-type": "application/json"},
    data=b'{"model": "x", "messages": [{"role": "user", "content": "%s"}]}' % sys.argv[1].encode())
sys.exit(0 if b"look" in urllib.request.urlopen(request, timeout=60).read() else 1)
"""


def test_the_commands_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ALFWORLD_DATA", raising=False)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    shutil.copytree(ROOT / "configs", "configs")
    for name, text in (("mine.toml", MINE), ("agent.py", AGENT), ("tasks.txt", "tidy up\nfind a mug\n")):
        Path(name).write_text(text)
    assert CliRunner().invoke(app, ["collect", "runs/mine", "--config", "mine.toml"]).exit_code == 0
    assert CliRunner().invoke(app, ["remember", "runs/mine"]).exit_code == 0
    lines = "\n".join(re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.S)).splitlines()
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("duomem ")]
    assert len(commands) == 4
    for command in commands:
        done = CliRunner().invoke(app, command[1:])
        assert done.exit_code == 0, f"{command}: {done.output}{done.exception}"
    assert not Path("runs/paper").exists()
    assert Path("runs/mine/log/agreement.json").is_file()
    assert Path("runs/mine/command/results.json").is_file()
