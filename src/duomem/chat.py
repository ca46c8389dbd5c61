"""Conversations to token ids, and answers back to messages: the one encoder, called by training, evaluation and serving.

In: a tokenizer with a chat template, messages, tools. Out: token ids, each with a loss weight; messages with tool calls and
reasoning apart. Made segment by segment, so that the ids of a conversation are an exact prefix of the ids of its continuation;
text from outside never becomes a special token. It knows no layout, no task and no model.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal
from weakref import WeakKeyDictionary, proxy

from duomem import _chat_calls as calls
from duomem._chat_data import fill, names_of, shapes_of
from duomem._chat_frames import CLOSE, OPEN, WAY_OUT, Frame, Frames, Piece, Shape, refusals
from duomem.errors import DataError, MismatchError
from duomem.types import Message, Tool

_KEPT_TEXTS = 20_000
"""Encoded texts kept per tokenizer: each turn encodes the whole episode again, and only its tail is new."""


@dataclass(frozen=True, slots=True)
class Style:
    """How a conversation is written where a template leaves a choice. Training and serving must use the same."""

    thinking: Literal["off", "keep"] = "off"
    """"off": no reasoning in any prompt, none learned, and the template is asked not to think; "keep": reasoning stands in a
    thinking block before its answer, in every turn, and is learned with it."""
    tool_calls: Literal["auto", "text"] = "auto"
    """"auto": as the template writes them, or as plain text where it has none; "text": as plain text always."""


PLAIN = Style()


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids and, for each, its loss weight (0: not learned)."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]


def encode(
    tokenizer: Any,
    messages: Sequence[Message],
    learn: Sequence[float] | None = None,
    *,
    generate: bool = False,
    tools: Sequence[Tool] = (),
    style: Style = PLAIN,
) -> Encoded:
    """Token ids of a conversation under the tokenizer's chat template, with loss weights per message.

    With `generate` the ids end where the model's answer begins. A conversation that ends with an assistant message ends with
    its end-of-turn token, which has that message's weight, as its tool calls have: it is what the model has to say. White space
    that a template writes between its generation prompt and an answer, or between an answer and its end, is left out: the model
    would have to say it. A template that refuses a system message gets it in front of the first user message. Recorded ids of
    tool calls become numbers.

    For every n: `encode(messages[:n], generate=True)` is a prefix of the encoding of any continuation. Raises `MismatchError`
    for a template that cannot hold this: one that drops, repeats, reorders or rewrites earlier messages (as those do that
    remove earlier thinking), or that has no special token at the end of an answer.
    """
    return _encoder(tokenizer, style).encode(messages, learn, generate, tuple(tools))


def read_answer(
    tokenizer: Any,
    text: str,
    messages: Sequence[Message] = (),
    *,
    tools: Sequence[Tool] = (),
    style: Style = PLAIN,
    whole: bool = True,
) -> Message:
    """What a model said (decoded with its special tokens, without its end of turn) as a message.

    The thinking block becomes `reasoning`; with `tools`, calls in the template's own form become `tool_calls`, none where the
    answer was cut off (`whole` is false). `messages` are those it answers: calls are numbered through a conversation.
    """
    return _encoder(tokenizer, style).read(text, messages, tuple(tools), whole)


def call_form(tokenizer: Any, style: Style = PLAIN) -> calls.CallForm:
    """How calls stand in an answer under this template and style, for a grammar that holds answers to it."""
    return _encoder(tokenizer, style).form


def end_of_turn(tokenizer: Any) -> tuple[int, ...]:
    """The token ids that end an answer: what the chat template writes after one, and the tokenizer's end-of-sequence token."""
    encoder = _encoder(tokenizer, PLAIN)
    ends = [*encoder.end_ids[:1], tokenizer.eos_token_id]
    return tuple(dict.fromkeys(end for end in ends if end is not None))


def count_tokens(tokenizer: Any, text: str) -> int:
    """Tokens of a text as data, without any template."""
    return len(_encoder(tokenizer, PLAIN).text(text))


class _Encoder:
    """What is remembered of one tokenizer and style. Safe to call from several threads."""

    def __init__(self, tokenizer: Any, style: Style) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise MismatchError(
                "The tokenizer has no chat template. Add chat_template.jinja to the model's folder, or name a file with "
                "student.chat_template (tuning takes the same one)."
            )
        self._tokenizer = proxy(tokenizer)  # the table of encoders must not keep it alive
        self.template = tokenizer.chat_template
        self._style = style
        self._lock = threading.RLock()
        self._texts: OrderedDict[str, tuple[int, ...]] = OrderedDict()
        self._literals: dict[str, tuple[int, ...]] = {}
        controls = _controls(tokenizer)
        self._control_ids = frozenset(controls.values())
        ordered = sorted(controls, key=len, reverse=True)
        self._control = re.compile("|".join(re.escape(text) for text in ordered)) if controls else None
        self._in_data = re.compile("|".join(f"(?={re.escape(text)})" for text in ordered)) if controls else None
        self._frames = Frames(self._tokenizer, ordered, keeps_thinking=style.thinking == "keep")
        self._merge_system = not self._takes_system()

    def encode(
        self, messages: Sequence[Message], learn: Sequence[float] | None, generate: bool, tools: tuple[Tool, ...]
    ) -> Encoded:
        if not messages:
            raise DataError("A conversation without messages cannot be encoded.")
        weights = list(learn) if learn is not None else [0.0] * len(messages)
        if self._writes_text(messages, tools):
            messages, weights = calls.as_text(messages, weights, tools)
            tools = ()
        if self._merge_system and [message.role for message in messages[:2]] == ["system", "user"]:
            first = Message.of("user", f"{messages[0].text}\n\n{messages[1].text}")
            messages, weights = [first, *messages[2:]], weights[1:]
        shapes = shapes_of(messages)
        names = names_of(messages, shapes)
        with self._lock:
            frame = self._frames.frame(shapes, generate, tools)
            ids = list(self._literal(frame.texts[0]))
            loss = [0.0] * len(ids)
            for index, message in enumerate(messages):
                end, after = frame.ends[index + 1], frame.texts[index + 1]
                said = self._body(frame, index, message, names[index]) + self._literal(end)
                rest = self._literal(after.removeprefix(end))
                ids.extend((*said, *rest))
                loss.extend([weights[index]] * len(said))
                loss.extend([0.0] * len(rest))
        return Encoded(tuple(ids), tuple(loss))

    def read(self, text: str, messages: Sequence[Message], tools: tuple[Tool, ...], whole: bool) -> Message:
        with self._lock:
            opened = self._frames.frame((Shape("user"),), True).texts[-1].rstrip().endswith(OPEN)
            reasoning, rest = calls.split_thinking(text, opened=opened)
            found: list[tuple[str, str]] = []
            if tools and whole:
                rest, found = calls.read_lines(rest) if self._writes_text((), tools) else self._call_form.read(rest)
        plain = self._control.sub(lambda match: "" if self._is_special(match[0]) else match[0], rest) if self._control else rest
        number = sum(len(message.tool_calls) for message in messages)
        return calls.message_of(plain, found, reasoning, number)

    def text(self, text: str) -> tuple[int, ...]:
        """Ids of data. Wherever it spells a control token it is cut after that token's first character, so none is ever found
        in it.
        """
        with self._lock:
            if (known := self._texts.get(text)) is not None:
                self._texts.move_to_end(text)
                return known
            ids = self._data(text)
            self._texts[text] = ids
            if len(self._texts) > _KEPT_TEXTS:
                self._texts.popitem(last=False)
            return ids

    @cached_property
    def end_ids(self) -> tuple[int, ...]:
        """Ids of the end-of-turn token that the template writes behind an answer."""
        with self._lock:
            return self._ids(self._frames.frame((Shape("user"), Shape("assistant")), False).ends[-1])

    def _body(self, frame: Frame, index: int, message: Message, name: str) -> tuple[int, ...]:
        """Ids of a message itself: data as data, the template's literals with their control tokens."""
        pieces = frame.bodies[index]
        if self._style.thinking == "keep" and message.role == "assistant":
            pieces = (*self._thinking(frame.texts[index], message.reasoning), *pieces)
        ids: list[int] = []
        waiting = ""
        for piece in pieces:
            if not isinstance(piece, str):
                waiting += fill(piece, message, name)
                continue
            at = 0
            for control in self._control.finditer(piece) if self._control else ():
                ids.extend((*self.text(waiting + piece[at : control.start()]), *self._literal(control[0])))
                waiting, at = "", control.end()
            waiting += piece[at:]
        return (*ids, *self.text(waiting))

    def _thinking(self, before: str, reasoning: str) -> tuple[Piece, ...]:
        """A thinking block, opened unless the prompt did."""
        opened = before.rstrip().endswith(OPEN)
        if not reasoning:
            return (f"\n{CLOSE}\n\n",) if opened else ()
        return ("" if opened else f"{OPEN}\n", ("reasoning", 0, False), f"\n{CLOSE}\n\n")

    def _data(self, text: str) -> tuple[int, ...]:
        cuts = [match.start() + 1 for match in self._in_data.finditer(text)] if self._in_data else []
        parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        ids = [token for part in parts for token in self._ids(part)]
        if self._control_ids.isdisjoint(ids):
            return tuple(ids)
        # A tokenizer may normalise a look-alike, or hold a control token of one character: nothing of it may come through.
        single = [self._ids(character) for character in text]
        return tuple(token for some in single if self._control_ids.isdisjoint(some) for token in some)

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False)) if text else ()

    def _literal(self, text: str) -> tuple[int, ...]:
        """Ids of what a template writes."""
        if text not in self._literals:
            if len(self._literals) > _KEPT_TEXTS:
                self._literals.clear()
            self._literals[text] = self._ids(text)
        return self._literals[text]

    def _is_special(self, text: str) -> bool:
        return text in self._tokenizer.all_special_tokens

    def _writes_text(self, messages: Sequence[Message], tools: tuple[Tool, ...]) -> bool:
        """Whether this conversation's tools are plain text."""
        if not tools and not any(message.tool_calls or message.role == "tool" for message in messages):
            return False
        return self._style.tool_calls == "text" or not self._has_tools

    @cached_property
    def _has_tools(self) -> bool:
        """Whether the template writes tools, a call and its result, each where it belongs."""
        probe = Tool("probe_tool", "", '{"type": "object", "properties": {}}')
        shapes = (Shape("user"), Shape("assistant", 1, False), Shape("tool"))
        try:
            return any(probe.name in text for text in self._frames.frame(shapes, True, (probe,)).texts)
        except MismatchError:
            return False

    @property
    def form(self) -> calls.CallForm:
        with self._lock:
            return calls.LINES if self._style.tool_calls == "text" or not self._has_tools else self._call_form

    @cached_property
    def _call_form(self) -> calls.CallForm:
        def body(number: int) -> tuple[Piece, ...]:
            return self._frames.frame((Shape("user"), Shape("assistant", number, False)), False).bodies[1]

        try:
            two = body(2)
        except MismatchError:
            two = None
        return calls.CallForm.of(body(1), two)

    def _takes_system(self) -> bool:
        roles = ("system", "user", "assistant", "user")
        try:
            self._frames.render([Shape(role) for role in roles], True)
        except MismatchError:
            return False
        except refusals():
            return False
        return True


_encoders: WeakKeyDictionary[Any, dict[Style, _Encoder]] = WeakKeyDictionary()
_encoders_lock = threading.Lock()


def _encoder(tokenizer: Any, style: Style) -> _Encoder:
    with _encoders_lock:
        known = _encoders.setdefault(tokenizer, {})
        if style not in known or known[style].template != tokenizer.chat_template:
            known[style] = _Encoder(tokenizer, style)
        return known[style]


def _controls(tokenizer: Any) -> dict[str, int]:
    """Tokens that only a template may write: specials, and added tokens that are more than white space (tool and thinking
    marks).
    """
    added: Iterable[tuple[int, Any]] = tokenizer.added_tokens_decoder.items()
    special = set(tokenizer.all_special_ids)
    found = {
        str(token.content): int(index)
        for index, token in added
        if index in special or token.special or (len(token.content) > 1 and token.content.strip(" \n\t▁"))
    }
    # The unknown token is what some tokenizers say of ordinary characters: it opens nothing.
    return {text: index for text, index in found.items() if index != tokenizer.unk_token_id}


__all__ = ["PLAIN", "WAY_OUT", "Encoded", "Style", "call_form", "count_tokens", "encode", "end_of_turn", "read_answer"]
