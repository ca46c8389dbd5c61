"""What a run's paid models have used, and a stop before it is more than it may be.

In: a run's `spent.sqlite`, rates, limits, and a model to watch. Out: the same model (`duomem.models.Model`), counted, that
raises `BudgetSpent` before a call that might pass a limit. Counts are on disk when a reply is handed back, so a killed run
goes on counting where it was. Not here: estimates and what came of the money (`duomem.price`).
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from duomem.errors import BudgetSpent
from duomem.models import Model
from duomem.sqlitefile import Form, store_error
from duomem.types import Message, Reply, Sampling, Tool, Usage

MILLION = 1_000_000
LEDGER = Form(
    "a ledger",
    "Move it away; what was spent before is then no longer counted.",
    (
        (  # the first ledgers had the table without a version
            """CREATE TABLE IF NOT EXISTS spent(
            what TEXT, role TEXT, model TEXT, replies INTEGER, prompt INTEGER, cached INTEGER, completion INTEGER,
            lost_prompt INTEGER, lost_completion INTEGER, PRIMARY KEY (what, role, model))""",
        ),
    ),
    tables=frozenset({"spent"}),
    # A commit survives a killed process; only a power cut can take the last ones, and the journal has them too.
    pragmas=("synchronous = NORMAL",),
)
_ADD = """INSERT INTO spent VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    replies = replies + excluded.replies, prompt = prompt + excluded.prompt, cached = cached + excluded.cached,
    completion = completion + excluded.completion, lost_prompt = lost_prompt + excluded.lost_prompt,
    lost_completion = lost_completion + excluded.lost_completion"""
_NOTHING = Usage()
_TOKENS_A_MESSAGE = 16
"""Room for what a chat template puts around a message."""
_FIRST_GUESS = 0.5
"""Tokens a byte until replies have told; English text has about 0.25."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Prices of a million tokens. `cached` are prompt tokens that the endpoint had already read."""

    input: float = 0.0
    cached: float = 0.0
    output: float = 0.0

    def cost(self, usage: Usage) -> float:
        fresh = usage.prompt - usage.cached
        return (fresh * self.input + usage.cached * self.cached + usage.completion * self.output) / MILLION

    @property
    def known(self) -> bool:
        return self != Rates()


@dataclass(frozen=True, slots=True)
class Entry:
    """What one model used for one purpose ("collect", "remember", "evaluate"). `lost` is an estimate for attempts that gave no
    reply and may be billed all the same; it counts towards limits."""

    what: str
    role: str
    model: str
    replies: int
    usage: Usage
    lost: Usage

    @property
    def total(self) -> Usage:
        return self.usage + self.lost


class Ledger:
    """The counts of one run. Safe for many threads."""

    def __init__(self, path: Path) -> None:
        """Raises `DataError` for a file that is something else, `StoreError` for one that cannot be written."""
        self._path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = LEDGER.connect(path)
        except sqlite3.Error as error:
            raise store_error(path, error) from error

    def add(
        self, what: str, role: str, model: str, *, replies: int = 0, usage: Usage = _NOTHING, lost: Usage = _NOTHING
    ) -> None:
        row = (what, role, model, replies, usage.prompt, usage.cached, usage.completion, lost.prompt, lost.completion)
        try:
            with self._lock:
                self._db.execute(_ADD, row)
        except sqlite3.Error as error:
            raise store_error(self._path, error) from error

    def entries(self) -> list[Entry]:
        with self._lock:
            rows = self._db.execute("SELECT * FROM spent ORDER BY what, role, model").fetchall()
        return [
            Entry(what, role, model, replies, Usage(*rest[:3]), Usage(rest[3], 0, rest[4]))
            for what, role, model, replies, *rest in rows
        ]

    def close(self) -> None:
        self._db.close()


class Meter:
    """Counts what models use against a run's limits. Thread-safe.

    Before a call its worst case is put aside, so that calls in flight together cannot pass a limit; where it does not fit, the
    caller waits until others have settled, and then `BudgetSpent` is raised.
    """

    def __init__(
        self,
        ledger: Ledger,
        rates: dict[str, Rates],
        *,
        max_cost: float | None = None,
        max_tokens: int | None = None,
        currency: str = "USD",
    ) -> None:
        self.ledger, self.currency = ledger, currency
        self.max_cost, self.max_tokens = max_cost, max_tokens
        self._rates = rates
        self._changed = threading.Condition()
        entries = ledger.entries()
        self._cost = sum(self.rates(entry.role).cost(entry.total) for entry in entries)
        self._tokens = sum(_tokens(entry.total) for entry in entries)
        self._aside_cost, self._aside_tokens, self._in_flight = 0.0, 0, 0

    def rates(self, role: str) -> Rates:
        return self._rates.get(role, Rates())

    @property
    def cost(self) -> float:
        """What the run has cost so far, at today's rates."""
        with self._changed:
            return self._cost

    @property
    def tokens(self) -> int:
        with self._changed:
            return self._tokens

    @contextmanager
    def aside(self, role: str, worst: Usage) -> Iterator[None]:
        """Put the worst case of a call aside while it runs. Raises `BudgetSpent` where a limit leaves no room for it."""
        cost, tokens = self.rates(role).cost(worst), _tokens(worst)
        with self._changed:
            while not self._fits(cost, tokens):
                if not self._in_flight:
                    raise BudgetSpent(self._words())
                self._changed.wait()
            self._aside_cost += cost
            self._aside_tokens += tokens
            self._in_flight += 1
        try:
            yield
        finally:
            with self._changed:
                self._aside_cost -= cost
                self._aside_tokens -= tokens
                self._in_flight -= 1
                self._changed.notify_all()

    def add(self, what: str, role: str, model: str, usage: Usage, lost: Usage, *, replies: int) -> None:
        self.ledger.add(what, role, model, replies=replies, usage=usage, lost=lost)
        with self._changed:
            self._cost += self.rates(role).cost(usage + lost)
            self._tokens += _tokens(usage + lost)

    def _fits(self, cost: float, tokens: int) -> bool:
        fits_cost = self.max_cost is None or self._cost + self._aside_cost + cost <= self.max_cost
        return fits_cost and (self.max_tokens is None or self._tokens + self._aside_tokens + tokens <= self.max_tokens)

    def _words(self) -> str:
        limits = [f"max_cost = {self.max_cost:g} {self.currency}"] if self.max_cost is not None else []
        limits += [f"max_tokens = {self.max_tokens:,}"] if self.max_tokens is not None else []
        return (
            f"The next call might pass the run's limit ({' and '.join(limits)}): it has used {self._cost:.4f} {self.currency} "
            f"and {self._tokens:,} tokens. What was paid for is kept. Go on with the same command and a higher limit "
            "(--max-cost, --max-tokens)."
        )


class Metered:
    """A model that a meter watches. `close` leaves the model to its owner."""

    def __init__(self, model: Model, meter: Meter, what: str, role: str) -> None:
        self.model, self.meter = model, meter
        self._what, self._role = what, role
        self._name = model.provenance().get("model", "")
        self._lock = threading.Lock()
        self._per_byte = 0.0
        self._lost_before = _lost(model)

    def reply(self, messages: Sequence[Message], tools: Sequence[Tool], sampling: Sampling) -> Reply:
        size = sum(len(part.encode()) for part in _texts(messages, tools))
        prompt = int(size * (self._per_byte or _FIRST_GUESS)) + _TOKENS_A_MESSAGE * (len(messages) + len(tools))
        usage, replies = _NOTHING, 0
        with self.meter.aside(self._role, Usage(prompt, 0, sampling.max_tokens)):
            try:
                reply = self.model.reply(messages, tools, sampling)
                usage, replies = reply.usage, 1
            finally:
                self.meter.add(self._what, self._role, self._name, usage, self._lost_since(), replies=replies)
        if size:
            with self._lock:
                self._per_byte = max(self._per_byte, usage.prompt / size)
        return reply

    def _lost_since(self) -> Usage:
        """What attempts without a reply may have cost since the last call that asked."""
        with self._lock:
            now, before = _lost(self.model), self._lost_before
            self._lost_before = now
        return Usage(now.prompt - before.prompt, 0, now.completion - before.completion)

    def provenance(self) -> dict[str, str]:
        return self.model.provenance()

    @property
    def writes(self) -> bool:
        """Whether the model can write memories."""
        return bool(getattr(self.model, "writes", True))

    def close(self) -> None:
        pass


def _texts(messages: Sequence[Message], tools: Sequence[Tool]) -> Iterator[str]:
    for message in messages:
        yield message.text
        yield from (call.name + call.arguments for call in message.tool_calls)
    for tool in tools:
        yield tool.name + tool.description + tool.parameters


def _tokens(usage: Usage) -> int:
    return usage.prompt + usage.completion


def _lost(model: Model) -> Usage:
    tally = getattr(model, "tally", None)
    found: Usage = tally.wasted if tally else _NOTHING
    return found
