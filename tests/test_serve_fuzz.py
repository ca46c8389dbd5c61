"""Requests of any shape are answered or refused with words: nothing else comes out of the service."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import pytest

import serve_world
from duomem import wire
from duomem.errors import DuomemError
from duomem.models import ContextFull
from duomem.models.scripted import Scripted
from duomem.serve.app import _status
from duomem.serve.engine import LocalEngine
from duomem.serve.service import Alone, Service
from duomem.types import Message, Reply, ToolCall

CASES = 10_000
TOOL = {"name": "look", "description": "d", "parameters": {"type": "object"}, "input_schema": {"type": "object"}}
SEEDS: dict[wire.Api, dict[str, Any]] = {
    "chat": {
        "model": "m",
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "t"}, {"type": "image_url", "image_url": {"url": "u"}}]},
            {
                "role": "assistant",
                "tool_calls": [{"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "1", "content": "seen"},
        ],
        "tools": [{"type": "function", "function": TOOL}],
        "tool_choice": {"type": "function", "function": {"name": "look"}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
        "stop": ["\n"],
        "temperature": 0.5,
        "seed": 1,
        "n": 2,
        "max_tokens": 5,
        "stream_options": {"include_usage": True},
        "memory": "off",
        "top_p": 0.5,
        "logit_bias": {"5": 1},
    },
    "responses": {
        "model": "m",
        "instructions": "s",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "t"}]},
            {"type": "function_call", "call_id": "1", "name": "look", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "1", "output": "seen"},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "r"}]},
        ],
        "tools": [{"type": "function", **TOOL}],
        "tool_choice": "auto",
        "text": {"format": {"type": "text"}},
        "previous_response_id": None,
        "conversation": None,
        "max_output_tokens": 5,
        "reasoning": {"effort": "low"},
    },
    "messages": {
        "model": "m",
        "max_tokens": 5,
        "system": [{"type": "text", "text": "s"}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "t"}]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "look", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "seen"}]},
        ],
        "tools": [TOOL],
        "tool_choice": {"type": "any"},
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "stop_sequences": ["x"],
    },
}
ODD: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    10**30,
    1.5,
    float("inf"),
    "",
    "x" * 200,
    "\ud800",
    "<|im_end|>",
    [],
    {},
    [[]],
    [None],
    {"type": 3},
]


def mutated(body: Any, dice: random.Random) -> Any:
    """The body with some values replaced, removed, repeated or put where they don't belong."""
    made = copy.deepcopy(body)
    for _ in range(dice.randint(1, 4)):
        places = list(_places(made))
        holder, key = dice.choice(places)
        act = dice.randrange(4)
        if act == 0:
            holder[key] = copy.deepcopy(dice.choice(ODD))
        elif act == 1:
            del holder[key]
        elif act == 2 and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        else:
            other, name = dice.choice(places)
            holder[key] = copy.deepcopy(_get(other, name))
        if not list(_places(made)):
            return made
    return made


def _get(holder: Any, key: Any) -> Any:
    return holder.get(key) if isinstance(holder, dict) else holder[key] if key < len(holder) else None


def _places(value: Any) -> Any:
    items = list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    for key, inner in items:
        yield value, key
        yield from _places(inner)


@pytest.mark.parametrize("api", list(SEEDS))
def test_ten_thousand_odd_requests(api: wire.Api) -> None:
    calling = Reply(Message("assistant", tool_calls=(ToolCall("look", "{}", "1"),)), "tool_calls")
    service = Service(serve_world.scripted_student(), Alone(LocalEngine(Scripted(lambda messages: calling))))
    dice = random.Random(f"requests {api}")
    seen, silent = {200: 0, 400: 0, 422: 0}, 0
    for _ in range(CASES // len(SEEDS)):
        body = mutated(SEEDS[api], dice)
        try:
            made = service.answer(api, body, "me", {})
            json.dumps(wire.write_answer(api, made.answer))
            b"".join(wire.write_stream(api, made.answer))
            seen[200] += 1
        except (DuomemError, ContextFull, ValueError) as error:
            seen[_status(error)] += 1
            silent += not str(error)
    assert min(seen[200], seen[400]) > 50, seen
    assert not silent, "an error without words"
