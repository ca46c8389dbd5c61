"""The command line as a user meets it: results on stdout, errors as one line with their exit code, resume after Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from duomem import config

TOY = """
[env]
name = "household"

[teacher]
tasks = 6

[student]
model = "scripted"
replies = ["1. look > look"]

[memory]
embedder = "lexical"

[rollout]
concurrency = 2
max_steps = {steps}

[evaluate]
games = 3
arms = ["none", "memory", "teacher"]
"""


def duomem(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), cwd=cwd, capture_output=True, text=True, timeout=120, env=environment())


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-c", "from duomem.cli import main; main()", *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "100"}


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    (tmp_path / "toy.toml").write_text(TOY.format(steps=30))
    return tmp_path


def test_help_is_quick_and_loads_no_heavy_library(tmp_path: Path) -> None:
    heavy = ("torch", "numpy", "textworld", "transformers")
    code = f"import sys; from duomem.cli import app; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), timeout=60)
    assert found.stdout.strip() == "[]"


def test_init_list_and_distill_in_a_fresh_folder(toy: Path) -> None:
    listed = json.loads(duomem("list", "--json", cwd=toy).stdout)
    assert "household" in listed["envs"]
    made = duomem(
        "init", "my.toml", "--set", "env.name=household", "--set", "tuning=", "--set", "student.model=scripted", cwd=toy
    )
    assert (made.returncode, "my.toml" in made.stdout) == (0, True), made.stderr
    assert config.load(toy / "my.toml").env.name == "household"
    done = duomem("distill", "runs/toy", "--config", "toy.toml", "--json", cwd=toy)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["complete"] is True
    assert report["arms"]["teacher"]["success"] == 1.0
    for name in ("config.toml", "journal.sqlite", "remember/bank.sqlite", "report.json", "report.md", "report.html"):
        assert (toy / "runs/toy" / name).is_file(), name


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["collect", "runs/x"], 2, ["runs/x", "--config"]),
        (["collect", "runs/x", "--config", "no.toml"], 2, ["no.toml"]),
        (["collect", "runs/x", "--config", "toy.toml", "--set", "teacher.taks=3"], 2, ["teacher.taks", "teacher.tasks"]),
        (["collect", "runs/x", "--config", "toy.toml", "--set", "teacher.split=valid_unseen"], 3, ["valid_unseen"]),
        (["remember", "runs/x", "--config", "toy.toml"], 2, ["duomem collect runs/x"]),
        (["evaluate", "runs/x", "--config", "toy.toml"], 2, ["duomem collect runs/x"]),
        (["report", "runs/x", "--config", "toy.toml"], 3, ["results.json"]),
        (["evaluate", "runs/x", "--config", "toy.toml", "--data", "root"], 2, ["--out"]),
        (
            ["distill", "runs/x", "--config", "toy.toml", "--set", "env.name=alfworld", "--set", "env.data_root=none"],
            2,
            ["none"],
        ),
        (["init", "toy.toml"], 2, ["toy.toml", "--force"]),
        (["list", "env"], 2, ["envs"]),
        (["games", "out", "--split", "holiday"], 2, ["holiday"]),
        (["tune", "runs/x", "--config", "toy.toml", "--set", "memory.name=procedur"], 2, ["procedure"]),
    ],
)
def test_errors_are_one_line_without_a_traceback(arguments: list[str], code: int, words: list[str], toy: Path) -> None:
    found = duomem(*arguments, cwd=toy)
    assert found.returncode == code, found.stderr
    assert found.stdout == ""
    assert "Traceback" not in found.stderr
    assert found.stderr.startswith("Error: ")
    assert found.stderr.count("\n") == 1
    for word in words:
        assert word in found.stderr


def test_debug_shows_where_an_error_was_raised(toy: Path) -> None:
    assert "Traceback" in duomem("collect", "runs/x", "--config", "no.toml", "--debug", cwd=toy).stderr


def test_a_wrong_option_exits_with_2(toy: Path) -> None:
    assert duomem("collect", "--nonsense", cwd=toy).returncode == 2


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")
def test_ctrl_c_stops_cleanly_and_the_command_it_names_goes_on(toy: Path) -> None:
    slow = ["--set", "teacher.model=scripted", "--set", "teacher.stall_s=0.2", "--set", f"teacher.stall_at={list(range(900))}"]
    arguments = ["collect", "runs/slow", "--config", "toy.toml", *slow]
    child = subprocess.Popen(
        command(*arguments), cwd=toy, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )
    journal = toy / "runs/slow/journal.sqlite"
    deadline = time.monotonic() + 60
    while not journal.is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=30)
    assert child.returncode == 130, err
    assert out == ""
    assert "duomem collect runs/slow --config toy.toml" in err
    assert "Traceback" not in err
    again = duomem(*arguments[:-2], "--set", "teacher.stall_s=0.0", "--json", cwd=toy)
    assert (again.returncode, json.loads(again.stdout)["episodes"]) == (0, 6), again.stderr
