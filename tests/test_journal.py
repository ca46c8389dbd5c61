"""The journal: what it keeps, in which order, and what a kill, a full disk, an old file or a second writer does to it."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from duomem._commits import Commits
from duomem._journal_file import JOURNAL
from duomem.errors import DataError, StoreError
from duomem.journal import Journal
from duomem.types import Message, Origin, Reply, StopReason, Task, TextPart, Tool, ToolCall, Trajectory, Turn, Usage, run_hash

TASK = Task("train/a", "train", "corridor", "h")
PROMPT = (Message.of("system", "be brief"), Message.of("user", "Your task: ünï\n\nscene"))
TOOL = Tool("mail", "Send a mail.")
ORIGIN = Origin(model="m", revision="r", layout="l", env="e", seed=3, licence="MIT")


def said(text: str, seconds: float = 0.1) -> Reply:
    return Reply(Message.of("assistant", text), usage=Usage(10, 4, 3), seconds=seconds)


def write(
    journal: Journal,
    task: Task = TASK,
    attempt: int = 0,
    *,
    phase: str = "collect",
    turns: int = 3,
    stop: StopReason | None = StopReason.WON,
    error: str = "",
) -> int:
    episode = journal.begin(phase, task, attempt, goal="g", scene="s", prompt=PROMPT, shown=("m1",), origin=ORIGIN)
    recorded = journal.recorded(episode)
    for index in range(turns):
        if index >= len(recorded):
            journal.record_reply(episode, index, said(f"Action: {index}"), ToolCall.act(str(index)))
        journal.record_observation(episode, index, f"seen {index}")
    if stop:
        journal.finish(episode, stop, error, 1.5)
    return episode


def test_every_commit_is_synced(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "run" / "journal.sqlite") as journal:
        assert journal._db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert journal._db.execute("PRAGMA synchronous").fetchone()[0] == 2
        assert journal._db.execute("PRAGMA user_version").fetchone()[0] == len(JOURNAL.steps)


def test_a_trajectory_comes_back_whole(tmp_path: Path) -> None:
    call = ToolCall("act", '{"command": "go"}', "call-1")
    message = Message("assistant", Message.of("user", "hm").parts, (call,), None, "because")
    turns = (
        Turn(Reply(message, "tool_calls", Usage(5, 1, 2), 0.25), call, "you went", True, True, "\nGuide: x"),
        Turn(said("no action"), None, "Nothing happens.", False),
        Turn(
            said("both"),
            call,
            "a\nb",
            results=(Message("tool", (TextPart("a"),), tool_call_id="call-1"), Message.of("user", "b")),
        ),
        Turn(said("bye"), None, "", results=()),
    )
    expected = Trajectory(TASK, 2, "g", "s", PROMPT, turns, StopReason.STEP_CAP, ("m2", "m1"), ORIGIN, "", 7.5, tools=(TOOL,))
    with Journal.open(tmp_path / "j.sqlite") as journal:
        episode = journal.begin("p", TASK, 2, goal="g", scene="s", prompt=PROMPT, shown=("m2",), origin=ORIGIN, tools=(TOOL,))
        for index, turn in enumerate(turns):
            journal.record_reply(episode, index, turn.reply, turn.call, repaired=turn.repaired)
            journal.record_observation(
                episode, index, turn.observation, valid=turn.valid, recalled=turn.recalled, results=turn.results
            )
        journal.finish(episode, StopReason.STEP_CAP, "", 7.5, shown=("m2", "m1"))
    with Journal.open(tmp_path / "j.sqlite", readonly=True) as journal:
        assert list(journal.trajectories("p")) == [expected]
        stored = journal._db.execute("SELECT content_hash FROM episodes").fetchone()[0]
        assert stored == expected.content_hash
        assert journal.content_hash("p") == run_hash([expected])
    with Journal.open(tmp_path / "j.sqlite") as journal:
        unjudged = replace(expected, attempt=3, stop=StopReason.UNKNOWN)
        journal.add("from elsewhere", expected)
        journal.add("from elsewhere", unjudged)
        assert list(journal.trajectories("from elsewhere")) == [expected]
        assert list(journal.trajectories("from elsewhere", errors=True)) == [expected, unjudged]
        judged = replace(unjudged, stop=StopReason.WON)
        journal.add("from elsewhere", judged)
        assert list(journal.trajectories("from elsewhere")) == [expected, judged]
        with pytest.raises(DataError, match="attempt 3, already has an outcome"):
            journal.add("from elsewhere", unjudged)


def test_what_was_recorded_is_on_disk_when_the_call_returns(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    with Journal.open(path) as journal:
        episode = write(journal, turns=0, stop=None)
        journal.record_reply(episode, 0, said("Action: go"), ToolCall.act("go"))
        with Journal.open(path, readonly=True) as other:
            (turn,) = other.recorded(episode)
            assert turn.call == ToolCall.act("go")
            assert turn.observation is None


@pytest.mark.parametrize("stop", list(StopReason))
def test_only_outcomes_are_finished_and_scored(tmp_path: Path, stop: StopReason) -> None:
    with Journal.open(tmp_path / "j.sqlite") as journal:
        write(journal, stop=stop, error="" if stop.is_outcome else "the cable")
        infra = stop in (StopReason.ERROR, StopReason.INTERRUPTED, StopReason.BUDGET, StopReason.UNKNOWN)
        assert journal.finished("collect") == (set() if infra else {("train/a", 0)})
        assert len(list(journal.trajectories("collect"))) == (0 if infra else 1)
        (listed,) = journal.trajectories("collect", errors=True)
        assert listed.stop is stop
        assert [failure.error for failure in journal.failures("collect")] == (["the cable"] if infra else [])


def test_a_cut_episode_goes_on_and_leaves_no_second_one(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    with Journal.open(path) as journal:
        first = write(journal, turns=2, stop=None)
    with Journal.open(path) as journal:
        assert list(journal.trajectories("collect", errors=True)) == []
        assert write(journal, turns=4) == first
        (trajectory,) = journal.trajectories("collect")
        assert [turn.observation for turn in trajectory.turns] == ["seen 0", "seen 1", "seen 2", "seen 3"]


def test_a_retried_error_keeps_what_it_paid_for_and_its_history(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j.sqlite") as journal:
        first = write(journal, turns=2, stop=StopReason.ERROR, error="429")
        # The environment then fails to open: there is no prompt, and the two turns must survive that.
        journal.finish(journal.begin("collect", TASK, 0), StopReason.ERROR, "no file")
        assert write(journal, turns=3) == first
        (trajectory,) = journal.trajectories("collect")
        assert trajectory.error == ""
        assert trajectory.prompt == PROMPT
        assert [(failure.turns, failure.error) for failure in journal.failures("collect")] == [(2, "429"), (2, "no file")]


def test_an_episode_that_begins_otherwise_is_a_new_try_and_the_latest_counts(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j.sqlite") as journal:
        write(journal, turns=2, stop=StopReason.ERROR)
        other = journal.begin("collect", TASK, 0, goal="g", scene="another", prompt=PROMPT, origin=ORIGIN)
        assert journal.recorded(other) == ()
        journal.finish(other, StopReason.LOST)
        (trajectory,) = journal.trajectories("collect", errors=True)
        assert (trajectory.scene, trajectory.turns) == ("another", ())


def test_an_outcome_is_never_played_again(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j.sqlite") as journal:
        write(journal)
        with pytest.raises(DataError, match=r"train/a, attempt 0, already has an outcome in phase 'collect'"):
            write(journal)
        write(journal, phase="evaluate/none/seed0")
        write(journal, attempt=1)
        assert journal.phases() == ["collect", "evaluate/none/seed0"]


def test_trajectories_are_sorted_filtered_and_apart_by_phase(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j.sqlite") as journal:
        for name, attempt, stop in [("b", 1, "won"), ("b", 0, "lost"), ("a", 10, "won"), ("a", 9, "step_cap")]:
            write(journal, Task(name, "train", "e"), attempt, stop=StopReason(stop))
        write(journal, Task("0", "train", "e"), phase="other")
        keys = [(item.task.id, item.attempt) for item in journal.trajectories("collect")]
        assert keys == [("a", 9), ("a", 10), ("b", 0), ("b", 1)]
        assert [(item.task.id, item.attempt) for item in journal.trajectories("collect", won=True)] == [("a", 10), ("b", 1)]
        assert [(item.task.id, item.attempt) for item in journal.trajectories("collect", won=False)] == [("a", 9), ("b", 0)]


def test_the_content_hash_does_not_depend_on_order_times_or_failures(tmp_path: Path) -> None:
    tasks = [Task(f"t{number}", "train", "e") for number in range(4)]
    with Journal.open(tmp_path / "a.sqlite") as one, Journal.open(tmp_path / "b.sqlite") as two:
        for task in tasks:
            write(one, task)
        write(two, tasks[1], turns=1, stop=StopReason.ERROR, error="reset")
        for task in reversed(tasks):
            write(two, task)
        assert one.content_hash("collect") == two.content_hash("collect")
        write(two, Task("t4", "train", "e"))
        assert one.content_hash("collect") != two.content_hash("collect")


def test_many_threads_write_at_once(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j.sqlite") as journal:
        tasks = [Task(f"t{number}", "train", "e") for number in range(24)]

        def work(share: list[Task]) -> None:
            for task in share:
                write(journal, task)

        threads = [threading.Thread(target=work, args=(tasks[start::8],)) for start in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = list(journal.trajectories("collect"))
        assert [item.task.id for item in found] == sorted(task.id for task in tasks)
        assert {len(item.turns) for item in found} == {3}


def numbers(path: Path) -> Commits:
    db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("CREATE TABLE numbers(n INTEGER PRIMARY KEY)")
    return Commits(db, path)


def test_threads_share_a_commit_and_each_finds_its_write_on_disk(tmp_path: Path) -> None:
    commits = numbers(tmp_path / "n.sqlite")
    syncs: list[str] = []
    commits.db.set_trace_callback(lambda text: syncs.append(text) if text == "COMMIT" else None)
    missing: list[int] = []
    start = threading.Barrier(8)

    def work(share: int) -> None:
        reader = sqlite3.connect(tmp_path / "n.sqlite")
        start.wait()
        for n in range(share, 400, 8):
            commits.now(lambda db, n=n: db.execute("INSERT INTO numbers VALUES (?)", (n,)))  # type: ignore[misc]
            if not reader.execute("SELECT 1 FROM numbers WHERE n = ?", (n,)).fetchone():
                missing.append(n)
        reader.close()

    threads = [threading.Thread(target=work, args=(share,)) for share in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert missing == []
    assert len(commits.rows("SELECT n FROM numbers")) == 400
    assert len(syncs) < 400
    commits.close()


def test_in_a_shared_commit_a_write_that_fails_is_undone_alone(tmp_path: Path) -> None:
    commits = numbers(tmp_path / "n.sqlite")
    commits.later(lambda db: db.execute("INSERT INTO numbers VALUES (1)") and None)

    def half(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO numbers VALUES (2)")
        raise DataError("not this one")

    with pytest.raises(DataError, match="not this one"):
        commits.now(half)
    with pytest.raises(StoreError, match="UNIQUE"):
        commits.now(lambda db: db.execute("INSERT INTO numbers VALUES (1)"))
    commits.close()
    with sqlite3.connect(tmp_path / "n.sqlite") as db:
        assert db.execute("SELECT n FROM numbers").fetchall() == [(1,)]


def test_what_nobody_waits_for_is_not_lost_when_a_commit_fails(tmp_path: Path) -> None:
    commits = numbers(tmp_path / "n.sqlite")
    commits.db.execute("CREATE TABLE texts(t TEXT)")
    pages = commits.db.execute("PRAGMA page_count").fetchone()[0]
    commits.db.execute(f"PRAGMA max_page_count = {pages + 2}")
    commits.later(lambda db: db.execute("INSERT INTO numbers VALUES (1)") and None)
    with pytest.raises(StoreError, match="full"):
        commits.now(lambda db: db.execute("INSERT INTO texts VALUES (?)", ("x" * 100_000,)))
    commits.now(lambda db: db.execute("INSERT INTO numbers VALUES (2)"))
    assert [row[0] for row in commits.rows("SELECT n FROM numbers")] == [1, 2]
    commits.close()


V1 = """
CREATE TABLE episodes(
    id INTEGER PRIMARY KEY, phase TEXT NOT NULL, task_id TEXT NOT NULL, attempt INTEGER NOT NULL, try INTEGER NOT NULL,
    task TEXT NOT NULL, goal TEXT NOT NULL, scene TEXT NOT NULL, prompt TEXT NOT NULL, shown TEXT NOT NULL,
    origin TEXT NOT NULL, stop TEXT, error TEXT NOT NULL DEFAULT '', seconds REAL NOT NULL DEFAULT 0, content_hash TEXT,
    UNIQUE(phase, task_id, attempt, try));
CREATE TABLE turns(
    episode INTEGER NOT NULL REFERENCES episodes(id), idx INTEGER NOT NULL, reply TEXT NOT NULL, call TEXT,
    repaired INTEGER NOT NULL, observation TEXT, valid INTEGER, PRIMARY KEY(episode, idx)) WITHOUT ROWID;
INSERT INTO episodes VALUES (1, 'collect', 'train/a', 0, 0, '{"id":"train/a","split":"train","env":"e"}', 'g', 's',
    '[{"role":"user","parts":[{"text":"hello"}]}]', '[]', '{}', 'won', '', 2.0, NULL);
INSERT INTO turns VALUES (1, 0, '{"message":{"role":"assistant","parts":[{"text":"Action: go"}]}}',
    '{"name":"act","arguments":"{\\"command\\": \\"go\\"}"}', 0, 'you went', 1);
PRAGMA user_version = 1;
"""


def version_one(path: Path) -> Path:
    with sqlite3.connect(path) as db:
        db.executescript(V1)
    db.close()
    return path


@pytest.mark.parametrize("readonly", [False, True])
def test_a_journal_of_version_one_is_migrated(tmp_path: Path, readonly: bool) -> None:
    path = version_one(tmp_path / "j.sqlite")
    with Journal.open(path, readonly=readonly) as journal:
        (trajectory,) = journal.trajectories("collect")
        (turn,) = trajectory.turns
        assert (turn.call, turn.observation, turn.recalled) == (ToolCall.act("go"), "you went", "")
        assert journal.failures("collect") == []
    with Journal.open(path) as journal:
        assert journal._db.execute("PRAGMA user_version").fetchone()[0] == len(JOURNAL.steps)
        write(journal, Task("train/b", "train", "e"))
        assert len(list(journal.trajectories("collect"))) == 2


def test_a_failed_migration_leaves_the_old_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = version_one(tmp_path / "j.sqlite")
    with monkeypatch.context() as broken:
        steps = (JOURNAL.steps[0], (*JOURNAL.steps[1], "CREATE NONSENSE"))
        broken.setattr("duomem.journal.JOURNAL", replace(JOURNAL, steps=steps))
        with pytest.raises(StoreError, match="NONSENSE"):
            Journal.open(path)
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA user_version").fetchone()[0] == 1
    assert "recalled" not in [row[1] for row in db.execute("PRAGMA table_info(turns)")]
    db.close()
    with Journal.open(path) as journal:
        assert len(list(journal.trajectories("collect"))) == 1


def test_a_newer_journal_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    with Journal.open(path) as journal:
        write(journal)
        journal._db.execute(f"PRAGMA user_version = {len(JOURNAL.steps) + 1}")
    before = path.read_bytes()
    for readonly in (False, True):
        with pytest.raises(DataError, match=f"schema version {len(JOURNAL.steps) + 1}.*Update duomem"):
            Journal.open(path, readonly=readonly)
    assert path.read_bytes() == before


def test_what_is_no_journal_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"No journal at .*missing"):
        Journal.open(tmp_path / "missing.sqlite", readonly=True)
    text = tmp_path / "text.sqlite"
    text.write_text("this is no database " * 100)
    with pytest.raises(DataError, match="not a journal"):
        Journal.open(text)
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE memories(id)")
    db.close()
    with pytest.raises(DataError, match="not a journal"):
        Journal.open(other)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be opened"):
        Journal.open(tmp_path / "file" / "j.sqlite")


def test_a_second_process_cannot_write(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    code = f"from duomem.journal import Journal; Journal.open({str(path)!r}).close()"
    with Journal.open(path):
        child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "StoreError: Another process is writing" in child.stderr
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def fill(journal: Journal) -> None:
    done = journal.finished("collect")
    for number in range(12):
        if (f"t{number:02d}", 0) not in done:
            write(journal, Task(f"t{number:02d}", "train", "e"), turns=6)


def test_a_disk_that_fills_at_any_moment_loses_nothing(tmp_path: Path) -> None:
    """D1: for each size of the disk, the write that fails says so, earlier data are whole, and the run goes on later."""
    with Journal.open(tmp_path / "whole.sqlite") as whole:
        fill(whole)
        pages = whole._db.execute("PRAGMA page_count").fetchone()[0]
        expected = {item.task.id: item.content_hash for item in whole.trajectories("collect")}
        expected_hash = whole.content_hash("collect")
    with Journal.open(tmp_path / "empty.sqlite") as empty:
        least = empty._db.execute("PRAGMA page_count").fetchone()[0]
    assert pages - least > 5
    for limit in range(least, pages):
        path = tmp_path / f"{limit}.sqlite"
        with Journal.open(path) as journal:
            journal._db.execute(f"PRAGMA max_page_count = {limit}")
            with pytest.raises(StoreError, match=r"full.*before is intact.*resume"):
                fill(journal)
        with Journal.open(path) as journal:
            assert journal._db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
            for item in journal.trajectories("collect"):
                assert item.content_hash == expected[item.task.id]
            fill(journal)
            assert journal.content_hash("collect") == expected_hash


CHILD = """
import resource, sys
sys.path.insert(0, {tests!r})
from duomem.journal import Journal
from test_journal import fill
journal = Journal.open({path!r})
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, resource.RLIM_INFINITY))
fill(journal)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
@pytest.mark.parametrize("size", [40_000, 65_000, 90_000, 150_000])
def test_a_write_error_of_the_system_loses_nothing(tmp_path: Path, size: int) -> None:
    """D1 with a real error from write(2): the files may not grow beyond `size` bytes."""
    path = tmp_path / "j.sqlite"
    code = CHILD.format(tests=str(Path(__file__).parent), path=str(path), size=size)
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert child.returncode == 1
    assert "duomem.errors.StoreError" in child.stderr, child.stderr
    with Journal.open(tmp_path / "whole.sqlite") as whole, Journal.open(path) as journal:
        fill(whole)
        expected = {item.task.id: item.content_hash for item in whole.trajectories("collect")}
        for item in journal.trajectories("collect"):
            assert item.content_hash == expected[item.task.id]
        fill(journal)
        assert journal.content_hash("collect") == whole.content_hash("collect")
