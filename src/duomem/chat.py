"""Conversations to token ids: the one encoder, called by training, evaluation and serving.

In: a tokenizer with a chat template and messages. Out: token ids, each with a loss weight. Made segment by segment, so that the
ids of a conversation are an exact prefix of the ids of its continuation; text from outside never becomes a special token. It
knows no layout, no task and no model.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, proxy

from duomem.errors import DataError, MismatchError
from duomem.types import Message

_MARK = "\ue000{}\ue001"
_MARKS = re.compile("\ue000(\\d+)\ue001")
_KEPT_TEXTS = 20_000
"""Encoded texts kept per tokenizer: each turn encodes the whole episode again, and only its tail is new."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids and, for each, its loss weight (0: not learned)."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _Frame:
    """What a template puts around the messages of a sequence of roles.

    `pieces[i]` stands before message i, the last one after all of them. After an assistant message a piece starts with
    `ends[i]`, the ids of the end-of-turn token that the model itself has to say.
    """

    texts: tuple[str, ...]
    ends: tuple[tuple[int, ...], ...]
    pieces: tuple[tuple[int, ...], ...]


def encode(
    tokenizer: Any, messages: Sequence[Message], learn: Sequence[float] | None = None, *, generate: bool = False
) -> Encoded:
    """Token ids of a conversation under the tokenizer's chat template, with loss weights per message.

    With `generate` the ids end where the model's answer begins. A conversation that ends with an assistant message ends with
    its end-of-turn token, which has that message's weight: it is what the model has to say. White space that a template writes
    between its generation prompt and an answer, or between an answer and its end, is left out: the model would have to say it.
    A template that refuses a system message gets it in front of the first user message.

    For every n: `encode(messages[:n], generate=True)` is a prefix of the encoding of any continuation. Raises `MismatchError`
    for a template that cannot hold this: one that drops, repeats, reorders or rewrites earlier messages (as those do that
    remove earlier thinking), or that has no special token at the end of an answer.
    """
    return _encoder(tokenizer).encode(messages, learn, generate)


def end_of_turn(tokenizer: Any) -> tuple[int, ...]:
    """The token ids that end an answer: what the chat template writes after one, and the tokenizer's end-of-sequence token."""
    encoder = _encoder(tokenizer)
    frame = encoder.frame(("user", "assistant"), False)
    ends = [*frame.ends[-1][:1], tokenizer.eos_token_id]
    return tuple(dict.fromkeys(end for end in ends if end is not None))


def count_tokens(tokenizer: Any, text: str) -> int:
    """Tokens of a text as data, without any template."""
    return len(_encoder(tokenizer).text(text))


class _Encoder:
    """What is remembered of one tokenizer. Safe to call from several threads."""

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise MismatchError("The tokenizer has no chat template. Add chat_template.jinja to the model's folder.")
        self._tokenizer = proxy(tokenizer)  # the table of encoders must not keep it alive
        self.template = tokenizer.chat_template
        self._lock = threading.RLock()
        self._texts: OrderedDict[str, tuple[int, ...]] = OrderedDict()
        self._frames: dict[tuple[tuple[str, ...], bool], _Frame] = {}
        controls = _controls(tokenizer)
        self._control_ids = frozenset(controls.values())
        self._controls = sorted(controls, key=len, reverse=True)
        self._in_data = re.compile("|".join(f"(?={re.escape(text)})" for text in self._controls)) if controls else None
        self._merge_system = False
        self._merge_system = not self._takes_system()

    def encode(self, messages: Sequence[Message], learn: Sequence[float] | None, generate: bool) -> Encoded:
        if not messages:
            raise DataError("A conversation without messages cannot be encoded.")
        roles = tuple(message.role for message in messages)
        texts = [message.text for message in messages]
        weights = list(learn) if learn is not None else [0.0] * len(texts)
        if self._merge_system and roles[:2] == ("system", "user"):
            roles, texts = roles[1:], [f"{texts[0]}\n\n{texts[1]}", *texts[2:]]
            weights = weights[1:]
        frame = self.frame(roles, generate)
        ids = list(frame.pieces[0])
        loss = [0.0] * len(ids)
        for index, text in enumerate(texts):
            data, end, after = self.text(text), frame.ends[index + 1], frame.pieces[index + 1]
            ids.extend((*data, *end, *after))
            loss.extend([weights[index]] * (len(data) + len(end)))
            loss.extend([0.0] * len(after))
        return Encoded(tuple(ids), tuple(loss))

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

    def _data(self, text: str) -> tuple[int, ...]:
        cuts = [match.start() + 1 for match in self._in_data.finditer(text)] if self._in_data else []
        parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        ids = [token for part in parts for token in self._ids(part)]
        if self._control_ids.isdisjoint(ids):
            return tuple(ids)
        # A tokenizer may normalise a look-alike, or hold a control token of one character: nothing of it may come through.
        single = [self._ids(character) for character in text]
        return tuple(token for some in single if self._control_ids.isdisjoint(some) for token in some)

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False)) if text else []

    def frame(self, roles: tuple[str, ...], generate: bool) -> _Frame:
        """The template's pieces for these roles; what an answer follows is always the generation prompt that a server would
        send.
        """
        with self._lock:
            if (known := self._frames.get((roles, generate))) is None:
                # Shortest first, so that no recursion grows with the conversation.
                for index, role in enumerate(roles):
                    if role == "assistant" and index:
                        self._frame(roles[:index], True)
                known = self._frame(roles, generate)
            return known

    def _frame(self, roles: tuple[str, ...], generate: bool) -> _Frame:
        key = (roles, generate)
        if key not in self._frames:
            self._frames[key] = self._closed(roles) if roles[-1] == "assistant" else self._open(roles, generate)
        return self._frames[key]

    def _closed(self, roles: tuple[str, ...]) -> _Frame:
        """A conversation that ends with an answer: the start of the one that goes on, since some templates treat the last turn
        apart.
        """
        longer = self._frame((*roles, "user"), True)
        if not longer.ends[len(roles)]:
            raise MismatchError(
                "The chat template ends an answer with no special token, so a model cannot learn where to stop."
            )
        keep = len(roles) + 1
        return _Frame(longer.texts[:keep], longer.ends[:keep], (*longer.pieces[: keep - 1], ()))

    def _open(self, roles: tuple[str, ...], generate: bool) -> _Frame:
        texts = self._render(roles, generate)
        for index in range(1, len(roles)):
            if roles[index] == "assistant":
                self._append_only(texts, self._frame(roles[:index], True).texts, index)
        ends, pieces = [], []
        for position, text in enumerate(texts):
            end = self._end(text) if position and roles[position - 1] == "assistant" else ""
            rest = text.lstrip()[len(end) :] if end else text
            ends.append(tuple(self._ids(end)))
            pieces.append(tuple(self._ids(rest)))
        return _Frame(tuple(texts), tuple(ends), tuple(pieces))

    def _append_only(self, texts: list[str], shorter: tuple[str, ...], index: int) -> None:
        """Hold the pieces before answer `index` equal to those that stood in its prompt."""
        rest = texts[index][len(shorter[index]) :]
        if texts[:index] != list(shorter[:index]) or not texts[index].startswith(shorter[index]) or rest.strip():
            raise MismatchError(
                "The chat template rewrites earlier messages when a conversation goes on, so one episode cannot be one "
                f"sequence. Before answer {index} it writes {texts[index]!r}, and {shorter[index]!r} when it asks for it. "
                "Use another template."
            )
        texts[index] = shorter[index]

    def _render(self, roles: Sequence[str], generate: bool) -> list[str]:
        turns = [{"role": role, "content": _MARK.format(index)} for index, role in enumerate(roles)]
        text: str = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=generate)
        pieces = _MARKS.split(text)
        if [int(index) for index in pieces[1::2]] != list(range(len(roles))):
            raise MismatchError(
                "The chat template drops, repeats or reorders messages, so one episode cannot be one sequence. "
                "Use another template."
            )
        return pieces[::2]

    def _takes_system(self) -> bool:
        from jinja2.exceptions import TemplateError

        try:
            self._render(("system", "user", "assistant", "user"), True)
        except (TemplateError, MismatchError):
            return False
        return True

    def _end(self, text: str) -> str:
        return next((control for control in self._controls if text.lstrip().startswith(control)), "")


_encoders: WeakKeyDictionary[Any, _Encoder] = WeakKeyDictionary()
_encoders_lock = threading.Lock()


def _encoder(tokenizer: Any) -> _Encoder:
    with _encoders_lock:
        known = _encoders.get(tokenizer)
        if known is None or known.template != tokenizer.chat_template:
            known = _encoders[tokenizer] = _Encoder(tokenizer)
        return known


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
