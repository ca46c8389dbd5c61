"""Runs the server: on a socket, until it is told to stop; SIGHUP loads the student again.

In: an application. Out: a server that ends requests under way before it stops. `running` does the same in a thread, for tests
and programs. Not here: paths.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING

from duomem.errors import DuomemError, InfraError, MissingExtra
from duomem.record.app import bind

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette

CONNECTIONS = 1024
"""Open connections; more get 503 at once."""


def serve(app: Starlette, listener: socket.socket, note: Callable[[str], None] = lambda words: None) -> None:
    """Serve until SIGINT or SIGTERM; requests under way get thirty seconds to end."""
    _with_reload(app, note)
    _server(app).run(sockets=[listener])


@contextmanager
def running(app: Starlette, host: str = "127.0.0.1") -> Iterator[str]:
    """Serve on a free port in a thread until the block ends; gives the URL without /v1."""
    server = _server(app)
    with bind(host, 0) as listener:
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


def _with_reload(app: Starlette, note: Callable[[str], None]) -> None:
    """Let SIGHUP load the student again, where there are such signals."""
    inner = app.router.lifespan_context

    async def again() -> None:
        try:
            note(f"Loaded again: revision {await app.state.server.load_again()}.")
        except DuomemError as error:
            note(f"Not loaded; the old student goes on answering: {error}")

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        tasks: set[asyncio.Task[None]] = set()

        def hang_up() -> None:
            tasks.add(task := asyncio.ensure_future(again()))
            task.add_done_callback(tasks.discard)

        async with inner(app):
            with suppress(NotImplementedError, AttributeError, ValueError):
                asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hang_up)
            yield

    app.router.lifespan_context = lifespan


def _server(app: Starlette) -> uvicorn.Server:
    try:
        import uvicorn
    except ImportError as error:
        raise MissingExtra("uvicorn", "serve") from error
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="on",
        log_level="critical",
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=30,
        limit_concurrency=CONNECTIONS,
    )
    return uvicorn.Server(config)
