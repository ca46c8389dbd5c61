"""A run in which everything that a model or an environment may write is hostile: escapes, bidi controls, markup, a flood."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import made_runs
from duomem.rundir import RunFolder
from duomem.types import Memory, Message, Origin, Provenance, Reply, StopReason, Task, ToolCall, Trajectory, Turn, Usage

ATTACK = (
    "\x1b[2J\x1b[31mred\x1b]0;title\x07\x1b]52;c;aGk=\x07 \x9b31m\x9d0;t\x9c back\x08\x7f\x00 over\rwritten "
    "[bold red]markup[/bold red] [/] [link=http://e.vil]link[/link] :bomb: {0} %s $x^{y$ "
    "open \u202edrawer\u2069 \u2066x\u200e zero\u200bwidth\ufeff \U000e0068 <script>alert(1)</script> 'quote\" end"
)
"""In it: terminal escapes (CSI, OSC: title, clipboard), their C1 forms, rich's markup, bidi controls, tags, HTML."""
FLOOD = "ab" * 2_500_000
"""An observation of 5 MB."""


def harmful(text: str) -> list[str]:
    """Characters that may steer a terminal or mislead a reader, by Unicode's own categories."""
    kinds = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    return [char for char in text if unicodedata.category(char) in kinds and char not in "\n\u200c\u200d"]


def run(root: Path) -> RunFolder:
    """Two games in two arms: one is flooded, the other ends in an error's words; memories say hostile things too."""
    source = Provenance(f"train/{ATTACK}", 0, "0" * 64, ATTACK, ATTACK, licence=ATTACK)
    memory = Memory(f"key {ATTACK}", f"text {ATTACK}\nline", "script", source)
    played = {
        ("none", 0): [_played(0, ATTACK, won=False), _played(1, FLOOD, won=False)],
        ("memory", 0): [_played(0, ATTACK, won=True, shown=(memory.id,)), _played(1, FLOOD, won=False, shown=(memory.id,))],
    }
    labels = {each.task.id: (f"kind {ATTACK}", f"room {ATTACK}") for each in played["none", 0]}
    return made_runs.write(root, made_runs.Made(played, labels, [memory]))


def _played(number: int, said: str, *, won: bool, shown: tuple[str, ...] = ()) -> Trajectory:
    turns = (
        _turn(f"thought {ATTACK} > go {ATTACK}", f"go {ATTACK}", "You go."),
        _turn(f"{number} {won} thought > take", f"take {won}", f"seen {said}"),
        Turn(Reply(Message.of("assistant", f"no action {ATTACK}"), usage=Usage(1, 0, 1)), None, f"what? {ATTACK}", valid=False),
    )
    return Trajectory(
        task=Task(f"{made_runs.SPLIT}/game {number} {ATTACK}", made_runs.SPLIT, "household"),
        attempt=0,
        goal=f"goal {ATTACK}",
        scene=f"scene {ATTACK}",
        prompt=(Message.of("system", f"system {ATTACK}"), Message.of("user", f"user {said}")),
        turns=turns,
        stop=StopReason.WON if won else StopReason.LOST,
        shown=shown,
        origin=Origin(model=f"model {ATTACK}", layout=ATTACK),
        error=f"error {ATTACK}",
        seconds=1.0,
    )


def _turn(said: str, command: str, seen: str) -> Turn:
    message = Message("assistant", Message.of("assistant", said).parts, reasoning=f"reasoning {ATTACK}")
    return Turn(Reply(message, usage=Usage(10, 5, 2)), ToolCall.act(command), seen, recalled=f"recalled {ATTACK}")
