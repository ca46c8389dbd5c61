"""A bundle of a real run: what is in it, what is left out, that other tools read its parts, that it does what was measured."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sqlite3
import zipfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from bundle_world import Shell
from duomem import grid, parts, pipeline, weights
from duomem.bank import Bank
from duomem.bundle import Options, keys, open_bundle, write_bundle
from duomem.bundle.check import sha256
from duomem.bundle.gather import agreement
from duomem.bundle.manifest import MANIFEST, SIGNATURE
from duomem.bundle.sizes import held, sizes
from duomem.bundle.write import bundle_as_configured
from duomem.config import BundleTable, settings_of
from duomem.embed import Lexical
from duomem.errors import DataError, MismatchError, UsageError
from duomem.journal import Journal
from duomem.prompts import AS_RECORDED, load_layout, opening
from duomem.rundir import RunFolder, open_run
from duomem.talk import SILENT, Talk
from duomem.types import BankEdit, Message, Origin, Reply, Sampling, StopReason, Task, ToolCall, Trajectory, Turn, load

ROOT = Path(__file__).resolve().parents[1]
BOTH = Options(arm="both", parity=2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The pocket student in the twin of the household: one step of tuning, three games an arm. Figures mean nothing here."""
    pytest.importorskip("peft", reason="the extra 'train' is not installed")
    sets = ["student.model=hf", "student.path=pocket", "student.layout=pocket", "student.max_tokens=16", "tuning.name=lora"]
    sets += ["tuning.max_steps=1", "tuning.rank=8", "teacher.tasks=6", "teacher.layout=pocket", "evaluate.games=3"]
    sets += ["evaluate.arms=['none','memory','adapter','both']", "run.name=toy"]
    # The teacher needs more turns than the student gets: its episodes come first, with the config's own limit.
    folder = tmp_path_factory.mktemp("runs") / "toy"
    run = open_run(folder, ROOT / "configs/household.toml", [*sets, "rollout.max_steps=30"])
    for verb in (pipeline.collect, pipeline.remember, pipeline.tune):
        verb(run)
    run = open_run(folder, None, ["rollout.max_steps=3"])
    grid.evaluate(run, SILENT)
    return run


@pytest.fixture
def run(made: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy that a test may break."""
    shutil.copytree(made.root, tmp_path / "run")
    return replace(made, root=tmp_path / "run")


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    keys.keygen(folder / "key", folder / "key.pub")
    return folder / "key"


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def test_a_bundle_is_written_signed_and_opened(run: RunFolder, key: Path, tmp_path: Path) -> None:
    wrote = write_bundle(run, tmp_path / "my.duo", replace(BOTH, sign=key))
    with open_bundle(tmp_path / "my.duo", trust=key.with_name("key.pub")) as opened:
        assert opened.manifest == wrote
        assert opened.signed
        assert opened.adapter
        assert weights.adapter_hash(opened.adapter) == weights.adapter_hash(run.adapter)
        assert opened.options["path"] == "duomem/pocket"
        assert opened.layout == load_layout("pocket")
        bank, strategy = opened.open_bank(), opened.strategy()
        assert bank
        assert strategy
        with Bank.open(run.bank, Lexical()) as own:
            assert bank.view().memories() == own.view().memories()
        bank.close()
    assert wrote.parity
    assert wrote.parity.requests >= 3
    assert wrote.base.name == "duomem/pocket"
    assert wrote.base.weights_sha256 == weights.base_hash("pocket")
    assert set(wrote.figures) == {"none", "memory", "adapter", "both"}
    assert str(tmp_path) not in (wrote.to_json().decode())


def test_what_the_decision_left_out_is_left_out(run: RunFolder, tmp_path: Path) -> None:
    memory = write_bundle(run, tmp_path / "memory", Options(arm="memory", parity=1))
    adapter = write_bundle(run, tmp_path / "adapter", Options(arm="adapter", parity=1))
    assert "bank.sqlite" in sizes_of(memory)
    assert not [path for path in sizes_of(memory) if path.startswith(("adapter", "gguf"))]
    assert "bank.sqlite" not in sizes_of(adapter)
    assert "adapter/adapter_model.safetensors" in sizes_of(adapter)
    with open_bundle(tmp_path / "memory", allow_unsigned=True) as opened:
        assert (opened.adapter, opened.gguf("adapter")) == (None, None)
    with open_bundle(tmp_path / "adapter", allow_unsigned=True) as opened:
        assert (opened.bank, opened.open_bank(), opened.strategy()) == (None, None, None)


def sizes_of(manifest: object) -> dict[str, int]:
    return {member.path: member.size for member in manifest.members}  # type: ignore[attr-defined]


def test_the_decision_decides_unless_the_user_does(run: RunFolder, tmp_path: Path) -> None:
    """Nobody wins in three turns: the decision ships neither part."""
    with pytest.raises(UsageError, match="--arm"):
        write_bundle(run, tmp_path / "my.duo")
    assert not (tmp_path / "my.duo").exists()
    forced = write_bundle(run, tmp_path / "my.duo", Options(arm="memory", parity=1))
    assert forced.verdict.forced
    assert "Chosen by hand" in forced.verdict.words


def test_the_same_run_gives_the_same_bytes(run: RunFolder, tmp_path: Path) -> None:
    first = write_bundle(run, tmp_path / "a.duo", BOTH)
    again = write_bundle(run, tmp_path / "b.duo", BOTH)
    assert sha256(tmp_path / "a.duo") == sha256(tmp_path / "b.duo")
    assert (first.version, again.version) == (1, 1)
    assert write_bundle(run, tmp_path / "c.duo", replace(BOTH, gguf="none")).version == 2
    with zipfile.ZipFile(tmp_path / "a.duo") as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_folder_and_zip_hold_the_same(run: RunFolder, tmp_path: Path) -> None:
    write_bundle(run, tmp_path / "folder", BOTH)
    write_bundle(run, tmp_path / "file.duo", BOTH)
    with zipfile.ZipFile(tmp_path / "file.duo") as archive:
        for name in archive.namelist():
            assert archive.read(name) == (tmp_path / "folder" / name).read_bytes()
    write_bundle(run, tmp_path / "folder", BOTH)  # in its own place again
    open_bundle(tmp_path / "folder", allow_unsigned=True).close()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("years")
    with pytest.raises(UsageError, match="something else"):
        write_bundle(run, tmp_path / "mine", BOTH)


def test_other_tools_read_the_parts_as_they_lie(run: RunFolder, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard
    from peft import PeftModel

    folder = tmp_path / "my"
    write_bundle(run, folder, replace(BOTH, licence="apache-2.0"))
    card = ModelCard.load(folder / "README.md").data.to_dict()
    assert card["license"] == "apache-2.0"
    assert card["library_name"] == "peft"
    base = weights.load_base("pocket", dtype="float32")
    assert PeftModel.from_pretrained(base, str(folder / "adapter")).peft_config["default"].r == 8
    gguf = pytest.importorskip("gguf", reason="the extra 'llamacpp' is not installed")
    tensors = {tensor.name for tensor in gguf.GGUFReader(str(folder / "gguf/adapter.gguf")).tensors}
    assert any(name.endswith("lora_a") for name in tensors)
    with closing(sqlite3.connect(f"file:{folder / 'bank.sqlite'}?mode=ro", uri=True)) as db:
        assert db.execute("SELECT count(*) FROM memories").fetchone()[0] > 0


def test_a_merged_gguf_stands_alone(run: RunFolder, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="the extra 'llamacpp' is not installed")
    made = write_bundle(run, tmp_path / "my", Options(arm="adapter", gguf="merged", weights="q8_0", parity=1, games=0))
    assert made.rescored
    assert (made.rescored.weights, made.rescored.games) == ("q8_0", 0)
    assert made.rescored.replies > 0
    assert [(each.kind, each.weights) for each in made.gguf] == [("merged", "q8_0")]
    with open_bundle(tmp_path / "my", allow_unsigned=True) as opened:
        options = opened.options_for("llamacpp")
        assert Path(options["gguf"]).is_file()
        assert "adapter" not in options  # it is in the weights already
        assert "adapter" in opened.options_for("hf")
    with pytest.raises(UsageError, match="precision"):
        write_bundle(run, tmp_path / "odd", Options(arm="adapter", gguf="merged", weights="q1_9", parity=0))


def test_llama_cpp_says_what_transformers_says_from_the_bundles_files(run: RunFolder, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="the extra 'llamacpp' is not installed")
    write_bundle(run, tmp_path / "my", BOTH)
    asked = opening(load_layout("pocket"), "put a mug in cabinet.", "You see a cabinet 1, a drawer 1.", ())
    said = []
    with open_bundle(tmp_path / "my", allow_unsigned=True) as opened:
        for engine in ("hf", "llamacpp"):
            model = parts.build("models", engine, opened.options_for(engine) | {"max_batch": 1})
            said.append(model.reply(asked, (), Sampling(max_tokens=16)).message.text)
            model.close()
    assert said[0] == said[1] != ""


def test_the_signed_bank_is_never_written_to(run: RunFolder, tmp_path: Path) -> None:
    write_bundle(run, tmp_path / "my", BOTH)
    before = {path.name: sha256(path) for path in (tmp_path / "my").rglob("*") if path.is_file()}
    with open_bundle(tmp_path / "my", allow_unsigned=True) as opened:
        bank = opened.open_bank()
        assert bank
        assert bank.view().search("put a mug in the cabinet.", 1)
        with pytest.raises((sqlite3.Error, DataError, Exception), match="read"):
            bank.record([bank.view().memories()[0].id], True)
        bank.close()
    assert {path.name: sha256(path) for path in (tmp_path / "my").rglob("*") if path.is_file()} == before


# --------------------------------------------------------------------------------------------------------------- replay parity


def test_a_bank_that_changed_since_the_evaluation_makes_no_bundle(run: RunFolder, tmp_path: Path) -> None:
    with Journal.open(run.journal, readonly=True) as journal:
        played = next(each for each in journal.trajectories(journal.latest("evaluate/valid_unseen/both")) if each.shown)
    with Bank.open(run.bank, Lexical()) as bank:
        bank.apply([BankEdit("retire", "by hand", target=played.shown[0])])
    with pytest.raises(DataError, match=r"No bundle: .* memory ids: .* now, .* then"):
        write_bundle(run, tmp_path / "my.duo", BOTH)
    assert sorted(path.name for path in tmp_path.iterdir() if "duo" in path.name) == []


def test_another_layout_or_prompt_than_was_played_makes_no_bundle(run: RunFolder, tmp_path: Path) -> None:
    with closing(sqlite3.connect(run.journal, isolation_level=None)) as db:
        rows = db.execute("SELECT id, prompt FROM episodes WHERE phase LIKE 'evaluate/%/both/%'").fetchall()
        for row, prompt in rows:
            db.execute("UPDATE episodes SET prompt = ? WHERE id = ?", (prompt.replace("Task:", "Order:"), row))
    with pytest.raises(DataError, match="token ids from place"):
        write_bundle(run, tmp_path / "my.duo", BOTH)


def test_a_run_without_recorded_episodes_says_so(run: RunFolder, tmp_path: Path) -> None:
    with closing(sqlite3.connect(run.journal, isolation_level=None)) as db:
        db.execute("UPDATE episodes SET phase = 'old/' || phase WHERE phase LIKE 'evaluate/%'")
    with pytest.raises(DataError, match="--parity 0"):
        write_bundle(run, tmp_path / "my.duo", BOTH)
    assert write_bundle(run, tmp_path / "my.duo", replace(BOTH, parity=0)).parity is None


def test_what_was_compared_is_in_the_bundle(run: RunFolder, tmp_path: Path) -> None:
    write_bundle(run, tmp_path / "my", BOTH)
    said = json.loads((tmp_path / "my/parity.json").read_text())
    assert said["against"] == "evaluation on valid_unseen, tuning"
    first = said["episodes"][0]
    assert first["memories"]
    with Journal.open(run.journal, readonly=True) as journal:
        played = {each.content_hash[:16]: each for each in journal.trajectories(journal.latest("evaluate/valid_unseen/both"))}
    assert first["tokens"] == [turn.reply.usage.prompt for turn in played[first["episode"]].turns]
    assert "put" not in json.dumps(said["episodes"])  # hashes and counts, no text


# ------------------------------------------------------------------------------------------------------------------------ size


def test_the_size_is_held_to_a_few_megabytes(run: RunFolder, tmp_path: Path) -> None:
    made = write_bundle(run, tmp_path / "my.duo", BOTH)
    counted = sizes(made)
    assert held(made) == counted["adapter"] + counted["bank"]
    with pytest.raises(DataError, match="--max-mb"):
        write_bundle(run, tmp_path / "small.duo", replace(BOTH, largest=held(made) / 1e6 - 0.01))


def test_int8_finds_what_float32_finds() -> None:
    goals = [f"put some {thing} in {place}." for thing in ("mug", "plate", "apple", "knife") for place in ("desk", "shelf")]
    assert agreement(goals, Lexical(), 2) >= 0.75
    assert agreement(goals[:1], Lexical(), 2) == 1.0


def test_a_base_that_is_another_one_here_is_refused(run: RunFolder, tmp_path: Path) -> None:
    write_bundle(run, tmp_path / "my", BOTH)
    base = tmp_path / "base"
    shutil.copytree(weights.folder_of("pocket"), base)
    open_bundle(tmp_path / "my", allow_unsigned=True, base=str(base)).close()
    template = base / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    with pytest.raises(MismatchError, match=r"chat_template\.jinja"):
        open_bundle(tmp_path / "my", allow_unsigned=True, base=str(base))


def test_manifest_and_signature_are_no_members(run: RunFolder, key: Path, tmp_path: Path) -> None:
    made = write_bundle(run, tmp_path / "my", replace(BOTH, sign=key))
    listed = {member.path for member in made.members}
    there = {path.relative_to(tmp_path / "my").as_posix() for path in (tmp_path / "my").rglob("*") if path.is_file()}
    assert there - listed == {MANIFEST, SIGNATURE}
    assert load(dict, (tmp_path / "my" / MANIFEST).read_bytes())["format"] == 1


# ------------------------------------------------------------------------------------------------------ documents and pipeline


def test_the_documents_commands_run(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "docs/bundle.md").read_text()
    block = re.search(r"<!-- test: commands -->\n```sh\n(.*?)```", text, re.S)
    assert block
    monkeypatch.chdir(tmp_path)
    shell = Shell(monkeypatch, capsys)
    lines = [line.partition("#")[0].strip() for line in block[1].splitlines()]
    assert [line.split()[1] for line in lines] == ["keygen", "bundle", "trust", "verify", "inspect"]
    for line in lines:
        line = line.replace("~/.config", str(tmp_path / "config")).replace("runs/mine", str(run.root))
        more = ["--arm", "both", "--parity", "1"] if " bundle " in line else []  # this run's decision ships nothing
        code, out, err = shell(*shlex.split(line)[1:], *more)
        assert code == 0, err
    assert "by my lab, whom you trust" in out


def test_distill_ends_with_a_bundle_where_the_config_says_so(run: RunFolder, key: Path) -> None:
    table = BundleTable(out="end/", sign=str(key), parity=1)
    settings = run.settings.model_copy(update={"bundle": table})
    done = bundle_as_configured(replace(run, settings=settings), SILENT)
    assert done.words == "No bundle: the decision ships neither part."
    results = json.loads(run.results.read_text())
    for score in results["scores"]:  # as if the memories had won every game
        score["stop"] = "won" if score["arm"] == "memory" else "step_cap"
    run.results.write_text(json.dumps(results))
    notes: list[str] = []
    done = bundle_as_configured(replace(run, settings=settings), Talk(note=notes.append))
    assert (done.data["arm"], done.data["signed"], done.data["bundle"]) == ("memory", True, str(run.root / "end"))
    assert str(key) not in done.words + "".join(notes) + json.dumps(done.data)
    open_bundle(run.root / "end", trust=key.with_name("key.pub")).close()


def test_an_agents_own_run_is_held_to_its_recording(tmp_path: Path) -> None:
    """No environment, no evaluation: prompts are the agent's own, the arm is chosen by hand."""
    tables = {
        "run": {"name": "agent"},
        "student": {"model": "scripted", "replies": ["no"]},
        "memory": {"embedder": "lexical", "k": 1},
        "teacher": {"split": "train"},
    }
    run = RunFolder(tmp_path / "run", settings_of(tables, "test"))
    run.write_config()
    said = [Message.of("system", "You work in an office."), Message.of("user", "Book a room for Monday.")]
    with Journal.open(run.journal) as journal:
        for number in range(3):
            call = ToolCall("book", json.dumps({"room": number}), "call_1")
            turn = Turn(Reply(Message("assistant", (), (call,))), call, "done", results=())
            origin = Origin(model="big", layout=AS_RECORDED, licence="MIT")
            task, prompt = Task(f"train/{number}", "train", "recorded"), (said[0], Message.of("user", f"Book room {number}."))
            episode = Trajectory(task, 0, f"Book room {number}.", "", prompt, (turn,), StopReason.WON, origin=origin)
            journal.add("record/x", episode)
        content = journal.content_hash("record/x")
    tasks = [f"train/{number}" for number in range(3)]
    found = {"episodes": 3, "won": 3, "phase": "record/x", "content_hash": content, "tasks": tasks, "seconds": 0.0}
    run.record("collect", "x", found)
    pipeline.remember(run)
    with pytest.raises(UsageError, match="has not been evaluated"):
        write_bundle(run, tmp_path / "my.duo")
    made = write_bundle(run, tmp_path / "my.duo", Options(arm="memory"))
    assert made.parity
    assert (made.parity.against, made.parity.episodes) == ("the recording", 3)
    assert (made.base.source, made.teacher.licence, made.figures) == ("endpoint", "MIT", {})
    with open_bundle(tmp_path / "my.duo", allow_unsigned=True) as opened:
        assert opened.locator.spec == "path:user.0"
