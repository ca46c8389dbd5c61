"""Memories from recorded episodes, in the bank: rules or a model write them, near duplicates are merged, practice teaches more.

In: a run whose teacher has played. Out: `remember/bank.sqlite`, made in a draft beside it and moved when it is whole, and
what it cost. A writing model's replies are kept in `writing.sqlite`, so that a killed command goes on without paying twice.
What memories say is the strategy's matter, how they are stored the bank's.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from duomem import embed, parts, price
from duomem.bank import Bank, history
from duomem.config import MemoryTable, Settings
from duomem.curate import by_hand
from duomem.errors import DataError, Incomplete, InfraError, UsageError
from duomem.journal import Journal
from duomem.memory import MemoryStrategy, Refusal
from duomem.memory._merge import Merger
from duomem.models import Model
from duomem.paid import Paid, Spent
from duomem.practice import practise
from duomem.rundir import RunFolder, key
from duomem.talk import Talk
from duomem.types import BankEdit, Trajectory

BATCH = 100
"""Trajectories between two versions of the bank: a strategy sees what the batches before wrote."""

Result = dict[str, Any]


def remember(run: RunFolder, talk: Talk, *, rebuild: bool = False) -> Result:
    """Write the bank of one seed. Raises `Incomplete` where a writing model could not be reached, `DataError` where it wrote
    nothing usable at all, `UsageError` where edits by hand would be lost."""
    settings, strategy, table = run.settings, parts.strategy(run.settings), run.settings.memory
    if strategy is None or table is None:
        return {}
    embedder, layout = embed.build(table.embedder), parts.layout(settings)
    inputs = key(run.result("collect")["content_hash"], *_how(run, table, embedder.revision, layout.hash))
    if run.bank.is_file() and not rebuild and (found := run.done("remember", inputs)):
        talk.note(f"{run.root}: the bank is there already.")
        return found
    if run.bank.is_file() and not rebuild:
        _keep_edits_by_hand(run)
    trajectories = recorded(run, won=None if getattr(strategy, "takes_failures", False) else True)
    price.tell(run, talk.note, writes=len(trajectories))
    shutil.rmtree(run.bank.parent, ignore_errors=True)
    draft = run.bank.with_name("draft.sqlite")
    splits = (settings.teacher.split,)
    with (
        run.clock("remember", inputs) as clock,
        parts.Parts(run, "remember") as loaded,
        _writing(run, loaded) as model,
        Bank.create(draft, embedder, layout.hash, splits=splits, retrieval=table.retrieval) as bank,
    ):
        work = Work(strategy, bank, model, table, talk, run)
        merged = work.write(trajectories)
        practised = practise(work, loaded) if table.practice else {}
        memories, content = len(bank.view()), bank.view().content_hash
        told = work.told(merged, practised)
    if model is not None and trajectories and not memories:
        raise DataError(_nothing(strategy, model, len(trajectories)))
    draft.rename(run.bank)
    size = run.bank.stat().st_size
    result = {"memories": memories, "trajectories": len(trajectories), "bytes": size, "content_hash": content, **told}
    return run.record("remember", inputs, result | {"seconds": clock()})


def recorded(run: RunFolder, won: bool | None) -> list[Trajectory]:
    """The teacher's episodes with an outcome on the tasks of the present sample; won ones, lost ones or all."""
    collected = run.result("collect")
    tasks = set(collected["tasks"])
    with Journal.open(run.journal, readonly=True) as journal:
        return [found for found in journal.trajectories(collected["phase"], won=won) if found.task.id in tasks]


@dataclass
class Work:
    """One bank while it is written. `model` is None where rules write."""

    strategy: MemoryStrategy
    bank: Bank
    model: Paid | None
    table: MemoryTable
    talk: Talk
    run: RunFolder

    def write(self, trajectories: Sequence[Trajectory], stage: str = "remember") -> int:
        """Write the memories of trajectories, in batches; how many were merged into others."""
        merged = 0
        for start in range(0, len(trajectories), BATCH):
            batch = trajectories[start : start + BATCH]
            edits = self._asked(batch, stage, start, len(trajectories))
            merged += self.apply([edit for found in edits for edit in found])
        return merged

    def apply(self, edits: Sequence[BankEdit]) -> int:
        """Apply a batch of edits, near duplicates merged; how many were."""
        if not edits or not self.table.merge:
            self.bank.apply(edits)
            return 0
        merger = Merger(self.bank.view().memories(), self.bank.embedder, self.table.merge)
        self.bank.apply(merger.merged(edits))
        return merger.count

    def _asked(self, batch: Sequence[Trajectory], stage: str, start: int, total: int) -> list[Sequence[BankEdit]]:
        """The edits of a batch, in its order; a model is asked about several at once."""
        view, model = self.bank.view(), self.model
        if model is None:
            edits = [self.strategy.write(trajectory, view, None) for trajectory in batch]
            self.talk.progress(stage, start + len(batch), total, "")
            return edits
        pool = ThreadPoolExecutor(self.run.settings.rollout.concurrency)
        try:
            futures = [pool.submit(self.strategy.write, trajectory, view, model) for trajectory in batch]
            for number, _ in enumerate(_until_failure(futures), 1):
                self.talk.progress(stage, start + number, total, self.note())
            return [future.result() for future in futures]
        except InfraError as error:
            words = f"The writing model could not be asked: {error} What it wrote is kept. Go on with: duomem remember"
            raise Incomplete(f"{words} {self.run.home or self.run.root}") from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def note(self) -> str:
        """What a writing model has cost so far, for a progress bar."""
        if self.model is None:
            return ""
        spent, refused = self.model.spent, len(refusals(self.strategy))
        words = f"{spent.calls} calls, {spent.tokens:,} tokens"
        words += f", {spent.kept} kept" if spent.kept else ""
        if meter := self.model.meter:
            words += f", {meter.cost:.4f} {meter.currency} so far"
        return words + (f", refused {refused}" if refused else "")

    def told(self, merged: int, practised: Result) -> Result:
        """What a result says beside the bank itself: nothing where rules write and nothing is merged or practised."""
        told: Result = {"merged": merged} if self.table.merge else {}
        told |= {"practice": practised} if practised else {}
        if self.model is None:
            return told
        refused = refusals(self.strategy)
        self._say(refused)
        return told | cost(self.model.spent) | {"refused": len(refused), "reasons": reasons(refused)}

    def _say(self, refused: Sequence[Refusal]) -> None:
        assert self.model is not None
        name = self.model.provenance().get("model", "the model")
        spent = self.model.spent
        self.talk.note(
            f"{name} wrote: {spent.calls} calls paid for, {spent.kept} answered from before, {spent.tokens:,} tokens."
        )
        if refused:
            most = ", ".join(f"{count} x {reason}" for reason, count in reasons(refused).items())
            self.talk.note(f"{len(refused)} answers of {name} were refused: {most}.")


def cost(spent: Spent) -> Result:
    """What was paid, as plain data."""
    usage = spent.usage
    return {
        "calls": spent.calls,
        "kept_calls": spent.kept,
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
    }


def refusals(strategy: MemoryStrategy) -> Sequence[Refusal]:
    found: Sequence[Refusal] = getattr(strategy, "refusals", ())
    return found


def reasons(refused: Sequence[Refusal]) -> dict[str, int]:
    """How often each question was refused for each reason, the most frequent ones first."""
    counts = Counter(f"{each.question}: {each.reason}" for each in refused)
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:5])


def writer(run: RunFolder, loaded: parts.Parts) -> Model | None:
    """The model that the config has write; None for rules. Raises `UsageError` for one that cannot write."""
    if run.settings.options("memory").get("writer", "rules") == "rules":
        return None
    name, own = _writer_of(run.settings)
    model = loaded.model(name, own, "writer")
    if not getattr(model, "writes", True):
        who = run.settings.options("memory")["writer"]
        raise UsageError(
            f"memory.writer = {who!r} is the model {name!r}, which plays by rules and cannot write. "
            "Take a language model, or let rules write: memory.writer=rules."
        )
    return model


def _writer_of(settings: Settings) -> tuple[str, dict[str, Any]]:
    """The component that writes, and its own options."""
    options = settings.options("memory")
    who = str(options["writer"])
    if who in ("teacher", "student"):
        return str(getattr(settings, who).model), settings.options(who)
    own = dict(options["writer_model"])
    return str(own.pop("model")), own


@contextmanager
def _writing(run: RunFolder, loaded: parts.Parts) -> Iterator[Paid | None]:
    model = writer(run, loaded)
    with ExitStack() as stack:
        yield stack.enter_context(Paid(model, run.root / "writing.sqlite")) if model else None


def _how(run: RunFolder, table: MemoryTable, revision: str, layout: str) -> list[Any]:
    """What decides a bank beside the recorded episodes."""
    settings = run.settings
    options = settings.options("memory")
    how: list[Any] = [table.name, options, revision, layout]
    if options.get("writer", "rules") != "rules":
        name, own = _writer_of(settings)
        how.append([name, own, parts.weights_hash(own)])
    if table.merge:
        how.append(["merge", table.merge])
    if table.practice:
        shown = [table.k, table.floor, table.tokens, table.retrieval]
        how.append(["practice", table.practice, table.group, shown, settings.options("student"), parts.base_hash(settings)])
    return how


def _until_failure(futures: Sequence[Future[Sequence[BankEdit]]]) -> Iterator[None]:
    """One step for each future that is done; raises what the first failing one raised."""
    for future in as_completed(futures):
        future.result()
        yield


def _nothing(strategy: MemoryStrategy, model: Model, trajectories: int) -> str:
    refused = refusals(strategy)
    why = next(iter(reasons(refused)), "it was asked nothing")
    return (
        f"The model {model.provenance().get('model', '')!r} wrote no usable memory of {trajectories} trajectories; "
        f"it was refused {len(refused)} times, most often for: {why}. Take another model (memory.writer), other prompts "
        "(memory.writer_prompts), or let rules write (memory.writer=rules)."
    )


def _keep_edits_by_hand(run: RunFolder) -> None:
    """Raises `UsageError` where the bank that would be made anew holds edits by a person."""
    if edits := by_hand(history(run.bank)):
        raise UsageError(
            f"{run.bank} holds {edits} edits made by hand, and its settings have changed: it has to be made anew without them. "
            f"Look at them with: duomem memories list {run.root} --all. Then: duomem remember {run.home or run.root} --rebuild"
        )
