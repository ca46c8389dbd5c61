"""Who answers now: a service that can be exchanged for another while requests are under way, and the latest answers.

In: services. Out: the present one for as long as a request needs it; one that was exchanged is closed when its last request has
ended. Of each owner's answers the latest are kept in memory, for questions about them and for outcomes. Not here: loading.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from duomem.serve.service import Answered, Service

KEPT, KEPT_BYTES = 2_000, 64 * 2**20
"""Answers that are remembered, of all owners together, and bytes of their requests."""


class _Held:
    def __init__(self, service: Service) -> None:
        self.service, self.users, self.retired = service, 0, False


class Desk:
    """Safe for many threads."""

    def __init__(self, service: Service) -> None:
        self._held = _Held(service)
        self._lock = threading.Lock()
        self._answers: OrderedDict[str, tuple[str, Answered, int]] = OrderedDict()
        self._bytes = 0

    @contextmanager
    def service(self) -> Iterator[Service]:
        """The present service; it stays open until the block ends, whatever takes its place meanwhile."""
        with self._lock:
            held = self._held
            held.users += 1
        try:
            yield held.service
        finally:
            with self._lock:
                held.users -= 1
                over = held.retired and not held.users
            if over:  # this may be the event loop's thread, and an engine takes seconds to end
                threading.Thread(target=held.service.close, name="duomem-retired").start()

    def exchange(self, service: Service) -> None:
        """From now on this one answers."""
        with self._lock:
            old, self._held = self._held, _Held(service)
            old.retired = True
            over = not old.users
        if over:
            old.service.close()

    def amend(self, change: Callable[[Service], Service]) -> None:
        """Put a changed service in the place of the present one; what is open stays open and is closed with it."""
        with self._lock:
            self._held.service = change(self._held.service)

    def close(self) -> None:
        with self._lock:
            self._held.retired = True
            over = not self._held.users
        if over:
            self._held.service.close()

    def remember(self, owner: str, answered: Answered, size: int) -> None:
        """Keep an answer to a request of so many bytes."""
        with self._lock:
            self._answers[answered.answer.id] = owner, answered, size
            self._bytes += size
            while len(self._answers) > KEPT or self._bytes > KEPT_BYTES:
                _, (_, _, dropped) = self._answers.popitem(last=False)
                self._bytes -= dropped

    def recall(self, owner: str | None, reply: str) -> Answered | None:
        """An answer by its id, where it is this owner's; None: of any."""
        with self._lock:
            found = self._answers.get(reply)
        return found[1] if found and owner in (None, found[0]) else None
