"""Puts a server together: the student of a path, its engine's process, the application; and loads them again.

In: a path, the user's choices. Out: a `Stand` with an application that is ready to be served; `close` ends its engine. A state
folder keeps what outlives a restart: caches of conversations, counts of memories, and with `learn` new ones. Not here: sockets.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from duomem.errors import DuomemError, UsageError
from duomem.registry import component
from duomem.serve.app import Setup, application
from duomem.serve.cascade import Behind
from duomem.serve.desk import Desk
from duomem.serve.learn import Learner
from duomem.serve.metrics import Metrics
from duomem.serve.outcomes import Outcomes, Reported, route
from duomem.serve.process import ProcessEngine
from duomem.serve.service import Alone, Answerer, Service
from duomem.serve.student import Choice, ModelSpec, Student, open_student

if TYPE_CHECKING:
    from starlette.applications import Starlette


class Stand:
    """A server but for its socket. Use it as a context manager."""

    def __init__(
        self,
        path: Path,
        choice: Choice,
        setup: Setup,
        state: Path | None = None,
        *,
        learn: bool = False,
        licence: str = "",
        behind: Behind | None = None,
    ) -> None:
        """Raises `UsageError` for `learn` without a place to keep memories, without memories, or without an admin key."""
        if learn and (state is None or not setup.keys.admin):
            raise UsageError(
                "Learning needs --state DIR, and an admin key in DUOMEM_SERVE_ADMIN_KEY for whoever reports outcomes."
            )
        self._path, self._choice, self._state = path, choice, state
        self._learn, self._licence, self._behind = learn, licence, behind
        self.metrics = Metrics()
        self.outcomes = Outcomes(self._ended)
        self.setup = replace(setup, reload=self.load, routes=(*setup.routes, route(self.outcomes)))
        self.engine: ProcessEngine
        self._learner: Learner | None = None
        self.desk = Desk(self._service())
        self.engine.restore()

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
        """Who answers for a student: its own engine, or that with a teacher behind it."""
        return self._behind.answerer(student, engine, self.metrics) if self._behind else Alone(engine)

    def _service(self) -> Service:
        with ExitStack() as opened:
            student = open_student(self._path, self._choice)
            opened.callback(student.close)
            learner = None
            if self._state and (student.bank is not None or self._learn):
                learner = Learner(self._state, student, writes=self._learn, licence=self._licence or "unknown")
                opened.callback(learner.close)
                student = replace(student, injector=learner.injector())
            engine = ProcessEngine(self._kept(student), self.metrics.restarts.inc)
            opened.callback(engine.close)
            answerer = self.answerer(student, engine)
            opened.callback(answerer.close)
            self.engine, self._learner = engine, learner
            close = opened.pop_all().close
            return Service(student, answerer, self.setup.limits.tokens, close)

    def _ended(self, reported: Reported) -> dict[str, Any]:
        learner = self._learner
        if learner is None:
            return {}

        def changed() -> None:
            injector = learner.injector()
            self.desk.amend(lambda service: replace(service, student=replace(service.student, injector=injector)))

        return learner.take(reported, changed)

    def _kept(self, student: Student) -> ModelSpec:
        """The model with a folder for its caches, where it can keep them: of this very student, since another one's would be
        wrong."""
        spec = student.model
        if self._state is None or "caches" not in component("models", spec.name).Config.model_fields:
            return spec
        folder = self._state / "caches" / student.revision
        return ModelSpec(spec.name, {**spec.options, "caches": str(folder.resolve())})

    def close(self) -> None:
        with suppress(DuomemError):  # an engine that has died has nothing to keep
            self.engine.save()
        self.desk.close()
