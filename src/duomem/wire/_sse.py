"""Server-sent events: bytes cut anywhere to events, and events to bytes.

In: chunks of a stream. Out: `(event, data)` pairs, each when its blank line has come. Follows the WHATWG HTML standard, section
9.2.6 (line ends CR, LF, CRLF; several data lines; comments; a leading byte order mark). An unfinished last event is not given.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from duomem.wire import WireError

_LINE = re.compile(r"\r\n|\n|\r")


class Events:
    """Takes a stream apart, chunk by chunk."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self._begun = False
        self._name = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> Iterator[tuple[str, str]]:
        text = self._rest + self._decoder.decode(chunk)
        if text and not self._begun:
            self._begun, text = True, text.removeprefix("\ufeff")
        held = "\r" if text.endswith("\r") else ""  # its line feed may come with the next chunk
        *lines, rest = _LINE.split(text.removesuffix(held) if held else text)
        self._rest = rest + held
        for line in lines:
            if line:
                self._field(line)
            elif self._data:
                event = (self._name, "\n".join(self._data))
                self._name, self._data = "", []
                yield event
            else:
                self._name = ""

    def _field(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._name = value


class JsonStream:
    """The part of every assembler that reads events; a subclass takes each event's object in `_take`."""

    def __init__(self) -> None:
        self.whole = False
        self.error = ""
        self._events = Events()

    def feed(self, chunk: bytes) -> None:
        for _, data in self._events.feed(chunk):
            if self.whole:
                continue
            if data.strip() == "[DONE]":
                self._done()
                continue
            try:
                event = json.loads(data)
                if not isinstance(event, Mapping):
                    raise ValueError("an event that is no object")
                self._take(event)
            except (WireError, ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError) as error:
                self.error = self.error or f"an event of the stream cannot be read: {type(error).__name__}: {error}"

    def _take(self, event: Mapping[str, Any]) -> None:
        raise TypeError("a stream of no API")

    def _done(self) -> None:
        """What `[DONE]` means; nothing but for chat."""


def event(data: Mapping[str, Any], name: str = "") -> bytes:
    """One event as bytes."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()
