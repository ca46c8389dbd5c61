"""Continuous batching: one thread that serves every waiting caller in one forward after another.

In: prompts as token ids, from any thread. Out: answers as token ids and text. Each forward holds the next token of every
running answer and a chunk of the waiting prompts; a caller joins and leaves between forwards. Slots keep the tokens they
computed and are reused by longest common prefix, least recently used first. Greedy answers are guessed ahead from what the
conversation already says (prompt lookup decoding, Saxena 2023) and the guesses are checked in the same forward, so an answer is
the same with fewer forwards. It knows no messages and no files.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch

from duomem.errors import InfraError
from duomem.models import cache_owner
from duomem.models._slots import Row
from duomem.types import Sampling

GRAM = 2
"""Tokens that must agree before what followed them is guessed again. 2: turns of one episode differ in numbers and nouns."""


class Engine(Protocol):
    """`_slots.Network` or `_whole.Whole`."""

    cache: Any

    def forward(self, rows: Sequence[Row]) -> torch.Tensor: ...


@dataclass(slots=True, eq=False)
class Job:
    """One answer being made."""

    prompt: list[int]
    sampling: Sampling
    owner: str = ""
    ready: threading.Event = field(default_factory=threading.Event)
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    finish: Literal["stop", "length"] = "length"
    cached: int = 0
    slot: Slot | None = None
    random: torch.Generator | None = None
    logprob: float | None = None
    """Of the answer so far (`Reply.logprob`)."""
    error: Exception | None = None
    follows: dict[tuple[int, ...], int] = field(default_factory=dict)
    """Where in prompt and answer the token after the latest occurrence of each `GRAM` tokens stands."""
    known: int = 0
    """Tokens of prompt and answer that `follows` has taken in."""

    def guess(self, most: int) -> list[int]:
        """What followed the latest earlier occurrence of the last tokens, at most `most`; often nothing."""
        said = self.prompt + self.tokens
        for end in range(max(GRAM, self.known), len(said)):
            self.follows[tuple(said[end - GRAM : end])] = end
        self.known = len(said)
        at = self.follows.get(tuple(said[-GRAM:]))
        return said[at : at + most] if at is not None and most > 0 else []


@dataclass(slots=True, eq=False)
class Slot:
    """A place in the cache: the tokens whose keys it holds, for whom, how long its last prompt was, and when it was used."""

    index: int
    owner: str = ""
    tokens: list[int] = field(default_factory=list)
    prompt: int = 0
    used: int = 0
    busy: bool = False


class Scheduler:
    """Owns the network; only its thread calls it."""

    def __init__(
        self,
        network: Engine,
        *,
        decode: Callable[[Sequence[int]], str],
        ends: frozenset[int],
        slots: int,
        chunk: int,
        threads: int,
        lookup: int = 0,
    ) -> None:
        self._network, self._decode, self._ends, self._chunk, self._threads = network, decode, ends, chunk, threads
        self._lookup = lookup
        self._slots = [Slot(index) for index in range(slots)]
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._wake = threading.Condition()
        self._closed = False
        self._clock = 0
        self.forwards = 0
        self._thread = threading.Thread(target=self._serve, name="duomem-hf", daemon=True)
        self._thread.start()

    def run(self, prompt: Sequence[int], sampling: Sampling) -> Job:
        """Block until the answer is there. Raises `InfraError` when the model failed or was closed."""
        job = Job(list(prompt), sampling, cache_owner())
        if sampling.temperature > 0:
            job.random = torch.Generator().manual_seed(sampling.seed)
        with self._wake:
            if self._closed:
                raise InfraError("models/hf: the model was closed.")
            self._waiting.append(job)
            self._wake.notify()
        job.ready.wait()
        if job.error:
            raise InfraError(f"models/hf: {job.error}") from job.error
        return job

    def close(self) -> None:
        """Stop the thread; whoever still waits gets `InfraError`. May be called again."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()

    def _serve(self) -> None:
        torch.set_num_threads(self._threads)
        while True:
            with self._wake:
                while not (self._waiting or self._running or self._closed):
                    self._wake.wait()
                if self._closed:
                    return self._fail(RuntimeError("the model was closed"), [*self._running, *self._waiting])
            try:
                with torch.inference_mode():
                    self._admit()
                    self._step()
            except Exception as error:  # noqa: BLE001 - the edge of a request: whatever broke, no caller may wait for ever
                self._fail(error, list(self._running))

    def _fail(self, error: Exception, jobs: Sequence[Job]) -> None:
        for job in jobs:
            job.error = error
            if job.slot:
                job.slot.tokens, job.slot.busy = [], False
            job.ready.set()
        self._running = []

    def _admit(self) -> None:
        """Give waiting callers a slot, in order of arrival."""
        while self._waiting and any(not slot.busy for slot in self._slots):
            self._running.append(self._waiting.popleft())
            self._running[-1].slot = self._place(self._running[-1])

    def _place(self, job: Job) -> Slot:
        """The slot of the same conversation's last turn, else the one used longest ago, with the best prefix copied into it."""
        limit = len(job.prompt) - 1  # the last token is always computed: its logits are the answer's first
        common = {slot.index: _common(slot.tokens, job.prompt, limit) if slot.owner == job.owner else 0 for slot in self._slots}
        free = [slot for slot in self._slots if not slot.busy]
        same = [slot for slot in free if slot.prompt and common[slot.index] >= max(1, min(slot.prompt, limit))]
        chosen = max(same, key=lambda slot: common[slot.index]) if same else min(free, key=lambda slot: slot.used)
        best = max(self._slots, key=lambda slot: (common[slot.index], slot is chosen))
        job.cached = common[best.index]
        if best is not chosen and job.cached:
            self._network.cache.copy_prefix(best.index, chosen.index, job.cached)
        self._clock += 1
        chosen.tokens, chosen.owner = job.prompt[: job.cached], job.owner
        chosen.prompt, chosen.used, chosen.busy = len(job.prompt), self._clock, True
        return chosen

    def _step(self) -> None:
        """One forward: a token of each answer, and prompts up to the chunk; the shortest rests first, so turns overtake
        openings.
        """
        rows: list[tuple[Job, list[int], list[int]]] = []
        room = self._chunk
        for job, rest in sorted(((job, self._rest(job)) for job in self._running), key=lambda pair: len(pair[1])):
            taken = rest if len(rest) == 1 else rest[:room]
            if taken:
                rows.append((job, taken, self._guess(job) if len(rest) == 1 and job.tokens else []))
                room -= len(taken) if len(rest) > 1 else 0
        logits = self._network.forward(
            [Row(_slot(job).index, len(_slot(job).tokens), new + guess, len(guess) + 1) for job, new, guess in rows]
        )
        self.forwards += 1
        greedy = logits.argmax(dim=-1).tolist()
        at = 0
        for job, new, guess in rows:
            _slot(job).tokens.extend(new)
            if len(_slot(job).tokens) == len(job.prompt) + len(job.tokens):
                self._take(job, logits[at : at + len(guess) + 1], guess, greedy[at : at + len(guess) + 1])
            at += len(guess) + 1

    def _guess(self, job: Job) -> list[int]:
        """Tokens to check ahead: greedy answers only, within the answer's limit and the slot's room."""
        if job.random is not None:
            return []
        left = job.sampling.max_tokens - len(job.tokens) - 1
        space = self._network.cache.shape[1] - len(job.prompt) - len(job.tokens)
        return job.guess(min(self._lookup, left, space))

    def _take(self, job: Job, logits: torch.Tensor, guess: Sequence[int], greedy: Sequence[int]) -> None:
        """Add the next token, then the guessed ones as long as each is what the model says; a row of logits for each."""
        token = greedy[0] if job.random is None else _sample(logits[0], job)
        self._grow(job, token, logits[0])
        for guessed, following, row in zip(guess, greedy[1:], logits[1:], strict=True):
            if guessed != token or job.ready.is_set():
                return
            _slot(job).tokens.append(guessed)
            token = following
            self._grow(job, token, row)

    def _rest(self, job: Job) -> list[int]:
        """Tokens of prompt and answer that the slot does not hold yet."""
        known = len(_slot(job).tokens)
        return job.prompt[known:] if known < len(job.prompt) else job.tokens[known - len(job.prompt) :]

    def _grow(self, job: Job, token: int, logits: torch.Tensor) -> None:
        """Add a token, drawn from these logits [vocabulary], to an answer and end it where it ends."""
        if token in self._ends:
            return self._finish(job, "stop", self._decode(job.tokens))
        job.tokens.append(token)
        if job.sampling.logprob:
            job.logprob = (job.logprob or 0.0) + float(torch.log_softmax(logits.float(), dim=-1)[token])
        if job.sampling.stop:
            text = self._decode(job.tokens)
            at = min((text.find(stop) for stop in job.sampling.stop if stop in text), default=-1)
            if at >= 0:
                return self._finish(job, "stop", text[:at])
        if len(job.tokens) >= job.sampling.max_tokens:
            self._finish(job, "length", self._decode(job.tokens))

    def _finish(self, job: Job, finish: Literal["stop", "length"], text: str) -> None:
        job.finish, job.text = finish, text
        _slot(job).busy = False
        self._running.remove(job)
        job.ready.set()


def _slot(job: Job) -> Slot:
    assert job.slot is not None
    return job.slot


def _common(known: Sequence[int], prompt: Sequence[int], limit: int) -> int:
    """Length of the common prefix, at most `limit`."""
    length = min(len(known), limit)
    if known[:length] == prompt[:length]:
        return length
    return next(index for index in range(length) if known[index] != prompt[index])


def _sample(logits: torch.Tensor, job: Job) -> int:
    """A draw from the answer's own generator, so that it does not depend on who else is served."""
    chances = torch.softmax(logits.double() / job.sampling.temperature, dim=-1)
    return int(torch.multinomial(chances, 1, generator=job.random).item())
