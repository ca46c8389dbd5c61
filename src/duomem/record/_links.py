"""Which exchange a request goes on from, and which episode it belongs to: found when it begins, by the rows before it.

In: a database and a request. Out: a `Link`. A request goes on from the exchange whose conversation, reply included, is the
longest beginning of its own; or from the one that it names (Responses). Several candidates are all marked as doubtful.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from duomem.record._rows import Begun
from duomem.types import Message, load
from duomem.wire import Answer

THOUGHT = re.compile(r"\A\s*<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Link:
    """`messages` is the whole conversation, `before` its fingerprint, `episode` empty for a new one without a name."""

    episode: str
    parent: int | None
    choice: int
    messages: tuple[Message, ...]
    fresh: int
    before: str
    doubts: tuple[int, ...] = ()
    gap: str = ""


def short(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]


def fingerprint(before: str, message: Message) -> str:
    """The fingerprint of a conversation that is one message longer.

    Reasoning (also where a client put it into the text), ids of tool calls, white space around texts and the spelling of JSON
    arguments don't count: clients change them.
    """
    text = THOUGHT.sub("", message.text, count=1) if message.role == "assistant" else message.text
    calls = [(call.name, _canonical(call.arguments)) for call in message.tool_calls]
    return short(json.dumps([before, message.role, text.strip(), calls]))


def _canonical(arguments: str) -> str:
    try:
        return json.dumps(json.loads(arguments), sort_keys=True)
    except ValueError:
        return arguments.strip()


def chain(messages: Sequence[Message]) -> list[str]:
    """Fingerprints of every beginning of a conversation, the empty one first."""
    found = [""]
    for message in messages:
        found.append(fingerprint(found[-1], message))
    return found


def find(db: sqlite3.Connection, begun: Begun) -> Link:
    if begun.previous or begun.conversation:
        return _by_id(db, begun)
    return _by_prefix(db, begun)


def _by_id(db: sqlite3.Connection, begun: Begun) -> Link:
    """The reply that the request names, or the last one of the conversation that it names."""
    column, value = ("reply_id", begun.previous) if begun.previous else ("conversation", begun.conversation)
    sql = f"SELECT * FROM exchanges WHERE {column} = ? AND state = 'whole' ORDER BY id DESC LIMIT 1"
    row = db.execute(sql, (value,)).fetchone()
    episode = begun.episode or (row["episode"] if row else begun.conversation)
    if row is None:
        gap = begun.gap or (f"it goes on from {begun.previous}, which was not recorded" if begun.previous else "")
        return Link(episode, None, 0, begun.messages, len(begun.messages), chain(begun.messages)[-1], gap=gap)
    hashes = json.loads(row["messages"])
    items = {each: db.execute("SELECT value FROM items WHERE hash = ?", (each,)).fetchone()[0] for each in set(hashes)}
    earlier = [load(Message, items[each]) for each in hashes]
    if json.loads(row["request"]).get("instructions"):
        earlier = earlier[1:]  # instructions hold for one request
    lead = next((index for index, message in enumerate(begun.messages) if message.role != "system"), len(begun.messages))
    head, new = begun.messages[:lead], begun.messages[lead:]
    messages = (*head, *earlier, load(Answer, row["answer"]).message, *new)
    return Link(episode, row["id"], 0, messages, len(new), chain(messages)[-1], gap=begun.gap)


def _by_prefix(db: sqlite3.Connection, begun: Begun) -> Link:
    states = chain(begun.messages)
    before = states[-1]
    place = {state: length for length, state in enumerate(states[:-1]) if length}
    scope, value = ("e.episode = ?", begun.episode) if begun.episode else ("e.named = ?", "prefix")
    sql = (
        "SELECT s.hash, s.exchange, s.choice, e.episode, EXISTS (SELECT 1 FROM exchanges c WHERE c.parent = s.exchange AND"
        " c.choice = s.choice AND c.state IN ('open', 'whole')) AS used, EXISTS (SELECT 1 FROM exchanges c WHERE c.parent ="
        " s.exchange AND c.choice = s.choice AND c.before = ?) AS asked FROM states s JOIN exchanges e ON e.id = s.exchange"
        f" WHERE s.hash IN ({', '.join('?' * len(place))}) AND {scope} ORDER BY s.exchange"
    )
    rows = db.execute(sql, (before, *place, value)).fetchall()
    if not rows:
        return Link(begun.episode or _tried(db, before), None, 0, begun.messages, len(begun.messages), before, gap=begun.gap)
    longest = max(place[row["hash"]] for row in rows)
    rivals = [row for row in rows if place[row["hash"]] == longest]
    if len({row["episode"] for row in rivals}) == 1:  # the same request once more goes on from where it did before
        rivals = [row for row in rivals if row["asked"]] or rivals
    free = [row for row in rivals if not row["used"]]
    chosen = (free or rivals)[-1]
    doubts = tuple(row["exchange"] for row in free) if len({row["episode"] for row in free}) > 1 else ()
    fresh = len(begun.messages) - longest
    return Link(
        chosen["episode"], chosen["exchange"], chosen["choice"], begun.messages, fresh, before, doubts, begun.gap
    )  # fmt: skip


def _tried(db: sqlite3.Connection, before: str) -> str:
    """The episode of the same first request, where that has had no reply: this one tries again."""
    sql = "SELECT * FROM exchanges WHERE before = ? AND named = 'prefix' AND parent IS NULL ORDER BY id DESC LIMIT 1"
    row = db.execute(sql, (before,)).fetchone()
    return str(row["episode"]) if row and (row["state"] in ("failed", "broken") or not row["delivered"]) else ""
