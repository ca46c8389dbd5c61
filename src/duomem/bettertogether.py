"""DSPy's BetterTogether on the same log: demonstrations chosen by random search, weights by its BootstrapFinetune.

In: a run folder with the teacher's episodes. Out: in the same folder an adapter and a bank that holds the demonstrations of the
best program, so that it is played like any other run. The optimisers are DSPy's own package (extra "dspy"); the teacher is the
log, said again word for word, and our tuner trains with as many tokens as for one adapter. A peer, not a part of the job.
"""

from __future__ import annotations

import math
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from duomem import embed, examples, parts, prompts, weights
from duomem.agent import Player
from duomem.bank import Bank
from duomem.errors import DataError, MissingExtra, UsageError
from duomem.memory._common import count_tokens, provenance
from duomem.models import Model
from duomem.remember import recorded
from duomem.rundir import RunFolder, key
from duomem.talk import Talk
from duomem.types import BankEdit, Example, Memory, Message, Reply, Sampling, Task, Tool, Trajectory, digest

if TYPE_CHECKING:
    from duomem._dspy import Spoken

STRATEGY = "p -> w -> p"
"""DSPy's default: prompts, then weights, then prompts."""
CHECKED, CANDIDATES = 20, 2
"""Training tasks held out to compare programs on (a fifth of the log where that is fewer), and random candidates of each search
(DSPy's own default is 16)."""
BASE, NEWEST, TEACHER = "duomem/base", "duomem/newest", "duomem/log"
"""DSPy's names for the student as it was, the one tuned last, and the teacher's log. The random search forgets which model a
program asks (`reset_copy`) and takes DSPy's default, which is therefore the newest."""


class Log:
    """A `Model` that answers as the recorded teacher did in the same place. Raises `DataError` where it was never asked."""

    def __init__(self, trajectories: Sequence[Trajectory], layout: prompts.Layout) -> None:
        self._said: dict[str, str] = {}
        for trajectory in trajectories:
            messages = prompts.conversation(layout, trajectory)
            for index, message in enumerate(messages):
                if message.role == "assistant":
                    self._said[_place(messages[:index])] = message.text

    def reply(self, messages: Sequence[Message], tools: Sequence[Tool], sampling: Sampling) -> Reply:
        said = self._said.get(_place(messages))
        if said is None:
            raise DataError("The log has no reply for this conversation: the games are not those of the collection.")
        return Reply(Message.of("assistant", said))

    def provenance(self) -> dict[str, str]:
        return {"model": "log"}

    def close(self) -> None:
        return None


def _place(messages: Sequence[Message]) -> str:
    return digest([(message.role, message.text) for message in messages])


@dataclass
class Work:
    """One compilation: where it works, and the models that DSPy's names stand for."""

    run: RunFolder
    loaded: parts.Parts
    talk: Talk
    log: Sequence[Trajectory]
    newest: str = BASE
    lock: threading.RLock = field(default_factory=threading.RLock)
    """DSPy asks from several threads, and a model is loaded once."""

    @cached_property
    def layout(self) -> prompts.Layout:
        return parts.layout(self.run.settings)

    @cached_property
    def player(self) -> Player:
        plain = self.run.settings.model_copy(update={"memory": None})
        return self.loaded.student(replace(self.run, settings=plain), parts.environment(self.run))

    @cached_property
    def tasks(self) -> dict[str, Task]:
        return {trajectory.task.id: trajectory.task for trajectory in self.log}

    def student(self, name: str) -> Model:
        settings = self.run.settings
        adapter = {"adapter": str(self.folder(name))} if name != BASE else {}
        with self.lock:
            return self.loaded.model(settings.student.model, settings.options("student") | adapter, "student")

    @cached_property
    def teacher(self) -> Log:
        return Log(self.log, self.layout)

    def model(self, name: str) -> Model:
        """What a name stands for."""
        if name == TEACHER:
            return self.teacher
        return self.student(self.newest if name == NEWEST else name)

    def folder(self, name: str) -> Path:
        return self.run.root / "bettertogether" / name.rpartition("/")[2]

    def play(self, model: Model, task: str) -> bool:
        with self.lock:
            player = replace(self.player, model=model)
        return player.play(self.tasks[task]).won

    def tune(self, made: Sequence[Example]) -> str:
        """An adapter from DSPy's rows, one a turn, with the tokens that one from whole episodes sees."""
        settings = self.run.settings
        assert settings.tuning is not None
        options = settings.options("tuning")
        name = f"duomem/tuned-{digest([each.source for each in made])[:8]}"
        tuner = parts.build(
            "tuning", settings.tuning.name, options | {"max_steps": self._steps(options)}, layout=self.layout.hash
        )
        tuner.tune(made, parts.trainable(settings), self.folder(name), seed=settings.run.seed, progress=self._tuned)
        self.newest = name
        return name

    def _tuned(self, step: int, total: int, loss: float) -> None:
        self.talk.progress("tune", step, total, f"loss {loss:.3f}")

    def _steps(self, options: dict[str, Any]) -> int:
        """Optimizer steps that the log's episodes make, one sequence each and without memories."""
        if "tokens_per_step" not in options:
            raise UsageError("BetterTogether is held to our tuner's token budget; it needs tuning.name = lora.")
        plain = examples.Options(memories="none", filter=parts.example_options(self.run.settings).filter)
        tokenizer = weights.load_tokenizer(parts.trainable(self.run.settings))
        made = examples.prepare(self.log, self.layout, plain).examples
        tokens = sum(examples.tokens_per_episode(tokenizer, each) for each in made)
        return max(1, math.ceil(tokens * int(options["epochs"]) / int(options["tokens_per_step"])))

    def demonstration(self, conversation: Spoken, reply: str) -> str:
        """One call as text, as `memory/verbatim` writes a transcript; earlier turns go first where it is too long."""
        table = self.run.settings.memory
        most = table.tokens // max(1, table.k) if table else 512
        start = next((index for index, row in enumerate(conversation) if row["role"] == "assistant"), len(conversation))
        opened = [Message.of("user", row["content"]) for row in conversation[:start]]
        words = prompts.read_opening(self.layout, opened)
        goal, rest = words[0] if words else "", [row["content"].strip() for row in conversation[start:]]
        count = getattr(self.student(BASE), "count", count_tokens)
        while rest and count("\n".join([goal, *rest, reply])) > most:
            rest = rest[2:]
        return "\n".join([goal.strip(), *rest, reply.strip()])

    def memory(self, conversation: Spoken, reply: str) -> Memory:
        """A demonstration as a memory, with the episode that it is from."""
        text = self.demonstration(conversation, reply)
        source = next(each for each in self.log if [row["content"] for row in conversation][: len(each.prompt)] == texts(each))
        return Memory(source.goal.strip(), text, "verbatim", provenance(source, f"dspy:{STRATEGY}"))


def texts(trajectory: Trajectory) -> list[str]:
    return [message.text for message in trajectory.prompt]


def better_together(run: RunFolder, talk: Talk) -> None:
    """Compile, and leave adapter and demonstrations in the run folder. Raises `MissingExtra`, `DataError` where the best
    program is the student as it was."""
    try:
        import dspy
    except ImportError as error:
        raise MissingExtra(str(error.name), "dspy") from error
    settings, table = run.settings, run.settings.memory
    if table is None or table.name != "kshot":
        raise UsageError("BetterTogether's demonstrations are fixed examples: set memory.name=kshot.")
    how = [STRATEGY, CHECKED, CANDIDATES, dspy.__version__, settings.options("tuning"), parts.base_hash(settings)]
    inputs = key(run.result("collect")["content_hash"], how, parts.recalled(settings), settings.run.seed)
    if run.done("tune", inputs) and run.bank.is_file():
        talk.note(f"{run.root}: BetterTogether's program is there already.")
        return
    with run.clock("tune", inputs) as clock, parts.Parts(run, "tune") as loaded:
        work = Work(run, loaded, talk, recorded(run, won=True))
        candidates, failed = _compile(work)
        chosen = _best(candidates)
        act = chosen["program"].act
        if act.lm.model == BASE:
            raise DataError(f"BetterTogether's best program (strategy {chosen['strategy']!r}) asks the student untuned.")
        demos = [work.memory(demo["conversation"], demo["reply"]) for demo in act.demos]
        shutil.rmtree(run.adapter, ignore_errors=True)
        shutil.copytree(work.folder(act.lm.model), run.adapter)
        _bank(run, demos, work.layout.hash)
        scores = {each["strategy"] or "as it was": each["score"] for each in candidates}
        words = f"BetterTogether: best of {scores} is {chosen['strategy']!r}, {len(demos)} demonstrations."
        words += " A step failed; the program is the best before it." if failed else ""
        talk.note(words)
        made = {"words": words, "scores": scores, "content_hash": parts.adapter_hash(run.adapter), "seconds": clock()}
        run.record("tune", inputs, made)


def _best(candidates: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The program with the best score; of equal ones the one that was optimised most (DSPy itself takes the least)."""
    return max(candidates, key=lambda each: (each["score"], len(each["strategy"])))


def _compile(work: Work) -> tuple[list[dict[str, Any]], bool]:
    """DSPy's candidates with their scores, and whether a step of it failed."""
    from duomem import _dspy

    engine = _dspy.Engine(work.model, Sampling(0.0, work.run.settings.student.max_tokens))
    student, teacher = _dspy.Program(work.play), _dspy.Program(work.play)
    student.set_lm(_dspy.language_model(BASE, engine, _dspy.Tuning(work.tune)))
    teacher.set_lm(_dspy.language_model(TEACHER, engine))
    tasks, table = sorted(work.tasks), work.run.settings.memory
    checked = tasks[:: max(1, len(tasks) // CHECKED)][: min(CHECKED, len(tasks) // 5)]
    best = _dspy.compile_program(
        student,
        teacher,
        _dspy.language_model(NEWEST, engine),
        _dspy.Adapter(work.layout, work.demonstration),
        [task for task in tasks if task not in checked],
        checked,
        strategy=STRATEGY,
        demos=table.k if table else 1,
        candidates=CANDIDATES,
        threads=work.run.settings.rollout.concurrency,
        seed=work.run.settings.run.seed,
    )
    return best.candidate_programs, bool(best.flag_compilation_error_occurred)


def _bank(run: RunFolder, demonstrations: Sequence[Memory], layout: str) -> None:
    """A bank of nothing but the demonstrations, for the strategy that shows the same ones always."""
    table = run.settings.memory
    assert table is not None
    shutil.rmtree(run.bank.parent, ignore_errors=True)
    embedder, splits = embed.build(table.embedder), (run.settings.teacher.split,)
    with Bank.create(run.bank, embedder, layout, splits=splits, retrieval=table.retrieval) as bank:
        bank.apply([BankEdit("add", "chosen by random search", memory) for memory in demonstrations])
        memories, content = len(bank.view()), bank.view().content_hash
    made = {"memories": memories, "bytes": run.bank.stat().st_size, "content_hash": content}
    run.record("remember", key("bettertogether", content), made)
