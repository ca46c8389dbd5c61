"""The terminal's view of runs: lists, one episode, comparisons, through the real command line; hostile text stays harmless."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner, Result

import hostile
import made_runs
from duomem.cli import app
from duomem.rundir import RunFolder
from made_runs import Made, memory, played, turn

LOST = [turn("1. mug: find desk", "go to desk 1", "You see nothing."), turn("1. mug: find bed", "go to bed 1", "A pillow.")]
WON = [*LOST[:1], turn("1. mug: take", "take mug 1", "You pick up the mug 1."), turn("2. mug: put", "put mug 1", "Done.")]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Six games: memory turns 0, 1 and 2 from lost to won and 3 from won to lost; 4 and 5 are the same in both."""
    bank = [memory(number) for number in range(2)]
    none = [played(number, WON if number in (3, 4) else LOST, won=number in (3, 4)) for number in range(6)]
    helped = [
        played(number, WON if number in (0, 1, 2, 4) else LOST, won=number in (0, 1, 2, 4), shown=[bank[number % 2].id])
        for number in range(6)
    ]
    labels = {each.task.id: (made_runs.KINDS[number], made_runs.ROOMS[number]) for number, each in enumerate(none)}
    taught = [played(10, WON, won=True, model="expert", split="train")]
    made = Made({("none", 0): none, ("memory", 0): helped}, labels, bank, taught)
    return made_runs.write(tmp_path_factory.mktemp("runs") / "mine", made)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return hostile.run(tmp_path_factory.mktemp("hostile") / "run")


def duomem(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments], prog_name="duomem")


def said(*arguments: object) -> str:
    done = duomem(*arguments)
    assert done.exit_code == 0, (arguments, done.output, done.exception)
    return done.stdout


def data(*arguments: object) -> Any:
    return json.loads(said(*arguments, "--json"))


def rows(text: str) -> list[list[str]]:
    """The lines of a table, split into cells."""
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines() if re.search(r"\s{2,}", line.strip())]


# ------------------------------------------------------------------------------------------------------------ lists


def test_runs_are_listed_with_their_arms(run: RunFolder) -> None:
    text = said("runs", run.root.parent)
    assert "mine" in text
    assert "memory 66.7%" in text
    assert "none 33.3%" in text
    (found,) = data("runs", run.root.parent)["runs"]
    assert (found["id"], found["state"], [arm["won"] for arm in found["arms"]]) == ("mine", "done", [2, 4])


def test_a_run_that_cannot_be_read_is_a_line_and_not_an_end(run: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(run.root, tmp_path / "whole")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.toml").write_text("[nonsense]\nx = 1\n")
    text = said("runs", tmp_path)
    assert "memory 66.7%" in text
    assert "broken: " in text
    assert "nonsense" in text
    assert said("runs", tmp_path / "whole").count("memory 66.7%") == 1
    assert "0 runs" in said("runs", tmp_path / "whole" / "evaluate")
    assert "is no folder" in str(duomem("runs", tmp_path / "none").exception)


@pytest.mark.parametrize(
    ("filters", "games"),
    [
        (["--arm", "memory"], 6),
        (["--arm", "memory", "--outcome", "won", "--lost-in", "none"], 3),
        (["--arm", "memory", "--outcome", "lost", "--won-in", "none"], 1),
        (["--stop", "step_cap"], 6),
        (["--type", made_runs.KINDS[2]], 2),
        (["--memory", memory(1).id[:6]], 3),
        (["--arm", "collect"], 1),
        (["--text", "mug 3"], 2),
        ([], 13),
    ],
)
def test_filters_hold_together(run: RunFolder, filters: list[str], games: int) -> None:
    found = data("episodes", run.root, *filters)
    assert (found["total"], len(found["rows"])) == (games, games)
    assert f"1-{games} of {games} episodes." in said("episodes", run.root, *filters)


def test_pages_follow_one_another(run: RunFolder) -> None:
    pages = [data("episodes", run.root, "--limit", 5, "--page", page) for page in (1, 2, 3, 4)]
    assert [len(page["rows"]) for page in pages] == [5, 5, 3, 0]
    refs = [row["ref"] for page in pages for row in page["rows"]]
    assert len(set(refs)) == 13
    first = said("episodes", run.root, "--limit", 5)
    assert "1-5 of 13 episodes." in first
    assert "--page 2" in first
    assert [row[0] for row in rows(first)][1:6] == refs[:5]
    last = said("episodes", run.root, "--limit", 5, "--page", 3)
    assert "11-13 of 13 episodes." in last
    assert "--page" not in last
    assert "behind the last one" in said("episodes", run.root, "--page", 9)


def test_a_narrow_terminal_shows_what_matters_most(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    wide = said("episodes", run.root, "--arm", "memory")
    monkeypatch.setenv("COLUMNS", "60")
    narrow = said("episodes", run.root, "--arm", "memory")
    assert "tokens" in wide
    assert "tokens" not in narrow
    assert max(len(line) for line in narrow.splitlines() if not line.startswith("Open one")) <= 60
    assert [row[0] for row in rows(wide)] == [row[0] for row in rows(narrow)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["episodes", "RUN", "--arm", "nobody"], "none, memory"),
        (["episodes", "RUN", "--type", "nothing"], made_runs.KINDS[0]),
        (["episodes", "RUN", "--lost-in", "both"], "'both'"),
        (["episodes", "RUN/none"], "names no run folder"),
        (["show", "RUN"], "which episode"),
        (["show", "RUN:999"], "duomem episodes"),
        (["show", "RUN:seed7:1"], "duomem episodes"),
        (["show", "nowhere:1"], "names no run folder"),
        (["compare", "RUN:memory", "nobody"], "'nobody'"),
        (["compare", "RUN", "RUN"], "no arm to compare"),
        (["compare", "RUN:memory", "RUN:2"], "Name the episode first"),
        (["compare", "RUN:2", "collect"], "no other episode"),
    ],
)
def test_a_wrong_name_is_one_line_that_says_what_there_is(run: RunFolder, arguments: list[str], words: str) -> None:
    done = duomem(*(each.replace("RUN", str(run.root)) for each in arguments))
    assert done.exit_code == 1  # the runner does not map errors to exit codes; `main` does
    assert words in str(done.exception)


# ------------------------------------------------------------------------------------------------------------ one episode


def test_an_episode_is_shown_step_by_step(run: RunFolder) -> None:
    ref = data("episodes", run.root, "--arm", "memory", "--lost-in", "none")["rows"][0]["ref"]
    text = said("show", f"{run.root}:{ref}")
    for line in (
        r"goal +put a mug 0 in shelf\.",
        r"ended +won after 3 steps",
        r"played by +memory, seed 0 \(pocket\)",
        r"type +pick_and_place, room 9",
        r"tokens +600 in \(90% cached\), 36 out",
        rf"{memory(0).id}  live  put a mug 0",
        r"1\. mug: take from countertop 0",
        r"2 thought +1\. mug: take$",
        r"action +take mug 1$",
        r"answer +You pick up the mug 1\.$",
        r"200 in \(90% cached\), 12 out, 0\.05 s",
        r"none +0 +step cap +2",
    ):
        assert re.search(line, re.sub(r" +\n", "\n", text), re.M), (line, text)
    whole = data("show", f"{run.root}:{ref}")
    assert [step["action"] for step in whole["steps"]] == ["go to desk 1", "take mug 1", "put mug 1"]
    assert whole["injected"][0]["text"] == memory(0).text
    compared = re.search(r"Side by side: duomem (compare) (\S+) (\d+)", text)
    assert compared
    assert "First difference at step 2" in said(*compared.groups())


def test_the_prompt_is_shown_when_asked_for(run: RunFolder) -> None:
    text = said("show", f"{run.root}:2", "--prompt")
    assert re.search(r"user +You are in the middle of a room", text)
    assert "Task: put a mug" in text


# ------------------------------------------------------------------------------------------------------------ comparisons


def test_two_episodes_are_aligned_at_the_first_difference(run: RunFolder) -> None:
    won = data("episodes", run.root, "--arm", "memory", "--lost-in", "none")["rows"][0]["ref"]
    by_arm = data("compare", f"{run.root}:{won}", "none")
    lost = by_arm["right"]["row"]["ref"]
    assert by_arm["right"]["row"]["arm"] == "none"
    assert data("compare", f"{run.root}:{won}", lost) == by_arm == data("compare", f"{run.root}:{won}", f"{run.root}:{lost}")
    assert (by_arm["first_difference"], by_arm["differs"], by_arm["same_task"]) == (1, "action", True)
    assert by_arm["only_left"] == [memory(0).id]
    text = said("compare", f"{run.root}:{won}", "none")
    assert "First difference at step 2: other actions." in text
    assert "Steps 1 to 1 are the same in both" in text
    assert "go to desk 1" not in text
    assert re.search(r"> take mug 1 +> go to bed 1", text)
    assert re.search(r"3 .*put mug 1 +\(step cap\)|3 .*2\. mug: put +\(step cap\)", text)
    assert "go to desk 1" in said("compare", f"{run.root}:{won}", "none", "--all")
    same = data("episodes", run.root, "--arm", "memory", "--text", "mug 4")["rows"][0]["ref"]
    assert "Both did and saw the same" in said("compare", f"{run.root}:{same}", "none")


def test_two_arms_are_compared_on_the_same_games(run: RunFolder) -> None:
    report = json.loads((run.root / "report.json").read_text())["pairs"]["memory-none"]
    found = data("compare", f"{run.root}:memory", "none")["versus"]
    assert found["pair"]["difference"] == pytest.approx(report["difference"], abs=1e-6)
    assert found["pair"]["interval"] == pytest.approx(report["interval"], abs=1e-6)
    assert (found["pair"]["wins"], found["pair"]["losses"], found["left_out"]) == (3, 1, 0)
    assert (len(found["gained"]), len(found["lost"])) == (3, 1)
    text = said("compare", f"{run.root}:memory", "none")
    assert "+33.3 points" in text
    assert re.search(r"games won, % +66\.7 +33\.3 +\+33\.3", text)
    assert re.search(rf"{made_runs.KINDS[3]} +1 +0\.0 +100\.0 +-100\.0", text)
    again = re.search(r"Side by side: duomem (compare) (\S+) (\w+)", text)
    assert again
    assert "First difference at step 2" in said(*again.groups())


def test_two_runs_are_compared_with_their_settings(run: RunFolder, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run.root, other)
    config = (other / "config.toml").read_text()
    (other / "config.toml").write_text(config.replace("\nk = 2\n", "\nk = 5\n"))
    results = json.loads((other / "evaluate/results.json").read_text())
    for score in results["scores"]:
        if score["arm"] == "memory":
            score["stop"] = "won"
    (other / "evaluate/results.json").write_text(json.dumps(results))
    found = data("compare", other, run.root)
    assert {arm: each["pair"]["difference"] for arm, each in found["arms"].items()} == pytest.approx(
        {"none": 0, "memory": 1 / 3}
    )
    assert [line for line in found["settings"] if re.match(r"[-+]\w", line)] == ["-k = 5", "+k = 2"]
    text = said("compare", other, run.root)
    assert re.search(r"memory +100\.0 +66\.7 +\+33\.3", text)
    assert re.search(r"none +33\.3 +33\.3 +\+0\.0", text)
    assert "-k = 5" in text
    beside = said("compare", f"{other}:2", f"{run.root}:2")
    assert "Both did and saw the same" in beside
    assert "First difference" in said("compare", f"{other}:2", f"{run.root}:memory")


# ------------------------------------------------------------------------------------------------------------ hostile text


def every_view(run: RunFolder) -> list[list[object]]:
    """Each command that prints what others wrote."""
    refs = [row["ref"] for row in data("episodes", run.root)["rows"]]
    kept = data("memories", "list", run.root)["memories"][0]["id"]
    return [
        ["runs", run.root],
        ["episodes", run.root],
        *(["show", f"{run.root}:{ref}", *more] for ref in refs for more in ([], ["--prompt"])),
        ["compare", f"{run.root}:{refs[0]}", "memory"],
        ["compare", f"{run.root}:{refs[1]}", "memory", "--all"],
        ["compare", f"{run.root}:memory", "none"],
        ["report", run.root],
        ["memories", "list", run.root],
        ["memories", "show", run.root, kept],
        ["memories", "search", run.root, "key"],
    ]


def test_hostile_text_is_harmless_in_every_view(attacked: RunFolder) -> None:
    for arguments in every_view(attacked):
        text = said(*arguments)
        assert hostile.harmful(text) == [], arguments
        assert len(text) < 200_000, arguments
    shown = said("show", f"{attacked.root}:1")
    assert "␛[2J␛[31mred␛]0;title␇" in shown
    assert "[bold red]markup[/bold red]" in shown.replace("\n", " ")


def test_json_is_ascii_and_whole(attacked: RunFolder) -> None:
    for arguments in every_view(attacked):
        text = said(*arguments, "--json")
        assert text.isascii(), arguments
        assert text.rstrip("\n").isprintable(), arguments
    refs = [row["ref"] for row in data("episodes", attacked.root, "--arm", "none")["rows"]]
    seen = [data("show", f"{attacked.root}:{ref}")["steps"][1]["observation"] for ref in refs]
    assert seen == [f"seen {hostile.ATTACK}", f"seen {hostile.FLOOD}"]


def test_a_flood_is_cut_with_a_count(attacked: RunFolder) -> None:
    ref = data("episodes", attacked.root, "--arm", "none")["rows"][1]["ref"]
    text = said("show", f"{attacked.root}:{ref}")
    assert "[... 4,998,505 more characters]" in re.sub(r"\s+", " ", text)
    assert len(text) < 20_000
    assert len(said("show", f"{attacked.root}:{ref}", "--full")) > 5_000_000


@pytest.mark.filterwarnings("error:Glyph")
def test_the_plots_of_a_report_are_sound_whatever_task_types_are_called(attacked: RunFolder) -> None:
    said("report", attacked.root)
    plots = re.findall(r"<svg.*?</svg>", (attacked.root / "report.html").read_text(), re.S)
    assert len(plots) >= 3
    for plot in plots:
        ElementTree.fromstring(plot)
    assert any("kind ?[2J?[31mred" in plot for plot in plots)


def test_errors_do_not_carry_escapes_either(attacked: RunFolder) -> None:
    command = [sys.executable, "-c", "from duomem.cli import main; main()", "episodes", attacked.root, "--type", "x"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"})
    assert done.returncode == 2
    assert "There are: kind ␛[2J" in done.stderr
    assert hostile.harmful(done.stderr) == []


def test_bytes_that_are_no_utf8_are_shown(run: RunFolder, tmp_path: Path) -> None:
    """As a damaged file or another program may leave them."""
    shutil.copytree(run.root, tmp_path / "run")
    with sqlite3.connect(tmp_path / "run/journal.sqlite") as db:
        db.execute("UPDATE turns SET observation = CAST(X'73656520ff80fe21' AS TEXT) WHERE idx = 0")
        db.execute("UPDATE episodes SET goal = CAST(X'676f616cff' AS TEXT)")
    text = said("show", f"{tmp_path / 'run'}:2")
    assert "see \ufffd\ufffd\ufffd!" in text
    assert "goal\ufffd" in said("episodes", tmp_path / "run")
    assert hostile.harmful(text) == []


# ------------------------------------------------------------------------------------------------------------ the page, help


def test_the_commands_of_the_page_run(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).resolve().parents[1] / "docs/terminal.md").read_text()
    block = re.search(r"<!-- run -->\n```sh\n(.*?)```", page, re.S)
    assert block
    for name in ("mine", "other"):
        shutil.copytree(run.root, tmp_path / "runs" / name)
    monkeypatch.chdir(tmp_path)
    text = "".join(said(*shlex.split(line, comments=True)[1:]) for line in block[1].splitlines())
    for words in (
        "2 runs in runs",
        "Arm against arm",
        "1-13 of 13",
        "1-3 of 3",
        "First difference",
        "+33.3 points",
        "are the same",
    ):
        assert words in text, words


def test_examples_can_be_copied_from_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    assert "  duomem episodes runs/mine --arm memory --outcome won --lost-in none\n" in said("episodes", "--help")
    assert '  duomem memories search runs/mine "put a clean mug in the cabinet"\n' in said("memories", "search", "--help")


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("duomem comp", {"compare"}),
        ("duomem episodes x --arm mem", {"memory"}),
        ("duomem episodes x --stop st", {"step_cap"}),
        ("duomem episodes x --outcome l", {"lost"}),
        ("duomem memories quar", {"quarantine"}),
    ],
)
def test_the_shell_completes(words: str, wanted: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"_DUOMEM_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    done = CliRunner().invoke(app, [], prog_name="duomem", env={**os.environ, **environment})
    assert set(done.stdout.split()) == wanted
