"""The command that opens the page: `duomem ui RUNS`.

In: a folder of runs, or one run. Out: a URL, the page in the browser, a server until Ctrl-C. Not here: any of the page.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from duomem.cli.console import terminal
from duomem.cli.options import Debug, Json


def add_to(app: typer.Typer) -> None:
    app.command()(ui)


def ui(
    runs: Annotated[Path, typer.Argument(help="A folder of runs, or one run folder.", metavar="RUNS")] = Path("runs"),
    port: Annotated[int, typer.Option(help="Where to listen on this machine; 0: any free port.", min=0, max=65535)] = 4173,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = True,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Show runs, decisions, episodes, memories and training in the browser. Ctrl-C ends it.

    It is served to this machine alone. From elsewhere: ssh -L 4173:127.0.0.1:4173 HOST

    Examples:

      duomem ui runs/

      duomem ui runs/demo --port 8000

      duomem ui runs/ --no-open --json
    """
    import webbrowser

    from duomem.record.app import bind
    from duomem.ui.serve import HOST, serve

    with bind(HOST, port) as listener:
        url = f"http://{HOST}:{listener.getsockname()[1]}/"

        def started() -> None:
            terminal.result({"url": url, "runs": str(runs)}, f"{url}  shows {runs}. Ctrl-C ends it.")
            if open_:
                webbrowser.open(url)

        serve(runs, listener, started)
