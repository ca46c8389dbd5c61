"""What the student reads for a request: a pure function of the request, the bank's version and the layout.

In: a conversation as a client sent it. Out: the task's key, the memories with their ids, the messages with the memories where
the layout has them, and their token ids. Every later request of a conversation has the same task key, so it keeps the same
prefix without anybody remembering it. Not here: HTTP, models, who may ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from duomem.chat import PLAIN, Style, encode
from duomem.memory import BankView, MemoryStrategy
from duomem.prompts import Layout, opening, read_opening, with_memories
from duomem.record.functions import DEFAULT, Locator, locator
from duomem.types import Budget, EpisodeView, Memory, MemoryId, Message, Tool, digest
from duomem.wire import Body, Request


@dataclass(frozen=True, slots=True)
class TaskKey:
    """All that recall may know of a task: its words, and the scene where the layout has one."""

    goal: str = ""
    scene: str = ""

    @property
    def id(self) -> str:
        """16 hex digits; the same for the same words."""
        return digest([self.goal, self.scene])[:16]


@dataclass(frozen=True, slots=True)
class Injected:
    """One request as the student reads it. `memories` are in canonical order (by id); none where there is no task."""

    key: TaskKey
    memories: tuple[Memory, ...]
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]
    bank_version: str

    @property
    def ids(self) -> tuple[MemoryId, ...]:
        return tuple(memory.id for memory in self.memories)

    def prompt_ids(self, tokenizer: Any, style: Style = PLAIN) -> tuple[int, ...]:
        """Token ids of the prompt, by the one encoder that training and evaluation use."""
        return encode(tokenizer, self.messages, generate=True, tools=self.tools, style=style).ids


@dataclass(frozen=True)
class Injector:
    """How prompts are made. Immutable and safe for any number of threads; a bank that grew is another injector."""

    layout: Layout
    find: Locator = field(default_factory=lambda: locator(DEFAULT))
    """Where the task is in a request of an agent whose prompts are its own."""
    strategy: MemoryStrategy | None = None
    bank: BankView | None = None
    """With a strategy and a `budget.k` above 0, where memories come from."""
    version: str = "0"
    """The bank's; with learned memories beside it, theirs after a plus."""
    budget: Budget = field(default_factory=lambda: Budget(k=0))

    def inject(self, request: Request, body: Body, *, memories: bool = True) -> Injected:
        """The request with its memories; without them where `memories` is false (`memory: off`).

        A prompt that the layout wrote gets them in the layout's slot, any other at the end of its system message, as examples
        of a recording have them. Raises whatever a user's own locator raises.
        """
        given = request.messages
        start = next((index for index, message in enumerate(given) if message.role == "assistant"), len(given))
        read = read_opening(self.layout, given[:start])
        key = TaskKey(*read) if read else TaskKey(self.find.task(given, body))
        shown = self._recall(key) if memories else ()
        texts = [memory.text for memory in shown]
        own = with_memories(self.layout, given, texts)
        messages = (*opening(self.layout, *read, texts), *given[start:]) if read else own
        return Injected(key, shown, messages, request.tools, self.version)

    def of_task(self, goal: str, scene: str = "") -> Injected:
        """What a task's first prompt would hold; the same memories as for any request of it."""
        key = TaskKey(goal, scene)
        shown = self._recall(key)
        messages = opening(self.layout, goal, scene, [memory.text for memory in shown])
        return Injected(key, shown, messages, (), self.version)

    def _recall(self, key: TaskKey) -> tuple[Memory, ...]:
        if self.strategy is None or self.bank is None or self.budget.k == 0 or not key.goal:
            return ()
        return self.strategy.recall(EpisodeView(key.goal, key.scene), self.bank, self.budget).memories


def conversation_key(injected: Injected, given: Sequence[Message]) -> str:
    """Names a conversation by its task and its messages before the first reply: the same for all its requests."""
    start = next((index for index, message in enumerate(given) if message.role == "assistant"), len(given))
    return digest([injected.key.id, [(message.role, message.text) for message in given[:start]]])[:16]
