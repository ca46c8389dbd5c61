"""Who may use the page's server, and what a browser may do with what it gets.

In: every request. Out: a refusal, or the request passed on and its answer with strict headers. A page of another site can
neither read (Host and Sec-Fetch-Site are looked at, and nothing is shared across origins) nor change anything (a token in a
header that only the page itself was given). Not here: what is asked for.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from duomem.record.proxy import LOOPBACK

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

TOKEN = "x-duomem-token"
"""The header that every change has to carry."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
"""The Content-Security-Policy: own files only, nothing inline, no frames, no text that becomes script."""
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
)


class Guard:
    """ASGI middleware. `token` is this server's own."""

    def __init__(self, app: App, token: str) -> None:
        self._app, self._token = app, token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        if why := self._refused(scope):
            from starlette.responses import JSONResponse

            return await JSONResponse({"error": why}, 403)(scope, receive, send)

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = list(message.get("headers", ()))
                if not any(name == b"cache-control" for name, _ in given):
                    given.append((b"cache-control", b"no-store"))
                message = {**message, "headers": [*given, *HEADERS]}
            await send(message)

        return await self._app(scope, receive, sealed)

    def _refused(self, scope: Scope) -> str:
        """Why a request is not answered; empty where it is."""
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        if _hostname(host) not in LOOPBACK:
            # A name of somebody else's that was made to point here (DNS rebinding) is still theirs to read from.
            return f"This page is served to this machine alone, not as {host[:200]!r}."
        if headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin"):
            return "Pages of other sites may not use this server."
        origin = headers.get(b"origin", b"").decode("latin-1")
        if origin and urlsplit(origin).netloc != host:
            return f"Pages of {origin[:200]} may not use this server."
        if scope["method"] in ("GET", "HEAD"):
            return ""
        if not hmac.compare_digest(headers.get(TOKEN.encode(), b""), self._token):
            return f"A change needs the page's token in the header {TOKEN}. Load the page again."
        return ""


def _hostname(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:  # a bracket too many
        return ""
