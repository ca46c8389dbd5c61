"""The bank: content-addressed memories, journalled versions, exact search, what it refuses, and what survives a kill."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from duomem._bank_schema import BANK
from duomem.bank import Bank, pins
from duomem.embed import Lexical, build
from duomem.errors import DataError, LeakError, MismatchError, StoreError
from duomem.types import BankEdit, Hit, Memory, Provenance
from duomem.vectors import quantise

LEXICAL = build("lexical")


def memory(number: int, key: str = "", task: str = "") -> Memory:
    source = Provenance(task or f"train/t{number}", 0, f"hash{number}", "teacher", "rules:1", licence="MIT")
    key = key or f"put a clean thing{number} in place{number % 5}."
    return Memory(key, f"{key}\n1. thing{number}: take from shelf", "script", source)


def add(*memories: Memory) -> list[BankEdit]:
    return [BankEdit("add", "won", memory) for memory in memories]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "remember" / "bank.sqlite"


@pytest.fixture
def bank(path: Path) -> Iterator[Bank]:
    with Bank.create(path, LEXICAL, "layout0") as opened:
        yield opened


def test_what_is_added_comes_back_after_reopening(bank: Bank, path: Path) -> None:
    memories = [memory(number) for number in range(40)]
    assert bank.apply(add(*memories)) == 1
    before = bank.view()
    bank.close()
    assert [file.name for file in path.parent.iterdir()] == ["bank.sqlite"]
    with Bank.open(path, LEXICAL, "layout0") as again:
        view = again.view()
        assert view.memories() == before.memories() == tuple(sorted(memories, key=lambda one: one.id))
        assert view.content_hash == before.content_hash
        assert view.get(memories[7].id) == memories[7]
        assert view.search(memories[3].key, 5) == before.search(memories[3].key, 5)


def test_every_batch_is_a_version_and_every_version_can_be_seen(bank: Bank) -> None:
    first, second, third = memory(1), memory(2), memory(3)
    assert bank.apply(add(first)) == 1
    assert bank.apply([*add(second), BankEdit("retire", "useless", target=first.id)]) == 2
    assert bank.apply([BankEdit("revise", "better", third, second.id)]) == 3
    assert bank.apply([]) == bank.version == 3
    seen = [{one.id for one in bank.view(version).memories()} for version in range(4)]
    assert seen == [set(), {first.id}, {second.id}, {third.id}]
    assert [(entry.version, entry.op, entry.reason) for entry in bank.history()] == [
        (1, "add", "won"),
        (2, "add", "won"),
        (2, "retire", "useless"),
        (3, "revise", "better"),
    ]
    with pytest.raises(DataError, match="no version 9"):
        bank.view(9)


def test_a_rollback_is_a_new_version_with_the_old_memories(bank: Bank) -> None:
    bank.apply(add(memory(1), memory(2)))
    wanted = bank.view().content_hash
    bank.apply([BankEdit("retire", "no use", target=memory(1).id), *add(memory(3))])
    assert bank.view().content_hash != wanted
    assert bank.rollback(1) == 3
    assert bank.view().content_hash == wanted
    assert len(bank.view(2)) == 2
    assert "rollback to version 1" in bank.history()[-1].reason
    assert bank.rollback(0) == 4
    assert len(bank.view()) == 0


def test_the_same_memory_is_stored_once_with_all_its_sources(bank: Bank) -> None:
    bank.apply(add(memory(1), memory(1)))
    other = memory(1, task="train/other")
    bank.apply(add(other))
    view = bank.view()
    assert len(view) == 1
    assert bank.stats().stored == 1
    assert [source.task_id for source in view.sources(other.id)] == ["train/t1", "train/other"]
    refused = "train/other"
    assert view.search(other.key, 1)
    assert not view.search(other.key, 1, allow=lambda one: one.provenance.task_id != refused)
    assert len(bank.view(1).sources(other.id)) == 1


def test_an_old_view_stays_as_it_was(bank: Bank) -> None:
    bank.apply(add(memory(1)))
    old = bank.view()
    assert bank.view() is old
    bank.apply(add(memory(2)))
    assert len(old) == 1
    assert len(bank.view()) == 2


def brute(memories: list[Memory], query: str, k: int, floor: float, allow: Callable[[Memory], bool]) -> list[tuple[str, float]]:
    def code(text: str) -> list[int]:
        return [int(value) for value in quantise(LEXICAL.embed([text]))[0]]

    asked = code(query)
    scored = []
    for one in memories:
        row = code(one.key)
        dot = sum(a * b for a, b in zip(asked, row, strict=True))
        score = dot / (sum(a * a for a in asked) * sum(b * b for b in row)) ** 0.5
        if score >= floor and allow(one):
            scored.append((-score, one.id))
    return [(name, -score) for score, name in sorted(scored)[:k]]


def test_search_equals_brute_force(bank: Bank) -> None:
    rng = random.Random(0)
    kinds = ("put a clean {} in {}.", "heat some {} and put it in {}.", "put two {} in {}.")
    keys = [rng.choice(kinds).format(rng.choice(["mug", "cup", "pan"]), rng.choice(["shelf", "desk"])) for _ in range(120)]
    memories = [memory(number, key) for number, key in enumerate(keys)]
    bank.apply(add(*memories))
    view = bank.view()
    for k in (1, 3, 10, 120, 500):
        for floor in (-1.0, 0.4, 0.9):
            for allow in (lambda one: True, lambda one: int(one.provenance.task_id[7:]) % 7 == 0, lambda one: False):
                hits = view.search("put a hot mug in desk.", k, floor=floor, allow=allow)
                wanted = brute(memories, "put a hot mug in desk.", k, floor, allow)
                assert [hit.memory.id for hit in hits] == [name for name, _ in wanted]
                assert [hit.score for hit in hits] == pytest.approx([score for _, score in wanted], abs=1e-12)
    assert view.search("anything", 0) == []


def test_equal_scores_come_by_id_in_every_bank(tmp_path: Path) -> None:
    memories = [memory(number, "put a mug in desk.") for number in range(30)]
    found = []
    for seed in range(3):
        random.Random(seed).shuffle(memories)
        with Bank.create(tmp_path / f"{seed}.sqlite", LEXICAL) as bank:
            for one in memories:
                bank.apply(add(one))
            found.append([hit.memory.id for hit in bank.view().search("put a mug in desk.", 7)])
    assert found == [sorted(one.id for one in memories)[:7]] * 3


def test_an_empty_bank_finds_nothing(bank: Bank) -> None:
    assert bank.view().search("put a mug in desk.", 3) == []
    with pytest.raises(DataError, match="version 0"):
        bank.view().get("00")


@pytest.mark.parametrize("task", ["valid_unseen/x/y", "dev/t", "valid_seen", "trainer/t", "", "/train/t"])
def test_evaluation_tasks_never_become_memories(bank: Bank, task: str) -> None:
    leak = Memory("k", "t", "script", Provenance(task, 0, "h", "t", "rules:1"))
    with pytest.raises(LeakError, match="must not enter"):
        bank.apply([*add(memory(1)), BankEdit("add", "won", leak)])
    with pytest.raises(LeakError):
        bank.apply([BankEdit("revise", "won", leak, memory(1).id)])
    assert bank.version == 0


def test_other_splits_enter_only_where_the_bank_allows_them(tmp_path: Path) -> None:
    path = tmp_path / "bank.sqlite"
    with Bank.create(path, LEXICAL, splits={"home", "train"}) as bank:
        bank.apply(add(memory(1, task="home/1"), memory(2)))
    with Bank.open(path, LEXICAL) as bank, pytest.raises(LeakError, match="home, train"):
        bank.apply(add(memory(3, task="dev/1")))


def test_another_embedder_or_layout_is_refused(bank: Bank, path: Path) -> None:
    bank.close()
    with pytest.raises(MismatchError, match=r"layout0, not layout1.*remember --rebuild"):
        Bank.open(path, LEXICAL, "layout1")
    with pytest.raises(MismatchError, match=rf"lexical {LEXICAL.revision}, not lexical .*remember --rebuild"):
        Bank.open(path, Lexical(256))
    Bank.open(path, LEXICAL).close()
    assert (pins(path).embedder, pins(path).layout, pins(path).splits) == ("lexical", "layout0", ("train",))


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (BankEdit("add", "won"), "malformed"),
        (BankEdit("retire", "why"), "malformed"),
        (BankEdit("revise", "why", memory(1)), "malformed"),
        (BankEdit("add", "", memory(1)), "malformed"),
        (BankEdit("retire", "why", target="00ff00ff00ff00ff"), "00ff00ff00ff00ff"),
        (BankEdit("retire", "why", target="not hex"), "not hex"),
    ],
)
def test_a_bad_edit_undoes_its_whole_batch(bank: Bank, edit: BankEdit, words: str) -> None:
    bank.apply(add(memory(5)))
    with pytest.raises(DataError, match=words):
        bank.apply([*add(memory(6)), edit])
    assert bank.version == 1
    assert bank.stats().stored == 1
    bank.apply(add(memory(7)))
    assert len(bank.view()) == 2


def test_a_failed_first_batch_leaves_nothing_behind(bank: Bank) -> None:
    with pytest.raises(DataError):
        bank.apply([*add(memory(6)), BankEdit("retire", "why", target="00ff")])
    bank.apply(add(memory(7)))
    assert bank.view().memories() == (memory(7),)


def test_files_that_are_no_banks_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="duomem remember"):
        Bank.open(tmp_path / "none.sqlite", LEXICAL)
    text = tmp_path / "text.sqlite"
    text.write_text("not a database, but long enough to be read as one" * 40)
    other = tmp_path / "other.sqlite"
    sqlite3.connect(other).execute("CREATE TABLE x(y)").connection.close()
    for file in (text, other):
        with pytest.raises(DataError, match="not a bank"):
            Bank.open(file, LEXICAL)
    with pytest.raises(DataError, match="exists"):
        Bank.create(other, LEXICAL)
    Bank.create(other, LEXICAL, replace=True).close()
    assert pins(other).embedder == "lexical"


def test_a_newer_schema_is_refused(bank: Bank, path: Path) -> None:
    bank.close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(DataError, match="version 99"):
        Bank.open(path, LEXICAL)


def test_an_older_schema_is_brought_up(bank: Bank, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank.apply(add(memory(1)))
    bank.close()
    newer = replace(BANK, steps=(*BANK.steps, ("ALTER TABLE edits ADD COLUMN extra TEXT",)))
    monkeypatch.setattr("duomem.bank.BANK", newer)
    with Bank.open(path, LEXICAL) as again:
        assert len(again.view()) == 1
    db = sqlite3.connect(path)
    assert "extra" in [row[1] for row in db.execute("PRAGMA table_info(edits)")]
    assert db.execute("PRAGMA user_version").fetchone()[0] == len(newer.steps)


def test_usefulness_is_counted_apart_from_the_content(bank: Bank) -> None:
    bank.apply(add(memory(1), memory(2)))
    before = bank.view().content_hash
    bank.record([memory(1).id, memory(2).id], won=True)
    bank.record([memory(1).id], won=False)
    counts = bank.usefulness()
    assert (counts[memory(1).id].shown, counts[memory(1).id].won) == (2, 1)
    assert (counts[memory(2).id].shown, counts[memory(2).id].won) == (1, 1)
    assert bank.version == 1
    assert bank.view().content_hash == before


def test_a_bank_is_small(bank: Bank, path: Path) -> None:
    memories = [memory(number) for number in range(400)]
    bank.apply(add(*memories))
    bank.close()
    plain = sum(4 * LEXICAL.dim + len(one.key) + len(one.text) for one in memories)
    assert path.stat().st_size < plain / 3
    with Bank.open(path, LEXICAL) as again:
        stats = again.stats()
        assert (stats.memories, stats.keys, stats.bytes) == (400, 400, path.stat().st_size)


def test_a_full_disk_is_named_and_loses_nothing(bank: Bank, path: Path) -> None:
    bank.apply(add(memory(1)))
    pages = bank._db.execute("PRAGMA page_count").fetchone()[0]
    bank._db.execute(f"PRAGMA max_page_count = {pages + 1}")
    with pytest.raises(StoreError, match="full"):
        bank.apply(add(*(memory(number) for number in range(2, 900))))
    assert bank.version == 1
    bank._db.execute("PRAGMA max_page_count = 100000")
    assert bank.apply(add(memory(2))) == 2


def test_readers_and_writers_at_once_see_whole_versions(path: Path) -> None:
    """Each batch adds a pair; a torn read would show half of one."""
    stop, failures = threading.Event(), []
    with Bank.create(path, LEXICAL) as first, Bank.open(path, LEXICAL) as second:

        def write(bank: Bank, start: int) -> None:
            for number in range(start, start + 30, 2):
                bank.apply(add(memory(number), memory(number + 1)))

        def read(bank: Bank) -> None:
            while not stop.is_set():
                view = bank.view()
                hits = view.search("put a clean thing3 in place3.", 4)
                if len(view) % 2 or len(view) != 2 * view.version or [h for h in hits if not isinstance(h, Hit)]:
                    failures.append((view.version, len(view)))

        def guarded(work: Callable[[], None]) -> None:
            try:
                work()
            except (sqlite3.Error, DataError, StoreError, RuntimeError, ValueError, LookupError) as error:
                failures.append((0, repr(error)))

        readers = [threading.Thread(target=guarded, args=(lambda: read(first),)) for _ in range(4)]
        readers += [threading.Thread(target=guarded, args=(lambda: read(second),)) for _ in range(4)]
        writers = [
            threading.Thread(target=guarded, args=(lambda b=b, s=s: write(b, s),)) for b, s in ((first, 0), (second, 100))
        ]
        for thread in (*readers, *writers):
            thread.start()
        for thread in writers:
            thread.join()
        stop.set()
        for thread in readers:
            thread.join()
        assert failures == []
        assert (first.version, len(first.view()), len(second.view())) == (30, 60, 60)


CHILD = """
import sys
from duomem.bank import Bank
from duomem.embed import build
from duomem.types import BankEdit, Memory, Provenance
with Bank.open(sys.argv[1], build("lexical")) as bank:
    start = bank.version * 3
    for batch in range(1000):
        edits = []
        for number in range(start + 3 * batch, start + 3 * batch + 3):
            source = Provenance(f"train/{number}", 0, "h", "t", "rules:1")
            edits.append(BankEdit("add", "won", Memory(f"put thing{number} in desk.", f"text {number}", "script", source)))
        print(bank.apply(edits), flush=True)
"""


def test_a_killed_writer_leaves_whole_batches(path: Path) -> None:
    Bank.create(path, LEXICAL).close()
    for round_number in range(5):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        said = [int(child.stdout.readline()) for _ in range(3 + round_number)]
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        with Bank.open(path, LEXICAL) as bank:
            assert bank.version >= said[-1], "a version that was reported is there"
            assert len(bank.view()) == 3 * bank.version


def test_pins_hold_no_path_of_the_machine(bank: Bank, path: Path) -> None:
    bank.apply(add(memory(1)))
    bank.close()
    assert str(path.parent).encode() not in path.read_bytes()
    assert json.loads(sqlite3.connect(path).execute("SELECT value FROM meta WHERE name = 'pins'").fetchone()[0])["dim"] == 512


def test_vectors_of_equal_keys_are_stored_once(bank: Bank) -> None:
    bank.apply(add(*(memory(number, "put a mug in desk.") for number in range(20))))
    assert bank.stats().keys == 1
    assert np.unique([hit.score for hit in bank.view().search("put a mug in desk.", 20)]).size == 1
