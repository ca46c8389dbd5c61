"""The student's model behind the server: built in this process, asked from many threads, its answers within its context.

In: a `ModelSpec`; conversations with memories in place. Out: replies. Not here: HTTP, memories, who may ask; the engine in a
process of its own is `process`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from duomem import parts
from duomem.chat import call_form, encode
from duomem.envs import ACT
from duomem.models import ContextFull, Model, caches_of
from duomem.models._grammar import of_calls
from duomem.serve.student import ModelSpec
from duomem.types import Message, Reply, Sampling, Tool


class Engine(Protocol):
    """Answers conversations; blocks, and may be called from many threads. `owner` names whose caches may be used.

    With `call` the answer must be calls of the tools: an engine that can hold an answer to a grammar does so, another may
    answer otherwise. Raises `ContextFull` and `InfraError` as a `Model` does.
    """

    def reply(
        self, messages: Sequence[Message], tools: Sequence[Tool], sampling: Sampling, owner: str, call: bool = False
    ) -> Reply: ...
    def close(self) -> None: ...


class LocalEngine:
    """A model of this process."""

    def __init__(self, model: Model, *, constrains: bool = False) -> None:
        """`constrains`: the model can hold its answers to a grammar."""
        self.model, self._constrains = model, constrains

    @classmethod
    def of(cls, spec: ModelSpec) -> LocalEngine:
        return cls(parts.build("models", spec.name, spec.options), constrains=spec.constrains)

    @property
    def facts(self) -> dict[str, str]:
        return self.model.provenance()

    @property
    def context(self) -> int:
        """Tokens of the longest conversation; 0 where the model does not say."""
        return int(getattr(self.model, "context", 0))

    def reply(
        self, messages: Sequence[Message], tools: Sequence[Tool], sampling: Sampling, owner: str, call: bool = False
    ) -> Reply:
        if call and self._constrains:
            form = call_form(self.model.tokenizer, self.model.style)  # type: ignore[attr-defined]
            sampling = replace(sampling, grammar=of_calls(form, tools))
        with caches_of(owner):
            return self.model.reply(messages, tools, fitted(self.model, messages, tools, sampling))

    def save(self) -> int:
        """Write the model's caches to its folder; how many conversations. 0 for a model that cannot or has no folder."""
        return int(self.model.save_caches()) if hasattr(self.model, "save_caches") else 0

    def restore(self) -> int:
        """Read them again, before anything is asked; how many."""
        return int(self.model.restore_caches()) if hasattr(self.model, "restore_caches") else 0

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
