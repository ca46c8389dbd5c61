"""Puts a server together: the student of a path, its engine's process, the application; and loads them again.

In: a path, the user's choices. Out: a `Stand` with an application that is ready to be served; `close` ends its engine. With a
state folder the caches of conversations outlive a restart. Not here: sockets.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from duomem.errors import DuomemError
from duomem.serve.app import Setup, application
from duomem.serve.desk import Desk
from duomem.serve.metrics import Metrics
from duomem.serve.process import ProcessEngine
from duomem.serve.service import Alone, Answerer, Service
from duomem.serve.student import Choice, Student, open_student

if TYPE_CHECKING:
    from starlette.applications import Starlette


class Stand:
    """A server but for its socket. Use it as a context manager."""

    def __init__(self, path: Path, choice: Choice, setup: Setup, state: Path | None = None) -> None:
        self._path, self._choice, self._state = path, choice, state
        self.metrics = Metrics()
        self.setup = replace(setup, reload=self.load)
        self.engine: ProcessEngine
        self.desk = Desk(self._service())
        self._restore()

    def __enter__(self) -> Stand:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def student(self) -> Student:
        with self.desk.service() as service:
            return service.student

    @cached_property
    def application(self) -> Starlette:
        return application(self.desk, self.setup, self.metrics)

    def load(self) -> str:
        """Load the student from its path again and let it answer from now on. Raises `DuomemError`; the old one stays then."""
        self.desk.exchange(self._service())
        return self.student.revision

    def answerer(self, student: Student, engine: ProcessEngine) -> Answerer:
        """Who answers for a student: its own engine."""
        return Alone(engine)

    def _service(self) -> Service:
        student = open_student(self._path, self._choice)
        try:
            engine = ProcessEngine(student.model, self.metrics.restarts.inc)
        except BaseException:
            student.close()
            raise
        self.engine = engine

        def close() -> None:
            engine.close()
            student.close()

        return Service(student, self.answerer(student, engine), self.setup.limits.tokens, close)

    def _restore(self) -> None:
        folder = self._caches()
        if folder and folder.is_dir():
            self.engine.restore(folder)

    def _caches(self) -> Path | None:
        """Where this very student's caches lie: those of another one would be wrong."""
        return self._state / "caches" / self.student.revision if self._state else None

    def close(self) -> None:
        folder = self._caches()
        if folder:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with suppress(DuomemError):  # an engine that has died has nothing to keep
                self.engine.save(folder)
        self.desk.close()
