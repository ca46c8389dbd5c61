"""The one renderer and the one reply parser; collection, training, evaluation and serving all call it.

In: a layout (hashed data), the task's words, memories, observations, replies. Out: messages, token ids with loss weights, and the
tool call in a reply. It never sees a task id, path or type, and text from outside never becomes a special token.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from duomem.errors import ConfigError, MismatchError
from duomem.types import Message, Reply, ToolCall, Trajectory, Turn, digest

_SLOT = re.compile(r"\{(\w+)\}")


class Layout(BaseModel):
    """Every string of a prompt, and the order of its slots. Two layouts with the same `hash` make the same prompts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    instructions: str
    system: str
    """Slots: instructions, memories. An empty result leaves the system message out."""
    opening: str
    """The first user message. Slots: instructions, memories, goal, scene."""
    turn: str
    """Every later user message. Slot: observation."""
    memories: str
    """Shown when there is at least one memory. Slot: items."""
    memory: str
    """One memory. Slot: text."""
    reply: str
    """How a thought and a command are written as an assistant message. Slots: thought, command."""
    action: str
    """Regular expression with the group `command`; the last match in a reply counts."""
    thought: str
    """Regular expression with the group `thought`."""
    example: str
    """The one fixed text that stands in the memories' place in the format-only control."""

    @field_validator("instructions", "example")
    @classmethod
    def _strip(cls, value: str) -> str:
        return value.strip()

    @field_validator("action", "thought")
    @classmethod
    def _compiles(cls, value: str) -> str:
        re.compile(value)
        return value

    @property
    def hash(self) -> str:
        return digest(self.model_dump())[:16]


def layout_names() -> list[str]:
    """The layouts that ship with the package."""
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in resources.files("duomem.layouts").iterdir()
        if entry.name.endswith(".toml")
    )


def load_layout(name: str) -> Layout:
    """A layout by its name in the package or by the path of a TOML file. Raises `ConfigError`."""
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise ConfigError(f"Layout file {name} does not exist.")
        text = path.read_text()
    elif name in layout_names():
        text = resources.files("duomem.layouts").joinpath(f"{name}.toml").read_text()
    else:
        raise ConfigError(f"No layout {name!r}. There are: {', '.join(layout_names())}, or the path of a .toml file.")
    try:
        return Layout(**tomllib.loads(text))
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise ConfigError(f"Layout {name}: {error}") from error


def fill(template: str, **slots: str) -> str:
    """Fill `{slot}`s in one pass, so that a slot's text is never read as a template itself."""
    return _SLOT.sub(lambda match: slots.get(match[1], match[0]), template)


def memory_block(layout: Layout, memories: Sequence[str]) -> str:
    items = "".join(fill(layout.memory, text=text) for text in memories)
    return fill(layout.memories, items=items) if memories else ""


def opening(layout: Layout, goal: str, scene: str, memories: Sequence[str]) -> tuple[Message, ...]:
    """The messages before the first reply."""
    slots = {"instructions": layout.instructions, "memories": memory_block(layout, memories), "goal": goal, "scene": scene}
    system, user = fill(layout.system, **slots), fill(layout.opening, **slots)
    head = (Message.of("system", system),) if system else ()
    return (*head, Message.of("user", user))


def turn_message(layout: Layout, observation: str) -> Message:
    return Message.of("user", fill(layout.turn, observation=observation))


def reply_text(layout: Layout, thought: str, command: str) -> str:
    """The text of an assistant message, as a teacher of this project writes it."""
    return fill(layout.reply, thought=thought, command=command)


def parse(layout: Layout, reply: Reply) -> ToolCall | None:
    """The tool call of a reply: a real one if the model made any, else the last `command` in its text, else None.

    A reply cut off at its token limit is not acted on. Nothing is repaired: white space around the command is all that goes.
    """
    if reply.message.tool_calls:
        return reply.message.tool_calls[0]
    if reply.finish == "length":
        return None
    matches = list(re.finditer(layout.action, reply.message.text))
    command = matches[-1]["command"].strip() if matches else ""
    return ToolCall.act(command) if command else None


def thought_of(layout: Layout, text: str) -> str:
    """The thought in a reply's text; empty where there is none."""
    match = re.search(layout.thought, text)
    return match["thought"].strip() if match else ""


def turn_messages(layout: Layout, turn: Turn) -> tuple[Message, Message]:
    """A turn as the assistant message and the user message that follows it."""
    return turn.reply.message, turn_message(layout, turn.observation + turn.recalled)


def conversation(layout: Layout, trajectory: Trajectory) -> tuple[Message, ...]:
    """A whole episode as messages; ends with the last assistant message."""
    messages = list(trajectory.prompt)
    for turn in trajectory.turns:
        messages.extend(turn_messages(layout, turn))
    return tuple(messages[:-1] if trajectory.turns else messages)


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids and, for each, its loss weight (0: not learned)."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]


_MARK = "\ue000{}\ue001"


def encode(
    tokenizer: Any, messages: Sequence[Message], learn: Sequence[float] | None = None, *, generate: bool = False
) -> Encoded:
    """Token ids of a conversation under the tokenizer's chat template, with loss weights per message.

    The template is rendered with a mark in place of each message's text; what stands between the marks is the template's and may
    hold special tokens, what replaces a mark is data and never does (`split_special_tokens`). With `generate` the ids end where
    the model's answer begins. The end-of-turn token that follows an assistant message has that message's weight: it is what the model has to
    say. Raises `MismatchError` where the template drops, repeats or reorders messages (as templates that remove earlier thinking do).
    """
    turns = [{"role": message.role, "content": _MARK.format(index)} for index, message in enumerate(messages)]
    text: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=generate)
    pieces = re.split("\ue000(\\d+)\ue001", text)
    if [int(index) for index in pieces[1::2]] != list(range(len(messages))):
        raise MismatchError(
            "The chat template drops or reorders messages, so one episode cannot be one sequence. Use another template."
        )
    ids: list[int] = []
    weights: list[float] = []

    def extend(part: str, special: bool, weight: float) -> None:
        new = tokenizer.encode(part, add_special_tokens=False, split_special_tokens=not special) if part else []
        ids.extend(new)
        weights.extend([weight] * len(new))

    ends = end_of_turn(tokenizer)
    for position, piece in enumerate(pieces):
        if position % 2:
            index = int(piece)
            extend(messages[index].text, False, learn[index] if learn else 0.0)
        else:
            before = position // 2 - 1
            spoken = learn is not None and before >= 0 and learn[before] > 0
            end = next((mark for mark in ends if spoken and piece.startswith(mark)), "")
            extend(end, True, learn[before] if learn and spoken else 0.0)
            extend(piece[len(end) :], True, 0.0)
    return Encoded(tuple(ids), tuple(weights))


def end_of_turn(tokenizer: Any) -> tuple[str, ...]:
    """The token texts that may end an assistant message: the tokenizer's end-of-sequence token and its additional specials."""
    marks = [tokenizer.eos_token, *tokenizer.all_special_tokens]
    return tuple(dict.fromkeys(mark for mark in marks if mark))
