"""P30: seconds a task of a student as it is served, against the pocket teacher on the same games.

In: nothing, or a bundle or run folder of the household twin (`--student`); games, one after the other, the arms in turns. Out:
one JSON line: `ratio` = student seconds / teacher seconds a task, both in llama.cpp, with games won, turns and tokens. With
`--shapes FILE` (lines of `bench/shapes.py --json`) also what these tokens would take at real shapes: the student as Qwen3-0.6B,
the teacher as 1.7B, random weights. A teacher that loses plays every game to its last turn: read `won` beside the ratio.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from _common import arguments, report
from duomem import parts
from duomem.agent import Player
from duomem.envs import household
from duomem.prompts import load_layout
from duomem.serve.student import Choice, Student, open_student
from duomem.types import Sampling, Task, Trajectory
from engines import make_run

TEACHER, STEPS = "pocket/teacher", 20
SHAPES = {"student": "qwen3-0.6b", "teacher": "qwen3-1.7b"}


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--student", type=Path, help="a bundle or run folder; none: a small run with memories is made")
    parser.add_argument("--teacher", default=TEACHER, help="the teacher's model")
    parser.add_argument("--games", type=int, default=24)
    parser.add_argument("--shapes", type=Path, help="what `bench/shapes.py --json` printed on this machine")


@dataclass
class Arm:
    """A player and what its games took."""

    player: Player
    seconds: float = 0.0
    played: list[Trajectory] = field(default_factory=list)

    def play(self, task: Task) -> None:
        begun = time.perf_counter()
        self.played.append(self.player.play(task))
        self.seconds += time.perf_counter() - begun

    @property
    def facts(self) -> dict[str, float]:
        """A task: seconds, turns, tokens that were read and said."""
        games = len(self.played)
        uses = [turn.reply.usage for each in self.played for turn in each.turns]
        return {
            "seconds": round(self.seconds / games, 4),
            "won": round(sum(each.won for each in self.played) / games, 3),
            "turns": round(len(uses) / games, 2),
            "read": round(sum(use.prompt - use.cached for use in uses) / games, 1),
            "said": round(sum(use.completion for use in uses) / games, 1),
        }


def arms(student: Student, teacher: str, folder: Path) -> dict[str, Arm]:
    """Both in llama.cpp, f32 and one thread: the same engine, so what differs is the model and what it reads."""
    engine = {"folder": str(folder), "threads": 1, "max_batch": 1}
    ours = parts.build("models", student.model.name, student.model.options | engine)
    theirs = parts.build("models", "llamacpp", {"path": teacher, **engine})
    found, world = student.injector, household.build(household.Config(games=600))
    shown: dict[str, Any] = {"strategy": found.strategy, "bank": found.bank, "budget": found.budget}
    return {
        "student": Arm(Player(world, ours, found.layout, **shown, sampling=student.sampling, max_steps=STEPS)),
        "teacher": Arm(Player(world, theirs, load_layout("pocket"), sampling=Sampling(max_tokens=48), max_steps=STEPS)),
    }


def at_shapes(lines: Sequence[str], facts: dict[str, dict[str, float]]) -> dict[str, float]:
    """Student seconds / teacher seconds a task at the speeds that were measured, by precision."""
    speeds = {row["id"]: row for row in map(json.loads, lines) if str(row.get("id", "")).startswith("shape-")}

    def seconds(arm: str, kind: str) -> float:
        row = speeds[f"shape-{SHAPES[arm]}-{kind}"]
        return float(facts[arm]["read"] / row["prefill_tokens_s"] + facts[arm]["said"] / row["decode_tokens_s"])

    kinds = [kind for kind in ("q8_0", "q4_0") if all(f"shape-{shape}-{kind}" in speeds for shape in SHAPES.values())]
    return {kind: round(seconds("student", kind) / seconds("teacher", kind), 3) for kind in kinds}


def main() -> None:
    given = arguments(__doc__ or "", _options)
    with TemporaryDirectory(prefix="duomem-bench-") as name:
        path = given.student or make_run(Path(name) / "run").root
        student = open_student(path, Choice(arm="" if given.student else "memory", engine="llamacpp", allow_unsigned=True))
        both = arms(student, given.teacher, Path(name))
        tasks = list(both["student"].player.env.tasks("dev"))[: given.games + 1]
        for number, task in enumerate(tasks):
            for arm in both.values():
                arm.play(task)
                if number == 0:  # pages of the files are read
                    arm.seconds, arm.played = 0.0, []
        facts = {which: arm.facts for which, arm in both.items()}
        for arm in both.values():
            arm.player.model.close()
        student.close()
    real = at_shapes(given.shapes.read_text(encoding="utf-8").splitlines(), facts) if given.shapes else {}
    more = {"teacher_model": given.teacher, "games": len(tasks) - 1, "real_shapes_ratio": real}
    report("P30", ratio=facts["student"]["seconds"] / facts["teacher"]["seconds"], **facts, **more)


if __name__ == "__main__":
    main()
