"""The command that runs the local engine as an OpenAI-compatible server on loopback.

In: a base, an adapter, a port. Out: a base URL for any OpenAI client, until Ctrl-C. Not here: memories, retrieval, fallbacks.
"""

from __future__ import annotations

import threading
from typing import Annotated

import typer

from duomem.cli.console import terminal
from duomem.cli.options import Debug, Json


def add_to(app: typer.Typer) -> None:
    app.command()(engine)


def engine(
    path: Annotated[str, typer.Argument(help="The base: pocket, a folder, or a hub name.", metavar="BASE")] = "pocket",
    adapter: Annotated[str, typer.Option(help="A LoRA adapter that `duomem tune` wrote for it.", metavar="DIR")] = "",
    port: Annotated[int, typer.Option(help="The port on 127.0.0.1; 0: a free one.", min=0, max=65535)] = 8080,
    slots: Annotated[int, typer.Option(help="Requests served at once.", min=1)] = 4,
    threads: Annotated[int, typer.Option(help="Threads of a forward pass.", min=1)] = 2,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Serve a local model by llama.cpp as an OpenAI-compatible endpoint on this machine, until Ctrl-C.

    Examples:

      duomem engine --port 8080

      duomem engine pocket --adapter runs/mine/tune/adapter
    """
    from duomem.models.llamacpp import Config, serve

    with serve(Config(path=path, adapter=adapter or None, max_batch=slots, threads=threads), port=port) as served:
        words = f"{served.model} at {served.url} (Ctrl-C ends it)"
        terminal.result({"url": served.url, "model": served.model}, words)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            terminal.note("The engine has stopped.")
