"""The engine's process: `python -m duomem.serve.worker FD` builds a model and answers what its server asks.

In: lines of JSON on a socket that it inherited: first what to build, then requests. Out: a line for each, in the order in which
they are done. It ends when the socket does. Not here: starting it (`process`), HTTP.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from duomem.errors import DuomemError
from duomem.models import ContextFull
from duomem.serve.engine import LocalEngine
from duomem.serve.student import ModelSpec
from duomem.types import Message, Sampling, Tool, dump, load

THREADS = 64
"""Requests that may wait in the process at once; the server admits fewer."""


def main(descriptor: int) -> None:
    """Serve one server until its end of the socket closes."""
    with socket.socket(fileno=descriptor) as link, link.makefile("rb") as lines:
        send = _Sender(link)
        first = json.loads(lines.readline())
        try:
            engine = LocalEngine.of(ModelSpec(first["name"], first["options"]))
        except (DuomemError, OSError) as error:
            send({"error": type(error).__name__, "words": str(error)})
            return
        send({"ready": engine.facts, "context": engine.context})
        with ThreadPoolExecutor(THREADS) as pool:
            for line in lines:
                pool.submit(_one, engine, json.loads(line), send)
            # The server is gone: what is still computed nobody reads.
            os._exit(0)


def _one(engine: LocalEngine, asked: dict[str, Any], send: _Sender) -> None:
    number = asked["id"]
    try:
        send({"id": number, **answer(engine, asked)})
    except (ContextFull, DuomemError) as error:
        send({"id": number, "error": type(error).__name__, "words": str(error)})
    except Exception as error:  # noqa: BLE001 - a request's edge: whoever asked must hear that it failed
        send({"id": number, "error": "InfraError", "words": f"{type(error).__name__}: {error}"})


def answer(engine: LocalEngine, asked: dict[str, Any]) -> dict[str, Any]:
    """What one request gets back."""
    if asked["what"] == "save":
        return {"count": engine.save()}
    if asked["what"] == "restore":
        return {"count": engine.restore()}
    messages = [load(Message, text) for text in asked["messages"]]
    tools = [load(Tool, text) for text in asked["tools"]]
    reply = engine.reply(messages, tools, load(Sampling, asked["sampling"]), asked["owner"], asked["call"])
    return {"reply": dump(reply)}


class _Sender:
    """Writes whole lines from many threads."""

    def __init__(self, link: socket.socket) -> None:
        self._link, self._lock = link, threading.Lock()

    def __call__(self, said: dict[str, Any]) -> None:
        line = json.dumps(said).encode() + b"\n"
        with self._lock:
            try:
                self._link.sendall(line)
            except OSError:
                os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
