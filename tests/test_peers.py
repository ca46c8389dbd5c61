"""Sweeps on the household: one log for all cells, kept and paired results, peers, and what is said of cells that cannot run."""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path
from sqlite3 import connect

import pytest

import duomem.models
import duomem.tuning
from duomem import bettertogether, embed, parts, pipeline, prompts, sweep
from duomem.bank import Bank
from duomem.errors import ConfigError, DataError, Incomplete, MissingExtra, UsageError
from duomem.journal import Journal
from duomem.memory import kshot
from duomem.models import Model
from duomem.remember import recorded
from duomem.rundir import RunFolder, open_run
from duomem.talk import Talk
from duomem.types import Budget, EpisodeView, Message, Sampling
from memory_world import CLEAN, SCENE, played

TOY = Path(__file__).parent / "toy_components"
CONFIG = """
[env]
name = "household"
[teacher]
tasks = 12
[student]
model = "pupil"
[memory]
embedder = "lexical"
k = 1
[tuning]
name = "rote"
[rollout]
concurrency = 4
"""
SWEEP = """
config = "base.toml"
seeds = [0]
[tests.unseen]
split = "valid_unseen"
games = 12
[[cells]]
name = "both"
[[cells]]
name = "memory"
arm = "memory"
against = ["both"]
[[cells]]
name = "k = 0"
arm = "adapter"
against = ["both"]
[[cells]]
name = "three runs"
runs = 3
against = ["both"]
seeds = [0, 1]
[[cells]]
name = "fixed example"
arm = "memory"
set = ["memory.name=kshot", "memory.build=script"]
against = ["memory"]
[[cells]]
name = "none"
arm = "none"
"""


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    for package, folder in ((duomem.models, "models"), (duomem.tuning, "tuning")):
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(TOY / folder)])


def sheet(root: Path, more: str = "", **options: tuple[str, ...]) -> sweep.Sheet:
    (root / "base.toml").write_text(CONFIG)
    (root / "sweep.toml").write_text(SWEEP + more)
    return sweep.read(root / "out", root / "sweep.toml", **options)


def rows(data: dict[str, object]) -> dict[str, dict[str, object]]:
    assert isinstance(data["rows"], list)
    return {row["cell"]: row for row in data["rows"]}


def won(row: dict[str, object]) -> int:
    figures = row["figures"]
    assert isinstance(figures, dict)
    return round(figures["success"] * figures["n"])


def test_cells_of_one_log_side_by_side(tmp_path: Path) -> None:
    found = rows(sweep.run(sheet(tmp_path)).data)
    assert won(found["both"]) >= won(found["memory"]) > won(found["fixed example"]) >= won(found["none"]) == 0
    pair = found["memory"]["pairs"]["both"]  # type: ignore[index]
    assert pair["wins"] == 0
    assert round(pair["difference"] * 12) == won(found["memory"]) - won(found["both"])
    assert found["three runs"]["seeds"] == (0, 1)
    assert found["three runs"]["pairs"]["both"]["seeds"] == 1  # type: ignore[index]  # on the seed that both have
    kept = json.loads((tmp_path / "out/results.json").read_text())
    assert [row["cell"] for row in kept["rows"]] == list(found)
    text = (tmp_path / "out/results.md").read_text()
    assert "| memory | " in text
    assert "duomem sweep" in text


def test_the_teacher_plays_once_and_a_second_call_plays_nothing(tmp_path: Path) -> None:
    first = sweep.run(sheet(tmp_path)).data
    for seed in (0, 1):
        with Journal.open(tmp_path / f"out/log/seed{seed}/journal.sqlite", readonly=True) as journal:
            (phase,) = journal.phases()
            assert len(journal.finished(phase)) == 12
    made = sorted(path.name for path in (tmp_path / "out/made").iterdir())
    stages: set[str] = set()
    again = sweep.run(sheet(tmp_path), Talk(lambda stage, done, total, note: stages.add(stage))).data
    assert again == first
    assert stages == {"sweep"}
    assert sorted(path.name for path in (tmp_path / "out/made").iterdir()) == made


def test_a_finished_run_gives_its_log_and_its_adapter(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(CONFIG)
    run = open_run(tmp_path / "run", tmp_path / "base.toml")
    for verb in (pipeline.collect, pipeline.remember, pipeline.tune):
        verb(run)
    (tmp_path / "sweep.toml").write_text(SWEEP)
    stages: set[str] = set()
    talk = Talk(lambda stage, done, total, note: stages.add(stage))
    cells = ("both", "three runs")
    plan = sweep.read(tmp_path / "out", tmp_path / "sweep.toml", ["evaluate.seed=1"], ("both",), tmp_path / "run")
    sweep.run(plan, talk)
    assert not any("tune" in stage or "collect" in stage for stage in stages)
    other = sweep.read(tmp_path / "out", tmp_path / "sweep.toml", ["tuning.needed=1"], cells, tmp_path / "run")
    sweep.run(other, talk)
    assert {stage.partition(" ")[0] for stage in stages if "tune" in stage} == {"both", "three"}  # not made from the same
    assert {stage.partition("collect")[0] for stage in stages if "collect" in stage} == {
        "log seed1 "
    }  # the run has seed 0 alone
    with pytest.raises(UsageError, match="no teacher's episodes"):
        sweep.run(
            sweep.read(tmp_path / "new", tmp_path / "sweep.toml", given=open_run(tmp_path / "x", tmp_path / "base.toml").root)
        )


def test_fewer_runs_are_part_of_more(tmp_path: Path) -> None:
    more = "".join(f'[[cells]]\nname = "runs {n}"\narm = "memory"\nruns = {n}\n' for n in (2, 5))
    sweep.run(sheet(tmp_path, more, cells=("runs 2", "runs 5")))
    taught = [
        set(step["collect"]["result"]["tasks"])
        for path in (tmp_path / "out/made").iterdir()
        if (step := json.loads((path / "steps.json").read_text()))
    ]
    assert sorted(map(len, taught)) == [2, 5]
    assert min(taught, key=len) < max(taught, key=len)


def test_a_cell_that_cannot_run_says_why_and_the_others_run(tmp_path: Path) -> None:
    more = """
[[cells]]
name = "written by the student"
not_run = "no student here writes"
[[cells]]
name = "no adapter"
arm = "adapter"
set = ["tuning="]
"""
    with pytest.raises(Incomplete, match="needs memories or an adapter"):
        sweep.run(sheet(tmp_path, more))
    found = rows(json.loads((tmp_path / "out/results.json").read_text()))
    assert found["written by the student"]["why"] == "no student here writes"
    assert found["both"]["figures"]
    assert "| written by the student | not run: no student here writes |" in (tmp_path / "out/results.md").read_text()


def test_results_of_cells_that_are_not_asked_for_stay(tmp_path: Path) -> None:
    first = rows(sweep.run(sheet(tmp_path)).data)
    later = rows(sweep.run(sheet(tmp_path, cells=("memory",))).data)
    assert {name: row["figures"] for name, row in later.items()} == {name: row["figures"] for name, row in first.items()}


@pytest.mark.parametrize("file", sorted((TOY.parents[1] / "configs" / "sweeps").glob("*.toml")), ids=lambda path: path.stem)
def test_the_shipped_sweeps_load_and_list_their_cells(tmp_path: Path, file: Path) -> None:
    listed = sweep.listing(sweep.read(tmp_path / "out", file))
    assert len(listed.words.splitlines()) == len(listed.data["cells"]) > 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ('[[cells]]\nname = "both"\n', "two cells are named 'both'"),
        ('[[cells]]\nname = "x, y"\n', "no comma in a name"),
        ('[[cells]]\nname = "x"\narm = "nobody"\n', "no arm 'nobody'"),
        ('[[cells]]\nname = "x"\nagainst = ["y"]\n', "no cell 'y'"),
        ('[[cells]]\nname = "x"\ntests = ["y"]\n', "no test 'y'"),
        ('[[cells]]\nname = "x"\nset = ["memory.kk=1"]\n', "unknown key memory.kk"),
        ('[[cells]]\nname = "x"\nwhat = 1\n', "cells.6.what"),
    ],
)
def test_mistakes_in_a_sweep_file(tmp_path: Path, more: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        sheet(tmp_path, more)


DAGGER = ("tuning.dagger=6", "teacher.tasks=4")


def daggered(root: Path, *more: str) -> tuple[RunFolder, dict[str, object]]:
    (root / "base.toml").write_text(CONFIG)
    run = open_run(root / "run", root / "base.toml", (*DAGGER, *more))
    pipeline.collect(run)
    if run.settings.memory:
        pipeline.remember(run)
    return run, pipeline.tune(run).data


def test_dagger_learns_the_teachers_labels_of_the_students_states(tmp_path: Path) -> None:
    run, done = daggered(tmp_path, "memory=")
    with Journal.open(run.journal, readonly=True) as journal:
        (phase,) = (name for name in journal.phases() if name.startswith("dagger/"))
        played = list(journal.trajectories(phase))
    assert {each.task.id for each in played} == set(run.result("collect")["tasks"])  # the log's own tasks, no others
    assert not any(each.shown for each in played)
    assert "the teacher labelled" in run.result("tune")["words"]
    assert int(str(done["examples"])) > 4  # the log's four episodes and some of the student's


def test_dagger_shows_memories_as_training_does_and_pays_for_no_label_twice(tmp_path: Path) -> None:
    run, first = daggered(tmp_path)
    with Journal.open(run.journal, readonly=True) as journal:
        (phase,) = (name for name in journal.phases() if name.startswith("dagger/"))
        assert 0 < sum(bool(each.shown) for each in journal.trajectories(phase)) < 4  # half of the prompts
    with connect(run.root / "labels.sqlite") as labels:
        asked = labels.execute("SELECT count(*) FROM calls").fetchone()[0]
    assert asked > 0
    shutil.rmtree(run.root / "tune")
    assert pipeline.tune(run).data["examples"] == first["examples"]
    with connect(run.root / "labels.sqlite") as labels:
        assert labels.execute("SELECT count(*) FROM calls").fetchone()[0] == asked


def test_a_wrong_key_of_the_labelling_teacher_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dagger_labels"):
        daggered(tmp_path, "tuning.dagger_labels={ slips = 0 }")


def example_view(goal: str) -> EpisodeView:
    return EpisodeView(goal, SCENE)


@pytest.mark.parametrize("pick", ["random", "spread"])
def test_fixed_examples_are_the_same_for_every_task(tmp_path: Path, pick: str) -> None:
    strategy = kshot.build(kshot.Config(build="script", pick=pick))
    goals = ["put a clean plate in cabinet.", "put a clean mug in cabinet.", "cool some pan and put it on desk."]
    lines = [[step.replace("plate", goal.split()[2]) for step in CLEAN] for goal in goals]
    with Bank.create(tmp_path / "bank.sqlite", embed.build("lexical"), "layout") as bank:
        for number, (goal, commands) in enumerate(zip(goals, lines, strict=True)):
            bank.apply(strategy.write(played(commands, goal, task=f"train/t{number}"), bank.view(), None))
        view, budget = bank.view(), Budget(k=2)
        shown = {strategy.recall(example_view(goal), view, budget).ids for goal in ("put a pan on desk.", "look at the book.")}
        assert len(shown) == 1
        assert len(next(iter(shown))) == 2
        first = view.get(next(iter(shown))[0])
        spared = EpisodeView(first.key, SCENE, exclude_tasks=frozenset({first.provenance.task_id}))
        assert first.id not in strategy.recall(spared, view, budget).ids  # never to its own task; another takes its place
        assert len(strategy.recall(spared, view, budget).ids) == 2
    if pick == "spread":
        keys = {view.get(memory).key for memory in next(iter(shown))}
        assert goals[2] in keys  # the one unlike the others


TUNED = """
[env]
name = "household"
games = 40
[teacher]
tasks = 10
[student]
model = "hf"
path = "pocket"
[memory]
name = "kshot"
embedder = "lexical"
k = 1
[tuning]
name = "lora"
rank = 8
epochs = 1
[rollout]
concurrency = 8
max_steps = 14
"""


@pytest.fixture
def collected(tmp_path: Path) -> RunFolder:
    (tmp_path / "base.toml").write_text(TUNED)
    run = open_run(tmp_path / "run", tmp_path / "base.toml")
    pipeline.collect(run)
    return run


def test_the_log_answers_as_the_teacher_did_and_refuses_what_it_was_never_asked(collected: RunFolder) -> None:
    layout = parts.layout(collected.settings)
    (first, *others) = recorded(collected, won=True)
    log = bettertogether.Log([first, *others], layout)
    messages = prompts.conversation(layout, first)
    said = [message.text for message in messages if message.role == "assistant"]
    asked = [messages[:index] for index, message in enumerate(messages) if message.role == "assistant"]
    assert [log.reply(place, (), Sampling()).message.text for place in asked] == said
    with pytest.raises(DataError, match="no reply for this conversation"):
        log.reply([Message.of("user", "another house")], (), Sampling())


def test_bettertogether_needs_its_package_and_fixed_examples(collected: RunFolder) -> None:
    if importlib.util.find_spec("dspy") is None:
        with pytest.raises(MissingExtra, match=r"duomem\[dspy\]"):
            bettertogether.better_together(collected, Talk())
        pytest.skip("the optional library dspy is not installed here: its optimisers are not run")
    table = collected.settings.memory
    assert table is not None
    other = replace(
        collected, settings=collected.settings.model_copy(update={"memory": table.model_copy(update={"name": "verbatim"})})
    )
    with pytest.raises(UsageError, match=r"memory\.name=kshot"):
        bettertogether.better_together(other, Talk())


@pytest.mark.slow
def test_bettertogether_compiles_with_dspys_own_optimisers(collected: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dspy", reason="the optional library dspy is not installed here")
    monkeypatch.setattr(bettertogether, "CANDIDATES", 0)
    # So that something is better than the student as it was: it wins nothing either way.
    monkeypatch.setattr(bettertogether.Work, "play", lambda work, model, task: _played(work, model, task))
    notes: list[str] = []
    bettertogether.better_together(collected, Talk(note=notes.append))
    assert (collected.adapter / "adapter_model.safetensors").is_file()
    assert "'p -> w" in collected.result("tune")["words"] or "'p -> w'" in notes[-1]
    with Bank.open(collected.bank, embed.build("lexical"), parts.layout(collected.settings).hash) as bank:
        assert all(memory.provenance.task_id.startswith("train/") for memory in bank.view().memories())


def _played(work: bettertogether.Work, model: Model, task: str) -> bool:
    trajectory = replace(work.player, model=model).play(work.tasks[task])
    return trajectory.won or sum(turn.valid for turn in trajectory.turns) >= 2
