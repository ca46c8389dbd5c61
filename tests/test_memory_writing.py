"""Memories written by a model: what it is asked, what is refused, what is kept, and that nothing is paid for twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duomem.bank import Bank
from duomem.embed import build as embedder
from duomem.errors import ConfigError, DataError, UsageError
from duomem.memory import procedure
from duomem.memory._answers import About, Unusable, numbers_in, parts_in, steps_in
from duomem.memory._prompts import load_prompts, prompt_sets
from duomem.models import ContextFull
from duomem.models.scripted import Config as ScriptedConfig
from duomem.models.scripted import build as scripted
from duomem.paid import Paid
from duomem.types import BankEdit, Budget, EpisodeView, Memory, Message, Sampling, StopReason, Trajectory
from memory_world import CLEAN, SCRIPT, SECRET, Author, Nothing, played

GOAL = "put a clean plate in cabinet."
ASKS_TASK, ASKS_PARTS, ASKS_ACTIONS = "The procedure:", "The parts:", "The actions:"
ASKS_LESSON, ASKS_PICK, ASKS_AGAIN = "The advice:", "numbers of the needed", "cannot be used"
EMPTY = Nothing()
ABOUT = About.of([GOAL, *CLEAN])


def strategy(**config: Any) -> procedure.Procedure:
    return procedure.build(procedure.Config(**({"writer": "teacher"} | config)))


def written(author: Author, trajectory: Trajectory | None = None, **config: Any) -> list[Memory]:
    edits = strategy(**config).write(trajectory or played(), EMPTY, author)
    return [edit.memory for edit in edits if edit.memory]


def test_the_teacher_writes_the_script_and_its_provenance_says_so() -> None:
    author = Author({ASKS_TASK: f"Here it is:\n\n{SCRIPT}\n\nGood luck!"})
    (memory,) = written(author)
    assert memory.text == f"{GOAL}\n{SCRIPT}"
    assert (memory.key, memory.kind) == (GOAL, "script")
    source = memory.provenance
    assert (source.written_by, source.teacher) == ("model:author@7", "teacher-x")
    assert source.prompt == f"{load_prompts('default').id} direct"
    assert source.licence == "licence-y and author-licence"
    (question,) = author.asked
    assert GOAL in question[0].text
    assert "4> take plate 1 from cabinet 2" in question[0].text
    assert "secretpath" not in question[0].text
    assert "JSON" in question[0].text


def test_rules_stay_as_they_were_and_are_never_asked_for_by_a_model() -> None:
    (by_rules,) = strategy(writer="rules").write(played(), EMPTY, Author({}))
    assert by_rules.memory is not None
    assert by_rules.memory.provenance.written_by.startswith("rules:")
    assert by_rules.memory.provenance.prompt == ""
    with pytest.raises(UsageError, match="writer"):
        strategy().write(played(), EMPTY, None)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("", "empty"),
        ('{"steps": ["take the plate"]}', "JSON"),
        ('```json\n["take plate"]\n```', "JSON"),
        ("Take the plate, clean it and put it away.", "no numbered line"),
        ("1. plate: take <|im_end|>", "special token"),
        ("1. sing a song", "nothing of the task"),
        ("1. plate: take from cabinet 2", "cabinet 2"),
        ("\n".join(f"{n}. plate: take" for n in range(1, 40)), "39 steps"),
        ("1. plate: " + "very " * 80, "81 words"),
    ],
)
def test_what_is_no_memory_is_refused_and_counted_never_replaced(answer: str, why: str) -> None:
    author = Author(lambda question: answer)
    used = strategy()
    assert used.write(played(), EMPTY, author) == []
    (refusal,) = used.refusals
    assert (refusal.task_id, refusal.question) == (SECRET, "task")
    assert why in refusal.reason
    assert len(author.asked) == 2, "asked once more"
    first, said, again = author.asked[1]
    assert (first, said.text) == (author.asked[0][0], answer)
    assert why in again.text


def test_an_answer_that_is_mended_when_asked_again_counts_as_written() -> None:
    author = Author({ASKS_AGAIN: SCRIPT, ASKS_TASK: "no"})
    used = strategy()
    assert len(used.write(played(), EMPTY, author)) == 1
    assert used.refusals == ()
    assert strategy(writer_tries=1).write(played(), EMPTY, Author({ASKS_TASK: "no"})) == []


def test_cut_off_and_too_long_are_refusals_of_their_own() -> None:
    cut = strategy(writer_tries=1)
    assert cut.write(played(), EMPTY, Author({ASKS_TASK: SCRIPT}, finish="length")) == []
    assert "cut off" in cut.refusals[0].reason

    def full(question: str) -> str:
        raise ContextFull("9 + 9 words exceed 10")

    long = strategy()
    assert long.write(played(), EMPTY, Author(full)) == []
    assert "too long" in long.refusals[0].reason


@pytest.mark.parametrize("build", ["trajectory", "both"])
def test_the_reference_trajectory_is_cut_to_the_steps_that_the_model_picks(build: str) -> None:
    author = Author({ASKS_PICK: "Needed:\n4, 6, 9", ASKS_TASK: SCRIPT})
    (memory,) = written(author, build=build, stages="staged")
    commands = [line[2:] for line in memory.text.splitlines() if line.startswith("> ")]
    assert commands == [CLEAN[3], CLEAN[5], CLEAN[8]]
    assert memory.text.startswith(f"{GOAL}\n{SCRIPT}\n> " if build == "both" else f"{GOAL}\n> ")
    if build == "both":
        assert "3> move plate 1 to cabinet 1" in author.asked[1][0].text, "the script is written from the picked steps"
        assert "go to countertop 1" not in author.asked[1][0].text


def test_written_at_once_rules_cut_the_reference() -> None:
    detour = [*CLEAN[:4], "go to drawer 1", "open drawer 1", "inventory", *CLEAN[4:], "look"]
    (memory,) = written(Author({ASKS_TASK: SCRIPT}), played(detour), build="both")
    commands = [line[2:] for line in memory.text.splitlines() if line.startswith("> ")]
    assert not {"go to drawer 1", "open drawer 1", "inventory", "look"} & set(commands)
    assert commands[-1] == CLEAN[-1]


def test_a_world_without_numbered_things_keeps_what_had_an_effect_once() -> None:
    commands = ["read inbox", "read inbox", "fly", "send reply"]
    author = Author({ASKS_TASK: "1. read inbox\n2. send reply"})
    (memory,) = written(author, played(commands, "answer the inbox", invalid=[2]), build="both")
    assert [line for line in memory.text.splitlines() if line[0] == ">"] == ["> read inbox", "> send reply"]


def test_levels_each_have_their_question_and_kind() -> None:
    parts = "Part: find a thing\n1. search countertop\n2. take it\n\nPart: clean a thing\n1. hold it\n2. clean with sinkbasin"
    actions = "Action: clean THING with PLACE\n1. hold the thing, stand at the sinkbasin\n2. it is clean then"
    author = Author({ASKS_TASK: SCRIPT, ASKS_PARTS: parts, ASKS_ACTIONS: actions})
    found = written(author, levels=["task", "subtask", "action"])
    assert [memory.kind for memory in found] == ["script", "subtask", "subtask", "action"]
    assert found[1].key == "find a thing"
    assert found[1].text == "find a thing\n1. search countertop\n2. take it"
    assert found[3].key == "clean THING with PLACE"
    assert len(author.asked) == 3


def test_a_level_that_is_refused_leaves_the_others() -> None:
    used = strategy(levels=["task", "subtask"])
    edits = used.write(played(), EMPTY, Author({ASKS_TASK: SCRIPT, ASKS_PARTS: "1. no title"}))
    assert [edit.memory.kind for edit in edits if edit.memory] == ["script"]
    assert [refusal.question for refusal in used.refusals] == ["subtask"]


def test_lessons_come_from_failures_and_only_when_asked_for() -> None:
    lost = played(stop=StopReason.STEP_CAP)
    author = Author({ASKS_LESSON: "1. search the drawer before the cabinet"})
    assert written(author, lost) == []
    assert author.asked == []
    (lesson,) = written(author, lost, lessons=True)
    assert (lesson.kind, lesson.key) == ("lesson", GOAL)
    assert lesson.text == f"{GOAL}\nAn attempt at this failed. Next time:\n1. search the drawer before the cabinet"
    assert written(author, played(stop=StopReason.ERROR), lessons=True) == [], "an outage teaches nothing"


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"levels": ["subtask"]}, "needs a model"),
        ({"lessons": True}, "needs a model"),
        ({"stages": "staged"}, "needs a model"),
        ({"update": "reflect"}, "needs a model"),
        ({"writer": "teacher", "update": "reflect", "build": "trajectory"}, "rewrites scripts"),
        ({"writer": "model"}, "writer_model"),
        ({"writer_model": {"model": "hf"}}, "writer_model"),
    ],
)
def test_settings_that_cannot_be_fulfilled_are_refused(config: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        procedure.Config(**config)


def test_every_set_of_prompts_loads_and_a_changed_text_is_another_id(tmp_path: Path) -> None:
    assert prompt_sets() == ["default", "pocket"]
    ids = {load_prompts(name).id for name in prompt_sets()}
    assert len(ids) == 2
    own = tmp_path / "own.toml"
    text = (Path(procedure.__file__).parent / "prompts/default.toml").read_text()
    own.write_text(text.replace("At most ten", "At most nine", 1))
    assert load_prompts(str(own)).id not in ids
    own.write_text(text)
    assert load_prompts(str(own)).id in ids
    with pytest.raises(ConfigError, match="There are: default, pocket"):
        load_prompts("poket")
    with pytest.raises(ConfigError, match="does not exist"):
        load_prompts(str(tmp_path / "none.toml"))
    own.write_text("name = 1")
    with pytest.raises(ConfigError):
        load_prompts(str(own))


def test_small_models_get_the_short_prompts_and_are_asked_once() -> None:
    author = Author({"Guide:": "nothing"})
    used = strategy(writer_prompts="pocket")
    assert used.write(played(), EMPTY, author) == []
    ((question,),) = author.asked
    assert question.text.endswith("Guide:")
    assert "> take plate 1 from cabinet 2" in question.text


@given(st.text(alphabet="ab1.:\n-<|{é ", max_size=80))
@settings(max_examples=150, deadline=None)
def test_any_answer_is_read_or_refused(text: str) -> None:
    for read in (lambda: steps_in(text, ABOUT), lambda: parts_in(text, ABOUT), lambda: numbers_in(text, 5)):
        try:
            assert read()
        except Unusable:
            continue


def test_numbers_are_of_steps_that_there_are() -> None:
    assert numbers_in("The steps are:\n3, 1; 3\n", 4) == [1, 3]
    for text in ("all 3 of them", "9", "0", ""):
        with pytest.raises(Unusable):
            numbers_in(text, 4)


# --------------------------------------------------------------------------------------------------- what a recall then shows


def bank_of(path: Path, edits: list[BankEdit]) -> Bank:
    bank = Bank.create(path, embedder("lexical"))
    bank.apply(edits)
    return bank


def test_kinds_take_turns_and_actions_wait_for_an_error(tmp_path: Path) -> None:
    parts = "Part: clean a plate\n1. hold it\n2. clean with sinkbasin"
    actions = "Action: clean THING with PLACE\n1. hold the thing first\n\nAction: open PLACE\n1. stand at the cabinet"
    used = strategy(levels=["task", "subtask", "action"])
    author = Author({ASKS_TASK: SCRIPT, ASKS_PARTS: parts, ASKS_ACTIONS: actions})
    edits = list(used.write(played(), EMPTY, author)) + list(
        used.write(played(goal="put a clean plate in drawer."), EMPTY, author)
    )
    with bank_of(tmp_path / "bank.sqlite", edits) as bank:
        view = bank.view()
        start = used.recall(EpisodeView(GOAL, ""), view, Budget(k=2, tokens=400))
        assert sorted(memory.kind for memory in start.memories) == ["script", "subtask"]
        fine = played().turns[:2]
        assert used.recall(EpisodeView(GOAL, "", fine), view, Budget(k=2, tokens=400)).ids == ()
        wrong = played(["clean plate 1 with sinkbasin 1"], invalid=[0]).turns
        (note,) = used.recall(EpisodeView(GOAL, "", wrong), view, Budget(k=2, tokens=400)).memories
        assert (note.kind, note.key) == ("action", "clean THING with PLACE")
        assert used.recall(EpisodeView(GOAL, "", wrong * 3), view, Budget(k=2, tokens=400)).ids == (), "k errors, no more"
        spent = sum(len(memory.text) for memory in start.memories)
        assert used.recall(EpisodeView(GOAL, "", wrong), view, Budget(k=2, tokens=spent // 8)).ids == ()


# ------------------------------------------------------------------------------------------------- a failure, corrected (MemP)


def test_a_memory_that_did_not_help_is_rewritten_and_no_other(tmp_path: Path) -> None:
    used = strategy(update="reflect", build="both")
    better = "1. plate: take from drawer\n2. plate: clean with sinkbasin\n3. plate: move to cabinet"
    author = Author({"corrected procedure": better, ASKS_TASK: SCRIPT})
    edits = [*used.write(played(), EMPTY, author), *used.write(played(goal="heat some egg.", task="train/b/t"), EMPTY, author)]
    with bank_of(tmp_path / "bank.sqlite", edits) as bank:
        shown = next(memory for memory in bank.view().memories() if memory.key == GOAL)
        lost = played(["look"], task="train/c/t", stop=StopReason.STEP_CAP, shown=[shown.id, "00" * 8])
        (edit,) = used.write(lost, bank.view(), author)
        assert (edit.op, edit.target) == ("revise", shown.id)
        assert "lost in 1 turns" in edit.reason
        bank.apply([edit])
        texts = {memory.key: memory.text for memory in bank.view().memories()}
        assert texts[GOAL].startswith(f"{GOAL}\n{better}\n> ")
        assert SCRIPT in texts["heat some egg."]
        new = next(memory for memory in bank.view().memories() if memory.key == GOAL)
        tasks = {source.task_id for source in bank.view().sources(new.id)}
        assert tasks == {SECRET, "train/c/t"}, "it is shown to none of its sources"
        assert used.write(lost, bank.view(), author) == [], "it was rewritten already"
        question = author.asked[-1][0].text
        assert SCRIPT in question
        assert "1> look" in question


@pytest.mark.parametrize(("update", "count"), [("add", 1), ("validate", 0)])
def test_which_trajectories_enter_is_the_update(update: str, count: int) -> None:
    lost = played(stop=StopReason.STEP_CAP)
    assert len(written(Author({ASKS_TASK: SCRIPT}), lost, update=update)) == count
    assert len(procedure.build(procedure.Config(update=update)).write(lost, EMPTY, None)) == count
    assert strategy(update=update).takes_failures is (update != "validate")


# ------------------------------------------------------------------------------------------------------- never paid for twice


def ask(model: Any, text: str, seed: int = 0) -> str:
    return str(model.reply([Message.of("user", text)], (), Sampling(seed=seed)).message.text)


def test_an_answer_is_kept_by_what_was_asked_of_whom(tmp_path: Path) -> None:
    author = Author(lambda question: question.upper())
    with Paid(author, tmp_path / "w.sqlite") as paid:
        assert [ask(paid, "a"), ask(paid, "b"), ask(paid, "a"), ask(paid, "a", seed=1)] == ["A", "B", "A", "A"]
        assert (paid.spent.calls, paid.spent.kept, len(author.asked)) == (3, 1, 3)
    with Paid(author, tmp_path / "w.sqlite") as paid:
        assert ask(paid, "b") == "B"
        assert (paid.spent.calls, paid.spent.kept, paid.spent.tokens, paid.spent.kept_usage.prompt) == (0, 1, 0, 1)
    with Paid(Author(lambda question: "?", name="other"), tmp_path / "w.sqlite") as paid:
        assert ask(paid, "b") == "?"


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database " * 100)
    with pytest.raises(DataError, match="text"):
        Paid(Author({}), tmp_path / "text")
    Bank.create(tmp_path / "bank.sqlite", embedder("lexical")).close()
    with pytest.raises(DataError, match="kept replies"):
        Paid(Author({}), tmp_path / "bank.sqlite")


CHILD = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from memory_world import Author
from duomem.paid import Paid
from duomem.types import Message, Sampling
calls = open(sys.argv[2], "a")
def answer(question):
    calls.write(question + "\\n"); calls.flush()
    time.sleep(0.003)
    return question.upper()
with Paid(Author(answer), Path(sys.argv[1])) as paid, ThreadPoolExecutor(4) as pool:
    list(pool.map(lambda n: paid.reply([Message.of("user", f"q{n}")], (), Sampling()), range(90)))
print("done", flush=True)
"""


def test_a_killed_writer_pays_at_most_the_calls_in_flight_again(tmp_path: Path) -> None:
    calls, kills = tmp_path / "calls", 0
    command = [sys.executable, "-c", CHILD, str(tmp_path / "w.sqlite"), str(calls), str(Path(__file__).parent)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    while kills < 20:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
        wanted = (len(calls.read_text().splitlines()) if calls.exists() else 0) + 25
        while child.poll() is None and (not calls.exists() or len(calls.read_text().splitlines()) < wanted):
            time.sleep(0.002)
        if child.poll() is not None:
            break
        child.send_signal(signal.SIGKILL)
        child.wait()
        kills += 1
    assert child.stdout is not None
    assert (child.returncode, child.stdout.read()) == (0, b"done\n")
    asked = calls.read_text().splitlines()
    assert kills >= 2
    assert set(asked) == {f"q{number}" for number in range(90)}
    assert len(asked) - 90 <= 4 * kills, "four calls are in flight at a kill"


def test_a_scripted_model_may_write_too() -> None:
    model = scripted(ScriptedConfig(replies=[SCRIPT]))
    (memory,) = written(model)  # type: ignore[arg-type]
    assert memory.provenance.written_by == "model:scripted@1"
    assert json.dumps(memory.text)


def test_a_real_model_writes_or_is_refused_and_every_question_is_accounted_for(tmp_path: Path) -> None:
    """The pocket model has not learned to write, and may one day; whatever it says is a memory of its own or a refusal."""
    pytest.importorskip("transformers", reason="the extra 'train' is not installed")
    from duomem import weights
    from duomem.errors import DuomemError
    from duomem.models import hf

    try:
        weights.resolve("pocket")
    except DuomemError as error:
        pytest.skip(f"no pocket model here: {error}")
    model = hf.build(hf.Config(path="pocket", threads=1))
    used = strategy(writer="student", writer_prompts="pocket", writer_tokens=48)
    runs = [played(goal=goal, task=f"train/{number}") for number, goal in enumerate((GOAL, "put two mug in drawer."))]
    try:
        with Paid(model, tmp_path / "writing.sqlite") as paid:
            edits = [edit for run in runs for edit in used.write(run, EMPTY, paid)]
            assert paid.spent.calls == len(runs)
            assert paid.spent.usage.completion > 0
    finally:
        model.close()
    assert len(edits) + len(used.refusals) == len(runs)
    for edit in edits:
        assert edit.memory is not None
        assert edit.memory.provenance.written_by.startswith("model:")
        assert edit.memory.text.splitlines()[0] in {run.goal for run in runs}
