"""An agent's loop as people write it: OpenAI's client, a list of messages of its own, the command read out of each reply.

In: a client, a game. Out: how the game went. It knows nothing of memories, adapters or this project's server; the prompt's
words are those of a layout, since that is what the small model can read. Not a benchmark itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from duomem.envs import Env
from duomem.prompts import Layout, opening, parse, turn_message
from duomem.types import Message, Reply, Task, ToolCall

NOTHING = "Nothing happens."


@dataclass(frozen=True)
class Game:
    """How an agent's game went."""

    won: bool
    commands: tuple[str, ...]


def play(client: Any, env: Env, task: Task, layout: Layout, steps: int = 30, **asked: Any) -> Game:
    """Play one game to its end or `steps` turns; `asked` goes into every request."""
    episode = env.open(task)
    first = episode.observe()
    messages = [{"role": each.role, "content": each.text} for each in opening(layout, first.goal, first.text, ())]
    commands: list[str] = []
    try:
        for _ in range(steps):
            done = client.chat.completions.create(model="any", messages=messages, **asked)
            said, finish = done.choices[0].message.content or "", done.choices[0].finish_reason
            call = parse(layout, Reply(Message.of("assistant", said), finish))
            seen = episode.step(call) if call else None
            commands.append(call.command if call else "")
            if seen and (seen.done or seen.won):
                return Game(seen.won, tuple(commands))
            answer = turn_message(layout, seen.text if seen else NOTHING).text
            messages += [{"role": "assistant", "content": said}, {"role": "user", "content": answer}]
        return Game(False, tuple(commands))
    finally:
        episode.close()


def commands_of(turns: Any) -> tuple[str, ...]:
    """The commands of a trajectory's turns."""
    return tuple(turn.call.command if isinstance(turn.call, ToolCall) else "" for turn in turns)
