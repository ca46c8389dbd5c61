"""What `duomem memories` prints: memories as plain data, in a table, or one of them in full.

In: memories as `duomem.curate` has them, their counts, their neighbours. Out: data, lines, tables. Not here: any bank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from duomem import safetext
from duomem.cli import tables

if TYPE_CHECKING:
    from duomem.browse import Near
    from duomem.curate import Kept
    from duomem.types import Provenance
    from duomem.usefulness import Use, Uses

Order = Literal["hits", "won", "help", "harm", "copies"]


def data(memory: Any) -> dict[str, str]:
    return {"kind": memory.kind, "key": memory.key, "text": memory.text}


def told(each: Kept, uses: Uses) -> dict[str, Any]:
    """A memory as plain data, with its provenance, its edits and its counts by arm."""
    memory = each.memory
    return {
        "id": memory.id,
        "status": each.status,
        **data(memory),
        "sources": [asdict(source) for source in each.sources],
        "edits": [asdict(entry) for entry in each.edits],
        "uses": {arm: asdict(counts[memory.id]) for arm, counts in (uses.arms or {}).items() if memory.id in counts},
    }


def count(order: Order, use: Use, copies: int) -> int:
    return {"hits": use.hits, "won": use.won, "help": use.helped, "harm": use.harmed, "copies": copies}[order]


def listed(found: Sequence[Kept], uses: Uses, arm: str, copies: dict[str, int]) -> list[Any]:
    counted = bool(uses.arms and arm in uses.arms)
    rows = []
    for each in found:
        use = uses.of(each.memory.id, arm)
        counts = [use.hits, use.won, use.helped, use.harmed] if counted else []
        key = tables.cell(each.memory.key, 90)
        rows.append([each.memory.id, each.status, each.memory.kind, *counts, copies[each.memory.id], key])
    head = ("id", "status", "kind", *(("hits", "won", "help", "harm") if counted else ()), "copies", "key")
    live = sum(each.status == "live" for each in found)
    said = f"counts: arm {arm} on {uses.split}" if counted else "no counts: nothing with memories has been evaluated"
    return [tables.table(head, rows), tables.cell(f"{live} live, {len(found)} listed; {said}.", 1000)]


def near(found: Sequence[Near]) -> list[str]:
    """The live memories with the nearest keys, and those that say the same."""
    return [
        f"near: {each.score:.3f}  {each.id}  {safetext.line(each.key, 100)}" + ("  (the same key or text)" if each.copy else "")
        for each in found
    ]


def page(each: Kept, uses: Uses) -> str:
    memory = each.memory
    lines = [
        f"{memory.id}  {each.status}  {memory.kind}",
        f"key: {safetext.line(memory.key)}",
        "",
        safetext.plain(memory.text),
        "",
    ]
    lines += [line for source in each.sources for line in _source(source)]
    for entry in each.edits:
        when = datetime.fromtimestamp(entry.time, UTC).strftime("%Y-%m-%d %H:%M UTC")
        lines.append(f"edit: version {entry.version}, {when}: {entry.op}: {safetext.line(entry.reason, 400)}")
    for arm, counts in (uses.arms or {}).items():
        use = counts.get(memory.id)
        if use:
            lines.append(
                f"used: arm {arm} on {uses.split}: shown in {use.hits}, won {use.won}; of {use.compared} with a control, "
                f"helped {use.helped}, harmed {use.harmed}"
            )
    return "\n".join(lines)


def _source(source: Provenance) -> list[str]:
    parts = [f"teacher {source.teacher or 'unknown'}", f"written by {source.written_by}"]
    parts += [f"{name} {value}" for name, value in (("prompt", source.prompt), ("licence", source.licence)) if value]
    parts = [safetext.line(part) for part in parts]
    return [
        f"source: {safetext.line(source.task_id)}, attempt {source.attempt}: {', '.join(parts)}",
        f"  trajectory {source.trajectory}",
    ]
