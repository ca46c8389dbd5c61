"""Outcomes count for the memories that were shown; only verified successes become memories, and never in the signed bank."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

import serve_world
from duomem.cli import app
from duomem.errors import MismatchError, UsageError
from duomem.rundir import RunFolder
from duomem.serve.app import Setup
from duomem.serve.engine import LocalEngine
from duomem.serve.learn import OVERLAY, Learner
from duomem.serve.limits import Keys
from duomem.serve.run import running
from duomem.serve.stand import Stand
from duomem.serve.student import Choice, open_student

pytest.importorskip("uvicorn", reason="needs the extra 'record'")
pytest.importorskip("detect_secrets", reason="needs the extra 'record'")
openai = pytest.importorskip("openai", reason="needs the extra 'api'")

GOAL = "put a zebra in drawer."
SECRET = "sk-proj-Zq7Xw2Lm9Rt4Vb8Nc3Kd6Hf1Js5Gy0Ap"
WIN = ["zebra: find shelf > go to shelf 1", "zebra: take > take zebra 1 from shelf 1", "drawer > move zebra 1 to drawer 1"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Its student says the winning commands, one a turn."""
    made = serve_world.make_run(tmp_path_factory.mktemp("learn") / "run", tasks=8)
    settings = made.settings.model_dump(mode="json", exclude_none=True)
    settings["student"] = {"model": "scripted", "layout": "pocket", "replies": WIN}
    from duomem.config import settings_of

    changed = replace(made, settings=settings_of(settings, "test"))
    changed.write_config()
    return changed


@dataclass
class Place:
    url: str
    stand: Stand
    state: Path

    def episode(self, goal: str = GOAL, note: str = "") -> str:
        """Play three turns; the id of the last reply."""
        client = openai.OpenAI(base_url=f"{self.url}/v1", api_key="user", max_retries=0)
        talk: list[Any] = [{"role": "user", "content": f"You see a shelf 1, a drawer 1.{note}\nTask: {goal}"}]
        for seen in ("On the shelf 1, you see a zebra 1.", "You pick up the zebra 1.", ""):
            done = client.chat.completions.create(model="any", messages=talk)
            talk += [{"role": "assistant", "content": done.choices[0].message.content}, {"role": "user", "content": seen}]
        return str(done.id)

    def outcome(self, reply: str, won: bool = True, key: str = "boss") -> httpx.Response:
        return httpx.post(f"{self.url}/duomem/outcome", json={"reply": reply, "won": won}, headers={"x-api-key": key})

    def explain(self, goal: str = GOAL) -> Any:
        return httpx.get(f"{self.url}/duomem/explain", params={"task": goal}, headers={"x-api-key": "user"}).json()


@pytest.fixture
def place(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr("duomem.serve.stand.ProcessEngine", _in_process)
    setup = Setup(keys=Keys(("user", "other"), "boss"))
    with Stand(run.root, Choice(), setup, tmp_path / "state", learn=True) as stand, running(stand.application) as url:
        yield Place(url, stand, tmp_path / "state")


def _in_process(spec: Any, restarted: Any) -> LocalEngine:
    return LocalEngine.of(spec)


def test_a_verified_success_is_a_memory_for_the_next_task_of_its_kind(place: Place, run: RunFolder) -> None:
    before = hashlib.sha256(run.bank.read_bytes()).hexdigest()
    said = place.outcome(place.episode()).json()
    (new,) = said["learned"]
    found = place.explain()
    assert found["bank_version"].endswith("+1")
    memory = next(each for each in found["memories"] if each["id"] == new)
    assert memory["key"] == GOAL
    assert "take from shelf" in memory["text"]
    assert hashlib.sha256(run.bank.read_bytes()).hexdigest() == before
    reply = place.episode()
    assert new in [
        each["id"]
        for each in httpx.get(f"{place.url}/duomem/explain?reply={reply}", headers={"x-api-key": "user"}).json()["memories"]
    ]


def test_nothing_becomes_a_memory_without_a_verified_success(place: Place) -> None:
    first = place.episode()
    assert place.explain()["bank_version"].count("+") == 0
    assert place.outcome(first, key="user").json()["learned"] == []
    assert place.outcome(first).status_code == 409, "the outcome of a conversation is known already"
    assert place.outcome(place.episode("put a yak in drawer."), won=False).json()["learned"] == []
    assert place.explain()["bank_version"].count("+") == 0


def test_outcomes_count_once_for_each_memory_that_was_shown(place: Place) -> None:
    reply = place.episode()
    shown = place.outcome(reply, won=False, key="user").json()["memories"]
    assert shown
    assert place.outcome(reply, key="user").status_code == 409
    again = place.outcome(place.episode(), key="user").json()["memories"]
    assert again == shown, "the same task on another day is another episode"
    uses = httpx.get(f"{place.url}/duomem/outcome", headers={"x-api-key": "user"}).json()["memories"]
    assert uses == {memory: {"shown": 2, "won": 1, "lost": 1} for memory in shown}


def test_an_outcome_needs_a_reply_of_ones_own(place: Place) -> None:
    reply = place.episode()
    assert place.outcome(reply, key="other").status_code == 404
    assert place.outcome("chatcmpl-unknown").status_code == 404
    assert httpx.post(f"{place.url}/duomem/outcome", json={"won": True}, headers={"x-api-key": "user"}).status_code == 422


def test_secrets_do_not_enter_a_memory(place: Place) -> None:
    (new,) = place.outcome(place.episode(note=f" api_key = {SECRET}", goal=f"put a zebra with {SECRET} in drawer.")).json()[
        "learned"
    ]
    texts = [f"{memory.key} {memory.text}" for memory in place.stand.student.injector.bank.memories()]  # type: ignore[union-attr]
    assert not any(SECRET in text for text in texts)
    assert place.stand.student.injector.bank.get(new)  # type: ignore[union-attr]


def test_what_was_learned_is_there_after_a_restart_and_a_reload(run: RunFolder, place: Place) -> None:
    place.outcome(place.episode())
    place.stand.load()
    assert place.explain()["bank_version"].endswith("+1")
    student = open_student(run.root)
    learner = Learner(place.state, student, writes=False)
    assert learner.injector().version.endswith("+1")
    learner.close()
    student.close()


def test_merge_reviews_and_folds_in(place: Place, run: RunFolder, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(run.root, folder)
    (first,) = place.outcome(place.episode()).json()["learned"]
    (second,) = place.outcome(place.episode("put a yak in drawer.")).json()["learned"]
    cli = CliRunner()
    listed = cli.invoke(app, ["merge", str(place.state), "--into", str(folder), "--json"])
    assert {row["id"] for row in json.loads(listed.stdout)["waiting"]} == {first, second}
    unsaid = cli.invoke(app, ["merge", str(place.state), "--into", str(folder), "--accept", first])
    assert isinstance(unsaid.exception, UsageError)
    done = cli.invoke(
        app,
        ["merge", str(place.state), "--into", str(folder), "--accept", first[:8], "--refuse", second, "-r", "read", "--json"],
    )
    assert done.exit_code == 0, done.output
    shown = cli.invoke(app, ["memories", "list", str(folder), "--json"])
    ids = {each["id"] for each in json.loads(shown.stdout)["memories"]}
    assert first in ids
    assert second not in ids
    again = cli.invoke(app, ["merge", str(place.state), "--into", str(folder), "--json"])
    assert json.loads(again.stdout)["waiting"] == []


def test_learning_needs_a_place_a_key_and_a_bank_of_the_same_kind(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="admin key"):
        Stand(run.root, Choice(), Setup(), tmp_path, learn=True)
    with pytest.raises(UsageError, match="--state"):
        Stand(run.root, Choice(), Setup(keys=Keys(admin="boss")), learn=True)
    student = open_student(run.root, Choice(arm="none"))
    with pytest.raises(UsageError, match="no memories"):
        Learner(tmp_path, student, writes=True)
    from duomem.bank import Bank
    from duomem.embed import build

    Bank.create(tmp_path / OVERLAY, build("lexical"), "another layout").close()
    student = open_student(run.root)
    with pytest.raises(MismatchError, match="another bank"):
        Learner(tmp_path, student, writes=True)
    student.close()
