"""The command that serves a student: `duomem serve PATH`.

In: a run folder or a bundle, an address. Out: a base URL for any client of the three APIs, until it is told to stop. Not here:
the server (`duomem.serve`).
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from duomem.cli.console import terminal
from duomem.cli.options import Debug, Json


def add_to(app: typer.Typer) -> None:
    app.command()(serve)


def serve(
    path: Annotated[Path, typer.Argument(help="A run folder.", metavar="PATH")],
    arm: Annotated[str, typer.Option(help="none, memory, adapter or both; empty: as the report decided.")] = "",
    engine: Annotated[str, typer.Option(help="The engine: hf or llamacpp; empty: the student's own.")] = "",
    port: Annotated[int, typer.Option(help="The port; 0: a free one.", min=0, max=65535)] = 4242,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Serve a student behind the API that your agent speaks, with its memories in place.

    Examples:

      duomem serve runs/mine

      duomem serve runs/mine --arm both --engine llamacpp --port 4242
    """
    from duomem.record.app import bind
    from duomem.serve import app
    from duomem.serve.engine import LocalEngine
    from duomem.serve.student import open_student

    student = open_student(path, arm, engine)
    with closing(student), bind("127.0.0.1", port) as listener, closing(LocalEngine.of(student.model)) as running:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        words = f"{student.name} ({student.facts['arm']}) at {url}/v1; for Anthropic's clients {url} (Ctrl-C ends it)"
        terminal.result({"url": f"{url}/v1", "model": student.name, "revision": student.revision, **student.facts}, words)
        app.server_of(app.application(app.Service(student, running))).run(sockets=[listener])
