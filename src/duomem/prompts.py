"""The one renderer and the one reply parser; collection, training, evaluation and serving all call it.

In: a layout (hashed data), the task's words, memories, observations, replies. Out: messages, token ids with loss weights, and
the tool call in a reply. It never sees a task id, path or type, and text from outside never becomes a special token.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from duomem.chat import Encoded as Encoded
from duomem.chat import count_tokens as count_tokens
from duomem.chat import encode as encode
from duomem.chat import end_of_turn as end_of_turn
from duomem.errors import ConfigError
from duomem.types import Message, Reply, TextPart, ToolCall, Trajectory, Turn, digest

AS_RECORDED = "recorded"
"""In place of a layout's hash: a trajectory whose prompt is that of the agent it was recorded from."""

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
        data = path.read_bytes()
    elif name in layout_names():
        data = resources.files("duomem.layouts").joinpath(f"{name}.toml").read_bytes()
    else:
        raise ConfigError(f"No layout {name!r}. There are: {', '.join(layout_names())}, or the path of a .toml file.")
    try:
        return Layout(**tomllib.loads(data.decode()))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, ValidationError) as error:
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


def read_opening(layout: Layout, prompt: Sequence[Message]) -> tuple[str, str] | None:
    """Goal and scene of a prompt that `opening` wrote without memories; None for any other prompt. A goal is one line where the
    text can be read so."""
    for goal in ("[^\n]*", ".*?"):
        pattern = template_pattern(layout.opening, {"goal": goal}, instructions=layout.instructions, memories="")
        match = pattern.fullmatch(prompt[-1].text) if prompt else None
        found = match.groupdict() if match else {}
        words = found.get("goal", ""), found.get("scene", "")
        if words[0].strip() and opening(layout, *words, ()) == tuple(prompt):
            return words
    return None


def template_pattern(template: str, forms: Mapping[str, str] | None = None, /, **fixed: str) -> re.Pattern[str]:
    """What fits a template: each slot a group of its name, of any text or of its form, a fixed one its text."""
    parts = re.split(r"\{(\w+)\}", template)
    made = ""
    for index, part in enumerate(parts):
        if index % 2 == 0:
            made += re.escape(part)
        elif part in fixed:
            made += re.escape(fixed[part])
        else:
            made += f"(?P={part})" if f"(?P<{part}>" in made else f"(?P<{part}>{(forms or {}).get(part, '.*')})"
    return re.compile(made, re.S)


def with_memories(layout: Layout, prompt: Sequence[Message], memories: Sequence[str]) -> tuple[Message, ...]:
    """An agent's own prompt with memories at the end of its last leading system message, or in one of their own."""
    block = memory_block(layout, memories)
    if not block:
        return tuple(prompt)
    lead = next((index for index, message in enumerate(prompt) if message.role != "system"), len(prompt))
    if not lead:
        return (Message.of("system", block.strip()), *prompt)
    told = prompt[lead - 1]
    joined = Message("system", (*told.parts, TextPart(f"\n\n{block.strip()}")))
    return (*prompt[: lead - 1], joined, *prompt[lead:])


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


def turn_messages(layout: Layout, turn: Turn) -> tuple[Message, ...]:
    """A turn as the assistant message and what came back: the turn's own results, the result of its tool call, or the user
    message of the layout."""
    if turn.results is not None:
        return (turn.reply.message, *turn.results)
    calls = turn.reply.message.tool_calls
    if calls:
        return turn.reply.message, Message("tool", (TextPart(turn.observation + turn.recalled),), tool_call_id=calls[0].id)
    return turn.reply.message, turn_message(layout, turn.observation + turn.recalled)


def conversation(layout: Layout, trajectory: Trajectory) -> tuple[Message, ...]:
    """A whole episode as messages; ends with the last assistant message."""
    messages = list(trajectory.prompt)
    for turn in trajectory.turns:
        messages.extend(turn_messages(layout, turn))
    while trajectory.turns and messages[-1].role != "assistant":
        messages.pop()
    return tuple(messages)
