"""The report: its figures, the decision, and pages that need nothing from outside and are the same for the same results."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from duomem import evaluate, report
from duomem.decision import decide
from duomem.errors import DataError, MissingExtra
from duomem.scores import ARMS, Facts, Results, Score
from duomem.summary import Summary, summarise
from duomem.types import StopReason
from evaluation_world import Doors, Student, player, threads
from synthetic_results import CHANCES, drawn, results, split

pytest.importorskip("jinja2", reason="report.html needs the extra `report`")
pytest.importorskip("matplotlib", reason="the plots of report.html need the extra `report`")

GAMES = 80


def decision_of(won: Mapping[str, int | Sequence[bool]]) -> tuple[bool, bool, str]:
    wins = {arm: [split(GAMES, rows) if isinstance(rows, int) else list(rows)] for arm, rows in won.items()}
    found = summarise(results(wins)).decision
    return found.memory, found.adapter, found.arm


@pytest.mark.parametrize(
    ("won", "arm"),
    [
        ({"none": 40, "memory": 41, "adapter": 39, "both": 42}, "none"),
        ({"none": 5, "memory": 60, "adapter": 10, "both": 61}, "memory"),
        ({"none": 5, "memory": 10, "adapter": 60, "both": 61}, "adapter"),
        ({"none": 5, "memory": 40, "adapter": 45, "both": 70}, "both"),
        ({"none": 5, "memory": 60, "adapter": 60, "both": 60}, "memory"),
        ({"none": 60, "memory": 60, "adapter": 60, "both": 60}, "none"),
        ({"none": 60, "memory": 20, "adapter": 20, "both": 20}, "none"),
        ({"none": 5, "memory": 40, "adapter": 70, "both": 40}, "adapter"),
    ],
)
def test_decision_is_the_smallest_arm_that_is_not_measurably_worse(won: dict[str, int], arm: str) -> None:
    assert decision_of(won) == (arm in ("memory", "both"), arm in ("adapter", "both"), arm)


def test_decision_looks_at_paired_games_not_at_the_totals() -> None:
    """The same two totals: with the wins on the same games 8 more decide, with wins scattered over games they do not."""
    nested = {"none": 0, "memory": 40, "both": 48}
    scattered = {
        "none": 0,
        "memory": [number < 40 for number in range(GAMES)],
        "both": [number >= 32 for number in range(GAMES)],
    }
    assert decision_of(nested)[2] == "both"
    assert decision_of(scattered)[2] == "memory"


def test_decision_with_parts_of_the_grid() -> None:
    assert decision_of({"none": 5, "memory": 60}) == (True, False, "memory")
    assert "Not measured: adapter, both" in " ".join(_summary(none=5, memory=60).decision.details)
    undecided = _summary(teacher=70).decision
    assert (undecided.arm, undecided.memory, undecided.adapter) == ("", False, False)
    assert undecided.words.startswith("No decision")
    assert decide({}, {}, 0.1).arm == ""


def test_decision_says_when_a_part_adds_nothing_and_when_the_placebo_does_as_well() -> None:
    found = _summary(none=5, memory=60, adapter=10, both=61, decoy=60).decision
    text = " ".join(found.details)
    assert found.verdict == "Ship the memories, without the adapter."
    assert "adapter beside memory adds nothing measurable here" in text
    assert "Decoy memories do about as well as real ones" in text
    assert "Decoy" not in " ".join(_summary(none=5, memory=60, adapter=10, both=61, decoy=5).decision.details)
    worse = " ".join(_summary(none=5, memory=60, adapter=70, both=40).decision.details)
    assert "Memory beside the adapter costs -37.5 points" in worse


def test_incomplete_results_decide_nothing_and_errors_are_no_failures() -> None:
    whole = results({"none": [split(20, 5)], "memory": [split(20, 18)]})
    broken = [
        replace(score, stop=StopReason.ERROR, error="gone") if score.task.endswith("0019") else score for score in whole.scores
    ]
    summary = summarise(replace(whole, scores=tuple(broken)))
    assert not summary.complete
    assert not summary.decision.arm
    arm = summary.arms["memory"]
    assert (arm.n, arm.errors, arm.success) == (19, 1, pytest.approx(18 / 19))
    assert "gone" in " ".join(summary.problems)
    assert summary.pairs["memory-none"].n == 19
    assert "Incomplete" in report.page(replace(whole, scores=tuple(broken)), summary)
    missing = summarise(replace(whole, scores=whole.scores[1:]))
    assert not missing.complete
    assert summarise(replace(whole, tasks=(), rooms=(), scores=())).arms["none"].success is None


def test_report_json_has_the_promised_fields(tmp_path: Path) -> None:
    report.write(drawn(24), tmp_path)
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["schema"] == 1
    assert found["complete"] is True
    assert found["split"] == "second_unseen"
    assert list(found["arms"]) == ["none", "format_only", "memory", "adapter", "both", "decoy", "teacher"]
    for arm in found["arms"].values():
        assert 0 <= arm["wilson"][0] <= arm["success"] <= arm["wilson"][1] <= 1
        assert arm["n"] == 24
        assert sum(arm["stops"].values()) == arm["episodes"] == 24 * arm["seeds"]
        assert (
            sum(group["n"] for group in arm["by_type"].values()) == sum(group["n"] for group in arm["by_room"].values()) == 24
        )
    assert set(found["arms"]["both"]["success_by_seed"]) == {"0", "1", "2"}
    assert next(iter(found["pairs"])) == "memory-decoy"
    assert {"both-adapter", "both-memory", "memory-none", "adapter-none"} <= set(found["pairs"])
    pair = found["pairs"]["both-adapter"]
    assert pair["interval"][0] <= pair["difference"] <= pair["interval"][1]
    assert pair["difference"] == pytest.approx(found["arms"]["both"]["success"] - found["arms"]["adapter"]["success"], abs=1e-5)
    assert set(found["decision"]) >= {"memory", "adapter", "words", "rule"}
    for field in ("adapter_parameters", "memory_bytes", "seconds", "versions", "commit", "data", "hardware", "config_hash"):
        assert found[field]
    assert found["retrieval"]["top1_type"] == pytest.approx(1 - 1 / 12, abs=1e-3)


def test_rebuilding_from_the_record_gives_the_same_bytes(tmp_path: Path) -> None:
    """No model, no game: another process makes the same three files from results.json."""
    made = drawn(30)
    report.write(made, tmp_path / "first")
    (tmp_path / "results.json").write_text(made.to_json())
    code = (
        "import sys; from pathlib import Path as P; from duomem import report; report.rewrite(P(sys.argv[1]), P(sys.argv[2]))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "results.json"), str(tmp_path / "second")], check=True)
    for name in ("report.json", "report.md", "report.html"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes(), name
    with pytest.raises(DataError, match="duomem evaluate"):
        report.rewrite(tmp_path / "nothing.json", tmp_path)


def test_the_order_of_scores_changes_nothing(tmp_path: Path) -> None:
    made = drawn(30)
    shuffled = replace(made, scores=tuple(reversed(made.scores)))
    assert summarise(shuffled).to_json() == summarise(made).to_json()


class _Page(HTMLParser):
    """Collects tags, ids and whatever could load something."""

    LOADING = ("src", "href", "xlink:href", "action", "data", "srcset")
    VOID = ("meta", "br", "use", "path", "image", "img", "rect", "line", "circle")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.loads += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action", "data", "srcset")
        ]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_html_stands_alone_and_escapes_what_it_shows() -> None:
    made = drawn(30)
    text = report.page(made, summarise(made))
    page = _Page(text)
    assert page.open == []
    assert page.tags.count("svg") == 5
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert all(target.startswith("#") and target[1:] in page.ids for target in page.loads)
    assert len(page.ids) == len(set(page.ids))
    assert not re.search(r"https?:|//\w|@import|url\((?!#)", text)
    assert "&lt;script&gt;alert(0)" in text
    assert "<b>knife" not in text
    assert "Ship" in text
    assert text.count("<details") > 8


def test_pages_say_what_the_traps_are() -> None:
    made = drawn(30)
    for text in (report.markdown(made, summarise(made)), report.page(made, summarise(made))):
        for words in (
            "valid_seen 140",
            "30 steps",
            "sample drawn with seed 0",
            "Admissible commands",
            "Repair of actions",
            "decoy",
        ):
            assert words in text, words


def test_markdown_tables_are_whole_whatever_the_text() -> None:
    made = drawn(12)
    odd = replace(made, facts=replace(made.facts, settings={"layout": "a|b\n| <script> `c` *d*"}))
    lines = report.markdown(odd, summarise(odd)).splitlines()
    assert not any("<script>" in line for line in lines)
    widths = {line.replace("\\|", "").count("|") for line in lines if line.startswith("| layout")}
    assert widths == {3}


def test_report_without_memories_adapter_or_losses(tmp_path: Path) -> None:
    bare = results({"none": [split(12, 3)]}, facts=Facts())
    summary = report.write(bare, tmp_path)
    assert summary.complete
    assert summary.pairs == {}
    assert summary.retrieval is None
    assert _Page((tmp_path / "report.html").read_text()).tags.count("svg") == 3


@pytest.mark.parametrize("library", ["jinja2", "matplotlib"])
def test_a_missing_library_costs_the_page_alone(library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtra, match=rf"{library} is not installed.*duomem\[report\]"):
        report.write(results({"none": [split(12, 3)]}), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "report.md"]


def test_from_games_to_report_and_back(tmp_path: Path) -> None:
    env, source = Doors(12), Doors(18, "train")
    base = player(env, source)
    parts = evaluate.Parts(base, replace(base, model=Student(adapter=True)))
    labels = evaluate.known_labels((env, env.tasks()), (source, source.tasks()))
    players = {name: lambda seed, name=name: evaluate.seat(ARMS[name], parts, labels) for name in ("none", "memory", "adapter")}
    played = evaluate.score_arms(env, env.tasks(), players, [0, 1], play=threads(), labels=labels, split="unseen")
    summary = report.write(Results.from_json(played.to_json()), tmp_path)
    assert summary.decision.verdict == "Ship the memories, without the adapter."
    assert {name: arm.success for name, arm in summary.arms.items()} == {
        "none": 0,
        "memory": 1,
        "adapter": pytest.approx(2 / 3),
    }


def test_several_seeds_are_quoted_with_the_bootstrap() -> None:
    summary = summarise(drawn(48, chances={name: CHANCES[name] for name in ("none", "memory")}))
    memory, none = summary.arms["memory"], summary.arms["none"]
    assert none.interval == none.wilson
    assert memory.interval != memory.wilson
    assert memory.seeds == 3
    assert summary.pairs["memory-none"].seeds == 3
    assert summary.detectable_difference == pytest.approx(2.8016 * (0.2 / 48) ** 0.5, abs=1e-3)


def test_scores_of_strangers_do_not_break_the_summary() -> None:
    made = results({"none": [split(6, 3)]})
    stranger: Score = replace(made.scores[0], task="elsewhere/game-0000")
    summary = summarise(replace(made, scores=(*made.scores, stranger)))
    assert not summary.complete
    assert "not asked for" in " ".join(summary.problems)


def _summary(**won: int) -> Summary:
    return summarise(results({arm: [split(GAMES, count)] for arm, count in won.items()}))
