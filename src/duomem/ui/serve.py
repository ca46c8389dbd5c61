"""Starts and ends the page's server.

In: a folder of runs, an address on this machine. Out: a server until Ctrl-C, or one in a thread for as long as a block lasts.
Event streams are told to end first, so that stopping takes no longer than a moment.
"""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from duomem.errors import InfraError, MissingExtra
from duomem.record.app import bind

if TYPE_CHECKING:
    import uvicorn

HOST = "127.0.0.1"
"""The page shows prompts and replies, and changes banks: it is served to this machine alone."""


def serve(root: Path, listener: socket.socket, started: Callable[[], None] = lambda: None) -> None:
    """Serve until SIGINT or SIGTERM. `started` is called once requests are answered."""
    server = _server(root)
    watch = threading.Thread(target=_when_started, args=(server, started), daemon=True)
    watch.start()
    server.run(sockets=[listener])


@contextmanager
def running(root: Path) -> Iterator[str]:
    """The page on a free port, in a thread of its own, until the block ends; gives its URL."""
    server = _server(root)
    with bind(HOST, 0) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="page", daemon=True)
        thread.start()
        try:
            while not server.started:
                if not thread.is_alive():
                    raise InfraError("The page's server could not start in this process.")
                time.sleep(0.01)
            yield f"http://{HOST}:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def _when_started(server: Any, started: Callable[[], None]) -> None:
    while not server.started and not server.should_exit:
        time.sleep(0.02)
    if server.started:
        started()


def _server(root: Path) -> uvicorn.Server:
    try:
        import fastapi  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise MissingExtra(str(error.name), "ui") from error
    from duomem.ui.app import application

    app = application(root, secrets.token_urlsafe(32))

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            app.state.stopping = True
            await super().shutdown(sockets)

    config = uvicorn.Config(
        app, http="h11", ws="none", log_level="critical", access_log=False, server_header=False, timeout_graceful_shutdown=3
    )
    return Server(config)
