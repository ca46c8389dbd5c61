"""For the tests of recording: a small endpoint that speaks all three APIs, and a recorder before it, both on real sockets.

The endpoint thinks aloud, calls the first tool twice at once, then answers. Headers of a request make it misbehave: `x-fault`
is a status, `cut:N` (N bytes, then the connection breaks), `short:N` (N bytes, then a clean end), `slow`, `gzip`, `text:...`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from duomem import wire
from duomem.record import app as recorder
from duomem.record.episodes import Episode, read
from duomem.record.functions import locator
from duomem.record.proxy import Options, Proxy
from duomem.record.redact import Redactor
from duomem.record.store import FILE, RecordStore
from duomem.types import Message, Reply, TextPart, ToolCall, Usage
from duomem.wire import Answer, Api

uvicorn = pytest.importorskip("uvicorn", reason="the extra record is not installed")

KEY = "sk-canary-0123456789abcdefghij"


def think(request: wire.Request, number: int) -> Answer:
    """The endpoint's answer: two calls of the first tool at the start and after each user message, words after results."""
    last = request.messages[-1] if request.messages else Message.of("user", "")
    replies = []
    for choice in range(request.choices):
        if request.tools and last.role == "user":
            calls = tuple(
                ToolCall(request.tools[0].name, json.dumps({"city": name}), f"call_{number}_{name}")
                for name in ("Rome", "Oslo")
            )
            replies.append(Reply(Message("assistant", (), calls, None, "Two cities."), "tool_calls", Usage(20, 5, 7)))
        else:
            said = f"reply {choice} to {last.text}: é€😀\n\ndata: [DONE]"
            replies.append(Reply(Message("assistant", (TextPart(said),), reasoning="Let me see."), "stop", Usage(10, 0, 4)))
    return Answer(f"{request.api}-{number}", request.model, tuple(replies))


@dataclass
class Endpoint:
    """What the endpoint saw: requests as they came."""

    url: str = ""
    seen: list[dict[str, Any]] = field(default_factory=list)
    cancelled: int = 0
    answers: dict[int, bytes] = field(default_factory=dict)
    number: int = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        self.number += 1
        number = self.number
        self.seen.append({"path": scope["path"], "query": scope["query_string"].decode(), "headers": headers, "body": body})
        api = wire.api_of(scope["path"])
        if api is None or scope["method"] != "POST":
            return await _send(send, 200, b"application/json", [b'{"object":"list","data":[]}'])
        fault = headers.get("x-fault", "")
        if fault.isdigit():
            words = json.dumps({"error": {"message": f"told to fail, key {headers.get('authorization', '')}"}}).encode()
            return await _send(send, int(fault), b"application/json", [words], [(b"retry-after", b"3")])
        if fault.startswith("text:"):
            return await _send(send, 200, b"application/json", [fault[5:].encode()])
        request = wire.read_request(api, json.loads(body))
        answer = think(request, int(headers.get("x-number", number)))
        chunks = (
            list(wire.write_stream(api, answer)) if request.stream else [json.dumps(wire.write_answer(api, answer)).encode()]
        )
        kind = b"text/event-stream; charset=utf-8" if request.stream else b"application/json"
        if fault.startswith(("cut:", "short:")):
            chunks = [b"".join(chunks)[: int(fault.partition(":")[2])]]
        extra = [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"x-request-id", b"r-1")]
        if fault == "gzip":
            chunks, extra = [gzip.compress(b"".join(chunks))], [*extra, (b"content-encoding", b"gzip")]
        self.answers[number] = b"".join(chunks)
        try:
            await _send(
                send,
                200,
                kind,
                chunks,
                extra,
                end=not fault.startswith("cut:"),
                wait=0.15 if fault == "slow" else 0,
                gone=receive,
            )
        except ConnectionError:
            self.cancelled += 1


async def _send(
    send: Any,
    status: int,
    kind: bytes,
    chunks: list[bytes],
    extra: Any = (),
    end: bool = True,
    wait: float = 0,
    gone: Any = None,
) -> None:
    watch = asyncio.ensure_future(gone()) if gone else None
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind), *extra]})
    for chunk in chunks:
        await asyncio.sleep(wait)
        if watch and watch.done():
            raise ConnectionError
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    if watch:
        watch.cancel()
    if end:
        await send({"type": "http.response.body", "body": b""})


@contextlib.contextmanager
def serving(app: Any) -> Iterator[str]:
    """Serve an application on a free port of this machine; its base URL."""
    listener = recorder.bind("127.0.0.1", 0)
    config = uvicorn.Config(app, http="h11", lifespan="off", log_level="critical", timeout_graceful_shutdown=2)  # type: ignore[arg-type]
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    until(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


def until(true: Any, seconds: float = 10.0) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


@dataclass
class World:
    """A recorder at `url` before an endpoint."""

    url: str
    endpoint: Endpoint
    store: RecordStore
    proxy: Proxy
    run: Path

    @property
    def openai(self) -> str:
        return f"{self.url}/v1"

    def episode(self, name: str) -> Episode:
        return read(self.store, name, self.store.outcomes().get(name))

    def only(self) -> Episode:
        (name,) = self.store.episodes()
        return self.episode(name)

    def disk(self) -> bytes:
        """All that the recorder wrote."""
        return b"".join(path.read_bytes() for path in self.run.iterdir())


@contextlib.contextmanager
def world(
    run: Path,
    *,
    task: str = "path:user.0",
    service: recorder.Service | None = None,
    redact: tuple[str, ...] = (),
    **options: Any,
) -> Iterator[World]:
    endpoint = Endpoint()
    with serving(endpoint) as upstream, RecordStore.open(run / FILE, "record") as store:
        endpoint.url = upstream
        proxy = Proxy(store, Redactor(redact), Options(upstream, locator(task), **options))
        with recorder.running(proxy, service) as url:
            yield World(url, endpoint, store, proxy, run)


def body_of(api: Api, messages: tuple[Message, ...], **more: Any) -> dict[str, Any]:
    """A request body without tools."""
    return wire.write_request(wire.Request(api, "m", messages)) | more
