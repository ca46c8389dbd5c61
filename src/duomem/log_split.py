"""A log split by time: what memories and adapter may be made from, and what they are asked about.

In: a run with collected episodes. Out: a run folder RUN/log that has collected the earlier ones, and the later successes. A
task that was seen before the split is not asked again after it. Not here: making the parts, asking.
"""

from __future__ import annotations

from duomem.each import WRITING, copy_database
from duomem.errors import DataError, UsageError
from duomem.journal import Journal
from duomem.rundir import RunFolder, key
from duomem.types import Trajectory, run_hash


def split(run: RunFolder, share: float) -> tuple[RunFolder, list[Trajectory], int]:
    """The folder of the earlier episodes, the later successes, and how many earlier ones there are.

    Raises `UsageError` for a share that is none, `DataError` where one side holds no success.
    """
    if not 0 < share < 1:
        raise UsageError(f"--share {share:g}: give a part of the episodes between 0 and 1, for example 0.25.")
    collected = run.result("collect")
    phase = str(collected["phase"])
    with Journal.open(run.journal, readonly=True) as journal:
        episodes = {(each.task.id, each.attempt): each for each in journal.trajectories(phase)}
        ordered = [episodes[place] for place in journal.order(phase) if place in episodes]
    tasks = set(collected["tasks"])
    ordered = [each for each in ordered if each.task.id in tasks]
    cut = round(len(ordered) * (1 - share))
    earlier = ordered[:cut]
    known = {each.task.id for each in earlier}
    later = [each for each in ordered[cut:] if each.won and each.task.id not in known]
    for side, found in (("earlier", [each for each in earlier if each.won]), ("later", later)):
        if not found:
            part = 1 - share if side == "earlier" else share
            raise DataError(
                f"Of {len(ordered)} episodes the {side} part ({part:.0%}) holds no success on a task of its own. Record more "
                "episodes, give their outcomes (duomem outcome), or change --share."
            )
    return _folder(run, phase, earlier), later, len(earlier)


def _folder(run: RunFolder, phase: str, earlier: list[Trajectory]) -> RunFolder:
    settings = run.settings.model_copy(update={"each": {}})
    if settings.memory is not None:  # practice would need an environment
        settings = settings.model_copy(update={"memory": settings.memory.model_copy(update={"practice": 0})})
    log = RunFolder(run.root / "log", settings)
    content = run_hash(earlier)
    name, inputs = f"log/{content[:16]}", key("log", phase, content)
    log.write_config()
    if log.done("collect", inputs):
        return log
    copy_database(run.root / WRITING, log.root / WRITING)  # what a model wrote of these episodes is not paid for again
    with Journal.open(log.journal) as journal:
        present = journal.finished(name)
        for each in earlier:
            if (each.task.id, each.attempt) not in present:
                journal.add(name, each)
    result = {
        "episodes": len(earlier),
        "won": sum(each.won for each in earlier),
        "phase": name,
        "content_hash": content,
        "seconds": 0.0,
        "tasks": sorted({each.task.id for each in earlier}),
    }
    log.record("collect", inputs, result)
    return log
