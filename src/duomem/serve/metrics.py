"""Counters of the server in Prometheus' form.

In: what happened, as it happens. Out: the text of /metrics. One registry a server, none global. Labels have few values: no key,
task or memory is ever one. Not here: who may read it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duomem.errors import MissingExtra

if TYPE_CHECKING:
    from duomem.serve.service import Answered

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The counters of one server. Safe for many threads. Raises `MissingExtra`."""

    def __init__(self) -> None:
        try:
            from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
        except ImportError as error:
            raise MissingExtra("prometheus-client", "serve") from error
        self._registry = made = CollectorRegistry()
        self.requests = Counter("duomem_requests", "Requests by API and status.", ["api", "status"], registry=made)
        self.seconds = Histogram(
            "duomem_request_seconds", "From a request to its answer.", ["api"], buckets=SECONDS, registry=made
        )
        self.engine_seconds = Histogram("duomem_engine_seconds", "Of it in the engine.", buckets=SECONDS, registry=made)
        self.tokens = Counter("duomem_tokens", "Tokens: prompt, cached (part of prompt), completion.", ["kind"], registry=made)
        self.memories = Counter("duomem_memories_injected", "Memories placed in prompts.", registry=made)
        self.inside = Gauge("duomem_requests_inside", "Requests that run or wait.", registry=made)
        self.refused = Counter("duomem_requests_refused", "Requests sent away, by reason.", ["reason"], registry=made)
        self.restarts = Counter(
            "duomem_engine_restarts", "Times that the engine was started again after it died.", registry=made
        )
        self.reloads = Counter("duomem_reloads", "Students loaded while the server ran, by result.", ["result"], registry=made)
        self.outcomes = Counter("duomem_outcomes", "Outcomes that were reported.", ["outcome"], registry=made)
        self.learned = Counter("duomem_memories_learned", "Memories written from verified successes.", registry=made)
        self.answers = Counter("duomem_answers", "Answers with a teacher behind, by giver.", ["by", "why"], registry=made)
        self.shadow = Counter("duomem_shadow", "Replies of student and teacher compared.", ["result"], registry=made)
        self._student = Gauge("duomem_student", "1 for the student that answers.", ["name", "revision"], registry=made)

    def serves(self, name: str, revision: str) -> None:
        self._student.clear()
        self._student.labels(name, revision).set(1)

    def answered(self, made: Answered, seconds: float) -> None:
        api = made.asked.request.api
        self.requests.labels(api, "200").inc()
        self.seconds.labels(api).observe(seconds)
        self.memories.inc(len(made.asked.injected.memories))
        for reply in made.answer.replies:
            self.engine_seconds.observe(reply.seconds)
            for kind in ("prompt", "cached", "completion"):
                self.tokens.labels(kind).inc(getattr(reply.usage, kind))

    def text(self) -> bytes:
        from prometheus_client import generate_latest

        return generate_latest(self._registry)
