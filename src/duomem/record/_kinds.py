"""Which of an episode's conversations is the agent's own, which goes on from it, and which is a helper's beside it.

In: conversations in the order in which they began. Out: for each its kind. Agents make calls on the side: a title, a summary,
a sub-agent. What can't be told from one of those counts as one, since it would be learned from otherwise. Not here: SQL.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from duomem.record._rows import Exchange
from duomem.types import Message

Kind = Literal["main", "continued", "side"]
"""`continued`: the agent put a new beginning (a summary) in the place of its history and went on. `side`: a sub-agent's or a
helper's conversation beside the main one."""

QUOTED = 24
"""Letters of a text that have to stand in another for it to count as quoted there."""


@dataclass(frozen=True, slots=True)
class Talk:
    """One conversation: its requests, the first one first, and the replies that the agent certainly got."""

    exchanges: tuple[Exchange, ...]
    replies: tuple[Message, ...]

    @property
    def first(self) -> Exchange:
        return self.exchanges[0]

    @property
    def last(self) -> float:
        return max(each.started for each in self.exchanges)

    @property
    def tools(self) -> frozenset[str]:
        return frozenset(tool.name for tool in self.first.tools)


def kinds(talks: Sequence[Talk]) -> list[Kind]:
    """The kind of each conversation. The main one is the first, unless that is a helper's call before the work began."""
    found: list[Kind] = []
    main: list[Talk] = []
    aside: list[Talk] = []
    for talk in talks:
        if not main or (len(main) == 1 and _opens(main[0], talk) and not _goes_on(main, aside, talk)):
            found = ["side"] * len(found)
            aside += main
            main = [talk]
            found.append("main")
        elif _goes_on(main, aside, talk):
            main.append(talk)
            found.append("continued")
        else:
            aside.append(talk)
            found.append("side")
    return found


def _opens(before: Talk, talk: Talk) -> bool:
    """Whether `talk` is the agent's work and `before` was one call without tools ahead of it, such as a title's."""
    small = len(before.replies) <= 1 and not before.tools
    return small and before.last <= talk.first.started and bool(len(talk.replies) > 1 or talk.tools)


def asides(members: Sequence[Exchange]) -> list[Exchange]:
    """Calls on top of a conversation that the agent then left: words alone came back, and it went on elsewhere.

    It certainly did where the other way on has a next turn, begun later, or where the tools are missing that the other way has.
    Not one whose reply calls tools: those may have been carried out.
    """
    ways: dict[tuple[int, int], dict[str, list[Exchange]]] = {}
    for each in members:
        if each.parent:
            ways.setdefault((each.parent, each.choice), {}).setdefault(each.before, []).append(each)
    followed = {each.parent: each.id for each in members if each.parent}
    found: list[Exchange] = []
    for options in ways.values():
        for before, tries in options.items():
            rest = [each for other, others in options.items() if other != before for each in others]
            later = any(followed.get(each.id, 0) > tries[-1].id for each in rest)
            bare = not any(each.tools for each in tries) and any(each.tools and each.state == "whole" for each in rest)
            if (later or bare) and not any(each.id in followed or _calls(each) for each in tries):
                found += tries
    return found


def _calls(exchange: Exchange) -> bool:
    return any(reply.message.tool_calls for reply in (exchange.answer.replies if exchange.answer else ()))


def _goes_on(main: Sequence[Talk], aside: Sequence[Talk], talk: Talk) -> bool:
    """Whether a conversation takes the main one's place: it begins after its end, with its words or what it had come to."""
    past = main[-1]
    if past.last > talk.first.started:
        return False
    if past.tools and not past.tools & talk.tools:
        return False  # a call without the agent's tools is not its next turn
    same = _alike(_system(past), _system(talk))
    summaries = [each.replies[-1] for each in aside if each.replies and each.first.started >= past.last]
    quotes = any(_quoted(each.text, talk.first.messages) for each in (*past.replies[-1:], *summaries))
    if past.tools:
        return same or quotes
    if talk.tools:
        return quotes  # a plan, and who carries it out
    if same and _alike(_opening(past), _opening(talk)):
        return True
    return not (_retells(past, talk) or _retells(talk, past)) and ((same and bool(_system(talk))) or quotes)


def _retells(past: Talk, talk: Talk) -> bool:
    """Whether one text of a beginning holds more of another conversation than its last reply, as a request for a title does.

    A summary, from which an agent goes on, holds the last reply alone.
    """
    asked = [message.text for message in past.exchanges[-1].messages if message.role in ("user", "assistant")]
    own = {message.text.strip() for message in talk.first.messages}
    texts = [text for text in asked if text.strip() not in own]
    return any(_quoted(text, [message]) for text in texts for message in talk.first.messages)


def _quoted(text: str, messages: Sequence[Message]) -> bool:
    text = text.strip()
    return len(text) >= QUOTED and any(text in message.text for message in messages)


def _alike(one: str, other: str) -> bool:
    """Whether two texts begin alike, by half of the shorter one: a date or a list of files further on may change."""
    half = min(len(one), len(other)) // 2
    return one == other or (half >= QUOTED and one[:half] == other[:half])


def _system(talk: Talk) -> str:
    return "\n".join(message.text for message in talk.first.messages if message.role == "system")


def _opening(talk: Talk) -> str:
    return next((message.text for message in talk.first.messages if message.role == "user"), "")
