"""What was measured about a run, as a bundle tells it: the decision, every arm's success, on what.

In: a run folder, evaluated or not. Out: a `Measured`. Nothing is played or decided here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from duomem.bundle.manifest import Data, Figure
from duomem.decision import Decision, undecided
from duomem.grid import commit
from duomem.rundir import RunFolder
from duomem.scores import Results
from duomem.summary import Summary, summarise
from duomem.types import load


@dataclass(frozen=True, slots=True)
class Measured:
    """`made` is when the evaluation ended; empty, as `figures` are, for a run that was not evaluated."""

    decision: Decision
    commit: str
    made: str = ""
    figures: dict[str, Figure] = field(default_factory=dict)
    split: str = ""
    games: int = 0
    facts: dict[str, str] = field(default_factory=dict)


def measured(run: RunFolder) -> Measured:
    """The report's figures; they are computed again where the report is older than the results."""
    if not run.results.is_file():
        return Measured(undecided("the run has not been evaluated in an environment."), commit())
    report = run.root / "report.json"
    if report.is_file() and report.stat().st_mtime >= run.results.stat().st_mtime:
        summary = load(Summary, report.read_text(encoding="utf-8"))
    else:
        summary = summarise(Results.read(run.results))
    figures = {
        name: Figure(success=arm.success, low=arm.interval[0], high=arm.interval[1], games=arm.n)
        for name, arm in summary.arms.items()
        if arm.success is not None
    }
    facts = {name: str(value) for name, value in sorted(summary.data.items())}
    return Measured(summary.decision, summary.commit, summary.made, figures, summary.split, summary.games, facts)


def data(seed: RunFolder, found: Measured) -> Data:
    """What the parts were made from and measured on."""
    collected = seed.result("collect")
    return Data(
        env=seed.settings.env.name,
        train_split=seed.settings.teacher.split,
        episodes=int(collected["episodes"]),
        episodes_sha256=str(collected["content_hash"]),
        eval_split=found.split,
        eval_games=found.games,
        facts=found.facts,
    )
