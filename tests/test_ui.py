"""The page's server: who may ask, what may change, that answers are typed, paged and whole, and built assets fresh."""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

import hostile
import made_runs
from duomem import browse
from duomem.browse import Filters
from duomem.cli import app as cli
from duomem.scores import Results, Score
from duomem.sweep_table import Book, Row
from duomem.ui import live
from duomem.ui.guard import POLICY, TOKEN
from duomem.ui.schema import document
from duomem.ui.serve import running

ROOT = Path(__file__).resolve().parents[1]
FRONTEND = ROOT / "frontend"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    made_runs.many(folder / "made", episodes=420, memories=40)
    hostile.run(folder / "hostile")
    return folder


@pytest.fixture(scope="module")
def url(root: Path) -> Iterator[str]:
    with running(root) as found:
        yield found


@pytest.fixture
def web(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=30) as client:
        yield client


def token(web: httpx.Client) -> str:
    found = re.search(r'name="duomem-token" content="([^"]+)"', web.get("/").text)
    assert found
    return found[1]


def first_memory(web: httpx.Client) -> str:
    return str(web.get("/api/memories", params={"run": "made"}).json()["rows"][0]["id"])


# --------------------------------------------------------------------------------------------------------- who may ask


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "[::", ""])
def test_a_name_that_is_not_this_machines_is_refused(web: httpx.Client, host: str) -> None:
    answer = web.get("/api/runs", headers={"host": host})
    assert answer.status_code == 403
    assert "this machine alone" in answer.json()["error"]


def test_a_page_of_another_site_is_refused(web: httpx.Client) -> None:
    assert web.get("/api/runs", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert web.get("/api/runs", headers={"sec-fetch-site": "same-site"}).status_code == 403  # another port of this machine
    assert web.get("/api/runs", headers={"sec-fetch-site": "same-origin"}).status_code == 200
    assert web.get("/api/runs", headers={"origin": "http://localhost:1"}).status_code == 403


def test_a_change_needs_the_pages_token_and_no_get_changes_anything(web: httpx.Client) -> None:
    memory = first_memory(web)
    body = {"run": "made", "id": memory, "reason": "a test"}
    for headers in ({}, {TOKEN: "guess"}, {TOKEN: ""}):
        refused = web.post("/api/memory/quarantine", json=body, headers=headers)
        assert refused.status_code == 403
        assert "token" in refused.json()["error"]
    assert web.get("/api/memory/quarantine", params=body).status_code == 405
    assert web.get("/api/memory", params={"run": "made", "id": memory}).json()["row"]["status"] == "live"


def test_every_answer_has_the_strict_policy(web: httpx.Client) -> None:
    for path in ("/", "/api", "/api/runs", "/static/app.js", "/static/app.css", "/nothing"):
        headers = web.get(path).headers
        assert headers["content-security-policy"] == POLICY
        assert headers["x-content-type-options"] == "nosniff"
    assert "unsafe" not in POLICY
    assert not re.search(r"<script(?![^>]* src=\"/static/)|<style| style=| on\w+=", web.get("/").text)
    assert not re.search(r"https?://", web.get("/").text), "the page loads something from elsewhere"


def test_two_servers_have_two_tokens(root: Path, web: httpx.Client) -> None:
    with running(root) as other, httpx.Client(base_url=other) as second:
        assert token(web) != token(second)


def test_a_run_id_does_not_lead_out_of_the_folder(web: httpx.Client) -> None:
    for run in ("../made", "/etc", "made/../../x", "nothing", "."):
        answer = web.get("/api/facets", params={"run": run})
        assert answer.status_code == 404, run
        assert "There is no run" in answer.json()["error"]


# ------------------------------------------------------------------------------------------------------------- answers


def test_quarantine_and_restore_are_journalled_edits_that_the_command_line_sees(web: httpx.Client, root: Path) -> None:
    memory, ours = first_memory(web), {TOKEN: token(web)}
    body = {"run": "made", "id": memory, "reason": "sends to the wrong room"}
    assert web.post("/api/memory/quarantine", json=body, headers=ours).json()["row"]["status"] == "quarantined"
    told = CliRunner().invoke(cli, ["memories", "show", str(root / "made"), memory, "--json"])
    assert json.loads(told.stdout)["status"] == "quarantined"
    assert "sends to the wrong room" in json.loads(told.stdout)["edits"][-1]["reason"]
    again = web.post("/api/memory/quarantine", json=body, headers=ours)
    assert again.status_code == 404
    assert "is quarantined" in again.json()["error"]
    assert web.post("/api/memory/restore", json=body, headers=ours).json()["row"]["status"] == "live"
    assert web.post("/api/memory/restore", json={**body, "reason": " "}, headers=ours).status_code == 404


def test_pages_of_episodes_join_without_gap_or_overlap(web: httpx.Client) -> None:
    refs: list[str] = []
    while True:
        page = web.get("/api/episodes", params={"run": "made", "offset": len(refs), "limit": 100}).json()
        refs += [row["ref"] for row in page["rows"]]
        if not page["rows"]:
            break
    assert len(refs) == page["total"] == len(set(refs)) == web.get("/api/facets", params={"run": "made"}).json()["total"]


def test_filters_mean_what_they_say(root: Path) -> None:
    run = browse.open_run(root, "made")
    results = {(score.arm, score.task): score for score in _scores(root)}
    turned = browse.episodes(run, Filters(arm="memory", outcome="won", lost_in="none"), limit=500)
    wanted = {task for (arm, task), score in results.items() if arm == "memory" and score.won and not results["none", task].won}
    assert {row.task for row in turned.rows} == wanted
    assert turned.total == len(wanted) > 0
    kind = turned.rows[0].kind
    rows = browse.episodes(run, Filters(kind=kind, stop="won"), limit=500).rows
    assert {row.kind for row in rows} == {kind}
    assert {row.stop for row in rows} == {"won"}
    shown = turned.rows[0].memories[0]
    assert all(shown in row.memories for row in browse.episodes(run, Filters(memory=shown[:8]), limit=500).rows)


def _scores(root: Path) -> tuple[Score, ...]:

    return Results.read(root / "made" / "evaluate" / "results.json").scores


def test_two_episodes_are_aligned_at_the_first_step_where_they_differ(root: Path) -> None:
    run = browse.open_run(root, "made")
    one = browse.episodes(run, Filters(arm="memory", outcome="won", lost_in="none"), limit=1).rows[0]
    other = next(row for row in browse.episode(run, one.ref).beside if row.arm == "none")
    found = browse.compare(run, other.ref, one.ref)
    assert found.same_task
    assert found.first_difference is not None
    both = list(zip(found.left.steps, found.right.steps, strict=False))[: found.first_difference]
    assert all((a.action, a.observation) == (b.action, b.observation) for a, b in both)
    assert found.only_right == one.memories
    same = browse.compare(run, one.ref, one.ref)
    assert (same.first_difference, same.differs) == (None, "")


def test_success_by_k_is_read_from_a_sweep_in_the_runs_folder(tmp_path: Path) -> None:
    run = made_runs.many(tmp_path / "made", episodes=420, memories=4)
    results = Results.read(run.results)
    book = Book(tmp_path / "made/sweep", "peers.toml", "duomem sweep")
    cells = [("memory", ()), ("none", ()), ("adapter", ()), ("memory", ("memory.k=5 (played)",)), ("both", ("memory.k=1",))]
    for arm, changes in cells:
        for test in ("elsewhere", made_runs.SPLIT):
            book.add(Row(f"{arm} {changes}", "k", test, arm, changes, ()), results)
    book.add(Row("other", "k", made_runs.SPLIT, "memory", ("memory.k=7", "memory.fit=0"), ()), results)
    book.add(Row("not run", "k", made_runs.SPLIT, "memory", ("memory.k=9",), ()), None, "no room")
    (tmp_path / "made/sweep").mkdir()
    book.write()
    (tmp_path / "made/sweep/log").mkdir()
    (tmp_path / "made/sweep/log/config.toml").write_bytes((tmp_path / "made/config.toml").read_bytes())
    found = browse.decision(browse.open_run(tmp_path, "made"))
    assert {point.run for point in found.sweep} == {f"sweep: {made_runs.SPLIT}"}
    assert [(point.k, sorted(point.arms)) for point in found.sweep] == [
        (0, ["both", "memory"]), (1, ["both"]), (2, ["memory"]), (5, ["memory"]),
    ]  # fmt: skip
    none, own = found.summary.arms["none"], found.summary.arms["memory"]
    assert found.sweep[0].arms["memory"] == pytest.approx((none.success, *none.interval), abs=1e-5)
    assert found.sweep[2].arms["memory"] == pytest.approx((own.success, *own.interval), abs=1e-5)
    (tmp_path / "made/sweep/results.json").write_text('{"rows": 3}')
    assert browse.decision(browse.open_run(tmp_path, "made")).sweep == ()


def test_the_api_is_the_document_that_the_pages_types_were_made_from() -> None:
    assert (FRONTEND / "openapi.json").read_text() == document(), "make ui"


def test_the_built_assets_are_fresh() -> None:
    names = ["../src/duomem/report_assets/tokens.css", "package.json", "package-lock.json", "vite.config.ts", "tsconfig.json"]
    for folder in ("src", "public"):
        names += [path.relative_to(FRONTEND).as_posix() for path in (FRONTEND / folder).rglob("*") if path.is_file()]
    whole = hashlib.sha256()
    for name in sorted(names):
        whole.update(f"{name}\n".encode() + (FRONTEND / name).read_bytes())
    built = json.loads((ROOT / "src/duomem/ui/static/sources.json").read_text())["sha256"]
    assert built == whole.hexdigest(), "the page was not built again after its sources changed: make ui"


def test_events_send_what_has_changed_and_nothing_else(tmp_path: Path) -> None:
    import asyncio
    import shutil

    made_runs.many(tmp_path / "one", episodes=14, memories=4)
    table = live.Table(tmp_path)

    async def listen() -> list[dict[str, list[object]]]:
        found: list[dict[str, list[object]]] = []

        async def gone() -> bool:
            return len(found) >= 3

        async for event in live.events(table, gone, 0.01):
            if event.startswith(b"event: runs"):
                found.append(json.loads(event.split(b"data: ")[1]))
                if len(found) == 1:
                    made_runs.many(tmp_path / "two", episodes=14, memories=4)
                elif len(found) == 2:
                    shutil.rmtree(tmp_path / "one")
        return found

    first, *later = asyncio.run(asyncio.wait_for(listen(), 60))
    assert [row["id"] for row in first["rows"]] == ["one"]  # type: ignore[index]
    assert {row["id"] for event in later for row in event["rows"]} <= {"two"}  # type: ignore[index]
    assert later[-1]["gone"] == ["one"]


def test_a_broken_run_is_a_row_with_its_problem(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/config.toml").write_text("[nothing]\nx = 1\n")
    made_runs.many(tmp_path / "good", episodes=14, memories=4)
    (tmp_path / "good/journal.sqlite").write_bytes(b"not a database at all, but long enough to be looked at" * 40)
    rows = {row.id: row for row in browse.find(tmp_path)}
    assert "nothing" in rows["broken"].problem
    assert "not a journal" in rows["good"].problem


# ------------------------------------------------------------------------------------------------------- hostile content


def test_hostile_text_is_sent_as_data_and_cut(web: httpx.Client) -> None:
    rows = web.get("/api/episodes", params={"run": "hostile"}).json()["rows"]
    flooded = next(row for row in rows if row["arm"] == "none" and "game 1" in row["task"])
    answer = web.get("/api/episode", params={"run": "hostile", "ref": flooded["ref"]})
    assert len(answer.content) < 500_000
    assert "<script>" not in web.get("/").text
    seen = max(answer.json()["steps"], key=lambda step: step["observation_chars"])
    assert len(seen["observation"]) == browse.LONG
    assert seen["observation_chars"] > 5_000_000
    whole = web.get("/api/observation", params={"run": "hostile", "ref": flooded["ref"], "index": seen["index"]})
    assert len(whole.text) == seen["observation_chars"]
    assert whole.headers["content-disposition"].startswith("attachment")
    assert whole.headers["content-type"].startswith("text/plain")


def test_the_mailed_report_holds_no_control_or_bidi_character_and_no_flood(root: Path) -> None:
    for name in ("report.html", "report.md"):
        text = (root / "hostile" / name).read_bytes().decode()
        assert not hostile.harmful(text), name
        assert not hostile.harmful(html.unescape(text)), name
        assert "<script>alert" not in text
    text = (root / "hostile/report.html").read_text()
    assert "&lt;script&gt;alert(1)" in text
    assert "&lt;U+202E&gt;" in text
    assert "more characters]" in text
    assert len(text) < 1_000_000


def test_bytes_that_are_no_utf8_and_halves_of_surrogates_are_shown_as_such(tmp_path: Path) -> None:
    import sqlite3

    run = made_runs.many(tmp_path / "made", episodes=14, memories=4)
    with sqlite3.connect(run.journal) as db:
        db.execute("UPDATE episodes SET goal = CAST(x'ff6d7567c3' AS TEXT)")
        db.execute(r"""UPDATE turns SET reply = json_set(reply, '$.message.parts[0].text', json('"\ud800 half"'))""")
    db.close()
    with running(tmp_path) as url, httpx.Client(base_url=url) as web:
        row = web.get("/api/episodes", params={"run": "made"}).json()["rows"][0]
        assert row["goal"] == "\ufffdmug\ufffd"
        steps = web.get("/api/episode", params={"run": "made", "ref": row["ref"]}).json()["steps"]
        assert steps[0]["reply"].endswith("half")
