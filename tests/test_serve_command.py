"""`duomem serve` as a person runs it: a process of its own, a client, SIGHUP, a graceful stop, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

import serve_world
from duomem.cli import app
from duomem.config import settings_of
from duomem.errors import UsageError
from duomem.rundir import RunFolder

pytest.importorskip("uvicorn", reason="needs the extra 'record'")
openai = pytest.importorskip("openai", reason="needs the extra 'api'")

ASK: list[Any] = [{"role": "user", "content": "You see a shelf 1.\nTask: put a mug in drawer."}]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    made = serve_world.make_run(tmp_path_factory.mktemp("command") / "run", tasks=6)
    tables = made.settings.model_dump(mode="json", exclude_none=True)
    tables["student"] = {"model": "scripted", "layout": "pocket", "replies": ["mug > look"], "stall_at": [1], "stall_s": 1.5}
    changed = RunFolder(made.root, settings_of(tables, "test"))
    changed.write_config()
    return changed


@contextmanager
def served(run: RunFolder, *options: str, **environment: str) -> Iterator[tuple[dict[str, Any], subprocess.Popen[str]]]:
    start = "from duomem.cli import main; main()"
    command = [sys.executable, "-c", start, "serve", str(run.root), "--port", "0", "--json", *options]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline()), process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()


def test_a_client_a_reload_and_a_graceful_stop(run: RunFolder) -> None:
    with served(run, "--arm", "memory") as (said, process):
        assert said["arm"] == "memory"
        client = openai.OpenAI(base_url=said["url"], api_key="none", max_retries=0)
        raw = client.chat.completions.with_raw_response.create(model="any", messages=ASK)
        assert raw.parse().choices[0].message.content == "mug > look"
        assert raw.headers["x-duomem-memories"]
        answers: list[str] = []
        slow = threading.Thread(
            target=lambda: answers.append(client.chat.completions.create(model="any", messages=ASK).choices[0].message.content)
        )
        process.send_signal(signal.SIGHUP)
        assert process.stderr is not None
        while "Loaded again" not in (line := process.stderr.readline()):
            assert line, "the server ended"
        client.chat.completions.create(model="any", messages=ASK)
        slow.start()
        threading.Event().wait(0.7)
        process.send_signal(signal.SIGTERM)
        slow.join(60)
        assert answers == ["mug > look"], "a request under way was dropped by the stop"
        assert process.wait(60) in (0, -signal.SIGTERM)


def test_another_address_needs_a_key(run: RunFolder) -> None:
    failed = CliRunner().invoke(app, ["serve", str(run.root), "--host", "0.0.0.0", "--port", "0"])
    assert isinstance(failed.exception, UsageError)
    assert "DUOMEM_SERVE_KEYS" in str(failed.exception)
    with served(run, "--host", "0.0.0.0", DUOMEM_SERVE_KEYS="alpha,beta") as (said, _):
        url = said["url"].replace("0.0.0.0", "127.0.0.1")
        assert httpx.get(f"{url}/models").status_code == 401
        assert httpx.get(f"{url}/models", headers={"authorization": "Bearer beta"}).status_code == 200


def test_what_cannot_be_served_is_said(run: RunFolder, tmp_path: Path) -> None:
    for arguments, words in (
        ([str(tmp_path)], "neither a bundle nor a run folder"),
        ([str(run.root), "--arm", "teacher"], "cannot be served"),
        ([str(run.root), "--arm", "adapter"], "duomem tune"),
        ([str(run.root), "--learn"], "--state"),
    ):
        failed = CliRunner().invoke(app, ["serve", *arguments, "--port", "0"])
        assert isinstance(failed.exception, UsageError), arguments
        assert words in str(failed.exception)


def test_the_demos_last_step_serves_and_asks_once(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    from duomem.cli.verbs import _first_reply

    _first_reply(run.root)
    said = capsys.readouterr().out
    assert "It got: mug > look" in said
    assert "Memories placed: none" not in said
