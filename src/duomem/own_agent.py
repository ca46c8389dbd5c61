"""The user's own agent against each arm: `duomem evaluate RUN --command 'python agent.py {task}' --tasks tasks.txt`.

In: a command, tasks, a run with its parts. Out: per arm the share of tasks that the agent got done, with intervals, and a
recording of all it said, in RUN/command/. The agent finds the arm's endpoint in OPENAI_BASE_URL (and ANTHROPIC_BASE_URL). Its
word on how it went is an outcome that it posts, else its exit code: 0 done, 1 not done; anything else is an error of the agent,
told apart and run again. Of a run of several seeds the first one's parts are taken. Not here: recording, serving.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from duomem import parts, stats
from duomem.agreement import ASKED, PAIRS
from duomem.arm_server import Recall, serving
from duomem.errors import Incomplete, InfraError, MissingExtra, UsageError
from duomem.models import Model
from duomem.rundir import RunFolder, key, replace
from duomem.scores import Arm, arms_named
from duomem.talk import Done, Talk
from duomem.types import EpisodeView, Sampling, digest

TIMEOUT_S = 1800.0
"""A task may take so long; it is then not done."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to run. `command` holds {task}, which is replaced by the task's words as one argument."""

    command: str
    tasks: tuple[str, ...]

    @classmethod
    def of(cls, command: str, tasks: Path | None) -> Order:
        """Raises `UsageError` for a command without {task} and for a file without tasks."""
        if "{task}" not in command:
            raise UsageError(f"--command {command!r}: put {{task}} where the task's words belong.")
        if tasks is None or not tasks.is_file():
            raise UsageError(
                "--command needs --tasks FILE, a text file with one task a line that the run has not learned from."
            )
        lines = [line.strip() for line in tasks.read_text(encoding="utf-8").splitlines()]
        found = tuple(dict.fromkeys(line for line in lines if line))
        if not found:
            raise UsageError(f"{tasks} holds no task.")
        return cls(command, found)

    def arguments(self, task: str) -> list[str]:
        return [part.replace("{task}", task) for part in shlex.split(self.command)]


def evaluate_command(run: RunFolder, talk: Talk, *, order: Order, arms: Sequence[str] = ()) -> Done:
    """Run the agent once per task and arm. Raises `Incomplete` where it failed; what was run is kept and not run again."""
    chosen = _arms(run, arms)
    talk.note(
        f"{len(order.tasks)} tasks: a difference of {100 * stats.detectable_difference(len(order.tasks)):.0f} points shows."
    )
    folder = RunFolder(run.root / "command", run.settings)
    made = run.seeds()[0]
    ended = {arm.name: _arm(made, folder, arm, order, talk) for arm in chosen}
    lost = sum(won is None for found in ended.values() for won in found.values())
    data = _data(order, ended)
    replace(folder.root / "results.json", json.dumps(data, indent=1) + "\n")
    if lost:
        raise Incomplete(
            f"{lost} runs of the agent failed (see {folder.root}); none counts as not done. Run the command again."
        )
    return Done(data, _words(data))


def _arms(run: RunFolder, names: Sequence[str]) -> list[Arm]:
    if other := [name for name in names if name not in ASKED]:
        raise UsageError(f"Arm {other[0]!r} cannot be run with your agent. There are: {', '.join(ASKED)}.")
    default = [name for name in ASKED if name != "format_only"]  # the example is the layout's, not your agent's
    settings = run.settings
    return [
        arm
        for arm in arms_named(tuple(names) or tuple(default))
        if (not arm.adapter or settings.tuning is not None) and (arm.memories != "bank" or settings.remembers)
    ]


def _arm(run: RunFolder, folder: RunFolder, arm: Arm, order: Order, talk: Talk) -> dict[str, bool | None]:
    """How each task ended under one arm; None where the agent failed."""
    made = [run.result("remember")["content_hash"] if arm.memories == "bank" else ""]
    made += [run.result("tune")["content_hash"] if arm.adapter else ""]
    settings = run.settings
    inputs = key(arm.name, order.command, made, settings.options("student"), parts.recalled(settings))
    known: dict[str, bool] = dict(folder.done(arm.name, inputs) or {})
    left = [task for task in order.tasks if task not in known]
    if left:
        with parts.Parts(run, "evaluate") as loaded:
            options = settings.options("student") | ({"adapter": str(run.adapter)} if arm.adapter else {})
            model = loaded.model(settings.student.model, options, "student")
            table = settings.student
            sampling = Sampling(table.temperature, table.max_tokens, seed=settings.run.seed)
            recall = _recall(run, arm, loaded, model)
            find = declared_locator(run)
            with (
                serving(model, parts.layout(settings), recall, sampling, arm.name) as url,
                _recording(folder.root / arm.name, url, find) as recorded,
            ):
                _play(folder, arm, order, left, known, recorded, inputs, talk)
    return {task: known.get(task) for task in order.tasks}


def _play(
    folder: RunFolder,
    arm: Arm,
    order: Order,
    left: Sequence[str],
    known: dict[str, bool],
    recorded: tuple[str, Callable[[str], bool | None]],
    inputs: str,
    talk: Talk,
) -> None:
    """Run the agent on what is left, and keep each outcome as it comes."""
    address, said = recorded
    lock = threading.Lock()

    def play(task: str) -> None:
        episode = f"{digest([task])[:12]}-{int(time.time() * 1000):x}"
        won = _run(order.arguments(task), f"{address}/e/{episode}", folder.root / arm.name / f"{episode}.log")
        if (told := said(episode)) is not None:
            won = told
        with lock:
            if won is not None:
                known[task] = won
                folder.record(arm.name, inputs, known)
            talk.progress(f"command {arm.name}", len(known), len(order.tasks), f"done {sum(known.values())}")

    with ThreadPoolExecutor(folder.settings.rollout.concurrency) as pool:
        list(pool.map(play, left))


def _run(arguments: Sequence[str], base: str, log: Path) -> bool | None:
    """One run of the agent: done, not done, or None for a failure. What it prints is kept."""
    local = {"OPENAI_BASE_URL": f"{base}/v1", "OPENAI_API_BASE": f"{base}/v1", "ANTHROPIC_BASE_URL": base}
    keys = {name: os.environ.get(name) or "local" for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY")}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        try:
            ended = subprocess.run(
                arguments, env={**os.environ, **keys, **local}, stdout=out, stderr=subprocess.STDOUT, timeout=TIMEOUT_S
            )
        except subprocess.TimeoutExpired:
            return False
        except OSError as error:
            raise UsageError(f"--command: {arguments[0]} cannot be started: {error.strerror or error}.") from error
    return {0: True, 1: False}.get(ended.returncode)


def _recall(run: RunFolder, arm: Arm, loaded: parts.Parts, model: Model) -> Recall:
    """The memories of an arm for a request: found by the task locator that the recording declared."""
    if arm.memories == "example":
        return lambda messages, body: [parts.layout(run.settings).example]
    bank, strategy = loaded.bank(run), parts.strategy(run.settings, getattr(model, "count", None))
    if arm.memories != "bank" or bank is None or strategy is None:
        return lambda messages, body: []
    from duomem.record import functions

    find, view, budget = functions.locator(declared_locator(run)), bank.view(), parts.budget(run.settings)
    split = run.settings.teacher.split

    def recall(messages: Sequence[Any], body: Any) -> list[str]:
        task = find.task(tuple(messages), body)
        own = frozenset((f"{split}/{digest([task])[:16]}",))
        return [memory.text for memory in strategy.recall(EpisodeView(task, "", exclude_tasks=own), view, budget).memories]

    return recall


def declared_locator(run: RunFolder) -> str:
    """The task locator of the run's recording, without its pin; the default where nothing was recorded."""
    from duomem.record.functions import DEFAULT
    from duomem.record.store import FILE, RecordStore

    path = (run.home or run.root) / FILE
    if not path.is_file():
        return DEFAULT
    with RecordStore.open(path) as store:
        declared = store.declared("task locator")
    return (declared.rpartition(" ")[0] if declared.startswith("python:") else declared) or DEFAULT


@contextmanager
def _recording(folder: Path, upstream: str, task: str) -> Iterator[tuple[str, Callable[[str], bool | None]]]:
    """The recording proxy in front of an arm: its address, and the outcome that an agent posted for an episode."""
    try:
        import uvicorn
    except ImportError as error:
        raise MissingExtra("uvicorn", "record") from error
    from duomem.record import app, functions
    from duomem.record.proxy import Options, Proxy
    from duomem.record.redact import Redactor
    from duomem.record.store import FILE, RecordStore

    with app.bind("127.0.0.1", 0) as listener, RecordStore.open(folder / FILE, "record") as store:
        find = functions.locator(task)
        store.declare("task locator", find.spec)
        proxy = Proxy(store, Redactor(()), Options(upstream, find, "", 600.0, 64 * 2**20))
        made = app.application(proxy, app.Service())
        server = uvicorn.Server(
            uvicorn.Config(made, http="h11", ws="none", lifespan="on", log_level="critical", access_log=False)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="duomem-recorder", daemon=True)
        thread.start()
        deadline = time.monotonic() + 30
        while not server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise InfraError("The recorder did not start.")
            time.sleep(0.02)

        def said(episode: str) -> bool | None:
            outcome = store.outcomes().get(episode)
            return outcome.won if outcome else None

        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", said
        finally:
            server.should_exit = True
            thread.join(timeout=20)


def _data(order: Order, ended: dict[str, dict[str, bool | None]]) -> dict[str, Any]:
    arms: dict[str, Any] = {}
    for name, found in ended.items():
        won = [each for each in found.values() if each is not None]
        low, high = stats.wilson(sum(won), len(won))
        arms[name] = {"tasks": len(won), "done": sum(won), "low": low, "high": high, "failed": len(found) - len(won)}
    pairs: dict[str, Any] = {}
    for first, second in PAIRS:
        if first in ended and second in ended:
            both = [(ended[first][task], ended[second][task]) for task in order.tasks]
            gaps = np.array([[float(one) - float(two) for one, two in both if one is not None and two is not None]])
            if gaps.size:
                interval = stats.crossed_bootstrap(gaps)
                pairs[f"{first} - {second}"] = [interval.estimate, interval.low, interval.high, stats.paired_test(gaps).p]
    return {"command": order.command, "arms": arms, "pairs": pairs, "outcomes": ended}


def _words(data: dict[str, Any]) -> str:
    lines = [f"{data['command']}: one run a task and arm"]
    for name, each in data["arms"].items():
        share, low, high = 100 * each["done"] / max(1, each["tasks"]), 100 * each["low"], 100 * each["high"]
        lines.append(f"  {name:<12}{each['done']:>5} of {each['tasks']} done  {share:5.1f}%  [{low:.1f}, {high:.1f}]")
    for pair, (gap, low, high, p) in data["pairs"].items():
        lines.append(f"  {pair}: {100 * gap:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}], p = {p:.3f}")
    return "\n".join(lines)
