"""`duomem memories`: look at the memories of a run, search them, and correct, quarantine, restore or delete them.

In: a run folder or a bank file, ids, reasons. Out: tables or JSON; every change is one journalled edit of the bank. What an
edit does is `duomem.curate`'s matter, what a memory was good for `duomem.usefulness`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from duomem.cli import _memories_shown as shown
from duomem.cli.console import terminal
from duomem.cli.options import Debug, Json
from duomem.safetext import line

if TYPE_CHECKING:
    from duomem.bank import Bank
    from duomem.rundir import RunFolder
    from duomem.usefulness import Uses

HELP = """Look at a run's memories, search them, and correct, quarantine, restore or delete them.

Every change is an edit in the bank's journal with its reason; evaluate and tune take it into account when they are run again.
"""

NAMES = ("list", "show", "search", "edit", "quarantine", "restore", "delete")

Where = Annotated[Path, typer.Argument(help="A run folder, or a bank file.", metavar="RUN")]
Id = Annotated[str, typer.Argument(help="The memory's id, or enough of its beginning.", metavar="ID")]
Reason = Annotated[str, typer.Option("--reason", "-r", help="Why; it stands in the bank's journal.")]
Seed = Annotated[int | None, typer.Option(help="Which seed's bank, in a run of several seeds.")]
Arm = Annotated[str, typer.Option(help="Whose counts to show: memory (against none) or both (against adapter).")]


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(help=HELP, no_args_is_help=True, rich_markup_mode=None)
    functions: list[Callable[..., None]] = [list_, show, search, edit, quarantine, restore, delete]
    for name, function in zip(NAMES, functions, strict=True):
        group.command(name)(function)
    app.add_typer(group, name="memories")


@dataclass(frozen=True)
class Opened:
    """One bank and, where it is a run's, the folder of its seed and what its evaluation says of memories."""

    bank: Bank
    run: RunFolder | None
    uses: Uses

    def record(self) -> None:
        """Note the bank's new content in the run, so that what depends on it is done again."""
        from duomem import curate

        if self.run:
            curate.note(self.run, self.bank)


@contextmanager
def open_bank(where: Path, seed: int | None) -> Iterator[Opened]:
    from duomem import embed
    from duomem.bank import Bank, pins
    from duomem.journal import Journal
    from duomem.rundir import open_run
    from duomem.usefulness import Uses, measured

    if where.is_dir():
        whole = open_run(where, keep=False)
        run = _seed_of(whole, where, seed)
        path = run.bank
    else:
        whole, run, path = None, None, where
    uses = Uses()
    if whole and whole.journal.is_file():
        with Journal.open(whole.journal, readonly=True) as journal:
            uses = measured(journal, run.settings.run.seed if run and whole.settings.run.seeds else None)
    with Bank.open(path, embed.build(pins(path).embedder)) as bank:
        yield Opened(bank, run, uses)


def _seed_of(whole: RunFolder, where: Path, seed: int | None) -> RunFolder:
    from duomem.errors import UsageError

    seeds = {folder.settings.run.seed: folder for folder in whole.seeds()}
    if seed is None and len(seeds) == 1:
        return next(iter(seeds.values()))
    if seed not in seeds:
        raise UsageError(f"{where} has the seeds {', '.join(map(str, seeds))}, each with a bank of its own. Name one: --seed N")
    return seeds[seed]


def list_(
    where: Where,
    all_: Annotated[bool, typer.Option("--all", help="Quarantined and retired ones too.")] = False,
    arm: Arm = "memory",
    order: Annotated[shown.Order | None, typer.Option(help="The highest count of the arm first, or copies first.")] = None,
    seed: Seed = None,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """List the memories with what they were good for.

    The counts are of the newest evaluation: episodes that showed the memory (hits), those won, those won where the same game
    was lost without memories (help), and the other way round (harm). Copies are others with the same key or text.

    Examples:

      duomem memories list runs/mine

      duomem memories list runs/mine --order harm

      duomem memories list runs/mine --all --json
    """
    from duomem._browse_memories import copies_of
    from duomem.curate import kept

    with open_bank(where, seed) as opened:
        everything = kept(opened.bank)
        copies = copies_of(everything)
        found = [each for each in everything if all_ or each.status == "live"]
        if order:
            found.sort(key=lambda each: -shown.count(order, opened.uses.of(each.memory.id, arm), copies[each.memory.id]))
        told = [shown.told(each, opened.uses) | {"copies": copies[each.memory.id]} for each in found]
        data = {"memories": told, "split": opened.uses.split}
        terminal.result(data, shown.listed(found, opened.uses, arm, copies))


def show(where: Where, id_: Id, seed: Seed = None, json_: Json = False, debug: Debug = False) -> None:
    """Show one memory in full: its text, where it came from, every edit, what it was good for, and the live ones nearest to it.

    Example:

      duomem memories show runs/mine 3f9a
    """
    from duomem._browse_memories import nearest
    from duomem.curate import find

    with open_bank(where, seed) as opened:
        memory = find(opened.bank, id_)
        near = nearest(opened.bank.view(), memory.memory)
        told = shown.told(memory, opened.uses) | {"near": [asdict(each) for each in near]}
        terminal.result(told, "\n".join([shown.page(memory, opened.uses), *shown.near(near)]))


def search(
    where: Where,
    query: Annotated[str, typer.Argument(help="A task in its own words.", metavar="QUERY")],
    k: Annotated[int, typer.Option("--k", help="How many.", min=1)] = 5,
    retrieval: Annotated[str, typer.Option(help="dense, bm25 or hybrid, in place of memory.retrieval.")] = "",
    seed: Seed = None,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Find the memories nearest to a task. The scores say where to put memory.floor.

    Example:

      duomem memories search runs/mine "put a clean mug in the cabinet"
    """
    from duomem.errors import UsageError

    with open_bank(where, seed) as opened:
        table = opened.run.settings.memory if opened.run else None
        how = retrieval or (table.retrieval if table else "dense")
        if how not in ("dense", "bm25", "hybrid"):
            raise UsageError(f"--retrieval {how}: there are dense, bm25 and hybrid.")
        hits = opened.bank.view(retrieval=how).search(query, k)  # type: ignore[arg-type]
        data = [{"id": hit.memory.id, "score": round(hit.score, 4), **shown.data(hit.memory)} for hit in hits]
        lines = [f"{hit.score:.3f}  {hit.memory.id}  {line(hit.memory.key)}" for hit in hits]
        terminal.result({"retrieval": how, "hits": data}, "\n".join(lines) or "Nothing was found.")


def edit(
    where: Where,
    id_: Id,
    reason: Reason,
    text: Annotated[str | None, typer.Option(help="The new text; its first line is the goal.")] = None,
    file: Annotated[Path | None, typer.Option(help="A file that holds the new text.", metavar="FILE")] = None,
    key: Annotated[str | None, typer.Option(help="The new key: the task in whose words it is found.")] = None,
    seed: Seed = None,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Put a corrected text or key in the place of a memory. The old one stays in the bank's history.

    Example:

      duomem memories edit runs/mine 3f9a --file better.txt --reason "the lamp has to be on"
    """
    from duomem import curate
    from duomem.errors import UsageError

    if file is not None and not file.is_file():
        raise UsageError(f"--file {file}: no such file.")
    if (text is None and file is None and key is None) or (text is not None and file is not None):
        raise UsageError("Give the new text once (--text or --file), a new key (--key), or both.")
    new_text = file.read_text(encoding="utf-8") if file else text
    with open_bank(where, seed) as opened:
        old = curate.find(opened.bank, id_)
        new = curate.edit(opened.bank, old, reason, text=new_text, key=key)
        opened.record()
        terminal.result({"id": new.id, "replaced": old.memory.id}, f"{new.id} is in the place of {old.memory.id}.")


def quarantine(where: Where, id_: Id, reason: Reason, seed: Seed = None, json_: Json = False, debug: Debug = False) -> None:
    """Take a memory out of every recall, until it is restored.

    Example:

      duomem memories quarantine runs/mine 3f9a --reason "sends to the wrong room"
    """
    _change("quarantine", "is quarantined", where, id_, reason, seed)


def restore(where: Where, id_: Id, reason: Reason, seed: Seed = None, json_: Json = False, debug: Debug = False) -> None:
    """Bring back a memory that was quarantined or retired.

    Example:

      duomem memories restore runs/mine 3f9a --reason "was right after all"
    """
    _change("restore", "is live again", where, id_, reason, seed)


def delete(where: Where, id_: Id, reason: Reason, seed: Seed = None, json_: Json = False, debug: Debug = False) -> None:
    """Remove a memory's text for good, from every version of the bank; the journal keeps its id and the reason.

    Example:

      duomem memories delete runs/mine 3f9a --reason "holds a customer's name"
    """
    _change("delete", "is deleted for good", where, id_, reason, seed)


def _change(what: str, done: str, where: Path, id_: str, reason: str, seed: int | None) -> None:
    from duomem import curate

    with open_bank(where, seed) as opened:
        memory = curate.find(opened.bank, id_)
        getattr(curate, what)(opened.bank, memory, reason)
        opened.record()
        version = opened.bank.version
    terminal.result({"id": memory.memory.id, "done": what, "version": version}, f"{memory.memory.id} {done}.")
