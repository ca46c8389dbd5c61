"""The page in a real Chromium, over a real run of the pocket models: watched while it is made, then read from end to end.

The run is made by the command line in a process of its own while the browser looks. Pictures of every view, light and dark,
wide and narrow, land in the folder that DUOMEM_SCREENSHOTS names (else a temporary one); a person looks at them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hostile
import made_runs
from conftest import missing
from duomem import browse
from duomem.browse import Filters
from duomem.ui.serve import running

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[1]
ARGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync"""
SETS = """student.model=hf student.path=pocket student.layout=pocket student.max_tokens=32 teacher.layout=pocket
    teacher.tasks=24 memory.k=2 tuning.name=lora tuning.max_steps=6 tuning.rank=8 rollout.max_steps=14 evaluate.games=12
    evaluate.arms=['none','memory','adapter'] run.name=pocket"""
SLOW_MS = 120_000
"""How long one look may take: a busy machine, never a measure."""


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright is not installed")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium, args=ARGS.split())
        yield found
        found.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page whose every complaint fails the test: errors of the script, of the policy, of what it loads."""
    yield from _page(browser)


def _page(browser: Any, **look: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 860}, accept_downloads=True, **look)
    page, said = context.new_page(), list[str]()
    page.set_default_timeout(SLOW_MS)
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(f"dialog: {dialog.message}"))
    yield page
    context.close()
    assert not said, said


def command(*words: str) -> list[str]:
    return [sys.executable, "-c", "from duomem.cli import main; main()", *words]


def asked(*words: str) -> Any:
    """What a command of the command line says with --json."""
    done = subprocess.run(command(*words, "--json"), capture_output=True, text=True, timeout=300, check=True)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def url(runs: Path) -> Iterator[str]:
    with running(runs) as found:
        yield found


@pytest.fixture(scope="module")
def finished(browser: Any, url: str, runs: Path) -> Path:
    """The run, made while the page watches: it appears, moves and ends by itself, without a reload."""
    pytest.importorskip("peft", reason="the extra 'train' is not installed")
    for page in _page(browser):
        page.goto(url)
        page.get_by_text("There is no run here yet").wait_for()
        words = ["distill", str(runs / "pocket"), "--config", str(ROOT / "configs/household.toml"), "--json"]
        sets = [word for each in SETS.split() for word in ("--set", each)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        work = subprocess.Popen(
            command(*words, *sets), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
        )
        try:
            card = page.locator('[data-run="pocket"]')
            card.wait_for()
            seen = set[str]()
            while work.poll() is None:
                seen.add(card.locator(".state").inner_text())
                page.wait_for_timeout(150)
            assert work.returncode == 0, work.stderr.read() if work.stderr else ""
            page.wait_for_timeout(1500)
            card.get_by_text("done", exact=True).wait_for()
        finally:
            work.kill()
        live = {"collecting", "remembering", "tuning", "evaluating"}
        assert seen & live, f"the run was never seen alive: {seen}"
        assert "%" in card.inner_text()
        log = (runs / "pocket/tune/adapter/log.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in log] == [1, 2, 3, 4, 5, 6]
    return runs / "pocket"


@pytest.fixture(scope="module")
def bundled(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The run with two bundles: one that a key signed whom this user trusts, one that nobody signed."""
    own = tmp_path_factory.mktemp("own")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(own / "config"))
        patch.setenv("XDG_STATE_HOME", str(own / "state"))
        asked("keygen", str(own / "key"))
        asked("trust", str(own / "key.pub"))
        for name, *words in (("signed", "adapter", "--sign", str(own / "key")), ("unsigned", "memory")):
            path = str(finished / f"{name}.duo")
            asked("bundle", str(finished), "-o", path, "--parity", "1", "--games", "0", "--arm", *words)
        yield finished


def test_the_story_of_a_distillation(page: Any, url: str, finished: Path) -> None:
    """Find the game that memory turned, see why beside the other arm, quarantine the memory, see it on the command line."""
    page.goto(url)
    page.locator('[data-run="pocket"] h2 a').click()
    page.get_by_role("heading", level=1).get_by_text("Ship").wait_for()

    page.get_by_role("link", name="Episodes").click()
    page.get_by_role("button", name="Memory turned it into a success").click()
    first = page.locator('a.line[data-index="0"]')
    first.wait_for()
    assert "won" in first.inner_text()
    page.locator(".waiting").first.wait_for(state="detached")  # the filtered list is there
    page.get_by_role("region", name="Episodes").focus()
    page.keyboard.press("ArrowDown")  # by keyboard alone
    page.locator("a.line:focus").wait_for()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="What was injected").wait_for()

    page.locator(".step.now .number", has_text="1").wait_for()
    page.keyboard.press("ArrowDown")
    assert page.locator(".step.now .number").inner_text() == "2"
    page.keyboard.press("k")
    assert page.locator(".step.now .number").inner_text() == "1"

    page.get_by_role("navigation", name="The same game in other arms").get_by_role("button", name=re.compile("^none")).click()
    page.locator(".split").wait_for()
    left, right = page.locator(".pair.heads .pane").all()
    assert "step cap" in left.inner_text()
    assert "won" in right.inner_text()
    assert "only here" in right.inner_text()
    assert "No memory was shown" in left.inner_text()

    memory = right.locator(".injected a").first.inner_text()
    right.locator(".injected a").first.click()
    page.get_by_role("complementary", name=f"Memory {memory}").wait_for()
    reason = page.get_by_label("Reason (it stands in the bank's journal)")
    assert page.get_by_role("button", name="Quarantine").is_disabled()
    reason.fill("seen in the page")
    page.get_by_role("button", name="Quarantine").click()
    page.locator('[data-status="quarantined"]').wait_for()

    told = asked("memories", "show", str(finished), memory)
    assert told["status"] == "quarantined"
    assert told["edits"][-1]["reason"].endswith("seen in the page")
    assert memory not in {each["id"] for each in asked("memories", "list", str(finished))["memories"]}

    page.get_by_label("Reason (it stands in the bank's journal)").fill("and back")
    page.get_by_role("button", name="Restore").click()
    page.locator('[data-status="live"]').wait_for()
    assert asked("memories", "show", str(finished), memory)["status"] == "live"


def test_the_figures_can_be_taken_along(page: Any, url: str, finished: Path) -> None:
    page.goto(f"{url}/decision?run=pocket")
    files = page.get_by_role("group", name=re.compile("^Downloads of: Games won by each arm"))
    for name, begins in (("CSV", b"arm,success"), ("SVG", b"<svg"), ("PNG", b"\x89PNG")):
        with page.expect_download() as download:
            files.get_by_role("button", name=name).click()
        assert Path(download.value.path()).read_bytes().startswith(begins)


def test_the_loss_mask_marks_what_the_student_says(page: Any, url: str, finished: Path) -> None:
    page.goto(f"{url}/training?run=pocket")
    mask = page.locator(".mask")
    mask.wait_for()
    learned = [each.inner_text() for each in mask.locator("mark").all()]
    read = "".join(each.inner_text() for each in mask.locator(".read").all())
    assert learned
    assert all(">" in each for each in learned), "an answer is a thought, a sign and a command"
    assert "Task:" in read
    assert "Task:" not in "".join(learned)
    assert page.locator(".facts.wide").inner_text().count("tokens/s") == 1


def test_what_is_inside_a_bundle_and_who_signed_it(page: Any, url: str, bundled: Path) -> None:
    page.goto(f"{url}/bundle?run=pocket")
    sections = {
        name: page.locator("section", has=page.locator("h2", has_text=f"{name}.duo")) for name in ("signed", "unsigned")
    }
    signed, unsigned = sections["signed"].first, sections["unsigned"]  # the second one's name ends like the first one's
    assert signed.locator("h2 .chip").inner_text() == "signed, trusted"
    assert "whom you trust" in signed.locator(".facts").inner_text()
    assert unsigned.locator("h2 .chip").inner_text() == "not trusted here"
    assert "is not signed" in unsigned.locator(".facts").inner_text()
    told = asked("inspect", str(bundled / "signed.duo"))
    assert told["signed"]
    text = signed.get_by_role("table", name="Contents of signed.duo").text_content()
    assert all(each["path"] in text and each["sha256"][:16] in text for each in told["manifest"]["members"])
    assert "adapter_model.safetensors" in text
    assert "adapter_model.safetensors" not in unsigned.get_by_role("table", name="Contents of unsigned.duo").text_content()
    signed.get_by_text("The figures as a table").click()
    sizes = signed.get_by_role("table").first.text_content()
    assert all(f"{part}{size}" in re.sub(r"[,\s]", "", sizes) for part, size in told["bytes"].items()), sizes
    signed.get_by_text("Its card").click()
    assert "duomem" in signed.locator("pre.card").inner_text().lower()


VIEWS = {
    "runs": "/",
    "decision": "/decision?run=pocket",
    "episodes": "/episodes?run=pocket&arm=memory",
    "episode": "/episode?run=pocket&ref=EPISODE",
    "compare": "/compare?run=pocket&a=OTHER&b=EPISODE",
    "memories": "/memories?run=pocket",
    "memory": "/memories?run=pocket&id=MEMORY",
    "training": "/training?run=pocket",
    "bundle": "/bundle?run=pocket",
    "api": "/api",
}


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390), ("dark", 390)])
def test_every_view_is_accessible_and_fits(
    browser: Any, url: str, bundled: Path, scheme: str, width: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Axe finds nothing (labels, roles, AA contrast), nothing sticks out at the side, and a picture is kept."""
    try:
        from axe_playwright_python.sync_playwright import Axe
    except ImportError:
        missing("axe-playwright-python is not installed")
    pictures = Path(os.environ.get("DUOMEM_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    pictures.mkdir(parents=True, exist_ok=True)
    run = browse.open_run(bundled)
    episode = browse.episodes(run, Filters(arm="memory", outcome="won", lost_in="none")).rows[0]
    other = browse.episodes(run, Filters(arm="none", task=episode.task)).rows[0]
    for page in _page(browser, color_scheme=scheme):
        page.set_viewport_size({"width": width, "height": 860})
        for name, path in VIEWS.items():
            given = {"EPISODE": episode.ref, "OTHER": other.ref, "MEMORY": episode.memories[0]}
            page.goto(url + re.sub("EPISODE|OTHER|MEMORY", lambda found, given=given: given[found[0]], path))
            page.get_by_role("heading", level=1).first.wait_for()
            page.locator(".waiting").first.wait_for(state="detached")
            page.screenshot(path=pictures / f"{name}-{scheme}-{width}.png", full_page=name not in ("episodes", "memories"))
            if (scheme, width) in (("light", 1280), ("dark", 390)):  # the two others differ in nothing that it looks at
                broken = Axe().run(page).response["violations"]
                assert not broken, [(name, each["id"], each["nodes"][0]["html"][:200]) for each in broken]
            assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} is wider than the window"


def test_ten_thousand_episodes_are_scrolled_to_the_end(page: Any, tmp_path: Path) -> None:
    made_runs.many(tmp_path / "big", episodes=10_000)
    with running(tmp_path) as url:
        asked_for: list[str] = []
        page.on("request", lambda request: asked_for.append(request.url) if "/api/episodes" in request.url else None)
        page.goto(f"{url}/episodes?run=big")
        page.locator('a.line[data-index="0"]').wait_for()
        assert len(asked_for) <= 2
        page.locator('a.line[data-index="0"]').focus()
        page.keyboard.press("End")
        page.locator(".list [aria-posinset]").last.wait_for()
        total = int(page.locator(".list [aria-posinset]").last.get_attribute("aria-setsize"))
        page.locator(f'a.line[data-index="{total - 1}"]').wait_for()
        assert total >= 10_000
        assert page.locator(".list [role=listitem]").count() < 100, "only the rows in sight are there"
        assert len(asked_for) <= 5


def test_hostile_text_is_shown_and_does_nothing(page: Any, tmp_path: Path) -> None:
    """No dialog, no error, no element of the text's own; control and bidi characters stand there visibly."""
    hostile.run(tmp_path / "hostile")
    with running(tmp_path) as url:
        page.goto(f"{url}/episodes?run=hostile&arm=none")
        for index in (0, 1):
            page.goto(f"{url}/episodes?run=hostile&arm=none")
            page.locator(f'a.line[data-index="{index}"]').click()
            page.locator(".step").first.wait_for()
            assert not hostile.harmful(page.locator("main").text_content())
            assert page.locator("main script, main img, main iframe").count() == 0
        assert page.get_by_role("link", name="Download all of it").count() == 1
        page.goto(f"{url}/episodes?run=hostile&arm=none")
        page.locator('a.line[data-index="0"]').click()
        page.locator(".step").first.wait_for()
        assert "<script>alert(1)</script>" in page.locator("main").inner_text()
        assert "U+202E" in page.locator(".steps").inner_text()
        for view in ("/", "/decision?run=hostile", "/memories?run=hostile"):
            page.goto(url + view)
            page.get_by_role("heading", level=1).wait_for()
            page.locator(".waiting").first.wait_for(state="detached")
            assert not hostile.harmful(page.locator("main").text_content())
