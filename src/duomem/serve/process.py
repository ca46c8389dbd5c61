"""The engine in a process of its own: when it dies it is started again, and what it was asked is asked again.

In: a `ModelSpec`. Out: an `Engine`. The process gets a clean environment: no variable of the server's changes the engine. A
reply has no effect but itself, so asking again is safe. Not here: the process itself (`worker`).
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from duomem import errors
from duomem.errors import DuomemError, InfraError
from duomem.models import ContextFull
from duomem.serve.student import ModelSpec
from duomem.types import Message, Reply, Sampling, Tool, dump, load

PASSED = (
    *("PATH", "HOME", "USER", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH"),
    *("XDG_CACHE_HOME", "XDG_DATA_HOME", "HF_HOME", "HF_HUB_CACHE", "CUDA_VISIBLE_DEVICES"),
)
"""The only variables that the engine sees: where things lie. None says how it computes (LLAMA_ARG_*, GGML_*, TORCH_*, ...)."""
FIXED = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_WAIT_POLICY": "PASSIVE",
}
DEATHS, WITHIN_S = 5, 60.0
"""An engine that dies so often within that time is not started again until the time has passed."""
START_S = 300.0


class Died(InfraError):
    """The engine's process ended while it was asked."""


class ProcessEngine:
    """An `Engine`. `restarted` is called after each new start. Raises what building the model raises."""

    def __init__(self, spec: ModelSpec, restarted: Callable[[], None] = lambda: None) -> None:
        self._spec, self._restarted = spec, restarted
        self._lock = threading.Lock()
        self._deaths: deque[float] = deque(maxlen=DEATHS)
        self._closed = False
        self._link = _Link(spec)

    @property
    def pid(self) -> int:
        return self._link.process.pid

    @property
    def context(self) -> int:
        return self._link.context

    def reply(
        self, messages: Sequence[Message], tools: Sequence[Tool], sampling: Sampling, owner: str, call: bool = False
    ) -> Reply:
        asked = {
            "what": "reply",
            "messages": [dump(message) for message in messages],
            "tools": [dump(tool) for tool in tools],
            "sampling": dump(sampling),
            "owner": owner,
            "call": call,
        }
        link = self._alive()
        try:
            return load(Reply, link.ask(asked)["reply"])
        except Died:
            return load(Reply, self._alive(link).ask(asked)["reply"])

    def save(self) -> int:
        """Write the caches of conversations to the folder in the model's options; how many. 0 where the engine cannot."""
        return int(self._link.ask({"what": "save"})["count"])

    def restore(self) -> int:
        """Read them again; how many."""
        return int(self._link.ask({"what": "restore"})["count"])

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._link.close()

    def _alive(self, dead: _Link | None = None) -> _Link:
        """The link to a running engine; a new one where the present one is `dead` or has ended."""
        with self._lock:
            if self._closed:
                raise InfraError("The engine has been closed.")
            if self._link is not dead and not self._link.ended:
                return self._link
            now = time.monotonic()
            if len(self._deaths) == DEATHS and now - self._deaths[0] < WITHIN_S:
                raise InfraError(f"The engine ended {DEATHS} times within {WITHIN_S:g} s; it is started again after that time.")
            self._deaths.append(now)
            self._link.close()
            self._link = _Link(self._spec)
            self._restarted()
            return self._link


class _Link:
    """One process of the engine, and who waits for what it says."""

    def __init__(self, spec: ModelSpec) -> None:
        ours, theirs = socket.socketpair()
        environment = {name: os.environ[name] for name in PASSED if name in os.environ} | FIXED
        environment["OMP_NUM_THREADS"] = str(spec.options.get("threads") or 1)
        command = [sys.executable, "-P", "-W", "ignore::FutureWarning", "-m", "duomem.serve.worker", str(theirs.fileno())]
        with theirs:
            self.process = subprocess.Popen(
                command, env=environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
            )
        self._socket, self._lines = ours, ours.makefile("rb")
        self._numbers = itertools.count()
        self._waiting: dict[int, Future[dict[str, Any]]] = {}
        self._lock = threading.Lock()
        self.ended = False
        try:
            self.context = self._first(spec)
        except BaseException:
            self.close()
            raise
        threading.Thread(target=self._read, name="duomem-engine-link", daemon=True).start()

    def _first(self, spec: ModelSpec) -> int:
        self._socket.settimeout(START_S)
        try:
            self._socket.sendall(json.dumps({"name": spec.name, "options": spec.options}).encode() + b"\n")
            said = json.loads(self._lines.readline() or b'{"error": "InfraError", "words": "The engine ended as it started."}')
        except TimeoutError as error:
            raise InfraError(f"The engine was not ready after {START_S:g} s.") from error
        self._socket.settimeout(None)
        if "error" in said:
            raise _error(said)
        return int(said["context"])

    def ask(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Blocks until the answer is there. Raises `Died`, and what the engine raised."""
        future: Future[dict[str, Any]] = Future()
        with self._lock:
            if self.ended:
                raise Died("The engine has ended.")
            number = next(self._numbers)
            self._waiting[number] = future
            try:
                self._socket.sendall(json.dumps({"id": number, **asked}).encode() + b"\n")
            except OSError as error:
                del self._waiting[number]
                raise Died("The engine has ended.") from error
        said = future.result()
        if "error" in said:
            raise _error(said)
        return said

    def _read(self) -> None:
        try:
            for line in self._lines:
                said = json.loads(line)
                with self._lock:
                    future = self._waiting.pop(said["id"], None)
                if future:
                    future.set_result(said)
        except (OSError, ValueError):
            pass  # a line that was cut by the engine's end
        with self._lock:
            self.ended = True
            left, self._waiting = list(self._waiting.values()), {}
        for future in left:
            future.set_exception(Died("The engine ended while it answered."))

    def close(self) -> None:
        """End the process; whoever still waits gets `Died`."""
        self.ended = True
        self._socket.close() if self.process.poll() is not None else self._hang_up()

    def _hang_up(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._socket.close()


def _error(said: dict[str, Any]) -> Exception:
    """The engine's error as this process has it."""
    if said["error"] == "ContextFull":
        return ContextFull(said["words"])
    kind = getattr(errors, said["error"], InfraError)
    if isinstance(kind, type) and issubclass(kind, DuomemError) and kind is not errors.MissingExtra:
        return kind(said["words"])
    return InfraError(said["words"])
