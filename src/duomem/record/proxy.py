"""The recording proxy: stands between an agent and its endpoint, passes bytes on as they are, journals before it hands back.

In: HTTP requests of an agent whose base URL was changed. Out: the endpoint's replies, untouched, and exchanges in the store.
What is no model call is passed on and not recorded. It keeps no key: the agent's own goes through, and never to the disk.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from duomem import wire
from duomem.errors import DuomemError, MissingExtra, StoreError
from duomem.record._http import Call, Receive, Scope, Send, TooLarge, head, read_call, refuse, target
from duomem.record.functions import Locator, locator
from duomem.record.recording import Recording, Unrecorded
from duomem.record.redact import Redactor
from duomem.record.requests import begun_of
from duomem.record.store import RecordStore

if TYPE_CHECKING:
    import httpx

LOOPBACK = ("127.0.0.1", "localhost", "::1")
NOT_KEPT = "The reply could not be journalled, so it isn't handed back. Check the disk of the recorder, then try again."


@dataclass(frozen=True)
class Options:
    """How to record."""

    upstream: str
    """The base URL that the agent had."""
    find_task: Locator = field(default_factory=locator)
    conversation: str = ""
    """A path into request bodies whose text names the episode; empty: none."""
    timeout_s: float = 600.0
    """Longest silence of the endpoint, in seconds."""
    max_body: int = 64 * 2**20
    """Largest request, in bytes."""


class Proxy:
    """An ASGI application. Use it within `async with`, which closes its connections."""

    def __init__(self, store: RecordStore, redactor: Redactor, options: Options) -> None:
        self.store, self.redactor, self.options = store, redactor, options
        self._client = _client(options)

    async def __aenter__(self) -> Proxy:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request. What can't be journalled isn't sent on; the client reads why."""
        api = wire.api_of(scope["path"])
        try:
            call = await read_call(scope, receive, self.options.max_body)
            if call is not None:
                await self._pass_on(call, receive, send, await asyncio.to_thread(self._begin, call))
        except TooLarge as error:
            await refuse(send, api, 413, str(error))
        except DuomemError as error:
            await refuse(send, api, 503 if isinstance(error, StoreError) else 400, f"Not recorded: {error}")

    def _begin(self, call: Call) -> Unrecorded:
        for secret in call.credentials:
            self.redactor.learn(secret)
        if call.api is None:
            return Unrecorded()
        begun = begun_of(call, self.redactor, self.options.find_task, self.options.conversation)
        number, episode = self.store.begin(begun)
        if call.outcome is not None:
            self.store.judge(episode, call.outcome, "header")
        return Recording(self.store, self.redactor, call.api, number, patient=not begun.stream)

    async def _pass_on(self, call: Call, receive: Receive, send: Send, recording: Unrecorded) -> None:
        """The exchange, while watching for the client to leave: a stream to nobody is closed, as the client would have done."""
        gone = asyncio.create_task(_gone(receive))
        work = asyncio.create_task(self._exchange(call, send, recording, gone))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if gone.done() and not recording.patient:
                work.cancel()
            await asyncio.wait({work})
        finally:
            gone_first = gone.done()
            work.cancel()
            gone.cancel()
            await asyncio.wait({work})
        if work.cancelled() and gone_first:
            return
        if not work.cancelled() and (bug := work.exception()):
            recording.stop("broken", f"the recorder failed: {type(bug).__name__}: {bug}")
        work.result()

    async def _exchange(self, call: Call, send: Send, recording: Unrecorded, gone: asyncio.Task[None]) -> None:
        """Send on, take the reply. Whatever happens, the exchange gets its end."""
        import httpx

        url = target(self.options.upstream, call.path, call.query)
        timeout = httpx.Timeout(self.options.timeout_s, connect=min(30.0, self.options.timeout_s)).as_dict()
        try:
            request = httpx.Request(
                call.method, url, headers=call.headers, content=call.body or None, extensions={"timeout": timeout}
            )
            reply = await self._client.send(request, stream=True)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            words = f"the endpoint gave no reply: {type(error).__name__}: {error}"
            kept = await recording.end(recording.stop, "failed", words)
            status = 504 if isinstance(error, httpx.TimeoutException) else 502
            return await refuse(send, call.api, status if kept else 503, self.redactor.text(words) if kept else NOT_KEPT)
        except asyncio.CancelledError:
            recording.stop("failed", f"the {_who(gone)} left before the endpoint replied")
            raise
        recording.headed(reply)
        try:
            await (self._stream if recording.streaming else self._whole)(reply, send, recording, gone)
        except asyncio.CancelledError:
            recording.finish(_who(gone))
            raise
        finally:
            await reply.aclose()

    async def _whole(self, reply: httpx.Response, send: Send, recording: Unrecorded, gone: asyncio.Task[None]) -> None:
        """Read all of the reply, journal it, hand it back."""
        import httpx

        chunks: list[bytes] = []
        try:
            async for chunk in reply.aiter_raw():
                chunks.append(chunk)
                recording.feed(chunk)
        except httpx.HTTPError as error:
            words = f"the endpoint broke off its reply: {type(error).__name__}: {error}"
            kept = await recording.end(recording.stop, "broken", words)
            return await refuse(send, recording.api, 502, self.redactor.text(words) if kept else NOT_KEPT)
        if not await recording.end(recording.finish, "endpoint", not gone.done()):
            return await refuse(send, recording.api, 503, NOT_KEPT)
        body = b"".join(chunks)
        await send(head(reply, len(body)))
        await send({"type": "http.response.body", "body": body})

    async def _stream(self, reply: httpx.Response, send: Send, recording: Unrecorded, gone: asyncio.Task[None]) -> None:
        """Hand the reply back as it comes; what holds its last event only once the whole is journalled.

        Where no last chunk is sent the connection is cut, and the client learns that it has no whole reply.
        """
        import httpx

        await send(head(reply))
        try:
            async for chunk in reply.aiter_raw():
                recording.feed(chunk)
                if recording.ended and not await recording.end(recording.finish, "endpoint"):
                    return
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except httpx.HTTPError as error:
            work, arguments = (
                (recording.finish, ("endpoint",)) if recording.ended else (recording.stop, ("broken", _cut(error)))
            )
            await recording.end(work, *arguments)
            return
        if await recording.end(recording.finish, "endpoint"):
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def _cut(error: Exception) -> str:
    return f"the stream was cut by the endpoint: {type(error).__name__}: {error}"


def _who(gone: asyncio.Task[None]) -> str:
    return "client" if gone.done() else "recorder"


async def _gone(receive: Receive) -> None:
    """Returns when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _client(options: Options) -> Any:
    """A client that adds nothing of its own: no cookies, no redirects, no proxy before an endpoint on this machine."""
    try:
        import httpx
    except ImportError as error:
        raise MissingExtra("httpx", "record") from error
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    return httpx.AsyncClient(limits=limits, trust_env=urlsplit(options.upstream).hostname not in LOOPBACK)
