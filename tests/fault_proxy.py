"""A proxy between a client and an engine that breaks replies on purpose, and counts what the engine was asked to do.

In: an engine's URL, and a plan that says which request meets which fault. Out: a base URL. Replies are read from the engine
whole and kept by request, so that a second run gets the same bytes; `paid` counts every request that an engine would bill.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Fault:
    """What happens to one request. `status` answers without the engine; the others break the engine's reply."""

    status: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    edit: Callable[[bytes], bytes] | None = None
    """Change the reply's body and send it as if all were well."""
    cut: int | None = None
    """Send so many bytes of the body, then end."""
    how: str = "close"
    """How a cut ends: "close" (no length was promised, so it looks like an end), "length" (fewer bytes than promised),
    "chunked" (the last chunk is missing), "reset" (TCP reset), "stall" (nothing more comes)."""
    drip_s: float = 0.0
    """Seconds before each byte of the body."""


Plan = Callable[[int, bytes], "Fault | None"]
Engine = Callable[[bytes], tuple[int, str, bytes]]
"""An engine in this process: a request's body to status, content type and body of the reply."""


class FaultProxy:
    """Use as a context manager. `plan(number, body)` is asked for each POST, numbered from 0; set it at any time."""

    def __init__(self, engine: str | Engine) -> None:
        self.engine = engine
        self.plan: Plan = lambda number, body: None
        self.kept: dict[bytes, tuple[int, str, bytes]] = {}
        self.arrived: list[tuple[float, Fault | None]] = []
        self.paid: list[bytes] = []
        self.keys: list[str] = []
        self._lock = threading.Lock()
        self._engine_lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None
        self._port = 0
        self._ended = threading.Event()
        self._open: list[socket.socket] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    def __enter__(self) -> FaultProxy:
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.down()

    def up(self) -> None:
        """Listen, on the port of last time."""
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                proxy.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False
            request_queue_size = 128

            def process_request(self, request: Any, address: Any) -> None:
                proxy._open.append(request)
                super().process_request(request, address)

            def handle_error(self, *_: object) -> None:
                pass  # sockets that were closed on purpose

        self._server = Server(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def down(self) -> None:
        """Refuse connections until `up`; those that are open end."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def forget(self) -> None:
        """Start counting anew; what the engine said is kept."""
        with self._lock:
            self.arrived, self.paid, self.keys = [], [], []

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        with self._lock:
            fault = self.plan(len(self.arrived), body)
            self.arrived.append((time.monotonic(), fault))
            self.keys.append(request.headers.get("Authorization", ""))
            if fault is None or not fault.status:
                self.paid.append(body)
        try:
            if fault and fault.status:
                _send(request, fault.status, "application/json", b'{"error": {"message": "planned"}}', dict(fault.headers))
                return
            status, kind, reply = self._ask(request.path, body)
            if fault is None:
                _send(request, status, kind, reply)
            else:
                self._break(request, status, kind, reply, fault)
        except OSError:
            pass  # the client went away

    def _ask(self, path: str, body: bytes) -> tuple[int, str, bytes]:
        """The engine's reply, the one kept where there is one. One at a time, so that batches do not depend on timing."""
        with self._engine_lock:
            if body not in self.kept:
                self.kept[body] = self.engine(body) if callable(self.engine) else _forwarded(self.engine, path, body)
            return self.kept[body]

    def _break(self, request: BaseHTTPRequestHandler, status: int, kind: str, reply: bytes, fault: Fault) -> None:
        reply = fault.edit(reply) if fault.edit else reply
        if fault.drip_s:
            _head(request, status, kind, {"Content-Length": str(len(reply))})
            for index in range(len(reply)):
                if self._ended.wait(fault.drip_s):
                    return
                request.wfile.write(reply[index : index + 1])
            return
        if fault.cut is None:
            _send(request, status, kind, reply)
            return
        promised = {"length": {"Content-Length": str(len(reply))}, "chunked": {"Transfer-Encoding": "chunked"}}
        _head(request, status, kind, promised.get(fault.how, {"Connection": "close"}))
        part = reply[: fault.cut]
        request.wfile.write(b"%x\r\n%s\r\n" % (len(part), part) if fault.how == "chunked" and part else part)
        request.close_connection = True
        if fault.how == "stall":
            self._ended.wait(30)
        if fault.how == "reset":
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            request.wfile.flush()
            os.close(request.connection.detach())


def _forwarded(engine: str, path: str, body: bytes) -> tuple[int, str, bytes]:
    place = urlsplit(engine)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=300)
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    reply = connection.getresponse()
    found = (reply.status, reply.headers.get("Content-Type", ""), reply.read())
    connection.close()
    return found


def _head(request: BaseHTTPRequestHandler, status: int, kind: str, headers: dict[str, str]) -> None:
    request.send_response(status)
    for name, value in {"Content-Type": kind, **headers}.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.flush()


def _send(request: BaseHTTPRequestHandler, status: int, kind: str, body: bytes, headers: dict[str, str] | None = None) -> None:
    _head(request, status, kind, {"Content-Length": str(len(body)), **(headers or {})})
    request.wfile.write(body)


def replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    """An edit that puts one text in another's place."""
    return lambda reply: reply.replace(old, new)


def no_choices(reply: bytes) -> bytes:
    """A reply, streamed or not, that is well-formed and holds no choice."""
    if reply.startswith(b"data:"):
        return b'data: {"id": "1", "model": "m", "choices": []}\n\ndata: [DONE]\n\n'
    return json.dumps(json.loads(reply) | {"choices": []}).encode()


def says(
    message: dict[str, Any] | str,
    *,
    model: str = "tiny",
    finish: str = "stop",
    usage: tuple[int, int, int] | None = (20, 5, 4),
    stream: bool = True,
) -> tuple[int, str, bytes]:
    """A reply as an endpoint sends it: text or a message's fields, and counts of prompt, cached and completion tokens."""
    fields = {"content": message} if isinstance(message, str) else message
    head = {"id": "chatcmpl-1", "created": 1, "model": model}
    counts: dict[str, Any] = {}
    if usage:
        details = {"cached_tokens": usage[1]}
        counts["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[2], "prompt_tokens_details": details}
    if not stream:
        choice = {"index": 0, "message": {"role": "assistant", **fields}, "finish_reason": finish}
        return (
            200,
            "application/json",
            json.dumps({**head, "object": "chat.completion", "choices": [choice], **counts}).encode(),
        )
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    for key, value in fields.items():
        if isinstance(value, str):
            deltas += [{key: value[at : at + 5]} for at in range(0, len(value), 5)]
        else:
            deltas.append({key: [{"index": number, **call} for number, call in enumerate(value)]})
    chunks = [{**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    if usage:
        chunks.append({**head, "choices": [], **counts})
    lines = [f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n" for chunk in chunks]
    return 200, "text/event-stream", "".join([*lines, "data: [DONE]\n\n"]).encode()
