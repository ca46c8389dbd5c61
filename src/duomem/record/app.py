"""The recorder as a server: the proxy, the paths of its own (`/duomem/outcome`, `/duomem/health`), and who may use them.

In: a store, options, an address. Out: a running server until it is told to stop. Episodes that a function judges are judged
once nothing has happened in them for a while, and when the server stops.
"""

from __future__ import annotations

import asyncio
import hmac
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from duomem.errors import DataError, DuomemError, InfraError, MissingExtra, UsageError
from duomem.record import episodes
from duomem.record._http import Receive, Scope, Send, episode_name, refuse
from duomem.record.episodes import Episode
from duomem.record.proxy import LOOPBACK, Proxy

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

Judge = Callable[[Episode], bool | None]
"""Looks at a finished episode: True where it was won, False where it was lost, None where it can't tell."""

TICK_S = 5.0


@dataclass(frozen=True)
class Service:
    """What the server does beside recording. `key` is what requests must carry as `x-duomem-key`; empty: none."""

    judge: Judge | None = None
    idle_s: float = 600.0
    key: str = ""
    note: Callable[[str], None] = lambda words: None


class Said(BaseModel):
    """The body of an outcome: of an episode by its name, or of the one that holds a reply."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    won: bool
    """Whether the task was done."""
    episode: str = ""
    """The episode; not needed at /e/EPISODE/duomem/outcome."""
    reply: str = ""
    """The id of a reply of the episode, for an agent that doesn't know its episode's name."""
    score: float | None = None
    """A grade, kept beside the outcome."""
    note: str = ""
    """Words, kept beside the outcome."""


def application(proxy: Proxy, service: Service) -> Starlette:
    """The ASGI application. Raises `MissingExtra`."""
    try:
        from starlette.applications import Starlette
        from starlette.middleware import Middleware
        from starlette.responses import JSONResponse
        from starlette.routing import Mount, Route
    except ImportError as error:
        raise MissingExtra("fastapi", "record") from error

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "episodes": len(await asyncio.to_thread(proxy.store.episodes))})

    async def unknown(request: Request) -> Response:
        return JSONResponse({"error": "The recorder has POST /duomem/outcome and GET /duomem/health."}, 404)

    async def outcome(request: Request) -> Response:
        if not request.headers.get("content-type", "").startswith("application/json"):
            return JSONResponse({"error": "Send JSON, with content-type application/json."}, 415)
        try:
            said = Said.model_validate_json(await request.body())
            name = await asyncio.to_thread(_outcome, proxy, said, request.path_params.get("episode", ""))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            return JSONResponse({"error": f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}"}, 422)
        except DuomemError as error:
            return JSONResponse({"error": str(error)}, 404 if isinstance(error, DataError) else 503)
        return JSONResponse({"episode": name, "won": said.won})

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with proxy:
            judging = asyncio.create_task(_judge_idle(proxy, service))
            yield
            judging.cancel()
            with suppress(asyncio.CancelledError):
                await judging
            if service.judge:
                await asyncio.to_thread(judge_all, proxy, service, 0.0, {})

    routes = [
        Route("/duomem/health", health),
        Route("/duomem/outcome", outcome, methods=["POST"]),
        Route("/e/{episode}/duomem/outcome", outcome, methods=["POST"]),
        Route("/duomem/{rest:path}", unknown, methods=["GET", "POST", "PUT", "DELETE"]),
        Mount("/", app=proxy),
    ]
    return Starlette(routes=routes, lifespan=lifespan, middleware=[Middleware(_Guard, key=service.key)])


def _outcome(proxy: Proxy, said: Said, in_url: str) -> str:
    name = episode_name(in_url or said.episode) or proxy.store.episode_of(said.reply)
    if not name:
        raise DataError("The outcome names no episode that was recorded: give episode, or the id of a reply.")
    proxy.store.judge(name, said.won, "post", said.score, proxy.redactor.text(said.note))
    return name


class _Guard:
    """Keeps out pages of other sites that a browser shows, and requests without the key where there is one."""

    def __init__(self, app: Callable[..., object], key: str) -> None:
        self._app, self._key = app, key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            origin = headers.get(b"origin", b"").decode("latin-1")
            if origin and urlsplit(origin).hostname not in LOOPBACK:
                return await refuse(send, None, 403, f"Pages of {origin[:200]} may not use the recorder.")
            if self._key and not hmac.compare_digest(headers.get(b"x-duomem-key", b""), self._key):
                return await refuse(send, None, 401, "The recorder needs its key in the header x-duomem-key.")
        await self._app(scope, receive, send)  # type: ignore[misc]
        return None


async def _judge_idle(proxy: Proxy, service: Service) -> None:
    seen: dict[str, int] = {}
    while service.judge:
        await asyncio.sleep(min(TICK_S, service.idle_s))
        try:
            await asyncio.to_thread(judge_all, proxy, service, service.idle_s, seen)
        except DuomemError as error:  # a full disk, say: told at once, and tried again
            seen.clear()
            service.note(f"An outcome could not be kept: {error}")


def judge_all(proxy: Proxy, service: Service, idle_s: float, seen: dict[str, int]) -> int:
    """Let the function judge every idle episode that has changed since it was `seen`; how many got an outcome."""
    judged = 0
    for name in proxy.store.idle(idle_s):
        episode = episodes.read(proxy.store, name, None)
        if seen.get(name) == len(episode.exchanges) or service.judge is None:
            continue
        seen[name] = len(episode.exchanges)
        judged += judge_one(proxy.store.judge, service.judge, episode, service.note)
    return judged


def judge_one(keep: Callable[[str, bool, str], None], judge: Judge, episode: Episode, note: Callable[[str], None]) -> bool:
    """Ask the function and keep what it says; False where it says nothing or fails."""
    try:
        won = judge(episode)
    except Exception as error:  # noqa: BLE001  the user's code: recording goes on without its word
        note(f"The judge failed on episode {episode.id}: {type(error).__name__}: {error}")
        return False
    if won is not None:
        keep(episode.id, bool(won), "function")
    return won is not None


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises `UsageError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise UsageError(f"Cannot listen on {host}:{port}: {error.strerror or error}. Choose another --port.") from error
    return listener


def serve(proxy: Proxy, service: Service, listener: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM; requests under way get ten seconds to end."""
    _server(application(proxy, service)).run(sockets=[listener])


@contextmanager
def running(proxy: Proxy, service: Service | None = None) -> Iterator[str]:
    """The recorder on a free port of this machine, in a thread of its own, until the block ends; gives its URL."""
    server = _server(application(proxy, service or Service()))
    with bind("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="recorder", daemon=True)
        thread.start()
        try:
            while not server.started:
                if not thread.is_alive():
                    raise InfraError("The recorder could not start in this process.")
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def _server(app: Starlette) -> uvicorn.Server:
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
        timeout_graceful_shutdown=10,
    )
    return uvicorn.Server(config)
