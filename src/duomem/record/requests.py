"""A request as it will be kept: redacted, read into the internal form, with its episode and its task.

In: a `Call`. Out: a `Begun`. A request that can't be read is kept too, with the reason: it is the endpoint that answers it.
"""

from __future__ import annotations

import json
import re
from typing import Any

from duomem import wire
from duomem.errors import DataError
from duomem.record._http import Call, Decoder
from duomem.record._rows import Begun, Named
from duomem.record.functions import Locator, follow, plain
from duomem.record.redact import Redactor


def begun_of(call: Call, redactor: Redactor, find_task: Locator, conversation: str) -> Begun:
    """`conversation` is a path into the body whose text names the episode; empty for none."""
    assert call.api is not None
    try:
        body = redactor.value(_body(call))
        request = wire.read_request(call.api, body)
    except (DataError, RecursionError) as error:
        text = redactor.text(call.body.decode("utf-8", "replace"))
        words = f"a request that cannot be read: {str(error) or type(error).__name__}"
        return Begun(call.api, call.path, {"unreadable": text}, call.episode, _named(call, "", ""), gap=words)
    task, task_error = _task(find_task, request, body)
    found = re.sub(r"[^\w.:@-]", "_", plain(follow(body, conversation.split("."))))[:200] if conversation else ""
    return Begun(
        api=call.api,
        path=call.path,
        body=body,
        episode=call.episode or found,
        named=_named(call, found, request.conversation or request.previous),
        model=request.model,
        stream=request.stream,
        messages=request.messages,
        tools=request.tools,
        task=redactor.text(task),
        task_error=redactor.text(task_error),
        previous=request.previous,
        conversation=request.conversation,
    )


def _task(find_task: Locator, request: wire.Request, body: dict[str, Any]) -> tuple[str, str]:
    """The task's words, and what the locator raised instead."""
    try:
        return find_task.task(request.messages, body), ""
    except Exception as error:  # noqa: BLE001  the user's function: the recording goes on, and the episode is listed with the reason
        return "", f"{type(error).__name__}: {error}"


def _named(call: Call, found: str, conversation: str) -> Named:
    if call.episode:
        return "url" if call.by_url else "header"
    return "body" if found else "conversation" if conversation else "prefix"


def _body(call: Call) -> dict[str, Any]:
    """The body as JSON. Raises `DataError`."""
    decoder = Decoder(call.encoding)
    text = decoder.feed(call.body)
    if decoder.error:
        raise DataError(decoder.error)
    try:
        body = json.loads(text)
    except ValueError as error:
        raise DataError(f"no JSON: {error}") from error
    if not isinstance(body, dict):
        raise DataError(f"{type(body).__name__} where an object has to be")
    return body
