"""Who may ask, how much at once, and when to come again.

In: ASGI requests, keys, limits. Out: the request with its `owner` in the scope, or a refusal in the API's own form: 401 and 403
(who), 408 and 413 (a body that is slow or large), 429 with Retry-After (how much). Not here: answers.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from duomem import wire
from duomem.record._http import Receive, Scope, Send
from duomem.record.proxy import LOOPBACK

ASGI = Callable[[Scope, Receive, Send], Awaitable[None]]
OPEN = ("/healthz",)
"""Paths that need no key: they say nothing but that the server is there."""
ADMIN = ("/duomem/reload",)
"""Paths that need the admin key."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server takes."""

    body: int = 4 * 2**20
    """Bytes of a request."""
    body_s: float = 20.0
    """Seconds for the whole of a request's body to come."""
    tokens: int = 4096
    """Tokens of an answer."""
    seconds: float = 120.0
    """Seconds from a request's turn to its answer."""
    running: int = 8
    """Requests in the engine at once."""
    waiting: int = 32
    """Requests that wait for it; one more gets 429."""
    per_key: int = 0
    """Requests of one key, running and waiting; 0: as many as there is room for."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys of clients (any of them opens) and of the admin. None at all: whoever reaches the address."""

    clients: tuple[str, ...] = ()
    admin: str = ""

    def lets_in(self, given: str) -> bool:
        known = (*self.clients, *((self.admin,) if self.admin else ()))
        return not self.clients or any(hmac.compare_digest(given.encode(), key.encode()) for key in known)

    def is_admin(self, given: str) -> bool:
        return bool(self.admin) and hmac.compare_digest(given.encode(), self.admin.encode())


def key_of(headers: Mapping[bytes, bytes]) -> str:
    """The key that a client sends, in the ways of the three APIs; empty for none."""
    bearer = headers.get(b"authorization", b"").decode("latin-1")
    scheme, _, token = bearer.partition(" ")
    own = headers.get(b"x-duomem-key") or headers.get(b"x-api-key") or b""
    return own.decode("latin-1") or (token.strip() if scheme.lower() == "bearer" else "")


def owner_of(key: str) -> str:
    """Names the caches of a key; says nothing about it."""
    return hashlib.sha256(f"duomem cache owner\n{key}".encode()).hexdigest()[:16]


class Guard:
    """Middleware before everything else."""

    def __init__(self, app: ASGI, keys: Keys, limits: Limits, hosts: frozenset[str] | None) -> None:
        """`hosts` are the names that requests may use for this server, so that a page cannot reach it under a name of its own
        (DNS rebinding); None: any."""
        self._app, self._keys, self._limits, self._hosts = app, keys, limits, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        api = wire.api_of(scope["path"])
        headers = dict(scope["headers"])
        if refusal := self._refusal(scope["path"], headers):
            return await refuse(send, api, *refusal)
        scope["duomem.owner"] = owner_of(key_of(headers))
        scope["duomem.admin"] = self._keys.is_admin(key_of(headers))
        if scope["method"] not in ("POST", "PUT"):
            return await self._app(scope, receive, send)
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._limits.body:
            return await refuse(send, api, 413, f"The request has more than {self._limits.body} bytes.")
        try:
            body = await asyncio.wait_for(_body(receive, self._limits.body), self._limits.body_s)
        except TimeoutError:
            return await refuse(send, api, 408, f"The request did not come whole within {self._limits.body_s:g} s.")
        if body is None:
            return await refuse(send, api, 413, f"The request has more than {self._limits.body} bytes.")
        return await self._app(scope, _replay(body, receive), send)

    def _refusal(self, path: str, headers: Mapping[bytes, bytes]) -> tuple[int, str] | None:
        origin = headers.get(b"origin", b"").decode("latin-1")
        if origin and urlsplit(origin).hostname not in LOOPBACK:
            return 403, f"Pages of {origin[:200]} may not use this server."
        host = urlsplit(f"//{headers.get(b'host', b'').decode('latin-1')}").hostname or ""
        if self._hosts is not None and host not in self._hosts:
            return 403, f"This server is not {host[:200]!r}. Use the address that it was started with."
        key = key_of(headers)
        if path in ADMIN and not self._keys.is_admin(key):
            return 403, "This needs the admin key (DUOMEM_SERVE_ADMIN_KEY)."
        if path not in OPEN and not self._keys.lets_in(key):
            return 401, "The server needs a key: Authorization: Bearer KEY, or x-api-key."
        return None


async def _body(receive: Receive, limit: int) -> bytes | None:
    """The whole body; None where it is larger than the limit. A client that leaves has sent what it has."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return bytes(body)
        body += message.get("body", b"")
        if len(body) > limit:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Any:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def refuse(send: Send, api: wire.Api | None, status: int, words: str, retry_s: float = 0.0) -> None:
    """An error in the form of the API. The connection ends: what is left of the request is not read."""
    body = json.dumps(wire.write_error(api or "chat", status, words)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    if retry_s:
        headers.append((b"retry-after", str(math.ceil(retry_s)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Admission:
    """Counts the requests of an event loop: some run, some wait, the next is sent away. Used from that loop alone."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._owners: Counter[str] = Counter()
        self._slots = asyncio.Semaphore(limits.running)
        self._seconds = 1.0
        """Running mean of the time that a request takes."""

    @property
    def inside(self) -> int:
        return self._owners.total()

    def enter(self, owner: str) -> float:
        """0 where the request may come in, else the seconds after which to try again."""
        per_key = self._limits.per_key or self._limits.running + self._limits.waiting
        if self.inside >= self._limits.running + self._limits.waiting or self._owners[owner] >= per_key:
            return max(1.0, self._seconds * self.inside / self._limits.running)
        self._owners[owner] += 1
        return 0.0

    async def turn(self) -> None:
        """Wait for a place in the engine; `leave` gives it back."""
        await self._slots.acquire()

    def give_back(self, seconds: float) -> None:
        self._slots.release()
        self._seconds += 0.1 * (seconds - self._seconds)

    def leave(self, owner: str) -> None:
        self._owners[owner] -= 1
        if not self._owners[owner]:
            del self._owners[owner]
