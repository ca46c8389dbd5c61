"""Langfuse exports: observations (blob storage, a table's export, the API's pages) with scores and traces; one trace's JSON.

In: rows of any of these, from one or several files, in either spelling (trace_id, traceId). Out: per trace the conversation
that its generations grew to. `--outcome scores.NAME` takes a score as the outcome. Spans, tools and events are passed over:
what a tool answered stands in the next generation's input.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from duomem.logs import Bad, BadField, Body, Record, Row
from duomem.logs import _messages as chat
from duomem.logs._fields import text
from duomem.logs._fold import fold
from duomem.types import Message

_TYPES = frozenset(
    ("SPAN", "GENERATION", "EVENT", "AGENT", "TOOL", "CHAIN", "RETRIEVER", "EVALUATOR", "EMBEDDING", "GUARDRAIL")
)


def knows(body: Body) -> bool:
    return _kind(body) != ""


@dataclass
class _Trace:
    """What the rows tell of one trace."""

    generations: list[Row] = field(default_factory=list)
    scores: dict[str, Any] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)


def read(rows: Iterable[Row | Bad]) -> Iterator[Record | Bad]:
    """Reads all rows before the first record: a trace's parts may stand anywhere."""
    traces: dict[str, _Trace] = {}
    for row in rows:
        if isinstance(row, Bad):
            yield row
            continue
        try:
            _sort_in(row, traces)
        except BadField as error:
            yield Bad(row.place, error.field, error.why)
    for name, trace in traces.items():
        yield from _episodes(name, trace)


def _get(body: Body, name: str) -> Any:
    """A field in either spelling."""
    first, *others = name.split("_")
    camel = first + "".join(other.capitalize() for other in others)
    return body.get(name, body.get(camel))


def _kind(body: Body) -> str:
    if isinstance(body.get("observations"), list):
        return "trace"
    if str(body.get("type")) in _TYPES and _get(body, "trace_id") is not None:
        return "observation"
    if "name" in body and ("value" in body or _get(body, "string_value") is not None) and _get(body, "data_type") is not None:
        return "score"
    known = "timestamp" in body and "id" in body and ("input" in body or _get(body, "session_id") is not None)
    return "trace row" if known else ""


def _sort_in(row: Row, traces: dict[str, _Trace]) -> None:
    body, kind = row.body, _kind(row.body)
    if kind == "trace":
        inner = body.get("trace")
        facts = inner if isinstance(inner, Mapping) else body
        name = text(_get(facts, "id"), "id") or row.place.stem
        trace = traces.setdefault(name, _Trace())
        trace.body.update({key: value for key, value in facts.items() if key not in ("observations", "scores")})
        for part in (*_list(body, "observations"), *_list(body, "scores")):
            _sort_in(Row({"trace_id": name, **part}, row.place), traces)
    elif kind == "observation":
        name = text(_get(body, "trace_id"), "trace_id")
        if body["type"] == "GENERATION":
            traces.setdefault(name, _Trace()).generations.append(row)
    elif kind == "score":
        name = _get(body, "trace_id")
        if isinstance(name, str) and _get(body, "observation_id") in (None, ""):
            traces.setdefault(name, _Trace()).scores[str(body["name"])] = _value(body)
    elif kind == "trace row":
        traces.setdefault(text(body["id"], "id"), _Trace()).body.update(body)
    else:
        raise BadField("", "is no observation, score or trace of Langfuse")


def _list(body: Body, name: str) -> list[Body]:
    found = body.get(name)
    return chat.objects(found, name) if found else []


def _value(score: Body) -> Any:
    kind = _get(score, "data_type")
    if kind in ("CATEGORICAL", "TEXT"):
        return _get(score, "string_value") or score.get("value")
    return bool(score.get("value")) if kind == "BOOLEAN" else score.get("value")


def _episodes(name: str, trace: _Trace) -> Iterator[Record | Bad]:
    """The ends of a trace's calls. Where there are several (sub-agents, retries), none of them has the trace's outcome."""
    calls: list[Record] = []
    for row in sorted(trace.generations, key=lambda row: str(_get(row.body, "start_time") or "")):
        try:
            calls.append(_call(row, name))
        except BadField as error:
            yield Bad(row.place, error.field, error.why)
    ends, _ = fold(calls)
    context = {**trace.body, "trace_id": name, "scores": trace.scores}
    several = len(ends) > 1
    for end in ends:
        facts = (
            {**end.body, **context} if not several else {**end.body, "trace_id": name, "metadata": trace.body.get("metadata")}
        )
        yield replace(end, body=facts, single=False, branched=end.branched or several)


def _call(row: Row, name: str) -> Record:
    body = row.body
    asked, offered = _input(chat.decoded(body.get("input")))
    reply = _output(chat.decoded(body.get("output")), body)
    model = _get(body, "provided_model_name") or body.get("model")
    tools = offered or _definitions(_get(body, "tool_definitions"))
    return Record((*asked, reply), row.place, body, tools, model=text(model, "model"), single=True, group=name)


def _input(value: Any) -> tuple[tuple[Message, ...], Any]:
    """Messages, or an object that holds them beside the tools, or one text."""
    if value in (None, "", [], {}):
        raise BadField("input", "is empty: what the model was asked was not exported")
    if isinstance(value, Mapping):
        if "messages" in value:
            return chat.messages(value["messages"], "input.messages"), chat.tools(value.get("tools"), "input.tools")
        if "role" not in value:
            raise BadField("input", "holds no messages")
        value = [value]
    return chat.messages(value, "input"), ()


def _output(value: Any, body: Body) -> Message:
    if isinstance(value, Mapping) and isinstance(value.get("choices"), list) and value["choices"]:
        value = value["choices"][0]
    if isinstance(value, Mapping) and isinstance(value.get("message"), Mapping):
        value = value["message"]
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str):
        value = {"content": value}
    calls = _get(body, "tool_calls")
    if value in (None, "", {}, []):
        value = {"content": ""}
    if not isinstance(value, Mapping):
        raise BadField("output", f"is {type(value).__name__}, not one reply")
    if "content" not in value and "completion" in value:
        value = {**value, "content": value["completion"]}
    message = {"content": None, **value, "role": "assistant"}
    if not message.get("tool_calls") and isinstance(calls, list) and calls:
        message["tool_calls"] = calls
    if not message.get("content") and not message.get("tool_calls") and not message.get("function_call"):
        level, why = body.get("level"), _get(body, "status_message")
        raise BadField("output", "is empty" + (f": {level} {why or ''}".rstrip() if level == "ERROR" else ""))
    return chat.messages([message], "output")[0]


def _definitions(value: Any) -> Any:
    """A table of names with their definitions (JSON texts), or a list of them."""
    value = chat.decoded(value)
    if isinstance(value, Mapping):
        found = [chat.decoded(each) for each in value.values()]
        named = [{"name": name, **each} for name, each in zip(value, found, strict=True) if isinstance(each, Mapping)]
        return chat.tools(named, "tool_definitions")
    return chat.tools(value, "tool_definitions")
