"""The server's paths: three APIs of chat, and what it says about itself and its answers.

In: a `Desk` (the student that answers now), keys, limits. Out: an ASGI application. Not here: what is in a prompt (`inject`),
how it is answered (`service`), sockets and signals (`run`).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from duomem import wire
from duomem.errors import DuomemError, MissingExtra, UsageError
from duomem.models import ContextFull
from duomem.record.proxy import LOOPBACK
from duomem.serve.desk import Desk
from duomem.serve.limits import Admission, Guard, Keys, Limits
from duomem.serve.metrics import Metrics
from duomem.serve.service import Answered, explain
from duomem.serve.wants import NotMet

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response


@dataclass(frozen=True)
class Setup:
    """How a server is run."""

    limits: Limits = field(default_factory=Limits)
    keys: Keys = field(default_factory=Keys)
    loopback: bool = True
    """Whether it listens on this machine alone; requests must then use one of its names."""
    routes: tuple[Callable[[Server], Any], ...] = ()
    """Further paths: each function gets the server and returns a Starlette route."""
    reload: Callable[[], str] | None = None
    """Loads the student again from where it came from; gives its revision. Called in a thread."""


@dataclass
class Server:
    """What the paths share."""

    desk: Desk
    setup: Setup
    metrics: Metrics
    pool: ThreadPoolExecutor
    admission: Admission | None = None
    stopping: bool = field(default=False)

    async def answer(self, request: Request) -> Response:
        """One request of an API, to its end."""
        from starlette.responses import StreamingResponse

        api = wire.api_of(request.url.path)
        assert api is not None
        started = time.perf_counter()
        try:
            raw = await request.body()
            body = json.loads(raw)
            if not isinstance(body, dict):
                raise wire.WireError("the request is no JSON object.")
            made = await self._admitted(api, body, request)
        except Exception as error:  # noqa: BLE001 - the request's edge: whatever broke, its client gets an answer in its API's form
            return self._failed(api, error)
        self.desk.remember(request.scope["duomem.owner"], made, len(raw))
        self.metrics.answered(made, time.perf_counter() - started)
        if made.asked.request.stream:
            events = wire.write_stream(api, made.answer, usage=made.asked.wants.usage)
            headers = {**made.headers, "cache-control": "no-cache"}
            return StreamingResponse(_spread(list(events)), headers=headers, media_type="text/event-stream")
        return _json(wire.write_answer(api, made.answer), headers=dict(made.headers))

    async def _admitted(self, api: wire.Api, body: dict[str, Any], request: Request) -> Answered:
        """The answer, once it is this request's turn. A request whose time is over keeps its place until the engine is done."""
        owner: str = request.scope["duomem.owner"]
        headers = dict(request.headers)
        admission = self.admission
        assert admission is not None
        if wait := admission.enter(owner):
            self.metrics.refused.labels("busy").inc()
            raise Busy("The server has as many requests as it takes.", wait)
        self.metrics.inside.set(admission.inside)
        try:
            async with asyncio.timeout(self.setup.limits.seconds):
                await admission.turn()
        except BaseException:
            admission.leave(owner)
            raise
        begun = time.perf_counter()

        def work() -> Answered:
            with self.desk.service() as service:
                return service.answer(api, body, owner, headers)

        def done(future: asyncio.Future[Answered]) -> None:
            admission.give_back(time.perf_counter() - begun)
            admission.leave(owner)
            self.metrics.inside.set(admission.inside)
            if not future.cancelled():
                future.exception()  # it may be that nobody waits for it any more

        future = asyncio.get_running_loop().run_in_executor(self.pool, work)
        future.add_done_callback(done)
        async with asyncio.timeout(self.setup.limits.seconds):
            return await asyncio.shield(future)

    def _failed(self, api: wire.Api, error: Exception) -> Response:
        status, words = _status(error), str(error) or type(error).__name__
        if isinstance(error, ContextFull):
            words = f"context length exceeded: {error}"
        if status == 500:
            words = f"The server failed with {type(error).__name__}: {words}"
        if isinstance(error, TimeoutError):
            words = f"The answer took longer than {self.setup.limits.seconds:g} s."
        self.metrics.requests.labels(api, str(status)).inc()
        retry = error.seconds if isinstance(error, Busy) else 1.0 if status == 503 else 0.0
        headers = {"retry-after": str(int(retry + 0.999))} if retry else {}
        return _json(wire.write_error(api, status, words), status, headers)

    async def health(self, request: Request) -> Response:
        with self.desk.service() as service:
            said = {"status": "ok", "model": service.student.name, "revision": service.student.revision}
        return _json(said)

    async def models(self, request: Request) -> Response:
        with self.desk.service() as service:
            model = {"id": service.student.name, "object": "model", "created": 0, "owned_by": "duomem"}
            return _json(
                {"object": "list", "data": [model], "first_id": model["id"], "last_id": model["id"], "has_more": False}
            )

    async def metric(self, request: Request) -> Response:
        from starlette.responses import Response

        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def explain(self, request: Request) -> Response:
        """What was injected for a reply (`?reply=ID`), or would be for a task (`?task=WORDS&scene=WORDS`)."""
        asked = request.query_params
        if "reply" in asked:
            found = self.desk.recall(request.scope["duomem.owner"], asked["reply"])
            words = "This server has no such reply in its memory, or another key asked for it."
            return _json(found.explanation) if found else _json({"error": words}, 404)
        if not asked.get("task"):
            return _json({"error": "Ask for ?reply=ID of an answer, or for ?task=WORDS (and &scene=WORDS)."}, 400)
        task, scene = asked["task"], asked.get("scene", "")

        def work() -> dict[str, Any]:
            with self.desk.service() as service:
                return explain(service.student, service.student.injector.of_task(task, scene))

        return _json(await asyncio.get_running_loop().run_in_executor(self.pool, work))

    async def reload(self, request: Request) -> Response:
        try:
            return _json({"revision": await self.load_again()})
        except DuomemError as error:
            return _json({"error": f"The old student goes on answering: {error}"}, 409)

    async def load_again(self) -> str:
        """A new student takes the place of the old one, which finishes what it began. Raises `DuomemError`; nothing has changed
        then."""
        if self.setup.reload is None:
            raise UsageError("This server cannot load its student again.")
        try:
            revision = await asyncio.to_thread(self.setup.reload)
        except DuomemError:
            self.metrics.reloads.labels("refused").inc()
            raise
        self.metrics.reloads.labels("done").inc()
        with self.desk.service() as service:
            self.metrics.serves(service.student.name, service.student.revision)
        return revision


class Busy(Exception):
    """The server is full; `seconds` until it is worth asking again."""

    def __init__(self, words: str, seconds: float) -> None:
        super().__init__(words)
        self.seconds = seconds


def _status(error: Exception) -> int:
    if isinstance(error, Busy):
        return 429
    if isinstance(error, TimeoutError):
        return 504
    if isinstance(error, NotMet):
        return 422
    if isinstance(error, ContextFull | ValueError | wire.WireError | RecursionError):
        return 400
    return 503 if isinstance(error, DuomemError) else 500


def _json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    from starlette.responses import Response

    return Response(json.dumps(body, ensure_ascii=False).encode(), status, headers, media_type="application/json")


async def _spread(events: list[bytes]) -> AsyncIterator[bytes]:
    """Events one by one, with a turn for others between them."""
    for event in events:
        yield event


def application(desk: Desk, setup: Setup | None = None, metrics: Metrics | None = None) -> Starlette:
    """The ASGI application. Raises `MissingExtra`."""
    try:
        from starlette.applications import Starlette
        from starlette.middleware import Middleware
        from starlette.routing import Route
    except ImportError as error:
        raise MissingExtra("starlette", "serve") from error
    setup, metrics = setup or Setup(), metrics or Metrics()
    pool = ThreadPoolExecutor(setup.limits.running + 2, thread_name_prefix="duomem-serve")
    server = Server(desk, setup, metrics, pool)
    with desk.service() as service:
        metrics.serves(service.student.name, service.student.revision)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        server.admission = Admission(setup.limits)
        yield
        pool.shutdown(wait=True)

    paths = [Route(path, server.answer, methods=["POST"]) for path in wire.PATHS.values()]
    own = {"/healthz": server.health, "/v1/models": server.models, "/metrics": server.metric, "/duomem/explain": server.explain}
    routes = [*paths, *(Route(path, handler) for path, handler in own.items())]
    routes.append(Route("/duomem/reload", server.reload, methods=["POST"]))
    routes += [make(server) for make in setup.routes]
    hosts = frozenset(LOOPBACK) if setup.loopback else None
    guard = Middleware(Guard, keys=setup.keys, limits=setup.limits, hosts=hosts)
    made = Starlette(routes=routes, lifespan=lifespan, middleware=[guard])
    made.state.server = server
    return made
