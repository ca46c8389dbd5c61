"""Logs into a run: every usable record becomes an episode in its journal, and `remember` and `tune` go on from there.

In: a run folder, files, options. Out: episodes in the phase "import", the run's `collect` step, what was refused in
RUN/import/refused.jsonl, and a `Done` with the counts. The same record imported twice is kept once. Not here: any format.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from duomem import parts
from duomem.errors import DataError, LeakError, UsageError
from duomem.intake import Limits, Submission, vet
from duomem.journal import Journal
from duomem.logs import Bad, BadField, Record, Row, guess, names, reader
from duomem.logs._episode import Options, trajectory
from duomem.logs._fold import fold
from duomem.logs._rows import files, rows
from duomem.pipeline import EVALUATION_SPLITS
from duomem.record.redact import Redactor
from duomem.rundir import RunFolder, key
from duomem.talk import SILENT, Done, Talk
from duomem.types import StopReason, Trajectory, digest

PHASE = "import"
"""Not `pipeline.PLAYED`: no teacher plays over it."""
SHOWN = 20
"""Refused records that are told one by one; all are in the file."""


@dataclass
class _Read:
    """What the files hold."""

    episodes: list[Trajectory] = field(default_factory=list)
    bad: list[Bad] = field(default_factory=list)
    forms: Counter[str] = field(default_factory=Counter)
    records: int = 0
    folded: int = 0
    branched: list[str] = field(default_factory=list)
    """Where the ends are that no outcome can be told of."""


def import_logs(
    run: RunFolder,
    paths: Sequence[Path],
    options: Options,
    form: str = "",
    talk: Talk = SILENT,
    *,
    redactor: Redactor | None = None,
    prove: bool = False,
) -> Done:
    """`form` names the format; empty: the first record's keys tell it. `redactor` takes secrets out of every record. `prove`
    keeps what the run's environment confirms (see `duomem.intake`). Raises `UsageError` for a run that has episodes of its own,
    a path or format that is not there, `LeakError` for an evaluation split, `DataError` where no record could be used."""
    if form and form not in names():
        reader(form)
    seeds = run.seeds()
    for seed in seeds:
        _free(seed)
    options = replace(options, forbidden=_forbidden(run))
    found = _read(run, files(paths), options, form, redactor, talk)
    _refused(run, found.bad, talk)
    if found.branched:
        more = f" and {len(found.branched) - SHOWN} more" if len(found.branched) > SHOWN else ""
        talk.note(f"One of several ends, kept without an outcome: {', '.join(found.branched[:SHOWN])}{more}")
    if not found.episodes:
        first = f" The first: {found.bad[0]}." if found.bad else ""
        raise DataError(f"Nothing could be imported: {len(found.bad)} of {found.records} records are refused.{first}")
    if prove:
        _prove(run, found, talk)
    results = [_keep(seed, found, talk) for seed in seeds]
    return Done(results[0], _words(results[0], run))


def _prove(run: RunFolder, found: _Read, talk: Talk) -> None:
    """Keep the episodes that are won when they are replayed, as the environment tells them. Raises `DataError` for none."""
    env = parts.environment(run)
    handed = [Submission("a log", each) for each in found.episodes]
    anybody = Limits(per_source=len(handed), per_goal=len(handed))  # one log has one sender
    taken = vet(handed, env, env.tasks(run.settings.teacher.split), parts.layout(run.settings), anybody)
    reasons = Counter(each.reason for each in taken.refused)
    for reason, count in sorted(reasons.items()):
        talk.note(f"Not proved, {count} episodes: {reason}")
    if not taken.proved:
        raise DataError(f"None of the {len(handed)} episodes could be proved by replay. The first: {taken.refused[0].reason}.")
    found.episodes[:] = taken.proved


def _forbidden(run: RunFolder) -> tuple[str, ...]:
    settings = run.settings
    forbidden = tuple(dict.fromkeys((*EVALUATION_SPLITS, settings.evaluate.split)))
    if settings.teacher.split in forbidden:
        raise LeakError(
            f"teacher.split = {settings.teacher.split!r} is for evaluation: nothing may be learned from it. Imported episodes "
            "get the teacher's split; set teacher.split to training tasks."
        )
    return forbidden


def _free(run: RunFolder) -> None:
    """An imported log is the run's collection: it has to be the only one."""
    present = run.left("collect")
    if present and present.get("phase") != PHASE:
        raise UsageError(f"{run.root} has episodes of its own ({present.get('phase')}). Import into another run folder.")


def _read(run: RunFolder, sources: Sequence[Path], options: Options, form: str, redactor: Redactor | None, talk: Talk) -> _Read:
    found, layout, split = _Read(), parts.layout(run.settings), run.settings.teacher.split
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sources}
    for name, streams in _by_form(sources, form, redactor).items():
        for record in _records(name, chain.from_iterable(streams), found, talk):
            try:
                made = trajectory(record, options, layout, name, split, hashes.get(record.place.file, ""))
            except BadField as error:
                found.bad.append(Bad(record.place, error.field, error.why))
                continue
            found.episodes.append(made)
            found.forms[name] += 1
            if record.branched:
                found.branched.append(str(record.place))
    return found


def _by_form(sources: Sequence[Path], form: str, redactor: Redactor | None) -> dict[str, list[Iterator[Row | Bad]]]:
    """The rows of the files by their format: the one that was asked for, or what the first record of a file looks like. A file
    whose first record tells nothing is read as the file before it, or as OpenAI's form, which then says what is wrong."""
    found: dict[str, list[Iterator[Row | Bad]]] = {}
    for path in sources:
        stream = rows(path)
        head = list(islice(stream, 1))
        known = "trl" if path.suffix == ".parquet" else "".join(guess(row.body) for row in head if isinstance(row, Row))
        name = form or known or next(reversed(found), "openai")
        found.setdefault(name, []).append(_clean(chain(head, stream), redactor))
    return found


def _clean(stream: Iterator[Row | Bad], redactor: Redactor | None) -> Iterator[Row | Bad]:
    for row in stream:
        yield Row(redactor.value(row.body), row.place) if redactor and isinstance(row, Row) else row


def _records(name: str, stream: Iterator[Row | Bad], found: _Read, talk: Talk) -> list[Record]:
    """The episodes of one format; what is wrong goes to `found`."""
    records: list[Record] = []
    for each in reader(name).read(stream):
        found.records += 1
        talk.progress("read", found.records, found.records, name)
        if isinstance(each, Bad):
            found.bad.append(each)
        else:
            records.append(each)
    kept, folded = fold(records)
    found.folded += folded
    return kept


def _refused(run: RunFolder, bad: Sequence[Bad], talk: Talk) -> None:
    path = run.root / "import" / "refused.jsonl"
    path.unlink(missing_ok=True)
    if not bad:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [{"file": each.place.file, "line": each.place.line, "field": each.field, "why": each.why} for each in bad]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    for each in bad[:SHOWN]:
        talk.note(f"Refused {each}")
    if len(bad) > SHOWN:
        talk.note(f"... and {len(bad) - SHOWN} more: {path}")


def _keep(run: RunFolder, found: _Read, talk: Talk) -> dict[str, Any]:
    with Journal.open(run.journal) as journal:
        present = _Present(journal)
        new = twice = 0
        for number, episode in enumerate(found.episodes):
            kept = present.keep(episode)
            new, twice = new + kept, twice + (not kept)
            talk.progress("import", number + 1, len(found.episodes), "")
        everything = list(journal.trajectories(PHASE, errors=True))
        content = journal.content_hash(PHASE)
    stops = Counter(_name(each.stop) for each in everything)
    result = {
        "episodes": len(everything),
        **{name: stops[name] for name in ("won", "failed", "unknown", "errors")},
        "new": new,
        "twice": twice,
        "records": found.records,
        "refused": len(found.bad),
        "folded": found.folded,
        "branched": len(found.branched),
        "formats": dict(found.forms),
        "licences": sorted({each.origin.licence for each in everything}),
        "phase": PHASE,
        "content_hash": content,
        "seconds": 0.0,
        "tasks": sorted({each.task.id for each in everything}),
    }
    return run.record("collect", key(PHASE, content), result)


def _name(stop: StopReason) -> str:
    return {StopReason.WON: "won", StopReason.UNKNOWN: "unknown"}.get(stop, "failed" if stop.is_outcome else "errors")


class _Present:
    """The episodes that the journal has, by what they hold; numbers the attempts at a task in the order of their coming."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._known: dict[str, Trajectory] = {}
        self._attempts: dict[str, set[int]] = {}
        for episode in journal.trajectories(PHASE, errors=True):
            self._note(episode)

    def keep(self, episode: Trajectory) -> bool:
        """Whether it is a new one. One that is there without an outcome gets the outcome that it has now."""
        before = self._known.get(_content(episode))
        if before is not None:
            if before.stop.is_outcome or before.stop == episode.stop:
                return False
            episode = replace(episode, attempt=before.attempt)
        elif episode.attempt in self._attempts.get(episode.task.id, ()):
            episode = replace(episode, attempt=max(self._attempts[episode.task.id]) + 1)
        self._journal.add(PHASE, episode)
        self._note(episode)
        return before is None

    def _note(self, episode: Trajectory) -> None:
        self._known[_content(episode)] = episode
        self._attempts.setdefault(episode.task.id, set()).add(episode.attempt)


def _content(episode: Trajectory) -> str:
    """A recording's identity: its task and all that was said, without the attempt's number and the outcome."""
    return digest([replace(episode, attempt=0, stop=StopReason.UNKNOWN).content_hash])


def _words(result: dict[str, Any], run: RunFolder) -> str:
    more = {
        "refused": "refused",
        "folded": "were parts of longer ones",
        "twice": "were there already",
        "branched": "branch and tell no outcome",
    }
    notes = "; ".join(f"{result[name]} {words}" for name, words in more.items() if result[name])
    lines = [
        f"{result['records']} records read, {result['new']} episodes added" + (f" ({notes})." if notes else "."),
        f"{run.root} has {result['episodes']} episodes: {result['won']} won, {result['failed']} failed, {result['unknown']} "
        f"without an outcome, {result['errors']} ended by errors. Only those that were won are learned from.",
    ]
    if not result["won"]:
        lines.append("None is a success yet: name the field that says it with --outcome, or say --won if all are.")
    return "\n".join(lines)
