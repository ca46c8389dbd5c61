"""Documents are held to the code: commands, configs, the file map, the worked example, and no trace of one machine."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from duomem import config
from duomem.cli.reference import VERBS, pages
from duomem.pipeline import distill
from duomem.rundir import open_run

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")] + sorted((ROOT / "docs").glob("*.md"))
CONFIGS = sorted((ROOT / "configs").glob("*.toml"))
WHOLE_FOLDERS = ("cli", "games", "layouts", "report_assets", "pocket")
"""Folders of the package that the file map names without their files."""


def tracked() -> list[Path]:
    found = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if found.returncode:
        pytest.skip("not a git checkout: there is no list of tracked files")
    return [path for name in found.stdout.split("\0") if name and (path := ROOT / name).is_file()]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_loads(path: Path) -> None:
    assert config.load(path).run.name == path.stem


def test_every_command_in_the_documents_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    for page in PAGES:
        text = "\n".join(re.findall(r"```(?:sh)?\n(.*?)```", page.read_text(), re.S)) + "\n".join(
            re.findall(r"`([^`\n]+)`", page.read_text())
        )
        for verb in re.findall(r"(?:^|\s)duomem ([a-z]+)", text):
            assert verb in VERBS, f"{page.name}: duomem {verb}"
        for target in re.findall(r"(?:^|\s)make ([a-z]+)", text):
            assert target in targets, f"{page.name}: make {target}"
    assert {"setup", "demo", "test", "check", "bench", "clean"} <= targets


def test_every_option_in_the_readme_exists() -> None:
    known = set(re.findall(r"--[a-z]+", pages()))
    lines = [line for line in (ROOT / "README.md").read_text().splitlines() if re.match(r"duomem ", line)]
    assert lines
    for line in lines:
        for option in re.findall(r"\s(--[a-z]+)", line.partition("#")[0]):
            assert option in known, line


def test_the_command_reference_is_fresh() -> None:
    assert (ROOT / "docs/cli.md").read_text() == pages(), "run: make docs"


def test_the_file_map_is_the_tree() -> None:
    block = re.search(r"## Files.*?```\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert block
    named: set[str] = set()
    folders: list[str] = []
    for line in block[1].splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        for word in re.split(r"\s{2,}", line.strip())[0].split():
            folders[depth:] = [word] if word.endswith("/") else []
            named.add("".join(folders[:depth]) + word)
    for name in named:
        assert (ROOT / name).exists(), f"README's file map names {name}"
    package = ROOT / "src/duomem"
    wanted = {str(path.relative_to(ROOT)) for path in package.rglob("*.py") if not path.name.startswith("_")}
    wanted = {name for name in wanted if name.split("/")[2] not in WHOLE_FOLDERS}
    wanted |= {f"src/duomem/{folder}/" for folder in (*WHOLE_FOLDERS, "envs", "models", "memory", "tuning")}
    wanted |= {"bench/", "docs/", "tests/", "configs/", "Makefile", "pyproject.toml", "requirements.lock", ".ci/run"}
    assert sorted(wanted - named) == [], "not in README's file map"


def test_setup_is_quick_when_nothing_changed_and_clear_about_an_old_python(tmp_path: Path) -> None:
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    done = tmp_path / "done"
    done.mkdir()
    (done / ".installed").touch()
    quick = subprocess.run(["make", "-n", "setup", f"VENV={done}"], cwd=ROOT, capture_output=True, text=True)
    assert (quick.returncode, "pip" in quick.stdout) == (0, False)
    old = tmp_path / "python-old"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2\nexit 1\n')
    old.chmod(0o755)
    refused = subprocess.run(
        ["make", "setup", f"VENV={tmp_path / 'none'}", f"PYTHON={old}"], cwd=ROOT, capture_output=True, text=True
    )
    assert refused.returncode != 0
    assert "3.11 or newer" in refused.stderr
    assert "3.9.2" in refused.stderr


def test_links_between_documents_lead_somewhere() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name} -> {link}"


def test_the_worked_example_is_a_component_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import duomem.memory

    text = (ROOT / "CONTRIBUTING.md").read_text()
    found = re.search(r"<!-- example: memory/(\w+)\.py -->\n```python\n(.*?)```", text, re.S)
    assert found
    (tmp_path / f"{found[1]}.py").write_text(found[2])
    monkeypatch.setattr(duomem.memory, "__path__", [*duomem.memory.__path__, str(tmp_path)])
    overrides = [f"memory.name={found[1]}", "memory.last=3", "evaluate.games=2", "evaluate.arms=['none', 'memory']"]
    run = open_run(tmp_path / "run", ROOT / "configs/household.toml", overrides)
    report = distill(run).data
    assert report["memories"] > 0
    assert report["arms"]["memory"]["memories"] > 0


def test_the_licence_and_the_lock_are_whole() -> None:
    assert "END OF TERMS AND CONDITIONS" in (ROOT / "LICENSE").read_text()
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line) for line in lines)
    assert "torch==2.13.0" in lines
    project = (ROOT / "pyproject.toml").read_text()
    for name, version in re.findall(r'"([a-z0-9-]+)==([^"]+)"', project):
        assert f"{name}=={version}".lower().replace("_", "-") in {line.lower().replace("_", "-") for line in lines}, name


def test_nothing_names_a_registry_or_a_machine() -> None:
    hosts = [
        "pypi" + ".org",
        "pythonhosted" + ".org",
        "download." + "pytorch",
        "/ro" + "ot/",
        "/wo" + "rk/",
        "/opt/" + "pypi",
        "file:" + "///",
    ]
    for path in tracked():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        for host in hosts:
            assert host not in text, f"{path.relative_to(ROOT)} names {host}"
