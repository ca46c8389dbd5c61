"""A student as an endpoint of this machine, for as long as a command runs: OpenAI's and Anthropic's paths, streams too.

In: a model, a way to find memories for a task. Out: a listening server on the loopback address. Memories stand at the end of
the system message of each request, the same ones all through an episode. One student, one arm; no keys, no limits: it is for
`duomem evaluate --command`, not for others.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from duomem import wire
from duomem.errors import DuomemError
from duomem.models import ContextFull, Model
from duomem.prompts import Layout, with_memories
from duomem.types import Message, Sampling

Recall = Callable[[Sequence[Message], wire.Body], list[str]]
"""Texts of the memories for the conversation that a request holds."""
LARGEST = 64 * 2**20
"""Bytes of a request."""


@contextmanager
def serving(model: Model, layout: Layout, recall: Recall, sampling: Sampling, name: str) -> Iterator[str]:
    """Serve while the block runs; gives the base URL, which ends in /v1."""

    class Handler(_Handler):
        def answer(self, api: wire.Api, body: dict[str, Any]) -> None:
            request = wire.read_request(api, body)
            messages = with_memories(layout, request.messages, recall(request.messages, body))
            reply = model.reply(messages, request.tools, sampling)
            answer = wire.Answer(f"duomem-{uuid.uuid4().hex[:12]}", name, (reply,))
            if request.stream:
                self.send("text/event-stream", b"".join(wire.write_stream(api, answer)))
            else:
                self.send("application/json", json.dumps(wire.write_answer(api, answer)).encode())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="duomem-arm", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, api: wire.Api, body: dict[str, Any]) -> None:
        raise AssertionError("a handler without a model")

    def do_POST(self) -> None:
        api = wire.api_of(self.path.partition("?")[0])
        length = int(self.headers.get("content-length") or 0)
        if api is None or length > LARGEST:
            return self.fail(
                "chat", 404 if api is None else 413, f"{self.path}: no such path here, or the request is too large."
            )
        try:
            self.answer(api, json.loads(self.rfile.read(length)))
        except ContextFull as full:
            self.fail(api, 400, f"context length exceeded: {full}")
        except (ValueError, wire.WireError) as error:
            self.fail(api, 400, str(error))
        except DuomemError as error:
            self.fail(api, 503, str(error))

    def fail(self, api: wire.Api, status: int, words: str) -> None:
        self.close_connection = True  # what is left of the request is not read
        self.send("application/json", json.dumps(wire.write_error(api, status, words)).encode(), status)

    def send(self, kind: str, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are in the recording."""
