"""The command that serves a student: `duomem serve PATH`.

In: a bundle or a run folder, an address, limits. Out: a base URL for any client of the three APIs, until it is told to stop.
Not here: the server (`duomem.serve`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from duomem.cli.console import terminal
from duomem.cli.options import Debug, Json

if TYPE_CHECKING:
    from duomem.serve.cascade import Behind

KEYS, ADMIN = "DUOMEM_SERVE_KEYS", "DUOMEM_SERVE_ADMIN_KEY"
"""Environment variables: keys of clients, with commas between them; the key of whoever may reload and teach."""


def add_to(app: typer.Typer) -> None:
    app.command()(serve)


def serve(
    path: Annotated[Path, typer.Argument(help="A bundle (a folder or a .duo file), or a run folder.", metavar="PATH")],
    arm: Annotated[str, typer.Option(help="Of a run folder: none, memory, adapter or both; else as the report decided.")] = "",
    engine: Annotated[str, typer.Option(help="hf or llamacpp; empty: the one that was measured.")] = "",
    engine_url: Annotated[
        str, typer.Option(help="A running llama-server, vLLM or Ollama that holds the student's model.", metavar="URL")
    ] = "",
    base: Annotated[str, typer.Option(help="The base model's folder, where the bundle's is elsewhere.", metavar="DIR")] = "",
    trust: Annotated[Path | None, typer.Option(help="A file of public keys in place of your own trust file.")] = None,
    allow_unsigned: Annotated[bool, typer.Option("--allow-unsigned", help="Serve a bundle that nobody signed.")] = False,
    allow_older: Annotated[bool, typer.Option("--allow-older", help="Go back to an older bundle than was in use.")] = False,
    host: Annotated[str, typer.Option(help=f"The address; any but this machine's own needs {KEYS}.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; 0: a free one.", min=0, max=65535)] = 4242,
    threads: Annotated[int, typer.Option(help="Threads of a forward pass; 0: as the engine has it.", min=0)] = 0,
    slots: Annotated[int, typer.Option(help="Requests computed at once, and caches kept; 0: the engine's own.", min=0)] = 0,
    waiting: Annotated[int, typer.Option(help="Requests that may wait; one more gets 429.", min=0)] = 32,
    max_tokens: Annotated[int, typer.Option(help="Longest answer in tokens.", min=1)] = 4096,
    max_body: Annotated[int, typer.Option(help="Largest request in MiB.", min=1)] = 4,
    timeout: Annotated[float, typer.Option(help="Seconds that a request may take.", min=0.1)] = 120.0,
    state: Annotated[Path | None, typer.Option(help="Keep caches and counts here over restarts.", metavar="DIR")] = None,
    learn: Annotated[bool, typer.Option("--learn", help="Verified successes become memories, kept in --state.")] = False,
    licence: Annotated[str, typer.Option(help="Terms of what is learned; kept with every memory.")] = "",
    fallback: Annotated[
        str, typer.Option(help="A teacher's endpoint (OpenAI's chat API), asked where the student is in doubt.", metavar="URL")
    ] = "",
    fallback_model: Annotated[str, typer.Option(help="The teacher's model there.", metavar="NAME")] = "",
    max_fallback: Annotated[float, typer.Option(help="Largest share of calls that go to the teacher.", min=0.0, max=1.0)] = 0.2,
    threshold: Annotated[
        float | None,
        typer.Option(help="Log-probability below which an answer is doubted; a run folder knows its own (duomem cascade)."),
    ] = None,
    shadow: Annotated[str, typer.Option(help="Who answers (student or teacher) while the other is only compared.")] = "",
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Serve a student behind the API that your agent speaks, with its memories in place, until Ctrl-C.

    SIGHUP, or POST /duomem/reload with the admin key, loads it again without dropping a request. Keys stand in the environment:
    DUOMEM_SERVE_KEYS (clients, with commas between them), DUOMEM_SERVE_ADMIN_KEY.

    Examples:

      duomem serve my.duo

      duomem serve runs/mine --arm both --engine llamacpp --port 4242

      duomem serve my.duo --engine-url http://127.0.0.1:8080

      duomem serve runs/mine --fallback https://api.openai.com/v1 --fallback-model gpt-5 --max-fallback 0.2
    """
    from duomem.errors import UsageError
    from duomem.record.app import bind
    from duomem.record.proxy import LOOPBACK
    from duomem.serve.app import Setup
    from duomem.serve.limits import Keys, Limits
    from duomem.serve.run import serve as run
    from duomem.serve.stand import Stand
    from duomem.serve.student import Choice

    clients = tuple(key for key in os.environ.get(KEYS, "").split(",") if key.strip())
    if host not in LOOPBACK and not clients:
        raise UsageError(f"--host {host} lets other machines use the server. Put keys into {KEYS}, or leave --host out.")
    if allow_unsigned:
        terminal.note("Warning: whoever can write that bundle decides what your agent does. Have it signed.")
    limits = Limits(max_body * 2**20, tokens=max_tokens, seconds=timeout, running=slots or 8, waiting=waiting)
    choice = Choice(arm, engine, threads, slots, trust, allow_unsigned, base, engine_url, allow_older=allow_older)
    setup = Setup(limits, Keys(clients, os.environ.get(ADMIN, "")), loopback=host in LOOPBACK)
    behind = _behind(path, fallback, fallback_model, max_fallback, threshold, shadow)
    with (
        bind(host, port) as listener,
        Stand(path, choice, setup, state, learn=learn, licence=licence, behind=behind) as stand,
    ):
        address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        student = stand.student
        words = (
            f"{student.name} ({student.facts['arm']}, {student.facts['engine']}) answers at {address}/v1 - for Anthropic's "
            f"clients: {address}\nCtrl-C stops it."
        )
        listener.listen()  # whoever reads the address may connect at once
        terminal.result({"url": f"{address}/v1", "model": student.name, "revision": student.revision, **student.facts}, words)
        run(stand.application, listener, terminal.note)
    terminal.note("The server has stopped.")


def _behind(path: Path, url: str, model: str, most: float, threshold: float | None, shadow: str) -> Behind | None:
    """The teacher behind the student, where there is one."""
    from duomem.cascade import Rule, Share
    from duomem.cascade_curve import threshold_of
    from duomem.errors import UsageError
    from duomem.serve.cascade import Behind

    if not url:
        if shadow or threshold is not None or model:
            raise UsageError("--shadow, --threshold and --fallback-model need --fallback URL: the teacher's endpoint.")
        return None
    if not model:
        raise UsageError("--fallback needs --fallback-model NAME: what the endpoint calls the teacher.")
    if shadow:
        if shadow not in ("student", "teacher"):
            raise UsageError(f"--shadow {shadow}: who answers is student or teacher.")
        return Behind(url, model, shadow="student" if shadow == "student" else "teacher")
    found = threshold_of(path) if threshold is None else threshold
    return Behind(url, model, Rule() if found is None else Rule(found), Share(most))
