"""openai_api: any OpenAI-compatible endpoint, through the official client: paid ones, vLLM, a local engine.

In: a Config and, in an environment variable that it names, a key. Out: a Model. Only a whole reply of the model that was asked
for is handed back: a broken stream, a body that is no reply, another model, a stall or an outage is tried again with back-off
(never sooner than Retry-After) and is an `InfraError` at last, never a `Reply`. Not here: prices (`duomem.price`), parsing.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from duomem import wire
from duomem.envs import ACT
from duomem.errors import InfraError, MissingExtra, UsageError
from duomem.models import ContextFull
from duomem.models._pace import Pace, backoff, retry_after
from duomem.types import Message, Reply, Sampling, TextPart, Tool, Usage

BILLED = True
"""Its replies may cost money: they are counted and limited (`duomem.spending`)."""

_TOO_LONG = re.compile(r"context.{0,20}(length|size|window)|prompt is too long|too many tokens", re.IGNORECASE)
_THOUGHT = re.compile(r"\s*<think>(.*?)(?:</think>\s*|\Z)", re.DOTALL)
_AGAIN = (408, 409, 425, 429)
_KEY_LIKE = re.compile(r"\b(sk|key|pk)-[\w*.-]{6,}")
_BYTES_A_TOKEN = 3
"""Where an endpoint counts nothing: fewer than the 3.5 to 4 of English text, so that a cost is rather over-estimated."""


class Config(BaseModel):
    """Settings of an endpoint. The key itself is in no config: `key_env` names the environment variable that holds it."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    base_url: str = "https://api.openai.com/v1"
    """The endpoint, up to and with /v1."""
    remote_model: str = ""
    """The model to ask for, by the endpoint's name for it."""
    reply_model: str = ""
    """What replies may call the model, as a regular expression; empty: its name, or a dated or prefixed form of it."""
    key_env: str = "OPENAI_API_KEY"
    """Environment variable with the key; empty: the endpoint wants none."""
    concurrency: int = Field(default=8, ge=1)
    """Requests in flight at once."""
    stream: bool = True
    """Ask for a stream: a stall shows at once, and a reply that was cut off is known by its missing end."""
    stall_s: float = Field(default=60.0, gt=0)
    """Seconds without a byte after which a request is given up; also the time to connect, at most 10."""
    timeout_s: float = Field(default=300.0, gt=0)
    """Seconds for a whole reply, however steadily it drips."""
    retries: int = Field(default=8, ge=0)
    """Attempts after the first."""
    backoff_s: float = Field(default=1.0, ge=0)
    """Seconds before the first of them; doubled each time, at most a minute."""
    patience_s: float = Field(default=600.0, gt=0)
    """Seconds to go on trying for one reply; a Retry-After beyond that is not waited for."""
    limit_name: str = Field(default="max_tokens", pattern="^(max_tokens|max_completion_tokens)$")
    """What the endpoint calls the longest reply; OpenAI's reasoning models want max_completion_tokens."""
    omit: tuple[str, ...] = ()
    """Fields not to send where an endpoint refuses them, such as temperature, seed or stream_options."""
    extra: dict[str, Any] = {}
    """Fields to send as they are with each request, such as reasoning_effort. No secrets: they are kept with the run."""
    licence: str = ""
    """Licence or terms of what the model writes; kept with every trajectory and memory."""

    @field_validator("base_url")
    @classmethod
    def _no_secrets(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("not a URL with http or https")
        if parts.username or parts.password or parts.query:
            raise ValueError(
                "a user, password or query in the URL would be kept with the run; put the key in key_env's variable"
            )
        return value.rstrip("/")


class _Again(Exception):
    """An attempt failed for a reason that may pass. `after` is what the endpoint asked to wait; `shared`, that all should."""

    def __init__(self, words: str, after: float | None = None, *, shared: bool = False, paid: bool = False) -> None:
        super().__init__(words)
        self.after, self.shared, self.paid = after, shared, paid


@dataclass
class Tally:
    """Requests sent, replies taken, and about how many tokens of attempts that came to nothing may be billed all the same."""

    requests: int = 0
    replies: int = 0
    wasted: Usage = field(default_factory=Usage)


class OpenAiModel:
    """An endpoint. `reply` blocks and may be called from many threads; see `duomem.models.Model`."""

    def __init__(self, config: Config, client: Any, key: str) -> None:
        self.config = config
        self.tally = Tally()
        self._client, self._key = client, key
        self._pace = Pace(config.concurrency)
        self._lock = threading.Lock()
        self._refused: str = ""

    def reply(self, messages: Sequence[Message], tools: Sequence[Tool], sampling: Sampling) -> Reply:
        body = self._body(messages, tools, sampling)
        give_up = time.monotonic() + self.config.patience_s
        for attempt in range(self.config.retries + 1):
            try:
                return self._attempt(body)
            except _Again as fault:
                words = str(fault)
                if fault.paid:
                    self._note(wasted=Usage(_estimate(body), 0, sampling.max_tokens))
                wait = max(fault.after or 0.0, backoff(attempt, self.config.backoff_s))
                if attempt == self.config.retries or time.monotonic() + wait > give_up:
                    break
                if fault.shared:
                    self._pace.hold(wait)
                self._pace.wait(wait)
        raise InfraError(f"{self._place} did not answer in {attempt + 1} attempts. The last: {words}")

    def provenance(self) -> dict[str, str]:
        return {
            "model": self.config.remote_model,
            "revision": "",
            "endpoint": urlsplit(self.config.base_url).netloc,
            "licence": self.config.licence,
        }

    def close(self) -> None:
        self._pace.close()
        self._client.close()

    @property
    def _place(self) -> str:
        return f"{self.config.remote_model} at {self.config.base_url}"

    def _body(self, messages: Sequence[Message], tools: Sequence[Tool], sampling: Sampling) -> dict[str, Any]:
        config = self.config
        offered = tuple(tool for tool in tools if tool != ACT)  # that one is spoken in the layout's words
        sent = tuple(replace(message, reasoning="") for message in messages)
        request = wire.Request("chat", config.remote_model, sent, offered, sampling, stream=config.stream)
        body = wire.write_request(request)
        body[config.limit_name] = body.pop("max_tokens")
        if config.stream:
            body["stream_options"] = {"include_usage": True}
        if offered:
            body["parallel_tool_calls"] = False  # a turn is one call
        return {key: value for key, value in (body | config.extra).items() if key not in config.omit}

    def _attempt(self, body: dict[str, Any]) -> Reply:
        """One request. Raises `_Again` for what may pass, and for good: `ContextFull`, `UsageError`, `InfraError`."""
        import httpx2
        import openai

        with self._pace.place():
            if self._refused:
                raise UsageError(self._refused)
            started = time.perf_counter()
            self._note(requests=1)
            try:
                answer = self._exchange(body)
            except openai.APIStatusError as error:
                raise self._status(error) from None
            except (openai.APIConnectionError, httpx2.RequestError) as error:
                raise self._lost(error.__cause__ or error) from None
            seconds = time.perf_counter() - started
        reply = self._checked(answer, body)
        self._note(replies=1)
        return replace(reply, seconds=seconds)

    def _exchange(self, body: dict[str, Any]) -> dict[str, Any]:
        """The body of the reply as a whole, put together where it came as a stream."""
        client: Any = self._client
        deadline = time.monotonic() + self.config.timeout_s
        stream, plain = wire.assembler("chat"), bytearray()
        take: Callable[[bytes], object] = stream.feed if body.get("stream") else plain.extend
        post = client.chat.completions.with_streaming_response.create
        known, extra = _split(body)
        with post(**known, extra_body=extra) as response:
            for chunk in response.iter_bytes():
                take(chunk)
                if stream.whole:
                    return stream.body()
                if time.monotonic() > deadline:
                    raise _Again(f"the reply was not whole after {self.config.timeout_s:g} s", paid=True)
        if body.get("stream"):
            raise _Again(f"the stream was cut off: {self._safe(stream.error or 'it ended without [DONE]')}", paid=True)
        try:
            answer = json.loads(bytes(plain))
        except ValueError as error:
            raise _Again(f"the reply is not JSON: {error}", paid=True) from None
        return answer if isinstance(answer, dict) else {}

    def _checked(self, answer: Mapping[str, Any], body: Mapping[str, Any]) -> Reply:
        """The reply in an answer. Raises `_Again` unless it is a whole one of the right model."""
        if said := wire.error_of(answer):
            raise _Again(f"an error in place of a reply: {self._safe(said)}", paid=True)
        try:
            read = wire.read_answer("chat", answer)
        except wire.WireError as error:
            raise _Again(f"the reply cannot be read: {error}", paid=True) from None
        if not read.finishes[0]:
            raise _Again("the reply has no finish_reason, so it may have been cut off", paid=True)
        if not _answers(read.model, self.config):
            raise _Again(f"{read.model!r} answered in its place (if that is right: set reply_model)", paid=True)
        reply = read.replies[0]
        usage = reply.usage
        if not usage.prompt and not usage.completion:  # an endpoint that doesn't count is counted for
            usage = Usage(_estimate(body), 0, _estimate(read.message.text + read.message.reasoning))
        return replace(reply, message=_reasoning_apart(reply.message), usage=usage)

    def _lost(self, cause: BaseException) -> _Again:
        """What a broken connection means. Where none was made, nothing is billed."""
        import httpx2

        if isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout):
            return _Again(f"no connection: {self._safe(cause)}")
        if isinstance(cause, httpx2.TimeoutException):
            return _Again(f"nothing came for {self.config.stall_s:g} s", paid=True)
        return _Again(f"the connection was lost: {self._safe(cause) or type(cause).__name__}", paid=True)

    def _status(self, error: Any) -> Exception:
        """What an HTTP error means. A key, model or account that is refused stays refused: no further request goes out."""
        status, said = error.status_code, self._safe(error.message)
        headers = {name.lower(): value for name, value in error.response.headers.items()}
        if status in (400, 413, 422) and _TOO_LONG.search(f"{error.code} {error.type} {said}"):
            return ContextFull(said)
        if (status in _AGAIN or status >= 500) and error.code != "insufficient_quota":
            return _Again(f"HTTP {status}: {said}", retry_after(headers), shared=status in (429, 503))
        words = f"{self._place} refuses: HTTP {status}: {said}"
        if status in (401, 403, 404) or error.code == "insufficient_quota":
            self._refused = f"{words} Check the model's name and the key in the variable {self.config.key_env or '(key_env)'}."
        return UsageError(self._refused or words)

    def _safe(self, said: object) -> str:
        """Words of the endpoint for an error: short, on one line, and without the key, which some endpoints repeat."""
        words = " ".join(str(said).split())
        words = words.replace(self._key, "[key]") if self._key else words
        return _KEY_LIKE.sub("[key]", words)[:300]

    def _note(self, *, requests: int = 0, replies: int = 0, wasted: Usage | None = None) -> None:
        with self._lock:
            tally = self.tally
            self.tally = Tally(tally.requests + requests, tally.replies + replies, tally.wasted + (wasted or Usage()))


def build(config: Config) -> OpenAiModel:
    """The endpoint's model; nothing is sent yet. Raises `MissingExtra`, `UsageError` for a missing name or key."""
    try:
        import openai
    except ImportError as error:
        raise MissingExtra("openai", "api") from error
    if not config.remote_model:
        raise UsageError("models/openai_api: remote_model is empty. Name the endpoint's model: --set teacher.remote_model=NAME")
    key = os.environ.get(config.key_env, "").strip() if config.key_env else ""
    if config.key_env and not key:
        raise UsageError(
            f"models/openai_api: the environment variable {config.key_env} holds no key for {config.base_url}. "
            'Set it, or say that none is needed: --set teacher.key_env=""'
        )
    timeout = openai.Timeout(config.stall_s, connect=min(10.0, config.stall_s))
    client = openai.OpenAI(base_url=config.base_url, api_key=key or "none", timeout=timeout, max_retries=0)
    return OpenAiModel(config, client, key)


def _split(body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields that the client wants by name, and the others, which it sends as they are."""
    named = ("model", "messages", "stream")
    return {key: body[key] for key in named if key in body}, {key: value for key, value in body.items() if key not in named}


def _answers(said: str, config: Config) -> bool:
    """Whether a reply may be of the model that was asked for, or of the one that the configuration allows."""
    if said and config.reply_model:
        return re.fullmatch(config.reply_model, said) is not None
    return wire.same_model(config.remote_model, said)


def _reasoning_apart(message: Message) -> Message:
    """Thinking that a server left at the start of the text belongs to the reasoning."""
    found = _THOUGHT.match(message.text)
    if not found:
        return message
    rest, thought = message.text[found.end() :], found[1].strip()
    reasoning = "\n".join(text for text in (message.reasoning, thought) if text)
    return replace(message, parts=(TextPart(rest),) if rest else (), reasoning=reasoning)


def _estimate(value: object) -> int:
    """Tokens of a text or a request's body, rather too many than too few."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return -(-len(text.encode()) // _BYTES_A_TOKEN)
