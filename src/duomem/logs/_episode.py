"""A recorded conversation to a trajectory of a run: task, opening, turns, and how it ended.

In: a `Record`, the user's options, the run's layout. Out: a `Trajectory` of attempt 0 whose origin says file, line, format and
licence; or a `BadField`. Not here: files, the journal, numbering of attempts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from duomem._episode import NOTHING
from duomem.logs import BadField, Record
from duomem.logs._fields import at, success, text
from duomem.logs._meta import Meta, found
from duomem.prompts import AS_RECORDED, Layout, fill, parse, template_pattern
from duomem.record.functions import locator
from duomem.types import Message, Origin, Reply, StopReason, Task, ToolCall, Trajectory, Turn, digest

SAY = "say"
"""The call of a reply that only speaks, in a conversation of an agent's own form: an answer is an act there."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the user says of a log that the log itself does not."""

    licence: str
    """Terms of what was said in it; kept with every episode and memory."""
    outcome: str = ""
    """Path of the field that says success; empty: the format's own."""
    threshold: float = 1.0
    """The least number that is a success."""
    won: bool = False
    """Every record is a success."""
    task: str = ""
    """Where the task's words are, as `duomem record` has it (path:, regex: or python:); empty: as the run's layout writes them,
    else the last user message before the first reply. An expression may also have a group `scene`."""
    task_id: str = ""
    """Path of the field that names the task; empty: the format's own, else a hash of the task's words."""
    opening: int | None = None
    """Messages before the first reply, where some assistant messages are part of the prompt."""
    model: str = ""
    """Who spoke, where the log does not say."""
    forbidden: tuple[str, ...] = ()
    """Splits whose tasks are refused."""


def trajectory(record: Record, options: Options, layout: Layout, form: str, split: str, sha256: str = "") -> Trajectory:
    """Raises `BadField`. `form` is the format's name, `sha256` the file's hash: both go into the origin.

    A conversation that the run's layout wrote is one of that layout; any other keeps its own prompt (`AS_RECORDED`).
    """
    meta = found(record.body)
    prompt, rest = _opening(record, options, meta)
    spoken = meta.layout if meta else _layout(layout, prompt, rest)
    goal, scene = _task(record, options, layout, prompt, meta, spoken)
    turns = _turns(rest, layout, meta, spoken)
    known = meta or Meta(task="", attempt=0, goal="", scene="", stop=StopReason.UNKNOWN)
    source = {"import": form, "file": record.place.file, "line": record.place.line, "sha256": sha256}
    origin = Origin(
        model=known.model or record.model or options.model,
        revision=known.revision,
        layout=spoken,
        env=json.dumps({key: value for key, value in source.items() if value}, sort_keys=True),
        seed=known.seed,
        licence=options.licence,
    )
    stop, error = _stop(record, options, meta), known.error or record.error
    task = Task(_task_id(record, options, meta, split, goal, scene), split, known.env or "log", known.data_hash)
    return Trajectory(
        task, known.attempt, goal, scene, prompt, turns, stop, (), origin, error, known.seconds, tools=record.tools
    )


def _opening(record: Record, options: Options, meta: Meta | None) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    messages = record.messages
    replies = [index for index, message in enumerate(messages) if message.role == "assistant"]
    wanted = next((each for each in (options.opening, meta and meta.opening, record.opening) if each is not None), None)
    start = next((index for index in replies if index >= (wanted or 0)), None)
    if start is None:
        raise BadField("messages", "hold no reply of the assistant" + (f" after the first {wanted}" if wanted else ""))
    if start == 0:
        raise BadField("messages", "begin with a reply of the assistant: what it answers is missing")
    return messages[:start], messages[start:]


def _layout(layout: Layout, prompt: Sequence[Message], rest: Sequence[Message]) -> str:
    """The layout that a foreign conversation is in: the run's own where it is word for word in it, else its agent's own."""
    system = fill(layout.system, instructions=layout.instructions, memories="")
    head = [message for message in prompt if message.role == "system"]
    fits = [message.text for message in head] == ([system] if system else []) and len(prompt) == len(head) + 1
    if not fits or not _opened(layout, prompt[-1].text):
        return AS_RECORDED
    replies = [Reply(message) for message in rest if message.role == "assistant" and not message.tool_calls]
    answers = [message for message in rest if message.role != "assistant"]
    own = any(parse(layout, reply) for reply in replies) and all(message.role == "user" for message in answers)
    return layout.hash if own else AS_RECORDED


def _turns(rest: Sequence[Message], layout: Layout, meta: Meta | None, spoken: str) -> tuple[Turn, ...]:
    starts = [index for index, message in enumerate(rest) if message.role == "assistant"]
    turns = []
    for index, (start, end) in enumerate(zip(starts, [*starts[1:], len(rest)], strict=True)):
        reply, after = Reply(rest[start], "tool_calls" if rest[start].tool_calls else "stop"), rest[start + 1 : end]
        call = None if meta and index in meta.silent else _call(reply, layout, spoken)
        observation, results = _observation(reply.message, after, layout, spoken)
        if meta and end == len(rest) and not after:
            observation = meta.last
        valid = index not in meta.invalid if meta else call is not None and observation.strip() != NOTHING
        turns.append(Turn(reply, call, observation, valid, results=results))
    return tuple(turns)


def _call(reply: Reply, layout: Layout, spoken: str) -> ToolCall | None:
    """The call of a reply; None where there is none, or its arguments are no JSON object."""
    call = parse(layout, reply) if reply.message.tool_calls or spoken != AS_RECORDED else None
    if call is None and spoken == AS_RECORDED:
        return ToolCall(SAY, json.dumps({"text": reply.message.text}, ensure_ascii=False))
    try:
        return call if call and isinstance(json.loads(call.arguments), dict) else None
    except ValueError:
        return None


def _observation(
    reply: Message, after: Sequence[Message], layout: Layout, spoken: str
) -> tuple[str, tuple[Message, ...] | None]:
    """The text of what came back, and the messages themselves where the text alone would not make them again."""
    if spoken == AS_RECORDED:
        return "\n".join(message.text for message in after), tuple(after)
    if not after:
        return "", None
    if len(after) == 1 and not after[0].tool_calls and len(after[0].parts) < 2:
        (only,) = after
        if reply.tool_calls:
            if only.role == "tool" and only.tool_call_id == reply.tool_calls[0].id and len(reply.tool_calls) == 1:
                return only.text, None
        elif only.role == "user" and (match := _turn_pattern(layout.turn).fullmatch(only.text)):
            return match["observation"], None
    return "\n".join(message.text for message in after), tuple(after)


@cache
def _turn_pattern(template: str) -> re.Pattern[str]:
    return template_pattern(template)


def _task(
    record: Record, options: Options, layout: Layout, prompt: Sequence[Message], meta: Meta | None, spoken: str
) -> tuple[str, str]:
    if options.task:
        return _located(record, options.task, prompt)
    if meta:
        return meta.goal, meta.scene
    asked = [message.text for message in prompt if message.role == "user"]
    if not asked:
        raise BadField("messages", "hold no user message before the first reply: say where the task is with --task")
    fields = _opened(layout, asked[-1]) if spoken != AS_RECORDED else {}
    goal, scene = fields.get("goal", asked[-1]).strip(), fields.get("scene", "")
    if not goal:
        raise BadField("messages", "hold no task before the first reply: say where it is with --task")
    return goal, scene


def _opened(layout: Layout, text: str) -> dict[str, str]:
    """Goal and scene of a first user message that the layout wrote without memories; nothing of any other."""
    match = template_pattern(layout.opening, instructions=layout.instructions, memories="").fullmatch(text)
    return match.groupdict() if match and match.groupdict().get("goal", "").strip() else {}


def _located(record: Record, spec: str, prompt: Sequence[Message]) -> tuple[str, str]:
    goal = locator(spec).task(tuple(prompt), record.body)
    if not goal:
        raise BadField("", f"--task {spec} finds no task")
    kind, _, pattern = spec.partition(":")
    asked = "\n".join(message.text for message in prompt if message.role in ("system", "user"))
    match = re.search(pattern, asked, re.MULTILINE) if kind == "regex" and "(?P<scene>" in pattern else None
    return goal, (match["scene"] or "").strip() if match else ""


def _task_id(record: Record, options: Options, meta: Meta | None, split: str, goal: str, scene: str) -> str:
    name = text(at(record.body, options.task_id), options.task_id) if options.task_id else (meta.task if meta else record.id)
    if options.task_id and not name:
        raise BadField(options.task_id, "holds no id. Name another field with --task-id")
    if (first := name.partition("/")[0]) in options.forbidden and "/" in name:
        raise BadField(
            "metadata.duomem.task" if meta else "id", f"is {name}, a task for evaluation ({first}): it may not be learned from"
        )
    name = name or digest([goal, scene])[:16]
    return name if name.startswith(f"{split}/") else f"{split}/{name}"


def _stop(record: Record, options: Options, meta: Meta | None) -> StopReason:
    if options.won:
        return StopReason.WON
    if options.outcome:
        word = success(at(record.body, options.outcome), options.outcome, options.threshold)
    elif meta:
        return meta.stop
    elif record.error:
        return StopReason.ERROR
    else:
        word = record.success
        if word is None and record.reward is not None:
            word = record.reward >= options.threshold
    if word is None or (record.branched and not options.outcome):
        return StopReason.UNKNOWN
    return StopReason.WON if word else record.stop or StopReason.LOST
