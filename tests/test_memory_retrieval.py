"""Retrieval beyond cosines, keys, and merging: BM25, the hybrid, MemP's keys and cut-offs, near duplicates, showing nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from duomem.bank import Bank
from duomem.bankwords import Words, fused
from duomem.embed import build as embedder
from duomem.errors import MissingExtra
from duomem.memory import procedure
from duomem.memory._keys import cosine_of, facts, key_of, read_facts
from duomem.memory._merge import Merger, steps_alike
from duomem.types import BankEdit, Budget, EpisodeView, Memory, Provenance, Recall
from memory_world import CLEAN, SCENE, Nothing, played

LEXICAL = embedder("lexical")
GOALS = [
    f"put {how} {thing} in {place}."
    for how in ("a clean", "a hot", "two")
    for thing in ("plate", "mug", "egg")
    for place in ("cabinet", "drawer")
]
needs_bm25 = pytest.mark.skipif(
    __import__("importlib.util").util.find_spec("bm25s") is None, reason="bm25s is not installed (extra 'bm25')"
)


def memory(goal: str, number: int = 0, steps: str = "1. plate: take from shelf") -> Memory:
    return Memory(goal, f"{goal}\n{steps}", "script", Provenance(f"train/t{number}", 0, f"hash{number}", "t", "rules:1"))


def add(memories: Sequence[Memory]) -> list[BankEdit]:
    return [BankEdit("add", "won", each) for each in memories]


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    with Bank.create(tmp_path / "bank.sqlite", LEXICAL) as opened:
        opened.apply(add([memory(goal, number, f"1. plate: take {number}") for number, goal in enumerate(GOALS)]))
        yield opened


# ------------------------------------------------------------------------------------------------------------ words


def test_dense_is_as_before(bank: Bank) -> None:
    plain, asked = bank.view(), bank.view(retrieval="dense")
    for query in (*GOALS, "wash an egg", ""):
        hits = plain.search(query, 5)
        assert hits == asked.search(query, 5)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        assert plain.search(query, 50, floor=0.6) == [hit for hit in plain.search(query, 50) if hit.score >= 0.6]


@needs_bm25
def test_bm25_counts_words_and_finds_nothing_without_one(bank: Bank) -> None:
    view = bank.view(retrieval="bm25")
    hits = view.search("where is the egg", 9)
    assert len(hits) == 6
    assert all("egg" in hit.memory.key for hit in hits)
    assert hits[0].score == 1.0
    assert view.search("zorid plemu", 9) == []
    assert view.search("", 9) == []
    rare, common = view.search("two plates", 18), {hit.memory.key: hit.score for hit in view.search("two plates", 18)}
    assert {hit.memory.key for hit in rare[:2]} == {"put two plate in cabinet.", "put two plate in drawer."}
    assert common["put two mug in drawer."] == pytest.approx(common["put two egg in drawer."])


@needs_bm25
def test_the_hybrid_is_the_mean_of_both(bank: Bank) -> None:
    query = "put a clean egg in cabinet."
    scores = {
        how: {hit.memory.id: hit.score for hit in bank.view(retrieval=how).search(query, 18)}  # type: ignore[arg-type]
        for how in ("dense", "bm25", "hybrid")
    }
    for found, score in scores["hybrid"].items():
        assert score == pytest.approx(0.5 * scores["dense"][found] + 0.5 * scores["bm25"].get(found, 0.0), abs=2e-6)
    assert max(scores["hybrid"], key=lambda each: scores["hybrid"][each]) == memory(query, 4, "1. plate: take 4").id
    assert fused(np.array([1.0, 0.0]), np.array([0.0, 1.0])).tolist() == [0.5, 0.5]


@needs_bm25
@pytest.mark.parametrize("how", ["bm25", "hybrid"])
def test_the_floor_is_one_of_cosines_in_every_retrieval(bank: Bank, how: Any) -> None:
    cosines = {hit.memory.id: hit.score for hit in bank.view().search("put two mug in drawer.", 18)}
    view = bank.view(retrieval=how)
    everything = view.search("put two mug in drawer.", 18)
    above = view.search("put two mug in drawer.", 18, floor=0.5)
    assert [hit.memory.id for hit in above] == [hit.memory.id for hit in everything if cosines[hit.memory.id] >= 0.5]
    assert 0 < len(above) < len(everything)
    assert view.search("put two mug in drawer.", 2, floor=0.5) == above[:2]
    assert view.search("put two mug in drawer.", 18, floor=1.01) == []


@needs_bm25
def test_exclusions_hold_in_every_retrieval(bank: Bank) -> None:
    strategy = procedure.build(procedure.Config())
    for how in ("bm25", "hybrid"):
        view = bank.view(retrieval=how)  # type: ignore[arg-type]
        excluded = EpisodeView(GOALS[3], "", exclude_tasks=frozenset({"train/t3"}))
        shown = strategy.recall(EpisodeView(GOALS[3], ""), view, Budget(k=3, tokens=900))
        assert memory(GOALS[3], 3, "1. plate: take 3").id in shown.ids
        assert memory(GOALS[3], 3, "1. plate: take 3").id not in strategy.recall(excluded, view, Budget(k=3, tokens=900)).ids


@needs_bm25
def test_the_order_of_keys_decides_nothing() -> None:
    keys, query = list(GOALS), "put a hot mug in the drawer"
    forward = dict(zip(keys, Words(keys).scores(query), strict=True))
    backward = dict(zip(keys[::-1], Words(keys[::-1]).scores(query), strict=True))
    assert forward == backward


def test_a_missing_library_is_named_with_its_extra(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duomem.bankwords.importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"duomem\[bm25\]"):
        bank.view(retrieval="hybrid")
    assert bank.view().search(GOALS[0], 1)


# ------------------------------------------------------------------------------------------------------------- keys


def test_facts_are_what_an_instruction_names() -> None:
    assert facts("put a clean plate in cabinet.") == {"state": "clean", "object": "plate", "place": "cabinet"}
    assert facts("put two mug in drawer.") == {"count": "two", "object": "mug", "place": "drawer"}
    assert facts("examine the cd with the desklamp.")["action"] == "examine"
    for goal in GOALS:
        assert read_facts(key_of("facts", goal, SCENE)) == facts(goal)
    assert key_of("facts", "in it", "") == "in it"
    assert read_facts("put a clean plate in cabinet.") == {}
    assert key_of("goal+scene", "a", "b") == "a\nb"


def recalled(bank: Bank, key: Any, goal: str, **budget: Any) -> Recall:
    strategy = procedure.build(procedure.Config(key=key, fit=0))
    return strategy.recall(EpisodeView(goal, SCENE), bank.view(), Budget(**({"k": 1, "tokens": 900} | budget)))


@pytest.mark.parametrize("key", ["facts", "average"])
def test_facts_find_the_memory_of_the_same_facts(key: Any, tmp_path: Path) -> None:
    writer = procedure.build(procedure.Config(key=key))
    with Bank.create(tmp_path / "bank.sqlite", LEXICAL) as bank:
        for number, goal in enumerate(GOALS):
            bank.apply(writer.write(played(CLEAN, goal, task=f"train/{number}"), Nothing(), None))
        for goal in GOALS:
            (hit,) = recalled(bank, key, goal.replace("put", "place").replace("in ", "into the ")).hits
            asked, found = facts(goal), facts(hit.memory.text.partition("\n")[0])
            assert found == asked or key == "average"
            assert all(found[name] == asked[name] for name in asked if name in found), "what only one has does not count (MemP)"
            assert hit.score == pytest.approx(1.0, abs=1e-3)
        assert recalled(bank, key, "put a clean fork in safe.", floor=0.95).hits == ()


def test_the_average_is_over_facts_that_both_have(tmp_path: Path) -> None:
    writer = procedure.build(procedure.Config(key="average"))
    with Bank.create(tmp_path / "bank.sqlite", LEXICAL) as bank:
        bank.apply(writer.write(played(CLEAN, "put a clean plate in cabinet."), Nothing(), None))
        (hit,) = recalled(bank, "average", "put two plate in drawer.").hits
        assert 0.4 < hit.score < 0.6, "the object is the same, the place another; count and state have no counterpart"
        (none,) = recalled(bank, "average", "examine.").hits
        assert none.score == 0.0


def test_random_is_chance_repeatable_and_respects_exclusions(bank: Bank) -> None:
    firsts = {recalled(bank, "random", goal).ids for goal in GOALS}
    assert len(firsts) > 4
    right = sum(recalled(bank, "random", goal).memories[0].key == goal for goal in GOALS)
    assert right < 6
    assert recalled(bank, "random", GOALS[0], k=4) == recalled(bank, "random", GOALS[0], k=4)
    strategy = procedure.build(procedure.Config(key="random"))
    tasks = frozenset(f"train/t{number}" for number in range(1, len(GOALS)))
    only = strategy.recall(EpisodeView(GOALS[0], SCENE, exclude_tasks=tasks), bank.view(), Budget(k=5, tokens=900))
    assert [each.provenance.task_id for each in only.memories] == ["train/t0"]


def test_memps_cut_offs_as_cosines() -> None:
    """Squared distances of unit vectors: 0.5 for task texts, 0.4 for facts."""
    assert cosine_of(0.5) == 0.75
    assert cosine_of(0.4) == pytest.approx(0.8)
    one, other = (vector / np.linalg.norm(vector) for vector in np.random.default_rng(0).normal(size=(2, 9)))
    assert cosine_of(float(((one - other) ** 2).sum())) == pytest.approx(float(one @ other))


# ---------------------------------------------------------------------------------------------------------- merging


STEPS = "1. plate: take from countertop, cabinet\n2. plate: clean with sinkbasin\n3. plate: move to cabinet"


def test_a_near_duplicate_is_the_older_memory_with_one_more_source(tmp_path: Path) -> None:
    old = memory("put a clean plate in cabinet.", 1, STEPS)
    near = memory("put a clean plate in cabinet.", 2, STEPS.replace("countertop, ", ""))
    far = memory("put a clean plate in cabinet.", 3, "1. plate: take from fridge\n2. go away")
    with Bank.create(tmp_path / "bank.sqlite", LEXICAL) as bank:
        bank.apply(add([old]))
        merger = Merger(bank.view().memories(), LEXICAL, 0.85)
        bank.apply(merger.merged(add([near, far])))
        assert merger.count == 1
        view = bank.view()
        assert {each.id for each in view.memories()} == {old.id, far.id}
        assert [source.task_id for source in view.sources(old.id)] == ["train/t1", "train/t2"]
        reason = bank.history()[1].reason
        assert "merged" in reason
        assert old.id in reason
        strategy = procedure.build(procedure.Config(fit=0))
        for task in ("train/t1", "train/t2"):
            seen = EpisodeView(old.key, "", exclude_tasks=frozenset({task}))
            assert old.id not in strategy.recall(seen, view, Budget(k=5, tokens=900)).ids, "it meets neither of its sources"


def test_duplicates_within_a_batch_are_merged_too() -> None:
    edits = add([memory(GOALS[0], number, STEPS + "\n4. wait" * (number % 2)) for number in range(6)])
    merger = Merger((), LEXICAL, 0.8)
    assert len({edit.memory.id for edit in merger.merged(edits) if edit.memory}) == 1
    assert merger.count == 3, "every second one is the very same memory, which the bank merges by itself"


def test_other_tasks_kinds_and_steps_stay_apart() -> None:
    base = memory(GOALS[0], 0, STEPS)
    others = [
        memory(GOALS[2], 1, STEPS),
        memory(GOALS[0], 2, "1. plate: take from fridge"),
        Memory(base.key, base.text + "\n4. wait", "both", base.provenance),
    ]
    merger = Merger([base], LEXICAL, 0.9)
    assert merger.merged(add(others)) == add(others)
    assert merger.count == 0


def test_what_is_retired_or_replaced_takes_no_more_in() -> None:
    base, near = memory(GOALS[0], 0, STEPS), memory(GOALS[0], 1, STEPS + "\n4. wait")
    merger = Merger([base], LEXICAL, 0.8)
    retired = BankEdit("retire", "useless", target=base.id)
    assert merger.merged([retired, *add([near])]) == [retired, *add([near])]
    merger = Merger([base], LEXICAL, 0.8)
    revised = BankEdit("revise", "better", memory(GOALS[0], 2, "1. other"), base.id)
    assert merger.merged([revised, *add([near])]) == [revised, *add([near])]


def test_a_threshold_of_one_merges_the_same_steps_only() -> None:
    spaced = memory(GOALS[0], 1, STEPS.replace("1.", "1. "))
    merger = Merger([memory(GOALS[0], 0, STEPS)], LEXICAL, 1.0)
    merger.merged(add([spaced, memory(GOALS[0], 2, STEPS + "\n4. wait")]))
    assert merger.count == 1
    assert steps_alike("a\nx y z", "b\nx y z") == 1.0
