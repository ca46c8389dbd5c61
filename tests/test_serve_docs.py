"""The commands and code of README's "Serve it" and docs/serve.md, run as they stand there, on a small run."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

import serve_world
from duomem.cli import app
from duomem.config import settings_of
from duomem.rundir import RunFolder

pytest.importorskip("uvicorn", reason="needs the extra 'record'")
pytest.importorskip("openai", reason="needs the extra 'api'")

ROOT = Path(__file__).parent.parent
README, PAGE = (ROOT / "README.md").read_text(), (ROOT / "docs" / "serve.md").read_text()
SERVE_IT = README[README.index("## Serve it") : README.index("## Record your own agent")]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder with runs/mine, served as the first command of the pages says, but on a free port."""
    folder = tmp_path_factory.mktemp("docs")
    made = serve_world.make_run(folder / "runs" / "mine", tasks=6)
    tables = made.settings.model_dump(mode="json", exclude_none=True) | {
        "student": {"model": "scripted", "layout": "pocket", "replies": ["mug > look"]}
    }
    RunFolder(made.root, settings_of(tables, "test")).write_config()
    lines = [line for page in (SERVE_IT, PAGE) for line in blocks(page, "sh")[0].splitlines() if "serve runs/mine" in line]
    (first,) = {tuple(shlex.split(line, comments=True)) for line in lines}
    arguments = [*first[1:], "--port", "0", "--json"]
    start = "from duomem.cli import main; main()"
    server = subprocess.Popen(
        [sys.executable, "-c", start, *arguments], stdout=subprocess.PIPE, text=True, cwd=folder, env=os.environ
    )
    assert server.stdout is not None
    yield folder, json.loads(server.stdout.readline())["url"]
    server.terminate()
    server.wait()


def test_the_python_of_the_pages_runs(place: tuple[Path, str]) -> None:
    _, url = place
    codes = [*blocks(SERVE_IT, "python"), *blocks(PAGE, "python")]
    assert len(codes) == 2
    for code in codes:
        assert "http://127.0.0.1:4242/v1" in code
        mine = code.replace("http://127.0.0.1:4242/v1", url)
        done = subprocess.run([sys.executable, "-c", mine], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert "mug > look" in done.stdout


def test_the_outcome_of_the_page_is_taken(place: tuple[Path, str]) -> None:
    _, url = place
    asked = {"messages": [{"role": "user", "content": "Task: put a mug in cabinet."}]}
    reply = httpx.post(f"{url}/chat/completions", json=asked).json()["id"]
    line = next(line for block in blocks(PAGE, "sh") for line in block.splitlines() if line.startswith("curl"))
    words = shlex.split(line.replace("chatcmpl-...", reply).replace("http://127.0.0.1:4242", url.removesuffix("/v1")))
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout)["won"] is True


def test_every_command_of_the_page_is_one(place: tuple[Path, str]) -> None:
    lines = [line for block in blocks(PAGE, "sh") for line in block.splitlines() if "duomem " in line]
    assert len(lines) >= 5
    for line in lines:
        words = [word for word in shlex.split(line, comments=True) if not re.match(r"[A-Z_]+=", word)]
        shown = CliRunner().invoke(app, [words[1], "--help"])
        assert shown.exit_code == 0
        for option in (word for word in words if word.startswith("--")):
            assert option in shown.output, line
