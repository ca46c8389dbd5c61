"""Behind the server: the student's replies, and the teacher's where the student's cannot be trusted.

In: a request as it is answered, an endpoint for the teacher. Out: the reply, with who gave it and why in headers. `Cascade`
asks the teacher about doubtful replies; `Shadow` answers with one of both and compares it with the other's. The teacher reads
the conversation as the client sent it, without memories. Not here: the rule (`duomem.cascade`).
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from duomem.cascade import Rule, Share, action_of
from duomem.errors import InfraError
from duomem.models import ContextFull, Model
from duomem.prompts import Layout, read_opening
from duomem.serve.engine import Engine
from duomem.serve.service import Answerer, Asked, Said
from duomem.types import Reply

if TYPE_CHECKING:
    from duomem.serve.metrics import Metrics
    from duomem.serve.student import Student

Side = Literal["student", "teacher"]
BY, WHY = "x-duomem-answered-by", "x-duomem-fallback"
"""Headers: who gave the reply, and why it was not the student alone."""
KEY = "DUOMEM_FALLBACK_KEY"
"""Environment variable with the teacher's key; empty or absent: the endpoint wants none."""
PATIENCE_S = 60.0
"""Seconds that the teacher may take, retries included; the client waits meanwhile."""


def _layout_of(asked: Asked, layout: Layout) -> Layout | None:
    """The layout, where the request's prompt is in it: then an action's form is known."""
    given = asked.request.messages
    start = next((index for index, message in enumerate(given) if message.role == "assistant"), len(given))
    return layout if read_opening(layout, given[:start]) else None


def _teacher(model: Model, asked: Asked) -> Reply:
    """Raises `InfraError` and `ContextFull`."""
    return model.reply(asked.request.messages, asked.request.tools, asked.sampling)


def _student(engine: Engine, asked: Asked) -> Reply:
    """Raises `InfraError` and `ContextFull`."""
    injected, call = asked.injected, asked.wants.choice == "required"
    return engine.reply(injected.messages, injected.tools, asked.sampling, asked.owner, call)


@dataclass
class Cascade:
    """An `Answerer`. What the teacher cannot answer now, the student's reply stands for. `told` counts: (who, why)."""

    engine: Engine
    teacher: Model
    layout: Layout
    rule: Rule
    share: Share
    told: Callable[[Side, str], None] = lambda side, why: None

    def say(self, asked: Asked) -> Said:
        self.share.call()
        try:
            reply = _student(self.engine, replace(asked, sampling=replace(asked.sampling, logprob=True)))
        except ContextFull:
            if not self.share.grant():
                raise
            return self._said(_teacher(self.teacher, asked), "teacher", "context")
        why = self.rule.why(asked.injected.messages, reply, _layout_of(asked, self.layout))
        if not why:
            return self._said(reply, "student", "")
        if not self.share.grant():
            return self._said(reply, "student", f"{why}, share used up")
        try:
            return self._said(_teacher(self.teacher, asked), "teacher", why)
        except (InfraError, ContextFull):
            return self._said(reply, "student", f"{why}, teacher unavailable")

    def close(self) -> None:
        """Let go of the teacher's connections."""
        self.teacher.close()

    def _said(self, reply: Reply, side: Side, why: str) -> Said:
        self.told(side, why)
        return Said(replace(reply, logprob=None), {BY: side, **({WHY: why} if why else {})})


@dataclass
class Compared:
    """What a shadow has seen. `same`: replies of both with the same action."""

    asked: int = 0
    same: int = 0
    failed: int = 0
    """Requests that one of them could not answer."""


@dataclass
class Shadow:
    """An `Answerer`: `side` answers, the other is asked as well and only compared. The comparison is made in the background."""

    engine: Engine
    teacher: Model
    layout: Layout
    side: Side = "teacher"
    told: Callable[[str], None] = lambda result: None
    """Called with same, different or failed."""
    compared: Compared = field(default_factory=Compared)
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4, thread_name_prefix="duomem-shadow"))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def say(self, asked: Asked) -> Said:
        other: Side = "student" if self.side == "teacher" else "teacher"
        second = self._pool.submit(self._ask, other, asked)
        try:
            reply = self._ask(self.side, asked)
        except (InfraError, ContextFull):
            second.add_done_callback(lambda _: self._count("failed"))
            raise
        layout = _layout_of(asked, self.layout)

        def compare(_: object) -> None:
            if second.cancelled() or second.exception() is not None:
                return self._count("failed")
            same = action_of(reply.message, layout) == action_of(second.result().message, layout)
            self._count("same" if same else "different")

        second.add_done_callback(compare)
        return Said(reply, {BY: self.side})

    def _ask(self, side: Side, asked: Asked) -> Reply:
        if side == "teacher":
            return _teacher(self.teacher, asked)
        return _student(self.engine, asked)

    def _count(self, result: Literal["same", "different", "failed"]) -> None:
        counts = Counter({result: 1})
        with self._lock:
            self.compared.asked += 1
            self.compared.same += counts["same"]
            self.compared.failed += counts["failed"]
        self.told(result)

    def close(self) -> None:
        """Wait for what is still compared, then let go of the teacher's connections."""
        self._pool.shutdown(wait=True)
        self.teacher.close()


@dataclass(frozen=True)
class Behind:
    """Who stands behind a student: an endpoint that speaks OpenAI's chat API, and how it is used."""

    url: str
    model: str
    rule: Rule = field(default_factory=Rule)
    share: Share = field(default_factory=lambda: Share(0.2))
    """Of the server, not of one student: a reload starts no new one."""
    shadow: Side | None = None
    """Compare instead of falling back, and who answers then."""

    def answerer(self, student: Student, engine: Engine, metrics: Metrics) -> Answerer:
        """Raises `MissingExtra`, `UsageError`."""
        from duomem.models import openai_api

        settings = openai_api.Config(
            base_url=self.url,
            remote_model=self.model,
            reply_model=".*",
            key_env=KEY if os.environ.get(KEY) else "",
            retries=2,
            patience_s=PATIENCE_S,
            timeout_s=PATIENCE_S,
            stall_s=PATIENCE_S / 2,
        )
        teacher = openai_api.build(settings)
        layout = student.injector.layout
        if self.shadow:
            return Shadow(engine, teacher, layout, self.shadow, lambda result: metrics.shadow.labels(result).inc())
        told = metrics.answers
        return Cascade(engine, teacher, layout, self.rule, self.share, lambda side, why: told.labels(side, why or "sure").inc())
