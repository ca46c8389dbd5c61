"""The server: three APIs of chat, and what it says about itself.

In: a student, an engine, limits. Out: an ASGI application; `run` serves it until it is told to stop, `running` for as long as a
block lasts. Not here: what is in a prompt (`inject`), how it is answered (`engine`).
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from duomem import wire
from duomem.errors import DuomemError, InfraError, MissingExtra
from duomem.models import ContextFull
from duomem.record.app import bind
from duomem.serve.engine import Engine
from duomem.serve.inject import Injected
from duomem.serve.student import Student
from duomem.types import Reply, Sampling

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

PREFIXES: dict[wire.Api, str] = {"chat": "chatcmpl-", "responses": "resp_", "messages": "msg_"}


@dataclass(frozen=True, slots=True)
class Answered:
    """A request with its answer, and how it came about."""

    request: wire.Request
    injected: Injected
    answer: wire.Answer

    @property
    def headers(self) -> dict[str, str]:
        return {
            "x-duomem-task": self.injected.key.id,
            "x-duomem-memories": ",".join(self.injected.ids),
            "x-duomem-bank-version": str(self.injected.bank_version),
        }


@dataclass(frozen=True)
class Service:
    """Answers one request at a time in the thread that calls it; safe for many."""

    student: Student
    engine: Engine

    def answer(self, api: wire.Api, body: Mapping[str, Any], owner: str, *, memories: bool) -> Answered:
        """Raises `WireError`, `ContextFull`, `DuomemError`."""
        request = wire.read_request(api, body)
        injected = self.student.injector.inject(request, body, memories=memories)
        reply = self.engine.reply(injected.messages, injected.tools, self.sampling(request, body), owner)
        return Answered(request, injected, self._answer(request, reply))

    def sampling(self, request: wire.Request, body: Mapping[str, Any]) -> Sampling:
        """What the request asks for; what it leaves open is as the student was measured."""
        ours, asked = self.student.sampling, request.sampling
        return replace(
            asked,
            temperature=ours.temperature if body.get("temperature") is None else asked.temperature,
            max_tokens=asked.max_tokens or ours.max_tokens,
            seed=ours.seed if body.get("seed") is None else asked.seed,
        )

    def _answer(self, request: wire.Request, reply: Reply) -> wire.Answer:
        return wire.Answer(f"{PREFIXES[request.api]}{uuid.uuid4().hex}", self.student.name, (reply,))


def application(service: Service, threads: int = 8) -> Starlette:
    """The ASGI application. Raises `MissingExtra`."""
    try:
        from starlette.applications import Starlette
        from starlette.responses import JSONResponse, StreamingResponse
        from starlette.routing import Route
    except ImportError as error:
        raise MissingExtra("fastapi", "record") from error
    pool = ThreadPoolExecutor(threads, thread_name_prefix="duomem-serve")

    async def answer(request: Request) -> Response:
        api = wire.api_of(request.url.path)
        assert api is not None
        try:
            body = json.loads(await request.body())
            if not isinstance(body, dict):
                raise wire.WireError("the request is no JSON object.")
            off = "off" in (request.headers.get("x-duomem-memory"), body.get("memory"))
            work = asyncio.get_running_loop().run_in_executor(pool, lambda: service.answer(api, body, "", memories=not off))
            made = await work
        except (ValueError, wire.WireError, ContextFull) as error:
            words = f"context length exceeded: {error}" if isinstance(error, ContextFull) else str(error)
            return JSONResponse(wire.write_error(api, 400, words), 400)
        except DuomemError as error:
            return JSONResponse(wire.write_error(api, 503, str(error)), 503)
        if made.request.stream:
            return StreamingResponse(wire.write_stream(api, made.answer), headers=made.headers, media_type="text/event-stream")
        return JSONResponse(wire.write_answer(api, made.answer), headers=made.headers)

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "model": service.student.name, "revision": service.student.revision})

    async def models(request: Request) -> Response:
        model = {"id": service.student.name, "object": "model", "created": 0, "owned_by": "duomem"}
        return JSONResponse({"object": "list", "data": [model]})

    routes = [Route(path, answer, methods=["POST"]) for path in wire.PATHS.values()]
    return Starlette(routes=[*routes, Route("/healthz", health), Route("/v1/models", models)])


@contextmanager
def running(service: Service) -> Iterator[str]:
    """Serve on a free port of this machine, in a thread, until the block ends; gives the URL without /v1."""
    server = server_of(application(service))
    with bind("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="duomem-server", daemon=True)
        thread.start()
        try:
            while not server.started:
                if not thread.is_alive():
                    raise InfraError("The server could not start in this process.")
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def server_of(app: Starlette) -> uvicorn.Server:
    try:
        import uvicorn
    except ImportError as error:
        raise MissingExtra("uvicorn", "record") from error
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="on",
        log_level="critical",
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=120,
        timeout_graceful_shutdown=30,
    )
    return uvicorn.Server(config)
