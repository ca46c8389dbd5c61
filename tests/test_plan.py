"""Plans: the paper's configs without a download, sums to be checked by hand, nothing written; several students and splits."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import tiny_models
from duomem import pipeline, plan, shapes, weights
from duomem.cli import app
from duomem.config import load, settings_of
from duomem.rundir import RunFolder

CONFIGS = Path(__file__).parent.parent / "configs"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network, and no games or models of this machine."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a plan asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("ALFWORLD_DATA", raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


def dry(run: Path, config: str, *more: str) -> list[dict[str, Any]]:
    result = CliRunner().invoke(app, ["distill", str(run), "--config", str(CONFIGS / config), "--dry-run", "--json", *more])
    assert result.exit_code == 0, result.output
    assert not run.exists(), "a plan writes nothing"
    return list(json.loads(result.stdout.splitlines()[-1])["plans"])


@pytest.mark.usefixtures("offline")
def test_the_papers_run_is_planned_without_a_download(tmp_path: Path) -> None:
    (found,) = dry(tmp_path / "run", "paper-qwen3-4b.toml")
    counts = found["counts"]
    assert (counts["teacher_tasks"], counts["teacher_episodes"], counts["max_steps"]) == (3553, 4 * 3553, 30)
    assert (counts["games_valid_seen"], counts["games_valid_unseen"]) == (140, 134)
    assert found["models"]["teacher"] == "Qwen/Qwen2.5-72B-Instruct"
    assert (found["models"]["rank"], found["models"]["alpha"]) == (16, 32)
    assert found["models"]["adapter_parameters"] == pytest.approx(5.9e6, rel=0.01), "what readers of the paper noted"
    assert found["models"]["student_parameters"] == pytest.approx(4.02e9, rel=0.01)
    assert 8e9 < found["memory"]["training"] < 40e9
    assert found["disk"]["base_to_download"] == pytest.approx(8e9, rel=0.02)
    assert found["price"][0]["cost"] > 0
    assert found["detectable"]["valid_seen"] == pytest.approx(0.106, abs=0.001)


@pytest.mark.usefixtures("offline")
def test_gemma_and_the_grid_of_eight(tmp_path: Path) -> None:
    (gemma,) = dry(tmp_path / "run", "paper-gemma.toml")
    assert gemma["models"]["student"] == "google/gemma-3-4b-it"
    grid = dry(tmp_path / "run", "paper-grid.toml")
    assert len({each["models"]["student"] for each in grid}) == 8
    sizes = [each["models"]["student_parameters"] for each in grid]
    assert 2e9 < min(sizes) < 3e9
    assert 70e9 < max(sizes) < 75e9
    assert len({each["counts"]["teacher_episodes"] for each in grid}) == 1
    words = CliRunner().invoke(app, ["distill", "x", "--config", str(CONFIGS / "paper-grid.toml"), "--dry-run"]).stdout
    assert words.count(" USD (") == 1, "the teacher is paid for once"
    assert words.count("plays once for all") == 7


def test_every_shipped_config_has_a_plan(tmp_path: Path) -> None:
    for config in sorted(CONFIGS.glob("*.toml")):
        assert "nothing is started" in plan.words(plan.plans(RunFolder(tmp_path / "run", load(config))))
    assert not (tmp_path / "run").exists()


def test_what_will_be_refused_is_said_before(tmp_path: Path) -> None:
    tables = {"student": {"path": "Qwen/Qwen3-4B"}, "tuning": {"rank": 16}, "env": {"name": "household"}}
    found = plan.plan(RunFolder(tmp_path, settings_of(tables, "test")))
    assert found.models["adapter_parameters"] == 33_030_144
    assert any("refuses 10,000,000" in note for note in found.notes)
    unknown = plan.plan(RunFolder(tmp_path, settings_of({"student": {"path": "nobody/nothing"}}, "test")))
    assert any("nobody/nothing is not known" in note for note in unknown.notes)


def test_four_bits_and_recomputation_need_less(tmp_path: Path) -> None:
    def training(**tuning: Any) -> int:
        tables = {"student": {"path": "Qwen/Qwen3-4B"}, "tuning": tuning, "env": {"name": "household"}}
        return plan.plan(RunFolder(tmp_path, settings_of(tables, "test"))).memory["training"]

    assert training(quantize="4bit", recompute=True) < training(recompute=True) < training()
    assert training() - training(quantize="4bit") > 4e9


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_a_shape_counts_what_a_model_has(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("peft", reason="needs the extra 'train'")
    from peft import LoraConfig, get_peft_model

    folder = tiny_models.model(tmp_path, kind)
    shape = shapes.shape_of(folder)
    assert shape is not None
    model = weights.load_base(folder, dtype="float32")
    assert shape.parameters == pytest.approx(sum(each.numel() for each in model.parameters()), rel=0.02)
    for targets in ((), ("q_proj", "v_proj")):
        tuned = get_peft_model(model, LoraConfig(r=8, target_modules=list(targets) or "all-linear", task_type="CAUSAL_LM"))
        assert shape.adapter(8, targets) == sum(each.numel() for each in tuned.parameters() if each.requires_grad)
        model = tuned.unload()


TOY: dict[str, Any] = {
    "env": {"name": "household"},
    "teacher": {"model": "expert", "tasks": 6},
    "student": {"model": "scripted"},
    "memory": {"embedder": "lexical", "k": 1},
    "evaluate": {"split": "valid_unseen", "games": 3, "arms": ["none", "memory"]},
}


def test_several_students_share_what_the_teacher_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(tmp_path / "grid", settings_of({**TOY, "each": {"student.model": ["scripted", "expert"]}}, "test"))
    run.write_config()
    done = pipeline.distill(run)
    assert sorted(done.data) == ["expert", "scripted"]
    monkeypatch.setattr(pipeline, "play", None)  # whoever played again would fail
    for name, settings in plan.variants(run.settings):
        child = RunFolder(run.root / name, settings)
        assert child.result("collect") == run.result("collect")
        assert child.result("remember")["content_hash"] == run.result("remember")["content_hash"]
        assert (child.root / "report.md").is_file()
        pipeline.collect(child)
    won = {name: run.root / name / "evaluate" / "results.json" for name in done.data}
    assert won["expert"].read_text() != won["scripted"].read_text()


def test_further_splits_get_reports_of_their_own(tmp_path: Path) -> None:
    tables = {**TOY, "evaluate": {**TOY["evaluate"], "also": ["valid_seen"]}, "env": {"name": "household", "games": 4}}
    run = RunFolder(tmp_path / "both", settings_of(tables, "test"))
    run.write_config()
    done = pipeline.distill(run)
    assert "valid_seen" in done.data
    other = json.loads((run.root / "valid_seen" / "evaluate" / "results.json").read_text())
    assert other["split"] == "valid_seen"
    assert (run.root / "valid_seen" / "report.md").is_file()
    assert (run.root / "report.md").is_file()
