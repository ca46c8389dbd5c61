"""When a request to an endpoint may go out: so many in flight, and none while the endpoint asked all of them to wait.

In: requests that want to start, waits that the endpoint or a back-off asks for. Out: blocking, and `InfraError` once closed.
Thread-safe. Not here: what counts as an error, and how often it is tried again.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime

from duomem.errors import InfraError

LONGEST_BACKOFF_S = 60.0


class Pace:
    """Shared by all callers of one endpoint."""

    def __init__(self, concurrency: int) -> None:
        self._places = threading.Semaphore(concurrency)
        self._lock = threading.Lock()
        self._not_before = 0.0
        self._closed = threading.Event()

    @contextmanager
    def place(self) -> Iterator[None]:
        """One of the requests in flight, as soon as there is a place and nobody asked to wait."""
        while True:
            self.wait(self._hold())
            with self._places:
                if self._hold() > 0:
                    continue  # somebody was told to wait while this one queued
                if self._closed.is_set():
                    raise _closed()
                yield
                return

    def hold(self, seconds: float) -> None:
        """Nobody starts for so many seconds."""
        with self._lock:
            self._not_before = max(self._not_before, time.monotonic() + seconds)

    def wait(self, seconds: float) -> None:
        """Sleep; `close` wakes it with an `InfraError`."""
        if self._closed.wait(max(0.0, seconds)):
            raise _closed()

    def close(self) -> None:
        self._closed.set()

    def _hold(self) -> float:
        with self._lock:
            return max(0.0, self._not_before - time.monotonic())


def backoff(attempt: int, first_s: float) -> float:
    """Seconds before attempt `attempt` + 1: doubled each time, at most a minute; up to a quarter more, to spread callers."""
    return float(min(LONGEST_BACKOFF_S, first_s * 2.0**attempt) * random.uniform(1.0, 1.25))


def retry_after(headers: dict[str, str]) -> float | None:
    """Seconds that a reply's headers (lower-case names) ask to wait: Retry-After in seconds or as a date (RFC 9110, 10.2.3),
    or the finer retry-after-ms that some endpoints send. None where there is none that can be read."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) / unit)
        except (KeyError, ValueError):
            continue
    try:
        return max(0.0, parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time())
    except (KeyError, ValueError, TypeError):
        return None


def _closed() -> InfraError:
    return InfraError("models/openai_api: the model was closed while a request waited.")
