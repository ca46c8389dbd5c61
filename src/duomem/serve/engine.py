"""The student's model behind the server: built in this process, asked from many threads, its answers within its context.

In: a `ModelSpec`; conversations with memories in place. Out: replies. Not here: HTTP, memories, who may ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from duomem import parts
from duomem.chat import encode
from duomem.envs import ACT
from duomem.models import ContextFull, Model
from duomem.serve.student import ModelSpec
from duomem.types import Message, Reply, Sampling, Tool


class Engine(Protocol):
    """Answers conversations; blocks, and may be called from many threads. `owner` names whose caches may be used."""

    def reply(self, messages: Sequence[Message], tools: Sequence[Tool], sampling: Sampling, owner: str) -> Reply: ...
    def close(self) -> None: ...


class LocalEngine:
    """A model of this process."""

    def __init__(self, model: Model) -> None:
        self.model = model

    @classmethod
    def of(cls, spec: ModelSpec) -> LocalEngine:
        return cls(parts.build("models", spec.name, spec.options))

    def reply(self, messages: Sequence[Message], tools: Sequence[Tool], sampling: Sampling, owner: str) -> Reply:
        return self.model.reply(messages, tools, fitted(self.model, messages, tools, sampling))

    def close(self) -> None:
        self.model.close()


def fitted(model: Model, messages: Sequence[Message], tools: Sequence[Tool], sampling: Sampling) -> Sampling:
    """The sampling with as many tokens as the context has left. Raises `ContextFull` where there is no room for one.

    A model of another kind than the local ones says itself what it has room for.
    """
    tokenizer, context = getattr(model, "tokenizer", None), getattr(model, "context", 0)
    if tokenizer is None:
        return sampling
    offered = tuple(tool for tool in tools if tool != ACT)
    style = getattr(model, "style")  # noqa: B009 - not part of the contract
    used = len(encode(tokenizer, messages, generate=True, tools=offered, style=style).ids)
    if used >= context:
        raise ContextFull(f"{used} prompt tokens leave no room for an answer in {context}.")
    return replace(sampling, max_tokens=min(sampling.max_tokens, context - used))
