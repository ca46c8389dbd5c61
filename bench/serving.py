"""P5, P6, P23, P27, P27b: what the server reuses, by the engine's own counts of tokens, and the time it adds.

In: nothing; the small model in llama.cpp behind the server, on conversations of 20 turns with fixed words. Out: JSON lines. P5:
share of the prompt tokens that stood in an earlier prompt of the same key which came from the cache, over 8 episodes. P6:
prefilled tokens of an episode with k = 3 memories, against memories that are fetched again every turn and stand in front. P23:
milliseconds from the command to a healthy server, with an engine that needs no loading. P27: what HTTP, injection and the
engine's process add to a call, p50 and p99. Token counts do not move with the machine.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import openai

from _common import arguments, report
from duomem import parts, pipeline
from duomem.bank import Bank
from duomem.config import settings_of
from duomem.prompts import load_layout, opening
from duomem.rundir import RunFolder
from duomem.serve.app import application
from duomem.serve.desk import Desk
from duomem.serve.engine import LocalEngine
from duomem.serve.inject import Injector
from duomem.serve.process import ProcessEngine
from duomem.serve.run import running
from duomem.serve.service import Alone, Service
from duomem.serve.student import ModelSpec, Student
from duomem.types import Budget, Message, Sampling
from duomem.wire import read_request

TURNS, MEMORIES, CALLS = 20, 3, 300
SCENE = "You see a cabinet 1, a desk 1, a shelf 1."


def _run(folder: Path) -> RunFolder:
    """A small run with a bank in the default layout, whose system message holds the memories."""
    tables = {
        "env": {"name": "household"},
        "teacher": {"model": "expert", "tasks": 40, "layout": "default"},
        "student": {"model": "llamacpp", "layout": "default"},
        "memory": {"embedder": "lexical", "k": MEMORIES},
    }
    made = RunFolder(folder, settings_of(tables, "bench"))
    made.write_config()
    pipeline.collect(made)
    pipeline.remember(made)
    return made


def _student(run: RunFolder, bank: Bank, model: ModelSpec) -> Student:
    strategy = parts.strategy(run.settings)
    injector = Injector(load_layout("default"), strategy=strategy, bank=bank.view(), version="1", budget=Budget(MEMORIES))
    return Student("bench", "bench", injector, model, Sampling(max_tokens=1), bank=bank)


def _talk(goal: str) -> list[dict[str, str]]:
    return [{"role": each.role, "content": each.text} for each in opening(load_layout("default"), goal, SCENE, ())]


def _after(turn: int) -> list[dict[str, str]]:
    said = {"role": "assistant", "content": f"Thought: desk: look\nAction: go to desk {turn}"}
    return [said, {"role": "user", "content": f"On the desk {turn}, you see a mug {turn}."}]


def _reuse(run: RunFolder, bank: Bank, model: ModelSpec) -> None:
    engine = LocalEngine.of(model)
    goals = [f"put a {thing} in {place}." for thing in ("mug", "pen") for place in ("cabinet", "drawer", "desk", "shelf")]
    seen: list[Sequence[int]] = []
    prompt = cached = could = 0
    student = _student(run, bank, model)
    with running(application(Desk(Service(student, Alone(engine))))) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
        for goal in goals:
            talk = _talk(goal)
            for turn in range(TURNS):
                body = {"messages": talk}
                injected = student.injector.inject(read_request("chat", body), body)
                ids = injected.prompt_ids(engine.model.tokenizer)  # type: ignore[attr-defined]
                usage = client.chat.completions.create(model="any", messages=talk).usage  # type: ignore[arg-type]
                assert usage is not None
                assert usage.prompt_tokens == len(ids)
                details = usage.prompt_tokens_details
                prompt, cached = prompt + len(ids), cached + ((details.cached_tokens if details else 0) or 0)
                could += min(len(ids) - 1, max((_common(ids, other) for other in seen), default=0))
                seen.append(ids)
                talk = [*talk, *_after(turn)]
    engine.close()
    words = {"prompt": prompt, "cached": cached, "could": could, "episodes": len(goals), "turns": TURNS}
    report("P5", value=cached / could, **words)


def _prefill(run: RunFolder, bank: Bank, model: ModelSpec) -> None:
    """Both arms have the same words of memory; one has them once, the other others every turn, in front."""
    layout, memories = load_layout("default"), [memory.text for memory in bank.view().memories()][: MEMORIES + TURNS]
    prefilled = []
    for again in (False, True):
        engine = LocalEngine.of(model)
        talk, count = [], 0
        for turn in range(TURNS):
            shown = memories[turn : turn + MEMORIES] if again else memories[:MEMORIES]
            head = opening(layout, "put a mug in cabinet.", SCENE, shown)
            usage = engine.reply([*head, *talk], (), Sampling(max_tokens=1), "me").usage
            count += usage.prompt - usage.cached
            talk += [Message.of(each["role"], each["content"]) for each in _after(turn)]  # type: ignore[arg-type]
        prefilled.append(count)
        engine.close()
    report("P6", ratio=prefilled[1] / prefilled[0], once=prefilled[0], every_turn=prefilled[1], memories=MEMORIES, turns=TURNS)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    return next((index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _start(run: RunFolder) -> None:
    tables = run.settings.model_dump(mode="json", exclude_none=True)
    tables["student"] = {"model": "scripted", "layout": "default"}
    RunFolder(run.root, settings_of(tables, "bench")).write_config()
    seconds = []
    for _ in range(5):
        begun = time.perf_counter()
        code = "from duomem.cli import main; main()"
        command = [sys.executable, "-c", code, "serve", str(run.root), "--arm", "memory", "--port", "0", "--json"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        url = json.loads(server.stdout.readline())["url"].removesuffix("/v1")
        httpx.get(f"{url}/healthz", timeout=60).raise_for_status()
        seconds.append(time.perf_counter() - begun)
        server.terminate()
        server.wait()
    report("P23", value=1000 * statistics.median(seconds), unit="ms")


def _added(run: RunFolder, bank: Bank) -> None:
    """The same call through the server and on the engine itself, in turns."""
    spec = ModelSpec("scripted", {"replies": ["Thought: x\nAction: look"]})
    engine, direct = ProcessEngine(spec), LocalEngine.of(spec)
    student = _student(run, bank, spec)
    added = []
    with running(application(Desk(Service(student, Alone(engine))))) as url, httpx.Client() as client:
        talk = _talk("put a mug in cabinet.")
        injected = student.injector.of_task("put a mug in cabinet.", SCENE)
        for call in range(CALLS + 20):
            begun = time.perf_counter()
            client.post(f"{url}/v1/chat/completions", json={"messages": talk}).raise_for_status()
            served = time.perf_counter() - begun
            begun = time.perf_counter()
            direct.reply(injected.messages, (), Sampling(), "me")
            if call >= 20:
                added.append(1000 * (served - (time.perf_counter() - begun)))
    engine.close()
    added.sort()
    report("P27", value=statistics.median(added), unit="ms", calls=CALLS)
    report("P27b", value=added[int(0.99 * len(added))], unit="ms", calls=CALLS)


def main() -> None:
    arguments(__doc__ or "")
    with TemporaryDirectory(prefix="duomem-bench-") as folder:
        run = _run(Path(folder) / "run")
        model = ModelSpec("llamacpp", {"path": "pocket", "threads": 2, "folder": str(Path(folder) / "gguf")})
        with parts.Parts(run) as loaded:
            bank = loaded.bank(run)
            assert bank is not None
            _reuse(run, bank, model)
            _prefill(run, bank, model)
            _added(run, bank)
        _start(run)


if __name__ == "__main__":
    main()
