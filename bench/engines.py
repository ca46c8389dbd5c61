"""P8, P9, P12, P17 and what a device installs and holds: the engine of a device, measured.

In: nothing; the shipped student in llama.cpp on games of the household twin (a test holds the twin to the real engine).
Out: JSON lines. P8: prefilled memory tokens of 100 tasks, memories ordered by score / by id. P9: forwards an action, free /
held to legal actions and guessed ahead. P12: seconds an answer, base and adapter as served / base. P17: points of success that
8 bits cost, the lower end of the paired interval. device-size: MB of the extra "device" with all it needs; device-rss: MB of a
process with the student loaded. `--only P9` for one of them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from _common import arguments, median_of, report
from duomem import constrain, parts, pipeline, requantise, weights
from duomem.agent import Player
from duomem.bank import Bank
from duomem.chat import encode
from duomem.config import settings_of
from duomem.envs import household
from duomem.models import llamacpp
from duomem.prompts import load_layout, opening
from duomem.rundir import RunFolder
from duomem.types import Budget, EpisodeView, Memory, Message, Sampling

LAYOUT = load_layout("pocket")
ALL = ("P8", "P9", "P12", "P17", "device-size", "device-rss")


def make_run(folder: Path, layout: str = "pocket", tasks: int = 120, **student: Any) -> RunFolder:
    """A run whose bank holds what the expert did in the household."""
    tables = {
        "env": {"name": "household", "games": 120},
        "teacher": {"model": "expert", "tasks": tasks, "layout": layout},
        "student": {"model": "llamacpp", "layout": layout} | student,
        "memory": {"embedder": "lexical", "k": 2},
    }
    made = RunFolder(folder, settings_of(tables, "bench"))
    made.write_config()
    pipeline.collect(made)
    pipeline.remember(made)
    return made


def player(run: RunFolder, bank: Bank, model: Any, **env: Any) -> Player:
    """The student with its memories."""
    world = household.build(household.Config(games=600, **env))
    strategy = parts.strategy(run.settings)
    return Player(world, model, LAYOUT, strategy, bank.view(), Budget(k=2), Sampling(max_tokens=48), max_steps=20)


def built(folder: Path, **settings: Any) -> llamacpp.LlamaCpp:
    return llamacpp.build(llamacpp.Config(folder=str(folder), **{"threads": 1, "max_batch": 4, **settings}))


def p8(run: RunFolder, bank: Bank, folder: Path) -> None:
    """By counts: a prompt costs what no earlier prompt begins with, as an engine with room for all of them would read it."""
    strategy, view = parts.strategy(run.settings), bank.view()
    assert strategy is not None
    world = household.build(household.Config(games=100, seed=1))
    tokenizer = weights.load_tokenizer("pocket")
    layout = load_layout("default")  # instructions and memories in front, then the task
    orders: dict[str, Callable[[Sequence[tuple[Memory, float]]], list[Memory]]] = {
        "by id": lambda hits: [memory for memory, _ in sorted(hits, key=lambda hit: hit[0].id)],
        "by score": lambda hits: [memory for memory, _ in sorted(hits, key=lambda hit: -hit[1])],
    }
    read = dict.fromkeys(orders, 0)
    shown: dict[str, list[frozenset[str]]] = {name: [] for name in orders}
    total = 0
    for name, order in orders.items():
        known: set[int] = set()
        for task in world.tasks("dev"):
            first = world.open(task).observe()
            hits = strategy.recall(EpisodeView(first.goal, first.text), view, Budget(k=3)).hits
            memories = order([(hit.memory, hit.score) for hit in hits])
            shown[name].append(frozenset(memory.id for memory in memories))
            system = opening(layout, first.goal, first.text, [memory.text for memory in memories])[:1]
            bare = opening(layout, first.goal, first.text, [])[:1]
            ids = encode(tokenizer, [*system, Message.of("user", "x")]).ids
            start = len(encode(tokenizer, [*bare, Message.of("user", "x")]).ids)
            block = ids[: len(ids) - 4]
            total += len(block) - start if name == "by id" else 0
            place = 0
            for token in block:
                place = hash((place, token))
                read[name] += place not in known
                known.add(place)
    ratio, share = read["by score"] / read["by id"], 1 - read["by id"] / max(1, total)
    report(
        "P8", ratio=ratio, equal=shown["by id"] == shown["by score"], tasks=100, k=3, read=read, reused_by_id=round(share, 3)
    )


def p9(run: RunFolder, bank: Bank, folder: Path) -> None:
    """The same 24 games with the same memories; what is said may differ, so success stands beside."""
    free, ahead = built(folder), built(folder, lookup=8)
    settings = settings_of({"student": {"model": "llamacpp"}, "rollout": {"actions": "legal"}}, "bench")
    held = constrain.constraint(settings, LAYOUT)
    arms = {
        "free": player(run, bank, free, admissible=True),
        "guessed ahead": player(run, bank, ahead, admissible=True),
        "legal": replace(player(run, bank, free, admissible=True), constrain=held),
        "legal, guessed ahead": replace(player(run, bank, ahead, admissible=True), constrain=held),
    }
    found: dict[str, dict[str, float]] = {}
    said: dict[str, list[str]] = {}
    for name, one in arms.items():
        model: Any = one.model
        before = model.forwards
        episodes = [one.play(task) for task in one.env.tasks("dev")[:24]]
        turns = [turn for episode in episodes for turn in episode.turns]
        said[name] = [turn.reply.message.text for turn in turns]
        found[name] = {
            "forwards": round((model.forwards - before) / len(turns), 3),
            "legal": round(sum(turn.valid for turn in turns) / len(turns), 4),
            "won": round(sum(episode.won for episode in episodes) / len(episodes), 3),
        }
    best = found["legal, guessed ahead"]
    ratio = found["free"]["forwards"] / best["forwards"]
    report("P9", ratio=ratio, equal=said["free"] == said["guessed ahead"], legal_share=best["legal"], games=24, arms=found)
    free.close()
    ahead.close()


def _adapter(folder: Path, rank: int = 32) -> Path:
    """A LoRA adapter on every linear layer whose B is nothing: the same answers at an adapter's price."""
    from safetensors.numpy import save_file

    config = json.loads((weights.folder_of("pocket") / "config.json").read_text())
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head, heads, kv = config["head_dim"], config["num_attention_heads"], config["num_key_value_heads"]
    sizes = {"self_attn.q_proj": (hidden, heads * head), "self_attn.k_proj": (hidden, kv * head)}
    sizes |= {"self_attn.v_proj": (hidden, kv * head), "self_attn.o_proj": (heads * head, hidden)}
    sizes |= {"mlp.gate_proj": (hidden, inner), "mlp.up_proj": (hidden, inner), "mlp.down_proj": (inner, hidden)}
    random, tensors = np.random.default_rng(0), {}
    for layer in range(config["num_hidden_layers"]):
        for name, (inputs, outputs) in sizes.items():
            place = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{place}.lora_A.weight"] = random.normal(size=(rank, inputs)).astype(np.float32)
            tensors[f"{place}.lora_B.weight"] = np.zeros((outputs, rank), np.float32)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank}))
    pins = {
        "base_sha256": weights.base_hash("pocket"),
        "tokenizer_sha256": weights.tokenizer_hash(weights.load_tokenizer("pocket")),
    }
    (folder / "manifest.json").write_text(json.dumps({"base": "duomem/pocket", **pins}))
    return folder


def p12(run: RunFolder, bank: Bank, folder: Path) -> None:
    """Prefill and decoding of the same conversation, the arms interleaved; as served by default: the adapter merged."""
    adapter = str(_adapter(folder / "adapter"))
    models = [built(folder, max_batch=1), built(folder, max_batch=1, adapter=adapter, merge=True)]
    models.append(built(folder, max_batch=1, adapter=adapter))
    ask = [Message.of("user", "You see a desk 1, a shelf 2 and a cabinet 3. " * 12)]
    said: list[list[str]] = [[] for _ in models]

    def answer(index: int) -> None:
        said[index].append(models[index].reply(ask, [], Sampling(max_tokens=96)).message.text)

    for index in range(len(models)):
        answer(index)
    base, merged, beside = median_of(15, *(partial(answer, index) for index in range(len(models))))
    equal = len({text for texts in said for text in texts}) == 1
    report("P12", ratio=merged / base, equal=equal, beside_ratio=round(beside / base, 3), rank=32, merged_s=merged, base_s=base)
    for model in models:
        model.close()


def p17(run: RunFolder, bank: Bank, folder: Path, kind: Any = "q8_0", most: int = 240) -> None:
    before, after = built(folder, max_batch=8), built(folder, max_batch=8, weights=kind)
    one = player(run, bank, before)
    tasks = list(one.env.tasks("dev"))[:most]
    found = requantise.play(one, replace(one, model=after), tasks, requantise.Rescored(kind, requantise.Parity(0, 0, 0, 0)))
    assert found.change
    interval = [round(100 * value, 2) for value in (found.change.estimate, found.change.low, found.change.high)]
    shares = {"before": round(100 * found.before, 1), "after": round(100 * found.after, 1)}
    report(
        "P17", value=interval[1], unit="points", weights=kind, games=found.games, differ=found.differ, change=interval, **shares
    )
    before.close()
    after.close()


def device_size(run: RunFolder, bank: Bank, folder: Path) -> None:
    """The files of every distribution that `pip install duomem[device]` brings, as this environment has them."""
    seen: dict[str, float] = {}
    waiting = [("duomem", frozenset({"device"}))]
    while waiting:
        name, extras = waiting.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        if key in seen and not extras:
            continue
        if key not in seen:
            seen[key] = (
                sum(file.locate().stat().st_size for file in found.files or () if Path(str(file.locate())).is_file()) / 1e6
            )
        waiting += _needs(found.requires or (), extras)
    seen["duomem"] = sum(path.stat().st_size for path in Path(pipeline.__file__).parent.rglob("*") if path.is_file()) / 1e6
    largest = dict(sorted(seen.items(), key=lambda item: -item[1])[:5])
    heavy = [name for name in seen if name in ("torch", "transformers")]
    report(
        "device-size",
        value=sum(seen.values()),
        unit="MB",
        packages=len(seen),
        largest={name: round(size, 1) for name, size in largest.items()},
        heavy=heavy,
    )


def _needs(requires: Sequence[str], extras: frozenset[str]) -> list[tuple[str, frozenset[str]]]:
    """Names and extras of the requirements that hold here."""
    from packaging.requirements import Requirement

    found = []
    for line in requires:
        wanted = Requirement(line)
        if wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in (*extras, "")):
            found.append((wanted.name, frozenset(wanted.extras)))
    return found


def device_rss(run: RunFolder, bank: Bank, folder: Path) -> None:
    """A process that cannot load torch, with the student, its tokenizer and the lexical embedder, after one answer."""
    script = f"""
import sys
for name in ("torch", "transformers"):
    sys.modules[name] = None
from duomem import embed
from duomem.models import llamacpp
from duomem.types import Message, Sampling
model = llamacpp.build(llamacpp.Config(folder={str(folder)!r}, threads=1, max_batch=4))
model.reply([Message.of("user", "You see mug 1.")], [], Sampling(max_tokens=8))
embed.build("lexical").embed(["mug"])
print(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1])
"""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=dict(os.environ))
    report(
        "device-rss",
        value=int(done.stdout.split()[-1]) * 1024 / 1e6,
        unit="MB",
        seconds=round(time.perf_counter() - started, 2),
    )


def main() -> None:
    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--only", choices=ALL, action="append", help="one of them; more than once")

    given = arguments(__doc__ or "", more)
    measures = dict(zip(ALL, (p8, p9, p12, p17, device_size, device_rss), strict=True))
    with TemporaryDirectory(prefix="duomem-bench-") as name:
        run = make_run(Path(name) / "run")
        with parts.Parts(run, "bench") as opened:
            bank = opened.bank(run)
            assert bank is not None
            for id in given.only or ALL:
                measures[id](run, bank, Path(name))


if __name__ == "__main__":
    main()
