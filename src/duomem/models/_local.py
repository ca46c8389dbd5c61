"""What a model on this machine does whatever runs it: write its prompt as tokens, count tokens, say what it is.

In: a tokenizer, a context length, a style. Out: the base of `hf` and `llamacpp`. Not here: answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from duomem.chat import PLAIN, Style, count_tokens, encode
from duomem.envs import ACT
from duomem.models import ContextFull
from duomem.types import Message, Sampling, Tool


class Local:
    """A loaded model without its engine. `context` is the longest conversation in tokens, answer included."""

    def __init__(self, tokenizer: Any, context: int, facts: dict[str, str], style: Style = PLAIN) -> None:
        self.tokenizer = tokenizer
        self.context = context
        self.style = style
        self._facts = facts

    def prompt(
        self, messages: Sequence[Message], tools: Sequence[Tool], sampling: Sampling
    ) -> tuple[tuple[int, ...], tuple[Tool, ...]]:
        """The token ids of a question, and the tools that stand in it. Raises `ContextFull` where no room is left to answer."""
        offered = tuple(tool for tool in tools if tool != ACT)  # a text world's one tool is spoken in the layout's words
        ids = encode(self.tokenizer, messages, generate=True, tools=offered, style=self.style).ids
        if len(ids) + sampling.max_tokens > self.context:
            raise ContextFull(f"{len(ids)} prompt tokens and {sampling.max_tokens} for an answer exceed {self.context}.")
        return ids, offered

    def count(self, text: str) -> int:
        """Tokens of a text in this model's vocabulary."""
        return count_tokens(self.tokenizer, text)

    def provenance(self) -> dict[str, str]:
        return dict(self._facts)
