"""One exchange under way: takes the reply's bytes as they pass, puts them together, and journals the end once.

In: a reply's head and bytes; who cut it, where it was cut. Out: one `Ended` in the store. `Unrecorded` has the same face and
keeps nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from duomem import wire
from duomem.errors import DuomemError
from duomem.record._http import Decoder
from duomem.record._rows import Ended, State
from duomem.record.redact import Redactor
from duomem.record.store import RecordStore
from duomem.wire import Answer, Api

if TYPE_CHECKING:
    import httpx

KEPT_BYTES = 64 * 2**20
"""A reply of more bytes is passed on, and recorded as broken."""


class Unrecorded:
    """A request that is no model call: all goes through, nothing is kept, and nothing is read on once the client has left."""

    api: Api | None = None
    streaming = True
    patient = False
    ended = False

    def headed(self, reply: httpx.Response) -> None:
        pass

    def feed(self, chunk: bytes) -> None:
        pass

    def stop(self, state: State, words: str) -> bool:
        return True

    def finish(self, who: str, delivered: bool = True) -> bool:
        return True

    async def end(self, work: Callable[..., bool], *arguments: Any) -> bool:
        return True


class Recording(Unrecorded):
    """An exchange that the store knows as `number`. Its methods that journal return False where that failed.

    `patient` replies are read to their end also when the client has left: they are paid for.
    """

    def __init__(self, store: RecordStore, redactor: Redactor, api: Api, number: int, *, patient: bool) -> None:
        self.api, self.patient, self.streaming = api, patient, False
        self._store, self._redactor, self._number = store, redactor, number
        self._started, self._first, self._status = time.monotonic(), 0.0, 0
        self._stream, self._kept, self._bytes = wire.assembler(api), bytearray(), 0
        self._decoder = Decoder("")
        self._journalled: bool | None = None
        self._once = threading.Lock()

    @property
    def ended(self) -> bool:  # type: ignore[override]
        """Whether a stream's last event has come."""
        return self.streaming and self._stream.whole

    def headed(self, reply: httpx.Response) -> None:
        """Take the reply's head."""
        self._first, self._status = time.monotonic() - self._started, reply.status_code
        self.streaming = reply.is_success and reply.headers.get("content-type", "").startswith("text/event-stream")
        self._decoder = Decoder(reply.headers.get("content-encoding", ""))

    def feed(self, chunk: bytes) -> None:
        """Take the reply's next bytes."""
        self._bytes += len(chunk)
        if self._bytes > KEPT_BYTES:
            return
        plain = self._decoder.feed(chunk)
        if self.streaming:
            self._stream.feed(plain)
        else:
            self._kept += plain

    async def end(self, work: Callable[..., bool], *arguments: Any) -> bool:
        """`stop` or `finish` in a thread: both wait for the disk."""
        return await asyncio.to_thread(work, *arguments)

    def stop(self, state: State, words: str) -> bool:
        """Journal a reply that never came (`failed`) or was cut (`broken`), with what came of it."""
        body = self._body()
        partial = self._partial(body) if state == "broken" else None
        return self._keep(Ended(state, self._status, body, partial, error=self._redactor.text(words)))

    def finish(self, who: str, delivered: bool = True) -> bool:
        """Journal a reply whose bytes have come to an end; `who` ended a stream, if that lacks its last event."""
        body = self._body()
        if not 200 <= self._status < 300:
            words = wire.error_of(body) or f"status {self._status}"
            return self._keep(Ended("failed", self._status, body, delivered=delivered, error=words))
        flaw = self._decoder.error or (f"more than {KEPT_BYTES} bytes" if self._bytes > KEPT_BYTES else "")
        if self.streaming and not self.ended:
            flaw = flaw or f"the stream was cut by the {who}: " + (self._stream.error or "its last event is missing")
        elif body is None:
            flaw = flaw or "no JSON object"
        if flaw or body is None:
            return self.stop("broken", flaw)
        try:
            answer = wire.read_answer(self.api or "chat", body)
        except (wire.WireError, RecursionError) as error:
            return self._keep(Ended("failed", self._status, body, delivered=delivered, error=f"no reply in it: {error}"))
        return self._keep(Ended("whole", self._status, body, answer, delivered))

    def _partial(self, body: dict[str, Any] | None) -> Answer | None:
        """What can be read of a cut reply: the agent may go on from it."""
        with contextlib.suppress(wire.WireError, RecursionError):
            return wire.read_answer(self.api or "chat", body) if body else None
        return None

    def _body(self) -> dict[str, Any] | None:
        """All that came, redacted. Of what is no JSON, the beginning, where it explains an error."""
        try:
            body = self._stream.body() if self.streaming else json.loads(bytes(self._kept) or b"null")
        except (ValueError, RecursionError):
            text = bytes(self._kept[:4096]).decode("utf-8", "replace")
            return None if 200 <= self._status < 300 else {"text": self._redactor.text(text)}
        return self._redactor.value(body) if isinstance(body, dict) else None

    def _keep(self, ended: Ended) -> bool:
        with self._once:
            if self._journalled is None:
                seconds = time.monotonic() - self._started
                try:
                    self._store.end(self._number, replace(ended, first_byte=self._first, seconds=seconds))
                    self._journalled = True
                except DuomemError:
                    self._journalled = False  # the agent is told; on disk the exchange stays open, which is broken
            return self._journalled
