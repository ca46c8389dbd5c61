"""From recorded runs to a bank and a person's edits: the model writer in the pipeline, practice, counts, duomem memories."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import duomem.models
import duomem.tuning
from duomem import curate
from duomem.bank import Bank
from duomem.cli import app
from duomem.cli.memories import NAMES
from duomem.config import settings_of
from duomem.embed import build as embedder
from duomem.errors import DataError, Incomplete, UsageError
from duomem.journal import Journal
from duomem.pipeline import collect, evaluate, remember
from duomem.rundir import RunFolder, open_run
from duomem.talk import Talk
from duomem.types import BankEdit, Memory, Provenance, StopReason
from duomem.usefulness import Use, measured
from memory_world import played

TOY = Path(__file__).parent / "toy_components"
CONFIG = """
[env]
name = "household"

[teacher]
tasks = 10

[student]
model = "pupil"

[memory]
embedder = "lexical"
k = 1

[rollout]
concurrency = 4

[evaluate]
split = "valid_unseen"
games = 8
arms = ["none", "memory"]
"""
SCRIPT = "1. thing: take from countertop, cabinet\n2. thing: move to shelf"


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    for package, folder in ((duomem.models, "models"), (duomem.tuning, "tuning")):
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(TOY / folder)])


def make(root: Path, *overrides: str) -> RunFolder:
    (root / "config.toml").write_text(CONFIG)
    return open_run(root / "run", root / "config.toml", overrides)


def by_model(*replies: str, raise_at: Sequence[int] = ()) -> list[str]:
    own = f"{{ model = 'scripted', replies = {json.dumps(list(replies))}, raise_at = {list(raise_at)} }}"
    return ["memory.writer=model", f"memory.writer_model={own}"]


def live(run: RunFolder) -> list[Memory]:
    with Bank.open(run.bank, embedder("lexical")) as bank:
        return list(bank.view().memories())


# -------------------------------------------------------------------------------------------------- a model in the pipeline


def test_a_model_writes_the_bank_of_a_run_and_is_paid_once(tmp_path: Path) -> None:
    notes: list[str] = []
    run = make(tmp_path, *by_model(SCRIPT))
    collect(run)
    stages: list[str] = []
    data = remember(run, Talk(lambda stage, done, total, note: stages.append(f"{stage} {note}"), notes.append)).data
    assert (data["refused"], data["trajectories"]) == (0, 10)
    assert 0 < data["calls"] <= 10
    assert all(memory.text.endswith(SCRIPT) for memory in live(run))
    assert {memory.provenance.written_by for memory in live(run)} == {"model:scripted@1"}
    assert any(stage.startswith("remember") and "calls" in stage and "tokens" in stage for stage in stages)
    assert any("calls paid for" in note for note in notes)
    content = data["content_hash"]
    again = remember(run, rebuild=True).data
    assert (again["calls"], again["kept_calls"], again["content_hash"]) == (0, 10, content)


def test_an_outage_keeps_what_was_paid_and_the_result_is_that_of_a_clean_run(tmp_path: Path) -> None:
    broken = make(tmp_path, *by_model(SCRIPT, raise_at=range(3, 400)), "rollout.concurrency=1")
    collect(broken)
    with pytest.raises(Incomplete, match="duomem remember"):
        remember(broken)
    assert not broken.bank.is_file()
    healed = remember(make(tmp_path, *by_model(SCRIPT), "rollout.concurrency=1")).data
    assert healed["kept_calls"] == 3
    (tmp_path / "clean").mkdir()
    clean = make(tmp_path / "clean", *by_model(SCRIPT))
    collect(clean)
    assert remember(clean).data["content_hash"] == healed["content_hash"]


CHILD = """
import sys
import duomem.models
from pathlib import Path
from duomem.pipeline import remember
from duomem.rundir import open_run
duomem.models.__path__ = [*duomem.models.__path__, sys.argv[2]]
print("ready", flush=True)
remember(open_run(Path(sys.argv[1])))
print("done", flush=True)
"""


def test_a_killed_remember_goes_on_and_pays_only_calls_in_flight_again(tmp_path: Path) -> None:
    log, slow = tmp_path / "calls", 0.02
    scribe = [f"memory.writer_model={{ model = 'scribe', log = '{log}', seconds = {slow} }}", "memory.writer=model"]
    run = make(tmp_path, *scribe, "teacher.tasks=40", "rollout.concurrency=2")
    collect(run)
    command = [sys.executable, "-c", CHILD, str(run.root), str(TOY / "models")]
    kills = 0
    for wanted in (5, 12, 20, 10_000):
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        while child.poll() is None and _lines(log) < wanted:
            time.sleep(0.002)
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
            kills += 1
        said = child.communicate()[0]
        assert not run.bank.is_file() or "done" in said, "the bank is there when it is whole"
    assert said == "ready\ndone\n"
    asked = log.read_text().split()
    assert kills == 3
    assert len(asked) - len(set(asked)) <= 2 * kills
    content = run.result("remember")["content_hash"]
    (tmp_path / "clean").mkdir()
    clean = make(tmp_path / "clean", *scribe, "teacher.tasks=40")
    collect(clean)
    assert remember(clean).data["content_hash"] == content


def _lines(path: Path) -> int:
    return len(path.read_text().split()) if path.exists() else 0


def test_a_model_that_cannot_write_is_refused_in_words(tmp_path: Path) -> None:
    run = make(tmp_path, *by_model("I am only a player."))
    collect(run)
    with pytest.raises(DataError, match=r"no usable memory of 10 .* no numbered line"):
        remember(run)
    assert not run.bank.is_file()
    with pytest.raises(UsageError, match="'expert', which plays by rules"):
        remember(make(tmp_path, "memory.writer=teacher"))


def test_near_duplicates_are_merged_in_a_run(tmp_path: Path) -> None:
    run = make(tmp_path, *by_model(SCRIPT), "teacher.tasks=20", "memory.merge=0.8")
    collect(run)
    data = remember(run).data
    assert data["merged"] > 0
    with Bank.open(run.bank, embedder("lexical")) as bank:
        sources = [source for memory in bank.view().memories() for source in bank.view().sources(memory.id)]
    assert len(sources) == 20
    assert data["memories"] < 20


def test_practice_adds_from_training_tasks_alone_and_can_be_repeated(tmp_path: Path) -> None:
    run = make(tmp_path, "memory.practice=8", "memory.group=4", "memory.retire_after=1", "memory.retire_below=1.0")
    collect(run)
    data = remember(run).data
    practised = data["practice"]
    assert practised["episodes"] == 8
    assert 0 < practised["won"] <= 8
    with Bank.open(run.bank, embedder("lexical")) as bank:
        shown = bank.usefulness()
        retired = {entry.target for entry in bank.history() if entry.op == "retire"}
        tasks = {source.task_id for memory in bank.view().memories() for source in bank.view().sources(memory.id)}
        assert len(retired) == practised["retired"]
        assert retired == {memory for memory, use in shown.items() if use.won < use.shown}
    assert {task.split("/")[0] for task in tasks} == {"train"}
    assert len(tasks - set(run.result("collect")["tasks"])) > 0
    with Journal.open(run.journal, readonly=True) as journal:
        phases = [phase for phase in journal.phases() if phase.startswith("practice/")]
    assert len(phases) == 2
    assert remember(run, rebuild=True).data["content_hash"] == data["content_hash"]
    with Journal.open(run.journal, readonly=True) as journal:
        assert [phase for phase in journal.phases() if phase.startswith("practice/")] == phases, "nothing is played again"


def test_practice_corrects_a_memory_that_did_not_help_once_a_group(tmp_path: Path) -> None:
    better = "1. thing: take from drawer"
    scripts = f"scripts = {{ 'The corrected procedure:' = ['{better}'] }}"
    own = f"memory.writer_model={{ model = 'scripted', replies = {json.dumps([SCRIPT])}, {scripts} }}"
    reflect = ["memory.writer=model", own, "memory.update=reflect", "memory.practice=8", "memory.group=8", "teacher.tasks=2"]
    run = make(tmp_path, *reflect)
    collect(run)
    practised = remember(run).data["practice"]
    assert practised["won"] < 8
    assert practised["revised"] > 0
    with Bank.open(run.bank, embedder("lexical")) as bank:
        revisions = [entry for entry in bank.history() if entry.op == "revise"]
        assert len(revisions) == practised["revised"]
        assert len({entry.target for entry in revisions}) == len(revisions), "several failed with it; it is corrected once"
        corrected = [memory for memory in bank.view().memories() if memory.text.endswith(better)]
        assert corrected
        for memory in corrected:
            assert len({source.task_id for source in bank.view().sources(memory.id)}) >= 2, "its own source and the failed task"


# ------------------------------------------------------------------------------------------------------ what they were good for


def put(journal: Journal, phase: str, games: dict[str, bool], shown: dict[str, list[str]] | None = None) -> None:
    for game, won in games.items():
        stop = StopReason.WON if won else StopReason.STEP_CAP
        journal.add(phase, played(["look"], task=game, stop=stop, shown=(shown or {}).get(game, ())))


def test_counts_are_against_the_same_game_without_memories(tmp_path: Path) -> None:
    a, b = "aa" * 8, "bb" * 8
    with Journal.open(tmp_path / "journal.sqlite") as journal:
        put(journal, "evaluate/dev/none/seed0/k1", {"g1": False, "g2": True, "g3": True, "g4": False})
        shown = {"g1": [a, b], "g2": [a], "g3": [a], "g4": [b]}
        put(journal, "evaluate/dev/memory/seed0/k1", {"g1": True, "g2": False, "g3": True, "g4": False}, shown)
        put(journal, "evaluate/dev/memory/seed1/k1", {"g1": True}, {"g1": [a]})
        put(journal, "evaluate/dev/both/seed0/k1", {"g1": True}, {"g1": [b]})
        put(journal, "evaluate/dev/decoy/seed0/k1", {"g1": True}, {"g1": [b]})
        found = measured(journal)
        assert found.of(a, "memory") == Use(hits=4, won=3, compared=4, helped=2, harmed=1)
        assert found.of(b, "memory") == Use(2, 1, 2, 1, 0)
        assert found.of(b, "both") == Use(1, 1, 0, 0, 0), "the adapter alone was not played"
        assert measured(journal, seed=1).of(a, "memory") == Use(1, 1, 1, 1, 0)
        assert measured(journal, seed=0).of(a, "memory") == Use(3, 2, 3, 1, 1)
        put(journal, "evaluate/dev/memory/seed0/k2", {"g1": False}, {"g1": [a]})
        assert measured(journal).of(a, "memory") == Use(1, 0, 0, 0, 0), "the newest evaluation, with its own controls"
    with Journal.open(tmp_path / "empty.sqlite") as journal:
        assert measured(journal).arms == {}


# ------------------------------------------------------------------------------------------------------------ a person's edits


def of(number: int, text: str = "") -> Memory:
    source = Provenance(f"train/t{number}", 0, f"hash{number}", "t", "rules:1")
    return Memory(
        f"put thing{number} in desk.", text or f"put thing{number} in desk.\n1. thing{number}: take it", "script", source
    )


@pytest.fixture
def bank(tmp_path: Path) -> Any:
    with Bank.create(tmp_path / "bank.sqlite", embedder("lexical")) as opened:
        opened.apply([BankEdit("add", "won", of(number)) for number in range(5)])
        yield opened


def test_an_edit_takes_the_place_and_keeps_the_sources(bank: Bank) -> None:
    bank.apply([BankEdit("add", "won", Memory(of(1).key, of(1).text, "script", of(9).provenance))])
    new = curate.edit(bank, curate.find(bank, of(1).id[:6]), "a lamp", text="put thing1 in desk.\n1. use the lamp")
    view = bank.view()
    assert new in view.memories()
    assert of(1) not in view.memories()
    assert {source.task_id for source in view.sources(new.id)} == {"train/t1", "train/t9"}
    assert new.provenance.written_by == "rules:1 + hand"
    entry = bank.history()[-1]
    assert (entry.op, entry.target, entry.reason) == ("revise", of(1).id, "by hand: edited: a lamp")
    assert bank.view(1).get(of(1).id) == of(1), "the old version can be seen"
    for wrong, why in (({"text": ""}, "without a text"), ({"text": of(2).text}, "nothing was changed")):
        with pytest.raises(UsageError, match=why):
            curate.edit(bank, curate.find(bank, of(2).id), "x", **wrong)


def test_quarantine_and_restore_lose_nothing(bank: Bank) -> None:
    before = bank.view().content_hash
    curate.quarantine(bank, curate.find(bank, of(2).id), "wrong room")
    assert curate.find(bank, of(2).id).status == "quarantined"
    assert of(2) not in bank.view().memories()
    hits = bank.view().search(of(2).key, 9)
    assert hits
    assert all(hit.memory != of(2) for hit in hits)
    with pytest.raises(UsageError, match="quarantined: it cannot be edited"):
        curate.edit(bank, curate.find(bank, of(2).id), "x", text="y")
    curate.restore(bank, curate.find(bank, of(2).id), "right after all")
    assert bank.view().content_hash == before
    with pytest.raises(UsageError, match="nothing to restore"):
        curate.restore(bank, curate.find(bank, of(2).id), "again")
    with pytest.raises(UsageError, match="--reason"):
        curate.quarantine(bank, curate.find(bank, of(2).id), "  ")


def test_what_is_deleted_is_nowhere_in_the_file(tmp_path: Path) -> None:
    path, secret = tmp_path / "bank.sqlite", "hunter2 Zanzibar"
    with Bank.create(path, embedder("lexical")) as bank:
        bank.apply([BankEdit("add", "won", of(7, f"put {secret} away.\n1. {secret}: take"))])
        bank.apply([BankEdit("add", "won", of(number)) for number in range(30)])
        curate.delete(bank, curate.find(bank, of(7, f"put {secret} away.\n1. {secret}: take").id), "a name")
        after = bank.view()
        assert len(after) == 30
        assert len(bank.view(1)) == 0, "not even in the version that had it"
        assert [entry.reason for entry in bank.history()][-1] == "by hand: deleted: a name"
    with Bank.open(path, embedder("lexical")) as bank:
        assert bank.view().memories() == after.memories(), "the others were packed anew, unchanged"
        assert bank.view().sources(of(3).id) == (of(3).provenance,)
        bank.rollback(2)
        assert len(bank.view()) == 30
    db = sqlite3.connect(path)
    assert b"hunter2" not in bytes(db.execute("SELECT value FROM meta WHERE name = 'dictionary'").fetchone()[0])
    db.close()
    assert all(b"hunter2" not in file.read_bytes() for file in tmp_path.iterdir())


def test_an_id_may_be_cut_short_but_not_too_short(bank: Bank) -> None:
    assert curate.find(bank, of(3).id[:10].upper()).memory == of(3)
    with pytest.raises(UsageError, match="No memory 'zz'"):
        curate.find(bank, "zz")
    with pytest.raises(UsageError, match="No memory ''"):
        curate.find(bank, "")
    initials = Counter(of(number).id[0] for number in range(5))
    if initials.most_common(1)[0][1] > 1:
        with pytest.raises(UsageError, match="Give more of it"):
            curate.find(bank, initials.most_common(1)[0][0])


# ----------------------------------------------------------------------------------------------------------- the command line


def memories(*arguments: str | Path) -> Any:
    result = CliRunner().invoke(app, ["memories", *map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_memory_from_evaluation_to_quarantine_and_back(tmp_path: Path) -> None:
    run = make(tmp_path)
    collect(run)
    remember(run)
    assert memories("list", run.root)["split"] == ""
    first = evaluate(run).data
    listed = memories("list", run.root)
    assert listed["split"] == "valid_unseen"
    assert len(listed["memories"]) == run.result("remember")["memories"]
    used = [each for each in listed["memories"] if each["uses"]]
    assert sum(each["uses"]["memory"]["hits"] for each in used) == 8, "eight games, one memory each"
    assert sum(each["uses"]["memory"]["won"] for each in used) == round(first["arms"]["memory"]["success"] * 8)
    most = max(used, key=lambda each: each["uses"]["memory"]["hits"])
    assert most["sources"][0]["written_by"].startswith("rules:")
    shown = memories("show", run.root, most["id"][:8])
    assert (shown["text"], shown["status"]) == (most["text"], "live")
    assert memories("search", run.root, most["key"], "--k", "3")["hits"][0]["score"] == 1.0

    content = run.result("remember")["content_hash"]
    assert memories("quarantine", run.root, most["id"], "--reason", "test")["version"] == 2
    assert run.result("remember")["content_hash"] != content
    assert most["id"] not in [each["id"] for each in memories("list", run.root)["memories"]]
    aside = next(each for each in memories("list", run.root, "--all")["memories"] if each["id"] == most["id"])
    assert (aside["status"], aside["edits"][-1]["reason"]) == ("quarantined", "by hand: quarantined: test")
    remember(run)
    assert len(live(run)) == run.result("remember")["memories"], "the bank is not made anew"
    evaluate(run)
    with Journal.open(run.journal, readonly=True) as journal:
        newest = list(journal.trajectories(journal.latest("evaluate/valid_unseen/memory/")))
    assert len(newest) == 8
    assert all(most["id"] not in each.shown for each in newest), "it is not shown any more"
    memories("restore", run.root, most["id"], "--reason", "was right")
    assert run.result("remember")["content_hash"] == content

    with pytest.raises(UsageError, match="2 edits made by hand"):
        remember(make(tmp_path, "memory.build=both"))
    remember(make(tmp_path, "memory.build=both"), rebuild=True)


def test_a_text_from_a_file_and_a_bank_without_its_run(tmp_path: Path, bank: Bank) -> None:
    bank.close()
    path, text = tmp_path / "bank.sqlite", tmp_path / "better.txt"
    text.write_text("put thing1 in desk.\n1. better\n")
    done = memories("edit", path, of(1).id, "--file", text, "--reason", "better")
    assert memories("show", path, done["id"])["text"] == "put thing1 in desk.\n1. better"
    memories("edit", path, done["id"], "--key", "place thing1 on desk", "--reason", "other words")
    memories("delete", path, of(2).id, "--reason", "gone")
    assert len(memories("list", path, "--all")["memories"]) == 6
    assert len(memories("list", path)["memories"]) == 4


def test_words_for_people(tmp_path: Path, bank: Bank) -> None:
    bank.close()
    said = CliRunner().invoke(app, ["memories", "list", str(tmp_path / "bank.sqlite")], catch_exceptions=False).stdout
    assert "put thing3 in desk." in said
    assert "5 live" in said
    said = CliRunner().invoke(app, ["memories", "show", str(tmp_path / "bank.sqlite"), of(3).id], catch_exceptions=False).stdout
    assert "source: train/t3, attempt 0: teacher t, written by rules:1" in said
    assert "1. thing3: take it" in said
    assert len(re.findall(r"^near: 0\.\d+  [0-9a-f]{16}  put thing", said, re.M)) == 4


def test_a_run_of_several_seeds_asks_which(tmp_path: Path) -> None:
    run = make(tmp_path, "run.seeds=[0, 1]", "teacher.tasks=4")
    collect(run)
    remember(run)
    with pytest.raises(UsageError, match="--seed"):
        CliRunner().invoke(app, ["memories", "list", str(run.root)], catch_exceptions=False)
    assert memories("list", run.root, "--seed", "1")["memories"]


def test_every_change_needs_a_reason() -> None:
    for name in NAMES[3:]:
        result = CliRunner().invoke(app, ["memories", name, "bank.sqlite", "aa"])
        assert result.exit_code == 2, name


# ------------------------------------------------------------------------------------------------------------- the page itself


PAGE = (Path(__file__).resolve().parents[1] / "docs/memories.md").read_text()


def test_the_commands_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block = re.search(r"<!-- run -->\n```sh\n(.*?)```", PAGE, re.S)
    assert block
    (tmp_path / "configs").mkdir()
    shutil.copy(Path(__file__).resolve().parents[1] / "configs/household.toml", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    chosen, said = "", ""
    for line in block[1].splitlines():
        arguments = [chosen if part == "ID" else part for part in shlex.split(line)[1:]]
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert result.exit_code == 0, f"{line}\n{result.output}"
        if not chosen and arguments[:2] == ["memories", "list"]:
            chosen = result.stdout.splitlines()[2].split()[0]
        said += result.stdout
    assert "quarantined" in said
    assert "counts: arm memory on valid_unseen" in said


def test_the_configs_of_the_page_are_complete() -> None:
    blocks = re.findall(r"<!-- config -->\n```toml\n(.*?)```", PAGE, re.S)
    assert len(blocks) == 2
    for block in blocks:
        settings_of(tomllib.loads(block), "docs/memories.md")


def test_memps_settings_of_the_page_load() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and "`" in line]
    own = {name: re.findall(rf"`{name} = ([^`]+)`((?:, `[^`=]+`)*)", PAGE) for name in ("build", "stages", "key", "update")}
    assert rows
    for name, found in own.items():
        values = [json.loads(value) for first, rest in found[-1:] for value in [first, *re.findall(r"`([^`]+)`", rest)]]
        assert len(values) >= 2, name
        for value in values:
            memory = {"embedder": "lexical", "writer": "teacher", name: value}
            settings_of({"memory": memory}, "docs/memories.md")
