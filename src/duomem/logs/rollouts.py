"""Reinforcement learners' rollouts: verifiers' results.jsonl, and ART's trajectories, alone or in groups.

In: records with `prompt`, `completion` and `reward`, or with `messages_and_choices` and `reward`, or `trajectories` of such.
Out: a conversation each; the reward is a success from `--threshold` on. A rollout that an error ended is no outcome.
Log-probabilities and ART's additional histories are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from duomem.logs import Bad, BadField, Body, Record, Row
from duomem.logs import _messages as chat
from duomem.logs._fields import number, text
from duomem.types import Message, StopReason


def knows(body: Body) -> bool:
    return bool({"messages_and_choices", "trajectories"} & set(body)) or {"prompt", "completion"} <= set(body)


def read(rows: Iterable[Row | Bad]) -> Iterator[Record | Bad]:
    for row in rows:
        if isinstance(row, Bad):
            yield row
            continue
        group = row.body.get("trajectories")
        if not isinstance(group, list):
            yield _one(row, "")
            continue
        for index, item in enumerate(group):
            name = f"trajectories[{index}]"
            if isinstance(item, Mapping):
                yield _one(Row(item, row.place), f"{name}.")
            else:
                yield Bad(row.place, name, f"is {type(item).__name__}, not an object")


def _one(row: Row, prefix: str) -> Record | Bad:
    try:
        return _art(row) if "messages_and_choices" in row.body else _verifiers(row)
    except BadField as error:
        return Bad(row.place, prefix + error.field, error.why)


def _art(row: Row) -> Record:
    body = row.body
    items = [_message(item) for item in chat.objects(body["messages_and_choices"], "messages_and_choices")]
    messages = chat.messages(items, "messages_and_choices")
    metadata = body.get("metadata")
    name = metadata.get("task_id", metadata.get("scenario_id")) if isinstance(metadata, Mapping) else None
    return Record(
        messages,
        row.place,
        body,
        chat.tools(body.get("tools"), "tools"),
        id=text(name, "metadata.task_id"),
        reward=_reward(body),
    )


def _message(item: Body) -> Body:
    """A choice (what was trained on) or a message."""
    message = item.get("message")
    return {"role": "assistant", **message} if isinstance(message, Mapping) else item


def _verifiers(row: Row) -> Record:
    body = row.body
    prompt = chat.messages(body.get("prompt"), "prompt")
    said = body.get("completion")
    if isinstance(said, str):
        said = [{"role": "assistant", "content": said}]
    error = body.get("error")
    if error and not said:
        raise BadField("completion", f"is empty, since the rollout ended with an error: {_words(error)}")
    completion = chat.messages(said, "completion")
    return Record(
        (*prompt, *completion),
        row.place,
        body,
        chat.tools(body.get("tool_defs") or _info(body).get("oai_tools"), "tool_defs"),
        opening=_opening(prompt, completion),
        id=_id(body),
        reward=_reward(body),
        stop=StopReason.STEP_CAP if body.get("is_truncated") is True else None,
        error=_words(error) if error else "",
    )


def _opening(prompt: tuple[Message, ...], completion: tuple[Message, ...]) -> int:
    """All of the prompt is opening, also examples in it; but a prompt that ends amid a conversation is not."""
    if not completion or completion[0].role != "assistant":
        raise BadField("completion", "does not begin with a reply of the assistant")
    return len(prompt)


def _id(body: Body) -> str:
    """Verifiers numbers examples within an environment; `task` or `env_id` names that."""
    number_, name = body.get("example_id", body.get("id")), body.get("task", body.get("env_id"))
    parts = [text(part, "example_id") for part in (name, number_) if isinstance(part, str | int) and part != ""]
    return "/".join(parts) if number_ is not None else ""


def _info(body: Body) -> Body:
    info = chat.decoded(body.get("info"))
    return info if isinstance(info, Mapping) else {}


def _reward(body: Body) -> float | None:
    value = body.get("reward")
    if value is not None and number(value) is None:
        raise BadField("reward", f"is {value!r:.40}, not a number")
    return number(value)


def _words(error: Any) -> str:
    if isinstance(error, Mapping):
        error = next((error[key] for key in ("error_chain_str", "message", "error") if error.get(key)), error)
    return str(error)[:500]
