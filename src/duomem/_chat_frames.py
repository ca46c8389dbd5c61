"""What a chat template puts around messages, found by rendering it with marks in the messages' places.

In: a tokenizer's template and the shapes of a conversation's messages. Out: a `Frame`: the text before each message, the
end-of-turn token behind an answer, and the literal parts of a tool call. A template whose conversation does not grow at its end
only is refused with the reason and the way out. It sees no text of a message and makes no token ids.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from duomem.errors import DataError, MismatchError
from duomem.types import Tool

Slot = tuple[str, int, bool]
"""A place for data: what ("text", "name", "arguments", "tool"), of which call, whether the template wants it JSON-escaped."""
Piece = str | Slot
"""A literal of the template, or a place for data."""

OPEN, CLOSE = "<think>", "</think>"
"""Marks of a thinking block, as Qwen, SmolLM, DeepSeek and most open models write them."""
WAY_OUT = (
    "Give the model another template: student.chat_template = a .jinja file (tuning takes the same one), or take another base."
)

_QUOTE = '"'  # in every mark: where it comes back as \" the template wrote the mark as a JSON string
_MARK = re.compile('\ue000(\\d+)([a-z])(\\d+)(\\\\?)"\ue001')
_ARGUMENTS = re.compile('\\{\\s*"\ue000(\\d+)a(\\d+)\\\\"\ue001"\\s*:\\s*0\\s*\\}')
_KINDS = {"c": "text", "n": "name", "j": "arguments", "t": "tool", "a": "arguments that are no JSON object"}
_BLOCK = re.compile(rf"{OPEN}\s*(?:{CLOSE}\s*)?$")
_DAY = {"%d": "26", "%-d": "26", "%m": "07", "%b": "Jul", "%B": "July", "%Y": "2024", "%y": "24", "%a": "Fri", "%A": "Friday"}
"""Templates that write today's date write this one, the default of Llama 3.2's own: a prompt must not change at midnight."""
_CLOCK = "".join(
    (
        "{%- macro strftime_now(format) -%}{{ format",
        *(f" | replace('{code}', '{value}')" for code, value in _DAY.items()),
        " }}{%- endmacro %}\n",
    )
)
_KEPT = 4096
"""Frames kept per tokenizer."""


class Shape(NamedTuple):
    """What a template can tell of a message. `answers`: which of the last answer's calls a tool message belongs to."""

    role: str
    calls: int = 0
    text: bool = True
    answers: int = 0


@dataclass(frozen=True, slots=True)
class Frame:
    """A conversation with places for its data.

    `texts[i]` stands before message i, the last one after all of them; `ends[i]` is the end-of-turn token (a text) with which
    `texts[i]` starts where message i - 1 is an answer. `bodies[i]` are the pieces of message i; those of an answer are exactly
    what a model has to say before its end of turn.
    """

    texts: tuple[str, ...]
    ends: tuple[str, ...]
    bodies: tuple[tuple[Piece, ...], ...]


def call_id(number: int) -> str:
    """The id that call `number` of a conversation has in prompts: nine digits, as Mistral asks for; recorded ids are random."""
    return f"{number:09d}"


class Frames:
    """The frames of one template. Not thread-safe; its caller holds a lock. `controls`: texts only a template may write."""

    def __init__(self, tokenizer: Any, controls: Sequence[str], *, keeps_thinking: bool) -> None:
        self._tokenizer, self._controls, self._keeps_thinking = tokenizer, controls, keeps_thinking
        self._frames: OrderedDict[tuple[tuple[Shape, ...], bool, tuple[Tool, ...]], Frame] = OrderedDict()

    def frame(self, shapes: tuple[Shape, ...], generate: bool, tools: tuple[Tool, ...] = ()) -> Frame:
        """The pieces for these messages; what an answer follows is always the generation prompt that a server would send.

        Raises `MismatchError`.
        """
        key = (shapes, generate, tools)
        if (known := self._frames.get(key)) is not None:
            self._frames.move_to_end(key)
            return known
        # Shortest first, so that no recursion grows with the conversation.
        for index, shape in enumerate(shapes):
            if shape.role == "assistant" and index:
                self._frame(shapes[:index], True, tools)
        return self._frame(shapes, generate, tools)

    def _frame(self, shapes: tuple[Shape, ...], generate: bool, tools: tuple[Tool, ...]) -> Frame:
        key = (shapes, generate, tools)
        if key not in self._frames:
            answered = shapes[-1].role == "assistant"
            self._frames[key] = self._closed(shapes, tools) if answered else self._open(shapes, generate, tools)
            if len(self._frames) > _KEPT:
                self._frames.popitem(last=False)
        return self._frames[key]

    def _closed(self, shapes: tuple[Shape, ...], tools: tuple[Tool, ...]) -> Frame:
        """A conversation that ends with an answer: the start of the one that goes on, since some templates treat the last turn
        apart.
        """
        calls = shapes[-1].calls
        after = [Shape("tool", answers=index) for index in range(calls)] or [Shape("user")]
        try:
            longer = self._frame((*shapes, *after), True, tools)
        except MismatchError:
            if not tools:
                raise
            longer = self._open(shapes, False, tools)  # a template that moves the tools to a new question: none may come
        keep = len(shapes) + 1
        if not longer.ends[keep - 1]:
            raise MismatchError(
                f"The chat template ends an answer with no special token, so a model cannot learn where to stop. {WAY_OUT}"
            )
        return Frame((*longer.texts[: keep - 1], longer.ends[keep - 1]), longer.ends[:keep], longer.bodies[: keep - 1])

    def _open(self, shapes: tuple[Shape, ...], generate: bool, tools: tuple[Tool, ...]) -> Frame:
        try:
            texts, bodies = self.render(shapes, generate, tools)
        except refusals() as error:
            roles = ", ".join(shape.role + (f" with {shape.calls} tool calls" if shape.calls else "") for shape in shapes[-4:])
            way_out = _TEXT_WAY_OUT if any(shape.calls or shape.role == "tool" for shape in shapes) else WAY_OUT
            raise MismatchError(f"The chat template refuses messages of {roles}: {error}. {way_out}") from error
        if generate and not self._keeps_thinking and texts[-1].rstrip().endswith(OPEN):
            raise MismatchError(
                "The chat template opens a thinking block in every answer and it cannot be switched off, but thinking is not "
                "kept in the conversation. Set student.thinking = 'keep' (tuning takes the same), or give the model a template "
                "with a switch (enable_thinking) by student.chat_template."
            )
        ends = [""] * len(texts)
        for index, shape in enumerate(shapes):
            if shape.role != "assistant":
                continue
            if index:
                before = self._frame(shapes[:index], True, tools)
                same = tuple(texts[:index]) == before.texts[:index]
                if not same or tuple(tuple(body) for body in bodies[:index]) != before.bodies:
                    raise _rewrites(index, _first_difference(texts, before.texts), before.texts)
                texts[index], lead = self._after_prompt(texts[index], before.texts[index], shape, index)
                bodies[index] = [*lead, *bodies[index]]
            tail, ends[index + 1], texts[index + 1] = self._end(texts[index + 1], shape, index == len(shapes) - 1)
            bodies[index] = [*bodies[index], *tail]
        return Frame(tuple(texts), tuple(ends), tuple(tuple(body) for body in bodies))

    def _after_prompt(self, given: str, asked: str, shape: Shape, index: int) -> tuple[str, list[Piece]]:
        """The text before an answer, which is the one that stood in its prompt, and what the template writes of the answer.

        A template may forget the (empty) thinking block of earlier prompts: it stays, since the prompt held it.
        """
        block = _BLOCK.search(asked)
        plain = asked[: block.start()] if block else asked
        start = next((start for start in (asked, plain) if given.startswith(start)), None)
        rest = given[len(start) :] if start is not None else ""
        if start is None or (rest.strip() and not shape.calls):
            raise _rewrites(index, given, (*[""] * index, asked))
        return asked, [rest.lstrip()] if rest.strip() else []

    def _end(self, text: str, shape: Shape, last: bool) -> tuple[list[Piece], str, str]:
        """Splits what stands behind an answer: the last literal of its calls, its end-of-turn token, and all with the token."""
        if not shape.calls:
            end = next((control for control in self._controls if text.lstrip().startswith(control)), "")
            return [], end, text.lstrip() if end else text
        end = self._frame((Shape("user"), Shape("assistant")), False, ()).ends[-1]
        at = text.find(end)
        if at < 0:
            raise MismatchError(f"The chat template ends an answer with {end!r}, but a tool call without it. {_TEXT_WAY_OUT}")
        return [text[:at]] if text[:at] else [], end, text[at:]

    def render(
        self, shapes: Sequence[Shape], generate: bool, tools: tuple[Tool, ...] = ()
    ) -> tuple[list[str], list[list[Piece]]]:
        """The template's texts around the messages and the pieces of each message between its first and last mark.

        Raises `MismatchError`, and jinja2's `TemplateError` where the template itself refuses the messages.
        """
        template: str = self._tokenizer.chat_template
        text: str = self._tokenizer.apply_chat_template(
            _turns(shapes),
            tools=[_function(tool, self._controls) for tool in tools] or None,
            tokenize=False,
            add_generation_prompt=generate,
            enable_thinking=self._keeps_thinking,
            thinking=self._keeps_thinking,
            chat_template=_CLOCK + template if "strftime_now" in template else template,
            date_string="26 Jul 2024",
        )
        found = _MARK.split(_ARGUMENTS.sub('\ue000\\1j\\2\\\\"\ue001', text))
        marks = [
            (int(index), (_KINDS[kind], int(call), bool(escaped)))
            for index, kind, call, escaped in zip(found[1::5], found[2::5], found[3::5], found[4::5], strict=True)
        ]
        _complete(marks, shapes)
        texts, bodies = [found[0]], [[] for _ in shapes]  # type: tuple[list[str], list[list[Piece]]]
        for place, (index, slot) in enumerate(marks):
            literal = found[5 * place]
            if bodies[index]:
                bodies[index].append(literal)
            elif place:
                texts.append(literal)
            bodies[index].append(slot)
        texts.append(found[-1])
        return texts, bodies


_TEXT_WAY_OUT = (
    "Set student.tool_calls = 'text' (tuning takes the same), or give the model another template (student.chat_template)."
)


def _turns(shapes: Sequence[Shape]) -> list[dict[str, Any]]:
    """Messages with marks for their data."""
    turns: list[dict[str, Any]] = []
    first = following = 0  # numbers of the last answer's first call and of the next call
    for index, shape in enumerate(shapes):
        turn: dict[str, Any] = {"role": shape.role, "content": _mark(index, "c") if shape.text else ""}
        if shape.calls:
            first, following = following, following + shape.calls
            turn["tool_calls"] = [
                {
                    "type": "function",
                    "id": call_id(first + call),
                    "function": {"name": _mark(index, "n", call), "arguments": {_mark(index, "a", call): 0}},
                }
                for call in range(shape.calls)
            ]
        if shape.role == "tool":
            turn |= {"tool_call_id": call_id(first + shape.answers), "name": _mark(index, "t")}
        turns.append(turn)
    return turns


def _mark(index: int, kind: str, call: int = 0) -> str:
    return f"\ue000{index}{kind}{call}{_QUOTE}\ue001"


def _complete(marks: Sequence[tuple[int, Slot]], shapes: Sequence[Shape]) -> None:
    """Every message's data must be there once and in order. Raises `MismatchError`."""
    wanted: list[tuple[int, str, int]] = []
    for index, shape in enumerate(shapes):
        wanted += [(index, "text", 0)] if shape.text else []
        for call in range(shape.calls):
            wanted += [(index, "name", call), (index, "arguments", call)]
    found = [(index, kind, call) for index, (kind, call, _) in marks if kind != "tool"]
    if found == wanted:
        return
    lost = [place for place in wanted if place not in found]
    if lost and any(shapes[index].calls or shapes[index].role == "tool" for index, _, _ in lost):
        index, kind, _ = lost[0]
        what = "the text beside a tool call" if kind == "text" and shapes[index].calls else f"the {kind} of a tool call"
        what = "the result of a tool call" if shapes[index].role == "tool" else what
        raise MismatchError(f"The chat template drops {what}, or writes it in a form that is not JSON. {_TEXT_WAY_OUT}")
    raise MismatchError(
        f"The chat template drops, repeats or reorders messages, so one episode cannot be one sequence. {WAY_OUT}"
    )


def _rewrites(index: int, given: str, asked: Sequence[str]) -> MismatchError:
    return MismatchError(
        "The chat template rewrites earlier messages when a conversation goes on, so one episode cannot be one sequence. "
        f"Before answer {index} it writes {given!r}, and {asked[index]!r} when it asks for it. {WAY_OUT}"
    )


def _first_difference(texts: Sequence[str], before: Sequence[str]) -> str:
    return next((one for one, other in zip(texts, before, strict=False) if one != other), texts[-1])


def _function(tool: Tool, controls: Sequence[str]) -> dict[str, Any]:
    """A tool as templates expect it. Raises `DataError` where its text spells a control token: it would become one."""
    whole = f"{tool.name} {tool.description} {json.dumps(json.loads(tool.parameters), ensure_ascii=False)}"
    if bad := next((text for text in (*controls, "\ue000") if text in whole), None):
        raise DataError(f"Tool {tool.name!r}: its description spells {bad!r}, a control token of the model. Change it.")
    function = {"name": tool.name, "description": tool.description, "parameters": json.loads(tool.parameters)}
    return {"type": "function", "function": function}


def refusals() -> tuple[type[Exception], ...]:
    """What a template raises that cannot take what it is given."""
    from jinja2.exceptions import TemplateError

    return TemplateError, TypeError
