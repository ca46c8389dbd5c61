"""Success against the share of calls that stay with the student: the curve that a threshold is chosen on.

In: a run, validation games, the largest share that the teacher may get. Out: RUN/cascade.json, the curve of one arm's student
with the run's teacher behind it, and the threshold that wins most games within that share. Validation games are of no split
that a report is about. Not here: the rule (`duomem.cascade`), the server.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from duomem import parts, stats
from duomem.agent import Player
from duomem.cascade import CascadeModel, Rule, Share
from duomem.envs import Env
from duomem.errors import DataError, UsageError
from duomem.evaluate import Parts, sample, seat
from duomem.journal import Journal
from duomem.rollout import Job
from duomem.rundir import RunFolder, key
from duomem.rundir import replace as write
from duomem.scores import ARMS
from duomem.serve.student import SERVED, decided_arm
from duomem.talk import Done, Talk
from duomem.types import Reply, Task

SHARES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)
"""Of the student's replies alone, those that would have been escalated as unsure: where the thresholds of the curve lie."""
FILE = "cascade.json"


@dataclass(frozen=True, slots=True)
class Point:
    """One threshold on the same games. `low` and `high` bound the success, `behind` is the teacher's success less this one."""

    threshold: float | None
    """Log-probability below which the teacher is asked; None: never for that."""
    local: float
    """Share of calls that the student answered."""
    success: float
    low: float
    high: float
    behind: stats.Interval
    local_tokens: int
    remote_tokens: int
    """Prompt and completion tokens a game, rounded."""

    @property
    def words(self) -> str:
        unsure = "never" if self.threshold is None else f"below {self.threshold:.3g}"
        return (
            f"{self.local:6.1%} local  {self.success:6.1%} won [{self.low:.1%}, {self.high:.1%}]  "
            f"{-100 * self.behind.estimate:+5.1f} points to the teacher  unsure {unsure}"
        )


def measure(
    run: RunFolder,
    talk: Talk,
    *,
    split: str = "dev",
    games: int = 60,
    most: float = 0.2,
    arm: str = "",
    data: Path | None = None,
) -> Done:
    """Play the curve and write it. `most`: the largest share of calls that the teacher may get where the threshold is chosen.

    Raises `UsageError` for an arm that cannot be served or a split that the report is about, `DataError` without games.
    """
    seed = run.seeds()[0]
    chosen = arm or decided_arm(run)
    if chosen not in SERVED:
        raise UsageError(f"Arm {chosen!r} cannot be served. There are: {', '.join(SERVED)}.")
    if split in (run.settings.evaluate.split, *(run.settings.evaluate.also or ())):
        raise UsageError(f"--split {split}: the report is about those games; a threshold chosen on them would know them.")
    env, tasks = _games(run, split, games, data)
    with parts.Parts(seed, "cascade") as loaded, Journal.open(run.root / "cascade.sqlite") as journal:
        played = _Curve(seed, env, tasks, loaded, journal, talk, chosen)
        teacher, _ = played.play("teacher", played.teacher)
        alone = played.point(Rule(repeats=False, invalid=False), teacher, 0.0)
        logprobs = np.sort(np.array(alone[1]))
        if not len(logprobs):
            raise UsageError(f"Model {seed.settings.student.model!r} does not tell how sure it is: hf and llamacpp do.")
        points = [alone[0]]
        for share in SHARES:
            threshold = float(np.quantile(logprobs, share)) if share else float("-inf")
            points.append(played.point(Rule(threshold), teacher, 1.0)[0])
    best = max(
        (each for each in points if 1 - each.local <= most), key=lambda each: (each.success, each.local), default=alone[0]
    )
    found = {
        "arm": chosen,
        "split": split,
        "games": len(tasks),
        "teacher": {"model": seed.settings.teacher.model, "success": float(np.mean(teacher))},
        "max_fallback": most,
        "points": [asdict(each) for each in points],
        "chosen": {"threshold": best.threshold, "local": best.local, "success": best.success, "asks": best is not alone[0]},
    }
    write(run.root / FILE, json.dumps(found, indent=1) + "\n")
    return Done(found, _words(found, points, best, alone[0]))


def _words(found: dict[str, Any], points: Sequence[Point], best: Point, alone: Point) -> str:
    teacher = found["teacher"]
    lines = [f"{found['arm']} with {teacher['model']} behind it, {found['games']} games of {found['split']}:"]
    lines += [("> " if each is best else "  ") + each.words for each in points]
    lines.append(f"  teacher alone: {teacher['success']:.1%} won")
    if best is alone:
        lines.append(f"No threshold within {found['max_fallback']:.0%} of the calls won more games than the student alone.")
    return "\n".join(lines)


class _Curve:
    """The games, the players, and what was played."""

    def __init__(
        self, run: RunFolder, env: Env, tasks: Sequence[Task], loaded: parts.Parts, journal: Journal, talk: Talk, arm: str
    ) -> None:
        adapter = run.adapter if ARMS[arm].adapter else None
        if adapter and not adapter.is_dir():
            raise UsageError(f"{run.adapter} is not there. Run first: duomem tune {run.home or run.root}")
        student = loaded.student(run, env, adapter)
        self.teacher = loaded.teacher(run, env)
        self.student = seat(ARMS[arm], Parts(student, student if adapter else None), {})
        self.run, self.tasks, self.journal, self.talk = run, tasks, journal, talk
        self._made = key(arm, self.student.origin.model, self.student.model.provenance(), self.teacher.model.provenance())

    def play(self, name: str, player: Player) -> tuple[list[bool], list[Reply]]:
        """Won or not by game, and all replies. A game whose outcome is there already is not played again."""
        from duomem.pipeline import ended, play

        jobs = [Job(task) for task in self.tasks]
        phase = f"cascade/{name}/{self._made}"
        played = play(self.run, jobs, player, self.journal, phase, self.talk.under(name))
        ended(played, f"duomem cascade {self.run.home or self.run.root}")
        by_task = {each.task.id: each for each in played.trajectories}
        found = [by_task[task.id] for task in self.tasks]
        return [each.won for each in found], [turn.reply for each in found for turn in each.turns]

    def point(self, rule: Rule, teacher: Sequence[bool], share: float) -> tuple[Point, list[float]]:
        """One point, and how sure the student was of its own replies."""
        model = CascadeModel(self.student.model, self.teacher.model, rule, self.student.layout, Share(share))
        name = f"share{share:g}-{rule.threshold:.6g}"
        won, replies = self.play(name, replace(self.student, model=model))
        asked = [reply for reply in replies if reply.logprob is None]
        own = [reply for reply in replies if reply.logprob is not None]
        wins = sum(mine and not theirs for mine, theirs in zip(teacher, won, strict=True))
        losses = sum(theirs and not mine for mine, theirs in zip(teacher, won, strict=True))
        low, high = stats.wilson(sum(won), len(won))
        made = Point(
            threshold=rule.threshold if rule.threshold > float("-inf") else None,
            local=len(own) / len(replies),
            success=sum(won) / len(won),
            low=low,
            high=high,
            behind=stats.paired_interval(wins, losses, len(won)),
            local_tokens=_tokens(own, len(won)),
            remote_tokens=_tokens(asked, len(won)),
        )
        return made, [reply.logprob for reply in own if reply.logprob is not None]


def _tokens(replies: Sequence[Reply], games: int) -> int:
    return round(sum(reply.usage.prompt + reply.usage.completion for reply in replies) / games)


def _games(run: RunFolder, split: str, games: int, data: Path | None) -> tuple[Env, list[Task]]:
    """Validation games: of the data root, or written into the run where the run writes its own."""
    specs = run.settings.games
    if specs and data is None and split not in specs and not (run.games / "json_2.1.1" / split).is_dir():
        write_games, _ = parts.games_writer(run.settings)
        write_games(run.games, split, games, run.settings.run.seed)
    env = parts.environment(run, data)
    tasks, _ = sample(env.tasks(split), games, run.settings.run.seed)
    if not tasks:
        raise DataError(
            f"There are no games of the split {split!r}. Name another one with --split, or a data root with --data."
        )
    return env, tasks


def threshold_of(run: Path) -> float | None:
    """The threshold that was chosen for a run folder; None where the teacher is never asked because a reply is unlikely.

    Raises `UsageError` where no curve was measured.
    """
    path = run / FILE
    if not path.is_file():
        raise UsageError(f"{path} is not there. Measure the curve first: duomem cascade {run}. Or say it: --threshold -1.5")
    found = json.loads(path.read_text(encoding="utf-8"))["chosen"]["threshold"]
    return None if found is None else float(found)
