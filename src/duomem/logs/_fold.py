"""Single calls of a model put together to episodes: a call whose messages another one goes on from is part of that other one.

In: records, of which some are marked `single`. Out: the others as they were, and of the single ones the longest of each chain.
Ends that grew apart after a common reply are marked `branched`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from duomem.logs import Record
from duomem.types import Message, digest


def fold(records: Iterable[Record]) -> tuple[list[Record], int]:
    """The episodes in order of their first record, and how many records became part of a longer one or were there twice."""
    given = list(records)
    chains = {index: _chain(record) for index, record in enumerate(given) if record.single}
    inner = {link for chain in chains.values() for link in chain[:-1]}
    ends: dict[str, int] = {}
    for index, chain in chains.items():
        if chain[-1] not in inner:
            ends.setdefault(chain[-1], index)
    leaves = set(ends.values())
    shared = Counter(link for index in leaves for link in set(_after_replies(given[index], chains[index])))
    kept = [
        replace(record, branched=any(shared[link] > 1 for link in _after_replies(record, chains[index])))
        if record.single
        else record
        for index, record in enumerate(given)
        if not record.single or index in leaves
    ]
    return kept, len(given) - len(kept)


def _chain(record: Record) -> list[str]:
    """One hash per message, over it and all before it."""
    chain, last = [], record.group
    for message in record.messages:
        last = digest([last, *_identity(message)])
        chain.append(last)
    return chain


def _identity(message: Message) -> Sequence[object]:
    """What makes two messages the same; reasoning does not, since clients leave it out when they send a reply back."""
    calls = [(call.name, call.arguments) for call in message.tool_calls]
    return [message.role, message.text, calls]


def _after_replies(record: Record, chain: Sequence[str]) -> list[str]:
    return [link for link, message in zip(chain[:-1], record.messages, strict=False) if message.role == "assistant"]
