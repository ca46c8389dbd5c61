"""The one internal form behind /v1/chat/completions, /v1/responses and /v1/messages.

In: bodies as JSON objects, or the bytes of an event stream. Out: `Request` and `Answer`, made of the project's own `Message`
and `Reply`, and back again. A field that the internal form doesn't know is left out: a proxy passes on the bytes, not these.
Not here: HTTP, storage, prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, Protocol

from duomem.errors import DataError
from duomem.types import Message, Reply, Sampling, Tool

Api = Literal["chat", "responses", "messages"]
Body = Mapping[str, Any]

PATHS: dict[Api, str] = {"chat": "/v1/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages"}
"""Where each is served."""


class WireError(DataError):
    """A body that isn't what its API says; names the field."""


API_DEFAULTS = Sampling(temperature=1.0, max_tokens=0)


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks. `messages` is all that the request itself holds, system and instructions first.

    `previous` is the id of the reply that a Responses request goes on from, `conversation` the id of its stored conversation:
    the messages before are then not in the request. `temperature` is the API's own default, 1, where the request has none.
    """

    api: Api
    model: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    sampling: Sampling = API_DEFAULTS
    stream: bool = False
    choices: int = 1
    previous: str = ""
    conversation: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model answered: one reply a choice. `finishes` are the API's own words for why each ended.

    A finish that the internal form has no word for and that cuts a reply short (a content filter) is "length" in the reply.
    """

    id: str
    model: str
    replies: tuple[Reply, ...]
    finishes: tuple[str, ...] = ()
    created: int = 0
    """Seconds since 1970, where the API has a place for them."""

    @property
    def message(self) -> Message:
        return self.replies[0].message


class Assembler(Protocol):
    """Puts an event stream together again. `whole` turns true with the API's last event, and only then."""

    whole: bool
    error: str
    """What the stream itself said went wrong; empty where nothing did."""

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes, cut anywhere. Never raises: what can't be read stands in `error`."""

    def body(self) -> dict[str, Any]:
        """The body that would have come without streaming, as far as it has come."""


def api_of(path: str) -> Api | None:
    """The API that a URL path belongs to; None for any other path."""
    path = path.rstrip("/")
    if path in ("/v1/messages", "/messages"):  # other APIs have paths that end so, too
        return "messages"
    return "chat" if path.endswith("/chat/completions") else "responses" if path.endswith("/responses") else None


def read_request(api: Api, body: Body) -> Request:
    """Raises `WireError` for a field of the wrong shape."""
    request: Request = _module(api).read_request(_object(body, "the request"))
    return request


def write_request(request: Request) -> dict[str, Any]:
    """The body of a request in its API's form."""
    body: dict[str, Any] = _module(request.api).write_request(request)
    return body


def read_answer(api: Api, body: Body) -> Answer:
    """Raises `WireError` for a field of the wrong shape and for an answer without a choice."""
    answer: Answer = _module(api).read_answer(_object(body, "the answer"))
    return answer


def write_answer(api: Api, answer: Answer) -> dict[str, Any]:
    """The body of an answer, as it goes out without streaming."""
    body: dict[str, Any] = _module(api).write_answer(answer)
    return body


def write_stream(api: Api, answer: Answer, *, usage: bool = True) -> Iterator[bytes]:
    """The same answer as the events of a stream, the last one included. `usage`: a chat stream ends with a chunk of counts."""
    events: Iterator[bytes]
    if api == "chat":
        from duomem.wire import _chat

        events = _chat.write_stream(answer, usage=usage)
    else:
        events = _module(api).write_stream(answer)
    return events


def assembler(api: Api) -> Assembler:
    made: Assembler = _module(api).Stream()
    return made


def write_error(api: Api, status: int, words: str) -> dict[str, Any]:
    """The body of an error as the API's clients read it."""
    if api == "messages":
        kinds = {
            400: "invalid_request_error",
            401: "authentication_error",
            403: "permission_error",
            404: "not_found_error",
            413: "request_too_large",
            422: "invalid_request_error",
            429: "rate_limit_error",
        }
        kind = kinds.get(status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": words}}
    return {"error": {"message": words, "type": "duomem", "param": None, "code": str(status)}}


def same_model(asked: str, said: str) -> bool:
    """Whether a reply may be of the model that was asked for. Endpoints add a date or leave a provider's prefix out."""
    return said in ("", asked) or said.startswith(f"{asked}-20") or asked.endswith(f"/{said}") or said.endswith(f"/{asked}")


def error_of(body: object) -> str:
    """The error that a body says, in words; empty where it says none."""
    error = body.get("error") if isinstance(body, Mapping) else None
    if isinstance(error, Mapping):
        return str(error.get("message") or error.get("type") or error)
    return str(error) if error else ""


def _object(body: object, what: str) -> Body:
    if not isinstance(body, Mapping):
        raise WireError(f"{what} is {type(body).__name__}, not a JSON object.")
    return body


def _module(api: Api) -> ModuleType:
    from duomem.wire import _chat, _messages, _responses

    return {"chat": _chat, "responses": _responses, "messages": _messages}[api]
