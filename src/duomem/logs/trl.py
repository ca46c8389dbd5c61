"""TRL's conversational datasets as Parquet: `messages` and `tools` (language modelling), or `prompt` and `completion`.

In: rows or trajectories. Out: conversations, or a Parquet file that `datasets.load_dataset("parquet", data_files=...)` gives to
TRL's `SFTTrainer`. The arguments of calls are a JSON column; `tools` and `metadata` are JSON text. Preference data is not read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from duomem.errors import MissingExtra
from duomem.logs import Bad, Body, Record, Row, openai, rollouts
from duomem.logs import _messages as chat
from duomem.prompts import Layout
from duomem.types import Trajectory

SUFFIX = ".parquet"


def knows(body: Body) -> bool:
    """Never by its keys, which are those of other formats: a Parquet file is read as this format."""
    return False


def read(rows: Iterable[Row | Bad]) -> Iterator[Record | Bad]:
    for row in rows:
        pair = isinstance(row, Row) and "completion" in row.body
        yield from (rollouts if pair else openai).read([_without_nulls(row)])


def _without_nulls(row: Row | Bad) -> Row | Bad:
    """A table has every column in every row; an absent field is null there, and JSON columns are texts."""
    if isinstance(row, Bad):
        return row
    body = {key: value for key, value in row.body.items() if value is not None}
    for name in {"messages", "prompt", "completion"} & set(body):
        if isinstance(body[name], list):
            body[name] = [_with_objects(message) for message in body[name]]
    return Row(body, row.place)


def _with_objects(message: Any) -> Any:
    calls = message.get("tool_calls") if isinstance(message, dict) else None
    if not isinstance(calls, list):
        return message
    return {**message, "tool_calls": [_decoded(call) if _has_arguments(call) else call for call in calls]}


def _has_arguments(call: Any) -> bool:
    return isinstance(call, dict) and isinstance(call.get("function"), dict) and "arguments" in call["function"]


def write(trajectories: Sequence[Trajectory], path: Path, layout: Layout, bare: bool) -> int:
    """One row an episode."""
    try:
        from datasets import Dataset, Features, Value
        from pyarrow.parquet import write_table  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtra("datasets", "train") from error
    rows = [_flat(openai.record(trajectory, layout, bare)) for trajectory in trajectories]
    keys = {key for row in rows for message in row["messages"] for key in message}
    columns: dict[str, Any] = {"messages": [_columns(keys)]}
    columns |= {name: Value("string") for name in ("tools", "metadata") if any(name in row for row in rows)}
    full = [{name: row.get(name) for name in columns} for row in rows]
    write_table(Dataset.from_list(full, features=Features(columns)).data.table, path)
    return len(rows)


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """Plain texts for contents, JSON texts for what differs from row to row."""
    messages = []
    for message in record["messages"]:
        parts = message["content"]
        text = "".join(part["text"] for part in parts) if isinstance(parts, list) else parts or ""
        calls = message.get("tool_calls")
        decoded = [_decoded(call) for call in calls] if calls else []
        messages.append({**message, "content": text} | ({"tool_calls": decoded} if calls else {}))
    texts: dict[str, Any] = {
        name: json.dumps(record[name], ensure_ascii=False) for name in ("tools", "metadata") if name in record
    }
    return {"messages": messages, **texts}


def _decoded(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {**call, "function": {**function, "arguments": chat.decoded(function["arguments"])}}


def _columns(keys: set[str]) -> dict[str, Any]:
    """The columns of a message; those of calls only where there are calls, since templates look at what is there."""
    from datasets import Json, Value

    string = Value("string")
    call = {"id": string, "type": string, "function": {"name": string, "arguments": Json()}}
    kinds = {"role": string, "content": string, "tool_calls": [call], "tool_call_id": string, "reasoning_content": string}
    return {name: kind for name, kind in kinds.items() if name in keys}
