"""Trains the pocket student: `python -m duomem.pocket.train OUT --recipe FILE`.

In: a seed and a recipe. Out: a Hugging Face model folder (config, safetensors, tokenizer, chat template,
`training.json` with every
setting, count and loss). The corpus is made on the fly by `duomem.pocket.corpus`; nothing is downloaded. Two worker
processes share each
step, one a core; the same command and seed give the same corpus and the same order of batches.
"""

from __future__ import annotations

import json
import random
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing import Pool
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from duomem.pocket import card
from duomem.pocket.corpus import episodes
from duomem.pocket.language import invented_words
from duomem.pocket.play import Recipe
from duomem.prompts import encode
from duomem.types import Example, digest

Maker = Callable[[int, int, Recipe], Iterable[Example]]
"""What makes a corpus: a seed, a number of examples and the shares of it."""

BUCKETS = (160, 224, 288, 352, 416, 480, 576, 672, 768, 896, 1024, 1152, 1280, 1440)
"""Padded lengths: a few fixed shapes, since each new one makes the CPU kernels be built again."""


MEETING = ".processes"
"""File in the model's folder by which the processes of a training find each other."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The recipe of a base model."""

    seed: int = 0
    architecture: str = "qwen3"
    """qwen3, or llama: the same without normalised queries and keys, which learns to copy later."""
    episodes: int = 32_000
    hidden: int = 192
    layers: int = 5
    heads: int = 6
    inner: int = 512
    vocabulary: int = 1536
    context: int = 2048
    tokens_per_step: int = 8192
    rate: float = 3e-3
    decay_from: float = 0.5
    short_until: float = 0.2
    """Share of the steps that see only episodes of at most 480 tokens."""
    processes: int = 2
    recipe: Recipe = field(default_factory=Recipe)
    stop: int = 0
    """Steps after which training ends before its plan does; 0: at the plan's end."""
    start: str = ""
    """A model folder to go on from, with its tokenizer; empty: from random weights."""


@dataclass(frozen=True, slots=True)
class Row:
    """One tokenised episode: ids [n] uint16 and loss weights [n] in tenths, uint8."""

    ids: NDArray[np.uint16]
    hundredths: NDArray[np.uint8]


def names_of_things() -> list[str]:
    """Every object and place class that the sampler knows, in the game's spelling."""
    from duomem.games.tables import tables

    found = {
        name.rstrip("!").lower()
        for room in tables()["weights"].values()
        for thing, row in room.items()
        for name in (thing, *row)
    }
    return sorted(found)


def make_tokenizer(settings: Settings) -> Any:
    from duomem.pocket.tokenizer import train_tokenizer

    sample = episodes(settings.seed + 1_000_003, 1500)
    texts = ("\n".join(message.text for message in example.messages) for example in sample)
    return train_tokenizer(texts, settings.vocabulary, [*names_of_things(), *invented_words()], settings.context)


_TOKENIZER: Any = None


def _start_worker(folder: str) -> None:
    global _TOKENIZER
    from transformers import AutoTokenizer

    _TOKENIZER = AutoTokenizer.from_pretrained(folder)


def _rows(job: tuple[Maker, int, int, Recipe]) -> list[Row]:
    make, seed, number, recipe = job
    rows = []
    for example in make(seed, number, recipe):
        encoded = encode(_TOKENIZER, example.messages, example.learn)
        if len(encoded.ids) <= BUCKETS[-1]:
            weights = np.round(np.asarray(encoded.weights) * 100).astype(np.uint8)
            rows.append(Row(np.asarray(encoded.ids, np.uint16), weights))
    return rows


def make_rows(settings: Settings, folder: Path, make: Maker = episodes) -> list[Row]:
    """The tokenised corpus, made in parallel; 500 episodes a job."""
    jobs = [(make, settings.seed * 1_000_000 + index, 500, settings.recipe) for index in range(settings.episodes // 500)]
    with Pool(settings.processes, _start_worker, (str(folder),)) as pool:
        return [row for rows in pool.imap(_rows, jobs) for row in rows]


def bucket(length: int) -> int:
    return next(size for size in BUCKETS if size >= length)


def batches(rows: Sequence[Row], settings: Settings) -> list[list[int]]:
    """Row indices per step: rows of one bucket, about `tokens_per_step` padded tokens, in a seeded order; short ones first."""
    rng = random.Random(settings.seed)
    by_size: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        by_size.setdefault(bucket(len(row.ids)), []).append(index)
    short: list[list[int]] = []
    every: list[list[int]] = []
    for size, indices in sorted(by_size.items()):
        rng.shuffle(indices)
        count = max(settings.processes, settings.tokens_per_step // size // settings.processes * settings.processes)
        steps = [indices[start : start + count] for start in range(0, len(indices) - count + 1, count)]
        (short if size <= 480 else every).extend(steps)
    rng.shuffle(short)
    total = len(short) + len(every)
    first = short[: int(total * settings.short_until)]
    rest = short[len(first) :] + every
    rng.shuffle(rest)
    return first + rest


def make_model(settings: Settings, tokenizer: Any) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(settings.seed)
    config = AutoConfig.for_model(
        settings.architecture,
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden,
        intermediate_size=settings.inner,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        head_dim=settings.hidden // settings.heads,
        max_position_embeddings=settings.context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]


def _tensors(rows: Sequence[Row]) -> Iterator[Any]:
    import torch

    size = bucket(max(len(row.ids) for row in rows))
    ids = np.zeros((len(rows), size), np.int64)
    weights = np.zeros((len(rows), size), np.float32)
    for index, row in enumerate(rows):
        ids[index, : len(row.ids)] = row.ids
        weights[index, : len(row.ids)] = row.hundredths / 100
    yield torch.from_numpy(ids)
    yield torch.from_numpy(weights)


def _optimizers(model: Any, settings: Settings) -> list[Any]:
    """Muon on the matrices of the layers, AdamW on embeddings and norms."""
    import torch

    named = list(model.named_parameters())
    matrices = [parameter for name, parameter in named if parameter.ndim == 2 and "embed" not in name]
    others = [parameter for name, parameter in named if not (parameter.ndim == 2 and "embed" not in name)]
    return [
        torch.optim.Muon(matrices, lr=settings.rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=settings.rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def rate_at(step: int, total: int, settings: Settings) -> float:
    """Warm-up over 40 steps, constant, then linear to 2% from `decay_from` on."""
    left = (total - step) / max(1.0, total * (1 - settings.decay_from))
    return settings.rate * min((step + 1) / 40, 1.0, max(0.02, left))


def _loss(model: Any, ids: Any, weights: Any) -> Any:
    """Summed weighted next-token loss."""
    import torch

    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        target, weight = ids[:, 1:].reshape(-1), weights[:, 1:].reshape(-1)
        keep = weight > 0
        logits = model.lm_head(hidden.reshape(-1, hidden.shape[-1])[keep])
    losses = torch.nn.functional.cross_entropy(logits.float(), target[keep], reduction="none")
    return (losses * weight[keep]).sum()


def _work(rank: int, settings: Settings, folder: str, rows: Sequence[Row]) -> None:
    """One process of the training; rank 0 logs and saves."""
    import torch
    import torch.distributed as dist
    from transformers import AutoTokenizer

    torch.set_num_threads(1)
    meeting = f"file://{(Path(folder) / MEETING).resolve()}"  # a port might be another training's
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=settings.processes)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = make_model(settings, tokenizer)
    if settings.start:
        model = type(model).from_pretrained(settings.start, dtype=torch.float32, use_safetensors=True)
    optimizers = _optimizers(model, settings)
    plan = batches(rows, settings)
    parameters = list(model.parameters())
    started, tokens, losses = time.monotonic(), 0, []
    for step, indices in enumerate(plan[: settings.stop or None]):
        ids, weights = _tensors([rows[index] for index in indices[rank :: settings.processes]])
        loss = _loss(model, ids, weights)
        loss.backward()
        flat = torch.cat(
            [parameter.grad.reshape(-1) for parameter in parameters] + [weights[:, 1:].sum()[None], loss.detach()[None]]
        )
        dist.all_reduce(flat)
        mean = flat[:-2] / flat[-2]
        norm = float(mean.norm())
        mean *= min(1.0, 1.0 / (norm + 1e-6))
        start = 0
        for parameter in parameters:
            parameter.grad.copy_(mean[start : start + parameter.numel()].view_as(parameter))
            start += parameter.numel()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate_at(step, len(plan), settings)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        tokens += sum(len(rows[index].ids) for index in indices)
        losses.append(float(flat[-1] / flat[-2]))
        if rank == 0 and step % 25 == 24:
            seconds = time.monotonic() - started
            recent = sum(losses[-25:]) / 25
            print(f"step {step + 1}/{len(plan)} loss {recent:.4f} {tokens / seconds:.0f} tok/s {seconds:.0f} s", flush=True)
        if rank == 0 and step % 400 == 399:
            model.save_pretrained(folder)
    if rank == 0:
        model.save_pretrained(folder)
        record = {
            "settings": {**asdict(settings), "start": Path(settings.start).name},
            "parameters": sum(parameter.numel() for parameter in parameters),
            "episodes": len(rows),
            "tokens": tokens,
            "seconds": round(time.monotonic() - started),
            "steps": len(losses),
            "corpus": digest([digest([row.ids.tolist() for row in rows[:200]]), len(rows)]),
            "recipe": asdict(settings.recipe),
            "before": json.loads((Path(settings.start) / "training.json").read_text()) if settings.start else None,
            "torch": torch.__version__,
            "losses": [round(sum(losses[i : i + 25]) / len(losses[i : i + 25]), 4) for i in range(0, len(losses), 25)],
        }
        (Path(folder) / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    dist.destroy_process_group()


def train(out: Path, settings: Settings, make: Maker = episodes) -> None:
    """Make corpus, tokenizer and model, and write them to `out`. The model's card is another's (`card.write`)."""
    from torch.multiprocessing.spawn import spawn
    from transformers import AutoTokenizer

    out.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(settings.start) if settings.start else make_tokenizer(settings)
    tokenizer.save_pretrained(out)
    started = time.monotonic()
    rows = make_rows(settings, out, make)
    total = sum(len(row.ids) for row in rows)
    print(f"{len(rows)} episodes, {total / 1e6:.1f}M tokens, made in {time.monotonic() - started:.0f} s", flush=True)
    (out / MEETING).unlink(missing_ok=True)  # of a training that was killed
    spawn(_work, (settings, str(out), rows), nprocs=settings.processes)  # type: ignore[no-untyped-call]
    (out / MEETING).unlink(missing_ok=True)


def main(
    out: Annotated[Path, typer.Argument(help="Folder of the new model.")],
    recipe: Annotated[Path, typer.Option(help="TOML file with the keys of Settings; its [recipe] table has those of Recipe.")],
    start: Annotated[str, typer.Option(help="Folder of a model to go on from.")] = "",
) -> None:
    """Train a pocket base model from nothing but a recipe and its seed, or go on from another one."""
    values = tomllib.loads(recipe.read_text())
    corpus = Recipe(**values.pop("recipe", {}))
    train(out, Settings(**values, recipe=corpus, start=start))
    card.write(out)


if __name__ == "__main__":
    typer.run(main)
