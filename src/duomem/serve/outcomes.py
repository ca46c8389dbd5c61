"""What became of answers: `POST /duomem/outcome` counts an episode for the memories it was shown, once.

In: the id of any reply of the episode and whether it was won. Out: counts of each memory (shown, won), and for whoever learns
the conversation with its outcome. A conversation is known by its task and its first messages. Not here: what is learned.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from duomem.bank import Usefulness
from duomem.errors import DataError, DuomemError
from duomem.serve.inject import conversation_key
from duomem.serve.service import Answered
from duomem.types import MemoryId

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from duomem.serve.app import Server

KEPT = 100_000
"""Conversations whose outcome is remembered, so that none counts twice."""


class Verdict(BaseModel):
    """The body of an outcome."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    reply: str = Field(min_length=1, max_length=200)
    """The id of a reply of the episode: its last one, where the episode shall be learned from."""
    won: bool
    """Whether the task was done, as the environment or a person found."""
    steps: int = Field(default=0, ge=0)
    """Turns that it took; 0: as many as the conversation has."""


@dataclass(frozen=True, slots=True)
class Reported:
    """A conversation and how it ended. `verified`: whoever reported it showed the admin key."""

    answered: Answered
    won: bool
    steps: int
    verified: bool

    @property
    def shown(self) -> tuple[MemoryId, ...]:
        return self.answered.asked.injected.ids


Listener = Callable[[Reported], dict[str, Any]]
"""Told of each outcome that counts, in a thread; what it returns is part of the answer."""


class Outcomes:
    """Counts in memory, and tells a listener. Safe for many threads."""

    def __init__(self, listener: Listener | None = None) -> None:
        self._listener = listener
        self._lock = threading.Lock()
        self._ended: OrderedDict[str, tuple[bool, float]] = OrderedDict()
        """By conversation: its last outcome, and when that came. A later reply is of another episode that began alike."""
        self._uses: dict[MemoryId, Usefulness] = {}

    def report(self, reported: Reported) -> dict[str, Any]:
        """Count an outcome. Raises `DataError` for an episode whose outcome is known."""
        asked = reported.answered.asked
        name = f"{asked.owner} {conversation_key(asked.injected, asked.request.messages)}"
        with self._lock:
            won, when = self._ended.get(name, (False, 0.0))
            if reported.answered.at <= when:
                raise DataError(f"This episode has an outcome already: {'won' if won else 'lost'}. The first word counts.")
            self._ended[name] = reported.won, time.monotonic()
            if len(self._ended) > KEPT:
                self._ended.popitem(last=False)
            for memory in reported.shown:
                use = self._uses.get(memory, Usefulness())
                self._uses[memory] = Usefulness(use.shown + 1, use.won + reported.won)
        more = self._listener(reported) if self._listener else {}
        return {"task": asked.injected.key.id, "won": reported.won, "memories": list(reported.shown), **more}

    def uses(self) -> dict[MemoryId, Usefulness]:
        """How often each memory was shown in episodes that ended, and how many of these were won, since the server began."""
        with self._lock:
            return dict(self._uses)


def route(outcomes: Outcomes) -> Callable[[Server], Any]:
    """The path of a server that takes outcomes (POST) and says what memories were good for (GET)."""

    def made(server: Server) -> Any:
        from starlette.routing import Route

        async def handle(request: Request) -> Response:
            return await _handle(server, outcomes, request)

        return Route("/duomem/outcome", handle, methods=["GET", "POST"])

    return made


async def _handle(server: Server, outcomes: Outcomes, request: Request) -> Response:
    import asyncio

    from starlette.responses import JSONResponse

    if request.method == "GET":
        found = {
            memory: {"shown": use.shown, "won": use.won, "lost": use.shown - use.won} for memory, use in outcomes.uses().items()
        }
        return JSONResponse({"memories": found})
    if not request.headers.get("content-type", "").startswith("application/json"):
        return JSONResponse({"error": "Send JSON, with content-type application/json."}, 415)
    try:
        said = Verdict.model_validate_json(await request.body())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        return JSONResponse({"error": f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}"}, 422)
    admin = bool(request.scope["duomem.admin"])
    answered = server.desk.recall(None if admin else request.scope["duomem.owner"], said.reply)
    if answered is None:
        return JSONResponse({"error": f"No reply {said.reply!r} is in this server's memory, or another key asked for it."}, 404)
    turns = 1 + sum(message.role == "assistant" for message in answered.asked.request.messages)
    reported = Reported(answered, said.won, said.steps or turns, admin)
    try:
        data = await asyncio.get_running_loop().run_in_executor(server.pool, outcomes.report, reported)
    except DuomemError as error:
        return JSONResponse({"error": str(error)}, 409 if isinstance(error, DataError) else 503)
    server.metrics.outcomes.labels("won" if said.won else "lost").inc()
    server.metrics.learned.inc(len(data.get("learned", ())))
    return JSONResponse(data)
