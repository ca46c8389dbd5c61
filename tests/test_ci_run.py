"""`.ci/run` sees to Chromium before the tests run, and says plainly where it cannot; with stand-ins on PATH."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / ".ci" / "run"
MAKE = 'echo "make $*, a browser is required: $DUOMEM_REQUIRE_BROWSER"'


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A PATH with the shell's tools and a stand-in for make, and nothing else."""
    for tool in ("bash", "dirname", "tail", "env", "chmod"):
        (tmp_path / tool).symlink_to(shutil.which(tool) or pytest.skip(f"no {tool} on PATH"))
    put(tmp_path, "make", MAKE)
    put(tmp_path, "id", "echo 0")
    return tmp_path


def put(folder: Path, name: str, body: str) -> None:
    (folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
    (folder / name).chmod(0o755)


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SCRIPT], env={**os.environ, "PATH": str(folder)}, capture_output=True, text=True, timeout=60)


def test_tests_run_with_a_browser_required_where_chromium_is_there(bare: Path) -> None:
    put(bare, "chromium", "")
    put(bare, "apt-get", "exit 1")
    done = run(bare)
    assert (done.returncode, done.stdout) == (0, "make test, a browser is required: 1\n")


def test_chromium_is_installed_where_it_is_missing(bare: Path) -> None:
    put(bare, "apt-get", f'case "$*" in *install*chromium*) echo "# there" > {bare}/chromium; chmod +x {bare}/chromium ;; esac')
    done = run(bare)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("make test")


@pytest.mark.parametrize("rights", ["root", "no sudo", "sudo with a password"])
def test_a_failed_installation_ends_with_what_to_do(bare: Path, rights: str) -> None:
    put(bare, "apt-get", 'echo "E: no network" >&2; exit 100')
    if rights != "root":
        put(bare, "id", "echo 1000")
    if rights == "sudo with a password":
        put(bare, "sudo", "exit 1")
    done = run(bare)
    assert done.returncode == 2
    assert ("E: no network" if rights == "root" else "sudo is not there, or asks for a password") in done.stderr
    assert "apt-get install chromium" in done.stderr
    assert "make" not in done.stdout
