"""The page's server: typed JSON endpoints over `duomem.browse`, live events, and the built assets.

In: a folder of runs, a token. Out: a FastAPI application. Every GET only reads; the two POSTs quarantine and restore a memory.
Answers are the nouns of `duomem.browse` as they are. Not here: who may ask (`duomem.ui.guard`), how it is
started (`duomem.ui.serve`). Imported by those alone who have the extra `ui`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from fastapi import FastAPI, Query, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict

from duomem import __version__, browse
from duomem.browse import (
    BundleView,
    Comparison,
    DecisionView,
    EpisodeFull,
    EpisodePage,
    ExampleView,
    Facets,
    Filters,
    MemoryFull,
    MemoryPage,
    Outcome,
    RunRow,
    TrainingView,
)  # fmt: skip
from duomem.curate import Status
from duomem.errors import ConfigError, DataError, DuomemError, InfraError, MissingExtra, UsageError
from duomem.types import dump
from duomem.ui import live, shell
from duomem.ui.guard import Guard

VIEWS = ("", "decision", "episodes", "episode", "compare", "memories", "training", "bundle")
"""The paths of the page; the script reads the rest from the query."""
_STATUS: tuple[tuple[type[DuomemError], int], ...] = (
    (MissingExtra, 501), (ConfigError, 409), (UsageError, 404), (DataError, 404), (InfraError, 503),
)  # fmt: skip
RunId = Annotated[str, Query(description="The run's id, as the list of runs has it.")]


class Change(BaseModel):
    """A memory to quarantine or restore."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    run: str
    """The run's id."""
    id: str
    """The memory's id, or enough of its beginning."""
    reason: str
    """Why; it stands in the bank's journal."""
    seed: int | None = None
    """Which seed's bank, in a run of several seeds."""


def application(root: Path, token: str) -> FastAPI:
    """The application over the runs in `root`. Raises `MissingExtra`, `UsageError` for a folder that is not there."""
    shell.page(token, "")  # says at once where a library is missing
    browse.fingerprint(root)
    app = FastAPI(
        title="DuoMem", version=__version__, docs_url=None, redoc_url=None, openapi_url="/api/openapi.json",
        description="Runs, episodes, memories and training, as `duomem ui` shows them.",
    )  # fmt: skip
    app.state.root, app.state.stopping = root, False
    app.add_middleware(Guard, token=token)

    @app.exception_handler(DuomemError)
    async def refused(request: Request, error: DuomemError) -> Response:
        status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
        return JSONResponse({"error": str(error)}, status)

    _read(app, root)
    _look(app, root)
    _change(app, root)
    _pages(app, root, token)
    static = str(resources.files("duomem.ui").joinpath("static"))
    app.mount("/static", StaticFiles(directory=static), name="static")
    return app


def _read(app: FastAPI, root: Path) -> None:
    """Runs, their decision and their episodes."""

    table = live.Table(root)

    @app.get("/api/runs", response_model=list[RunRow])
    def runs() -> Response:
        """Every run folder, live ones first."""
        return _json("[" + ",".join(dump(row) for row in table.listed()) + "]")

    @app.get("/api/events", response_class=StreamingResponse)
    async def events(request: Request) -> Response:
        """Server-sent events: `runs` with the rows that have changed, all of them at first."""

        async def gone() -> bool:
            return app.state.stopping or await request.is_disconnected()

        stream: AsyncIterator[bytes] = live.events(table, gone)
        return StreamingResponse(stream, media_type="text/event-stream")

    @app.get("/api/facets", response_model=Facets)
    def facets(run: RunId) -> Response:
        """What a run's episodes can be filtered by."""
        return _told(browse.facets(browse.open_run(root, run)))

    @app.get("/api/episodes", response_model=EpisodePage)
    def episodes(
        run: RunId, arm: str = "", split: str = "", seed: int | None = None, kind: str = "", outcome: Outcome = "",
        stop: str = "", memory: str = "", text: str = "", task: str = "", lost_in: str = "", won_in: str = "",
        earlier: bool = False, offset: Annotated[int, Query(ge=0)] = 0, limit: Annotated[int, Query(ge=1, le=500)] = 50,
    ) -> Response:  # fmt: skip
        """One page of the episodes that match every filter."""
        filters = Filters(arm, split, seed, kind, outcome, stop, memory, text, task, lost_in, won_in, earlier)
        return _told(browse.episodes(browse.open_run(root, run), filters, offset, limit))

    @app.get("/api/decision", response_model=DecisionView)
    def decision(run: RunId) -> Response:
        """The report of a run: figures, paired tests, curves."""
        return _told(browse.decision(browse.open_run(root, run)))


def _look(app: FastAPI, root: Path) -> None:
    """Single episodes, memories, training."""

    @app.get("/api/episode", response_model=EpisodeFull)
    def episode(run: RunId, ref: str) -> Response:
        """One episode in full; texts of more than 20,000 characters are cut."""
        return _told(browse.episode(browse.open_run(root, run), ref))

    @app.get("/api/observation", response_class=Response)
    def observation(run: RunId, ref: str, index: int) -> Response:
        """What came back at one step, whole, as a file."""
        text = browse.observation(browse.open_run(root, run), ref, index)
        headers = {"content-disposition": 'attachment; filename="observation.txt"'}
        return Response(text.encode(), media_type="text/plain; charset=utf-8", headers=headers)

    @app.get("/api/compare", response_model=Comparison)
    def compare(run: RunId, a: str, b: str, other: str = "") -> Response:
        """Two episodes aligned at the first step where they differ; `b` may be of the run `other`."""
        first = browse.open_run(root, run)
        return _told(browse.compare(first, a, b, browse.open_run(root, other) if other else None))

    @app.get("/api/memories", response_model=MemoryPage)
    def memories(
        run: RunId, seed: int | None = None, query: str = "", status: Status | Literal[""] = "",
        order: Literal["", "hits", "won", "helped", "harmed"] = "", arm: str = "memory", copies: bool = False,
        offset: Annotated[int, Query(ge=0)] = 0, limit: Annotated[int, Query(ge=1, le=500)] = 50,
    ) -> Response:  # fmt: skip
        """One page of a bank: those with the words of `query`, the nearest first."""
        found = browse.memories(
            browse.open_run(root, run), seed, query=query, status=status, order=order, arm=arm, copies=copies, offset=offset,
            limit=limit,
        )  # fmt: skip
        return _told(found)

    @app.get("/api/memory", response_model=MemoryFull)
    def memory(run: RunId, id: str, seed: int | None = None) -> Response:
        """One memory with its sources, counts, edits and neighbours."""
        return _told(browse.memory(browse.open_run(root, run), id, seed))

    @app.get("/api/training", response_model=TrainingView)
    def training(run: RunId, seed: int | None = None) -> Response:
        """Loss and rate by step, throughput, and the adapter's manifest."""
        return _told(browse.training(browse.open_run(root, run), seed))

    @app.get("/api/bundles", response_model=list[BundleView])
    def bundles(run: RunId) -> Response:
        """The bundles of a run: what is inside, signature, card, size by part."""
        found = browse.bundles(browse.open_run(root, run), root)
        return _json("[" + ",".join(dump(each) for each in found) + "]")

    @app.get("/api/example", response_model=ExampleView)
    def example(run: RunId, index: int = 0, seed: int | None = None) -> Response:
        """One training example, token by token, with the weights of the loss."""
        return _told(browse.example(browse.open_run(root, run), index, seed))


def _change(app: FastAPI, root: Path) -> None:

    def made(what: Literal["quarantine", "restore"], change: Change) -> Response:
        run = browse.open_run(root, change.run)
        browse.change(run, what, change.id, change.reason, change.seed)
        return _told(browse.memory(run, change.id, change.seed))

    @app.post("/api/memory/quarantine", response_model=MemoryFull)
    def quarantine(change: Change) -> Response:
        """Take a memory out of every recall, until it is restored."""
        return made("quarantine", change)

    @app.post("/api/memory/restore", response_model=MemoryFull)
    def restore(change: Change) -> Response:
        """Bring back a memory that was quarantined or retired."""
        return made("restore", change)


def _pages(app: FastAPI, root: Path, token: str) -> None:

    def view() -> Response:
        return HTMLResponse(shell.page(token, "DuoMem"))

    for path in VIEWS:
        app.add_api_route(f"/{path}", view, include_in_schema=False, name=f"view {path}")

    @app.get("/api", include_in_schema=False)
    def endpoints() -> Response:
        return HTMLResponse(shell.endpoints(app.openapi()))

    @app.get("/api/report", response_class=FileResponse)
    def report(run: RunId) -> Response:
        """The run's report.html, as a file to keep or to mail."""
        path = browse.open_run(root, run).root / "report.html"
        if not path.is_file():
            raise DataError(f"{path} is not there. Write it with: duomem report {path.parent}")
        return FileResponse(path, media_type="text/html", filename=f"{run.replace('/', '-')}.html")


def _told(value: object) -> Response:
    return _json(dump(value))


def _json(text: str) -> Response:

    return Response(text, media_type="application/json")
