"""The JSON of MemP and ETO: runs with `messages` or `conversations` and a reward, and the trajectories that both start from.

In: MemP's results (`messages`, `reward`, `name`) and memory input (`query`, `trajectory`), ETO's outputs (`meta`,
`conversations`) and SFT trajectories (`id`, `conversations`). Out: a conversation each. Instructions, their "OK" and worked
examples before the task are opening. Memories themselves (MemP's documents.json) are not read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from duomem.logs import Bad, BadField, Body, Record, Row
from duomem.logs import _messages as chat
from duomem.logs._fields import number, success, text
from duomem.logs._read import each
from duomem.logs.sharegpt import conversations
from duomem.types import Message, StopReason

_TURN = "Now it's your turn"
"""How MemP begins the message with the task when worked examples stand before it."""
_FAILED_CALL = "exceeding maximum input length"
"""What ETO writes whatever error a call of the model ended with: an outage as well as a full context."""


def knows(body: Body) -> bool:
    return (
        {"query", "trajectory"} <= set(body)
        or {"meta", "conversations"} <= set(body)
        or {"game_file", "conversations"} <= set(body)
        or {"messages", "reward", "name"} <= set(body)
    )


def read(rows: Iterable[Row | Bad]) -> Iterator[Record | Bad]:
    return each(rows, lambda row: [_record(row)])


def _record(row: Row) -> Record:
    body = row.body
    name = next((key for key in ("messages", "conversations", "trajectory") if key in body), "conversations")
    if isinstance(body.get(name), str) and not isinstance(chat.decoded(body[name]), list):
        raise BadField(name, "is one text; a list of messages is needed, since a text does not say who spoke")
    messages = conversations(body.get(name), name)
    meta = body.get("meta")
    facts: Body = meta if isinstance(meta, Mapping) else body
    reward = facts.get("reward")
    ended = facts.get("terminate_reason")
    return Record(
        messages,
        row.place,
        body,
        opening=opening(messages),
        id=_id(row, facts),
        success=_success(facts),
        reward=number(reward[0] if isinstance(reward, list) and len(reward) == 1 else reward),
        stop=StopReason.STEP_CAP if ended == "max_steps" else None,
        error="a call of the model failed" if ended == _FAILED_CALL else "",
    )


def opening(messages: Sequence[Message]) -> int | None:
    """Messages before the first reply of the episode itself: after MemP's turn to play, or after the "OK" to ETO's
    instructions."""
    marked = [index for index, message in enumerate(messages) if message.role == "user" and message.text.startswith(_TURN)]
    if marked:
        return marked[-1] + 1
    agreed = len(messages) > 2 and messages[1].role == "assistant" and messages[1].text.strip().rstrip(".").upper() == "OK"
    return 3 if agreed else None


def _success(facts: Body) -> bool | None:
    """A reward has the last word: ETO's `success` only says that the environment was done."""
    return success(facts.get("success"), "success", 1.0) if facts.get("reward") is None else None


def _id(row: Row, facts: Body) -> str:
    """The game, where there is one (ETO keeps its file under `error`); else ETO names a run's file by its task."""
    for key, value in (("name", row.body.get("name")), ("game_file", row.body.get("game_file")), ("error", facts.get("error"))):
        if (key == "name" and value is not None) or (isinstance(value, str) and "/" in value):
            parts = text(value, key).replace("\\", "/").strip("/").removesuffix("/game.tw-pddl").split("/")
            return "/".join(parts[-3:])  # the split as well, where the path has it: none may come from evaluation
    if row.body.get("id") is not None:
        return text(row.body["id"], "id")
    return row.place.stem if facts is not row.body and row.place.line == 1 else ""
