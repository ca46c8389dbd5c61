"""HTTP for the proxy: what of a request goes on, where to, and how a reply's head comes back.

In: ASGI scopes and messages. Out: a `Call`; URLs; ASGI messages. Hop-by-hop headers stay behind (RFC 9110, section 7.6.1), and
so do the recorder's own. Compression is declined, so that replies can be read; one that comes all the same is passed on as is.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from duomem import wire
from duomem.errors import UsageError
from duomem.wire import Api

if TYPE_CHECKING:
    import httpx

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

HOP = frozenset(b"connection keep-alive proxy-authenticate proxy-authorization te trailer transfer-encoding upgrade".split())
OURS = b"x-duomem-"
CREDENTIAL = re.compile(r"(?i)auth|key|token|secret|cookie")
"""Names of headers and query parameters whose values are never written."""

EPISODE = re.compile(r"[\w.:@-]{1,200}")
PREFIX = re.compile(r"/e/([^/]+)(/.*)")
OUTCOMES = {"won": True, "true": True, "1": True, "lost": False, "false": False, "0": False}


class TooLarge(UsageError):
    """A request of more bytes than the recorder takes."""


@dataclass(frozen=True)
class Call:
    """One request, as it goes on. `path` and `query` are as they came, less the episode; `credentials` must not be written."""

    method: str
    path: str
    query: str
    headers: Headers
    body: bytes
    encoding: str
    api: Api | None
    episode: str
    by_url: bool
    outcome: bool | None
    credentials: tuple[str, ...]


async def read_call(scope: Scope, receive: Receive, limit: int) -> Call | None:
    """A whole request; None where the client left before. Raises `TooLarge`, `UsageError` for a bad name of an episode."""
    headers: Headers = [(name.lower(), value) for name, value in scope["headers"]]
    given = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > limit:
            raise TooLarge(f"The request has more than {limit} bytes. Record with a larger --max-body.")
    path = scope.get("raw_path", b"").partition(b"?")[0].decode("ascii", "replace") or scope["path"]
    if not path.startswith("/"):
        raise UsageError(f"The request is for {path[:80]!r}, which is no path. The recorder is a base URL, not an HTTP proxy.")
    in_url = PREFIX.fullmatch(path)
    path = in_url[2] if in_url else path
    query = scope.get("query_string", b"").decode("latin-1")
    return Call(
        method=scope["method"],
        path=path,
        query=query,
        headers=forwarded(headers),
        body=bytes(body),
        encoding=given.get("content-encoding", ""),
        api=wire.api_of(path) if scope["method"] == "POST" else None,
        episode=episode_name(unquote(in_url[1]) if in_url else given.get("x-duomem-episode", "")),
        by_url=in_url is not None,
        outcome=outcome_of(given.get("x-duomem-outcome", "")),
        credentials=tuple(credentials(given.items(), query)),
    )


def episode_name(name: str) -> str:
    """Raises `UsageError` for a name with other than letters, digits and `._:@-`."""
    if name and not EPISODE.fullmatch(name):
        raise UsageError(f"Episode name {name[:80]!r}: use up to 200 letters, digits and the signs . _ : @ -")
    return name


def outcome_of(text: str) -> bool | None:
    if text and text.lower() not in OUTCOMES:
        raise UsageError(f"x-duomem-outcome: {text[:80]!r} is no outcome. Use won or lost.")
    return OUTCOMES.get(text.lower())


def credentials(headers: Iterable[tuple[str, str]], query: str) -> Iterable[str]:
    for name, value in (*headers, *parse_qsl(query)):
        if CREDENTIAL.search(name):
            yield value
            yield value.rpartition(" ")[2]  # without its scheme


def forwarded(headers: Headers) -> Headers:
    """The headers that go on to the endpoint."""
    named = {word.strip().lower() for name, value in headers if name == b"connection" for word in value.split(b",")}
    dropped = HOP | named | {b"host", b"content-length", b"accept-encoding", b"expect"}
    kept = [(name, value) for name, value in headers if name not in dropped and not name.startswith(OURS)]
    return [*kept, (b"accept-encoding", b"identity")]


def target(upstream: str, path: str, query: str) -> str:
    """Where a request goes: `upstream` takes the place of the base URL that the agent has now.

    OpenAI's clients have a base URL that ends before `/chat/completions`, so a path in `upstream` stands for our `/v1`;
    Anthropic's has one that ends before `/v1/messages`.
    """
    parts = urlsplit(upstream.rstrip("/"))
    base = parts.path
    if wire.api_of(path) == "messages" or path.startswith("/v1/messages/"):
        base = base.removesuffix("/v1")
    elif base and (path == "/v1" or path.startswith("/v1/")):
        path = path.removeprefix("/v1")
    return f"{parts.scheme}://{parts.netloc}{base}{path}" + (f"?{query}" if query else "")


def check_upstream(upstream: str) -> str:
    """Raises `UsageError` for what is no base URL, or holds a credential that would be stored with the run."""
    parts = urlsplit(upstream)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            f"--upstream {upstream!r} is no URL. Give the base URL that the agent has now: https://api.openai.com/v1"
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UsageError("--upstream has a user name, a query or a fragment. Leave them out: the agent's own key goes through.")
    return upstream


def head(reply: httpx.Response, length: int | None = None) -> MutableMapping[str, Any]:
    """The start of a reply, as it came. `length` is its body's, where the whole of it is there."""
    headers = [(name.lower(), value) for name, value in reply.headers.raw if name.lower() not in HOP]
    if length is not None and not any(name == b"content-length" for name, _ in headers):
        headers.append((b"content-length", str(length).encode()))
    return {"type": "http.response.start", "status": reply.status_code, "headers": headers}


async def refuse(send: Send, api: Api | None, status: int, words: str) -> None:
    """An error of the recorder, in the form of the API."""
    body = json.dumps(wire.write_error(api or "chat", status, words)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Decoder:
    """Undoes a content encoding, chunk by chunk. What it doesn't know, or can't, stands in `error`."""

    def __init__(self, encoding: str) -> None:
        self.error = ""
        name = encoding.strip().lower()
        self._zlib = zlib.decompressobj(wbits=47 if name == "gzip" else 15) if name in ("gzip", "deflate") else None
        if not self._zlib and name not in ("", "identity"):
            self.error = f"content encoding {name[:40]!r} cannot be read"

    def feed(self, chunk: bytes) -> bytes:
        if self.error or self._zlib is None:
            return b"" if self.error else chunk
        try:
            return self._zlib.decompress(chunk)
        except zlib.error as error:
            self.error = f"the content encoding is damaged: {error}"
            return b""
