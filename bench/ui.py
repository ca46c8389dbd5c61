"""The page on a run of 10,000 episodes: requests and bytes of its first view, and how long that and a filter take.

In: a made-up run (tests/made_runs.py, through the project's own journal, kept in a temporary folder for the next time). Out: a
JSON line per id. Requests and bytes are counts, which do not move with the machine; seconds are of a server that has just
started. With Playwright and Chromium the view is opened as a user opens it, else its requests are made one by one (see `by`).
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter, process_time

from _common import REPOSITORY, arguments, report

sys.path.insert(0, str(REPOSITORY / "tests"))

EPISODES = 10_000
VIEW = "episodes"
API = ("runs", f"facets?run={EPISODES}", f"episodes?run={EPISODES}")
FILTER = f"episodes?run={EPISODES}&arm=memory&outcome=won&lost_in=none"


def made() -> Path:
    """The folder that holds the run, made once for each state of its maker."""
    import made_runs

    source = hashlib.sha256(Path(made_runs.__file__).read_bytes()).hexdigest()[:12]
    root = Path(tempfile.gettempdir()) / f"duomem-bench-ui-{source}"
    if not (root / str(EPISODES) / "report.html").is_file():
        shutil.rmtree(root, ignore_errors=True)
        made_runs.many(root / str(EPISODES), EPISODES)
    return root


@dataclass
class Counted:
    """What a view has asked for: answers and the bytes of their bodies."""

    requests: int = 0
    bytes: int = 0
    paths: list[str] = field(default_factory=list)

    def add(self, path: str, size: int) -> None:
        self.requests, self.bytes = self.requests + 1, self.bytes + size
        self.paths.append(path)


def by_requests(url: str) -> tuple[Counted, float]:
    """The view's page and the answers that it shows, one by one."""
    import httpx

    counted, start = Counted(), perf_counter()
    for path in (VIEW, *(f"api/{each}" for each in API)):
        answer = httpx.get(f"{url}/{path}").raise_for_status()
        counted.add(path, len(answer.content))
    return counted, perf_counter() - start


def by_chromium(url: str, chromium: str) -> tuple[Counted, float]:
    """The view in a real browser, until the first page of episodes stands there."""
    from playwright.sync_api import Response, sync_playwright

    counted, answers = Counted(), list[Response]()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto("about:blank")  # so that the browser itself has started
        page.on("response", lambda answer: answers.append(answer))
        start = perf_counter()
        page.goto(f"{url}/{VIEW}?run={EPISODES}")
        page.get_by_text("put a mug").first.wait_for()
        seconds = perf_counter() - start
        page.wait_for_timeout(500)  # what it asks for afterwards is counted as well
        for answer in answers:
            if "/api/events" not in answer.url:  # a stream without an end
                counted.add(answer.url.removeprefix(url), len(answer.body()))
        browser.close()
    return counted, seconds


def opener() -> tuple[str, Callable[[str], tuple[Counted, float]]]:
    """How the view is opened here."""
    found = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
    if found is None:
        return "requests", by_requests
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "requests", by_requests
    return "chromium", lambda url: by_chromium(url, found)


def main() -> None:
    options = arguments(__doc__ or "")
    import httpx

    from duomem.ui.serve import running

    by, view = opener()
    with running(made()) as url:
        cpu = process_time()
        counted, first = view(url)
        cpu = process_time() - cpu
    with running(made()) as url:
        start = perf_counter()
        answer = httpx.get(f"{url}/api/{FILTER}").raise_for_status()
        filtered = perf_counter() - start
    if not options.json:
        print(f"{EPISODES:,} episodes, by {by}: {counted.requests} requests, {counted.bytes / 1e3:.0f} kB, {first:.2f} s")
        print(f"  of them {cpu:.2f} s of a processor in the server")
        print("\n".join(f"  {path}" for path in counted.paths))
        print(f"a filter over all of them: {filtered * 1e3:.0f} ms, {answer.json()['total']:,} match")
    report("UI-requests", value=counted.requests, episodes=EPISODES, by=by)
    report("UI-bytes", value=counted.bytes, episodes=EPISODES, by=by)
    report("UI-first", value=first * 1e3, unit="ms", episodes=EPISODES, by=by, server_cpu_ms=round(cpu * 1e3, 1))
    report("UI-filter", value=filtered * 1e3, unit="ms", episodes=EPISODES, matched=answer.json()["total"])


if __name__ == "__main__":
    main()
