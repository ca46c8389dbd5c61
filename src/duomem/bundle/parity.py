"""The replay-parity gate: recorded requests, put to the server as the bundle would run it, give the same prompts as then.

In: a run's journals, a bundle's folder. Out: what was compared, or a `DataError` with the first difference. Held-out episodes
of the evaluation must come back with the same task, memory ids and token ids; episodes that the adapter learned from, with the
token ids that tuning saw. The server's own code answers; the model alone is left out. Not here: whether answers are good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duomem import prompts, wire
from duomem._chat_options import ChatOptions, tokenizer_of
from duomem.bundle.manifest import Parity
from duomem.chat import encode
from duomem.errors import DataError
from duomem.journal import Journal
from duomem.prompts import AS_RECORDED
from duomem.rundir import RunFolder
from duomem.serve.service import Asked, Said, Service
from duomem.serve.student import Choice, Student, open_student
from duomem.types import MemoryId, Message, Trajectory, digest

TAUGHT = 8
"""Training episodes that are compared as well, where there is an adapter."""

Ids = tuple[int, ...]
Encoder = Callable[[Sequence[Message], Trajectory], Ids]


@dataclass(frozen=True, slots=True)
class Held:
    """One recorded episode: its prompt as a client sends it, and as the student read it."""

    trajectory: Trajectory
    what: str
    """Which recording it is from, in words."""
    asked: tuple[Message, ...]
    read: tuple[Message, ...]
    shown: tuple[MemoryId, ...]
    memories: bool
    counted: bool
    """Whether the recorded token counts are the student's."""


class _Silent:
    """Stands in for the model: keeps what it was asked, and says what was said then."""

    def __init__(self) -> None:
        self.asked: Asked | None = None
        self.said: Said | None = None

    def say(self, asked: Asked) -> Said:
        assert self.said is not None
        self.asked = asked
        return self.said

    def close(self) -> None:
        pass


def hold(run: RunFolder, seed: RunFolder, folder: Path, arm: str, episodes: int) -> tuple[Parity, dict[str, Any]]:
    """Hold the bundle in `folder`, which needs no signature yet, to that many recorded episodes of its arm and seed.

    Returns what stands in the manifest and the content of parity.json. Raises `DataError` for the first difference, and where
    nothing was recorded to compare with.
    """
    path = str(seed.settings.options("student").get("path") or "")
    student = open_student(folder, Choice(allow_unsigned=True, base=path))
    try:
        held = [*_evaluated(run, seed, student, arm, episodes)] or [*_recorded(run, seed, student, arm, episodes)]
        if not held:
            raise DataError(
                f"{run.root} holds no recorded episode of arm {arm!r}, seed {seed.settings.run.seed}, to hold the bundle to. "
                f"Play them: duomem evaluate {run.root}. Without the check: --parity 0"
            )
        held += _taught(seed, student) if arm != "memory" else []
        encoder = _encoder(seed, student) if path else None
        rows = [_replay(each, student, encoder) for each in held]
    finally:
        student.close()
    against = ", ".join(dict.fromkeys(each.what for each in held))
    requests = sum(int(row["requests"]) for row in rows)
    return Parity(requests=requests, episodes=len(held), against=against), {"against": against, "episodes": rows}


def _evaluated(run: RunFolder, seed: RunFolder, student: Student, arm: str, episodes: int) -> Iterator[Held]:
    """Episodes of the evaluation's arm, evenly spread over its games."""
    split = run.settings.evaluate.split
    for each in _spread(run.journal, f"evaluate/{split}/{arm}/seed{seed.settings.run.seed}", episodes):
        asked = prompts.opening(student.injector.layout, each.goal, each.scene, ())
        yield Held(each, f"evaluation on {split}", asked, each.prompt, each.shown, memories=True, counted=True)


def _taught(seed: RunFolder, student: Student) -> Iterator[Held]:
    """Episodes that the adapter learned from, as examples without memories hold them."""
    layout = student.injector.layout
    for each in _spread(seed.journal, str(seed.result("collect")["phase"]), TAUGHT, won=True):
        if each.origin.layout == layout.hash:
            asked = prompts.opening(layout, each.goal, each.scene, ())
            yield Held(each, "tuning", asked, each.prompt, (), memories=False, counted=False)


def _recorded(run: RunFolder, seed: RunFolder, student: Student, arm: str, episodes: int) -> Iterator[Held]:
    """Episodes of the user's own agent, whose prompts are its own: the run's parts say what should be shown."""
    found = [
        each
        for each in _spread(seed.journal, str(seed.result("collect")["phase"]), episodes)
        if each.origin.layout == AS_RECORDED
    ]
    if not found:
        return
    own = open_student(run.root, Choice(arm=arm))
    try:
        for each in found:
            request = wire.Request("chat", own.name, each.prompt, each.tools)
            injected = own.injector.inject(request, wire.write_request(request))
            yield Held(each, "the recording", each.prompt, injected.messages, injected.ids, memories=True, counted=False)
    finally:
        own.close()


def _spread(journal: Path, beginning: str, count: int, *, won: bool | None = None) -> list[Trajectory]:
    """Finished episodes of the phase that was begun last, evenly spread."""
    if not journal.is_file() or count == 0:
        return []
    with Journal.open(journal, readonly=True) as opened:
        phase = opened.latest(beginning)
        played = [each for each in opened.trajectories(phase, won=won) if each.turns]
    few = min(count, len(played))
    return [played[place * len(played) // few] for place in range(few)]


def _encoder(seed: RunFolder, student: Student) -> Encoder:
    """Token ids of a conversation by the tokenizer and style of the run's own student."""
    options = seed.settings.options("student")
    chat = ChatOptions(**{key: options[key] for key in ChatOptions.model_fields if key in options})
    tokenizer = tokenizer_of(str(options["path"]), chat, revision=options.get("revision"))
    return lambda messages, episode: encode(tokenizer, messages, generate=True, tools=episode.tools, style=chat.style).ids


def _replay(held: Held, student: Student, encoder: Encoder | None) -> dict[str, Any]:
    """Ask every request of an episode; the row of parity.json. Raises `DataError` for the first difference."""
    silent = _Silent()
    service = Service(student, silent)
    asked, read = list(held.asked), list(held.read)
    tokens: list[int] = []
    hashes = []
    task = ""
    for index, turn in enumerate(held.trajectory.turns):
        request = wire.Request("chat", student.name, tuple(asked), held.trajectory.tools)
        silent.said = Said(turn.reply)
        service.answer("chat", wire.write_request(request), "parity", {} if held.memories else {"x-duomem-memory": "off"})
        assert silent.asked is not None
        injected = silent.asked.injected
        where = f"{held.what}, episode {held.trajectory.task.id}, request {index + 1}"
        goal = injected.key.goal
        if goal.strip() != held.trajectory.goal.strip() or (injected.key.scene and injected.key.scene != held.trajectory.scene):
            raise _differs(where, "the task", repr(goal), repr(held.trajectory.goal))
        if injected.ids != held.shown:
            raise _differs(where, "memory ids", ", ".join(injected.ids) or "none", ", ".join(held.shown) or "none")
        if encoder:
            ids = encoder(injected.messages, held.trajectory)
            _same_ids(where, ids, encoder(read, held.trajectory))
            if held.counted and turn.reply.usage.prompt and turn.reply.usage.prompt != len(ids):
                raise _differs(where, "the number of prompt tokens", str(len(ids)), str(turn.reply.usage.prompt))
            tokens.append(len(ids))
            hashes.append(digest(ids))
        elif injected.messages != tuple(read):
            raise _differs(where, "the prompt", repr(injected.messages[-1].text), repr(read[-1].text))
        task = injected.key.id
        said = prompts.turn_messages(student.injector.layout, turn)
        asked += said
        read += said
    row = {"episode": held.trajectory.content_hash[:16], "recording": held.what, "requests": len(held.trajectory.turns)}
    return row | {"task": task, "memories": list(held.shown), "tokens": tokens, "ids_sha256": digest(hashes)}


def _same_ids(where: str, ours: Ids, theirs: Ids) -> None:
    if ours != theirs:
        at = next((place for place, (one, two) in enumerate(zip(ours, theirs, strict=False)) if one != two), None)
        at = min(len(ours), len(theirs)) if at is None else at
        raise _differs(where, f"token ids from place {at}", str(list(ours[at : at + 8])), str(list(theirs[at : at + 8])))


def _differs(where: str, what: str, now: str, then: str) -> DataError:
    return DataError(
        f"No bundle: the server would not do what was measured. {where}: {what}: {now} now, {then} then. Was the run's bank, "
        "layout, tokenizer or task locator changed after the evaluation? Evaluate again, or bundle a run that is as it was."
    )
