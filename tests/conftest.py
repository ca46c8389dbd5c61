"""Settings of the whole test process, made before a library that reads them is loaded: one thread, no spinning, no forks.

Also the browser that tests marked `browser` drive: Chromium's path, or a visible skip. With DUOMEM_REQUIRE_BROWSER=1, as
`.ci/run` sets it, a missing Chromium is a failure.
"""

from __future__ import annotations

import os
import shutil
import signal

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A shell that starts the tests in the background has Ctrl-C ignored, for them and every child; the tests of Ctrl-C need it.
signal.signal(signal.SIGINT, signal.default_int_handler)

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def missing(what: str) -> None:
    """Skip the test for want of a browser, or of what drives it; fail it where there must be one."""
    if os.environ.get("DUOMEM_REQUIRE_BROWSER", "") not in ("", "0"):
        pytest.fail(f"{what}, and DUOMEM_REQUIRE_BROWSER is set", pytrace=False)
    pytest.skip(what)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of Chromium, for tests marked `browser`."""
    path = next((found for name in CHROMIUMS if (found := shutil.which(name))), None)
    if path is None:
        missing(f"no Chromium on PATH (one of {', '.join(CHROMIUMS)})")
    assert path is not None
    return path
