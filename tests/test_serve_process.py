"""The engine's process: killed, it comes back and no request is lost; a clean environment; reloads that drop nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

import serve_world
from duomem.errors import InfraError, UsageError
from duomem.models import ContextFull
from duomem.serve.limits import Keys
from duomem.serve.process import DEATHS, ProcessEngine
from duomem.serve.service import Alone, Service
from duomem.serve.student import ModelSpec
from duomem.types import Message, Sampling

pytest.importorskip("uvicorn", reason="needs the extra 'record'")

ASK = [{"role": "user", "content": "put a mug on the desk"}]
TALK = [Message.of("user", "put a mug on the desk")]
SLOW = {"replies": ["Done."], "stall_at": list(range(1000)), "stall_s": 1.0}


@pytest.fixture
def engine() -> Iterator[ProcessEngine]:
    made = ProcessEngine(ModelSpec("scripted", {"replies": ["Done."]}))
    yield made
    made.close()


def ask(engine: ProcessEngine) -> str:
    return engine.reply(TALK, (), Sampling(), "me").message.text


def test_an_engine_that_is_killed_comes_back_and_no_answer_is_lost() -> None:
    restarts: list[int] = []
    engine = ProcessEngine(ModelSpec("scripted", SLOW), lambda: restarts.append(1))
    try:
        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(ask, engine) for _ in range(4)]
            time.sleep(0.3)
            first = engine.pid
            os.kill(first, signal.SIGKILL)
            assert [each.result(timeout=120) for each in asked] == ["Done."] * 4
        assert engine.pid != first
        assert restarts == [1]
    finally:
        engine.close()


def test_an_engine_that_dies_again_and_again_is_left_alone_for_a_while(
    engine: ProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("duomem.serve.process.WITHIN_S", 3600.0)  # a busy machine takes minutes for five starts
    for _ in range(DEATHS):
        os.kill(engine.pid, signal.SIGKILL)
        assert ask(engine) == "Done."
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(InfraError, match="times within"):
        ask(engine)


def test_errors_of_the_model_are_the_same_on_this_side() -> None:
    with pytest.raises(UsageError, match=r"missing\.gguf"):
        ProcessEngine(ModelSpec("llamacpp", {"path": "pocket", "gguf": "missing.gguf"}))
    engine = ProcessEngine(ModelSpec("scripted", {"context": 3, "raise_at": [1]}))
    try:
        with pytest.raises(ContextFull, match="exceed"):
            ask(engine)
        with pytest.raises(InfraError, match="fails at call 1"):
            ask(engine)
    finally:
        engine.close()
    with pytest.raises(InfraError, match="closed"):
        ask(engine)


def test_the_engine_sees_no_variable_that_changes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "LLAMA_ARG_CTX_SIZE",
        "GGML_SCHED_DEBUG",
        "TORCH_LOGS",
        "PYTHONPATH",
        "LD_PRELOAD",
        "OPENAI_API_KEY",
        "DUOMEM_SERVE_KEYS",
    ):
        monkeypatch.setenv(name, "planted")
    engine = ProcessEngine(ModelSpec("scripted", {}))
    try:
        entries = Path(f"/proc/{engine.pid}/environ")
        if not entries.is_file():
            pytest.skip("no /proc here to read a process's environment from")
        assert b"planted" not in entries.read_bytes()
        assert b"PATH=" in entries.read_bytes()
    finally:
        engine.close()


def test_the_engine_ends_with_its_server(tmp_path: Path) -> None:
    code = (
        "from duomem.serve.process import ProcessEngine; from duomem.serve.student import ModelSpec; import time\n"
        "print(ProcessEngine(ModelSpec('scripted', {})).pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    end = time.monotonic() + 60
    while _lives(child):
        assert time.monotonic() < end, "the engine outlived its server"
        time.sleep(0.1)


def _lives(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_a_reload_drops_no_request() -> None:
    closed: list[str] = []
    go, begun = threading.Event(), threading.Event()

    class Held:
        context = 0

        def reply(self, messages: Any, tools: Any, sampling: Sampling, owner: str, call: bool = False) -> Any:
            begun.set()
            go.wait(60)
            assert not closed, "the engine of a request under way was closed"
            return serve_world.saying("old").reply(messages, tools, sampling)

        def close(self) -> None:
            closed.append("old")

    held = Held()
    keys = Keys(admin="boss")
    boss = {"x-api-key": "boss"}

    def load() -> str:
        student = serve_world.scripted_student(name="new")
        desks[0].exchange(Service(student, Alone(serve_world.LocalEngine(serve_world.saying("new")))))
        return student.revision

    desks: list[Any] = []
    with serve_world.serving(held, close=held.close, keys=keys, reload=load) as (url, desk):
        desks.append(desk)
        path = f"{url}/v1/chat/completions"
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(lambda: httpx.post(path, json={"messages": ASK}, timeout=120).json())
            assert begun.wait(60)
            assert httpx.post(f"{url}/duomem/reload").status_code == 403
            assert httpx.post(f"{url}/duomem/reload", headers=boss).json() == {"revision": "revision-new"}
            assert httpx.post(path, json={"messages": ASK}).json()["choices"][0]["message"]["content"] == "new"
            assert closed == []
            go.set()
            assert first.result()["choices"][0]["message"]["content"] == "old"
        _until(lambda: closed == ["old"])
        assert httpx.get(f"{url}/healthz").json()["revision"] == "revision-new"


def test_a_reload_that_fails_leaves_the_old_student() -> None:
    def load() -> str:
        raise UsageError("the bundle is not there")

    with serve_world.serving(serve_world.saying("old"), keys=Keys(admin="boss"), reload=load) as (url, _):
        answer = httpx.post(f"{url}/duomem/reload", headers={"x-api-key": "boss"})
        assert answer.status_code == 409
        assert "the bundle is not there" in answer.json()["error"]
        said = httpx.post(f"{url}/v1/chat/completions", json={"messages": ASK}).json()
        assert said["choices"][0]["message"]["content"] == "old"


def _until(holds: Any) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)
