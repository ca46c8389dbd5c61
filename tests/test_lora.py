"""The lora tuner: it learns what is weighted, goes on to the same bits after a real kill, and refuses what does not fit."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tiny_models
import tune_child
from duomem import weights
from duomem.chat import Encoded, encode
from duomem.errors import DataError, MismatchError, UsageError
from duomem.models import hf
from duomem.tuning import lora
from duomem.tuning._batches import BUCKETS, Step, batch, bucket_lengths, plan
from duomem.types import Adapter, Message, Sampling

torch = pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("peft", reason="needs the extra 'train'")

FAST = lora.Config(rank=8, epochs=30, tokens_per_step=256, dtype="float32", threads=1, learning_rate=1e-2, device="cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_models.model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def trained(base: str, tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    out = tmp_path_factory.mktemp("trained") / "adapter"
    return lora.build(FAST, layout="layout").tune(tune_child.examples(), base, out, seed=0)


def test_the_loss_falls_and_the_student_says_what_it_was_taught(base: str, trained: Adapter) -> None:
    assert trained.losses[-1] < 0.3 * trained.losses[0]
    example = tune_child.examples()[3]
    for merge in (True, False):
        model = hf.build(hf.Config(path=base, adapter=trained.path, merge=merge, threads=1))
        reply = model.reply(example.messages[:1], [], Sampling(max_tokens=24))
        model.close()
        assert reply.message.text == example.messages[1].text
        assert reply.finish == "stop", "the end of the answer is learned too"


def test_the_manifest_tells_the_run(base: str, trained: Adapter) -> None:
    folder = Path(trained.path)
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "log.jsonl",
        "manifest.json",
    ]
    from safetensors.torch import load_file

    manifest = json.loads((folder / "manifest.json").read_text())
    tokenizer = weights.load_tokenizer(base)
    assert manifest["base_sha256"] == weights.base_hash(base) == trained.base_hash
    assert manifest["tokenizer_sha256"] == weights.tokenizer_hash(tokenizer)
    assert manifest["layout"] == "layout"
    assert manifest["config"]["alpha"] == 2 * manifest["config"]["rank"], "as used, not as asked for"
    assert manifest["tokens"] == FAST.epochs * sum(len(encode(tokenizer, each.messages).ids) for each in tune_child.examples())
    assert len(manifest["losses"]) == manifest["steps"] == len(trained.losses)
    texts = [file.read_text(errors="replace") for file in folder.iterdir()]
    assert not any(str(Path(base).parent) in text for text in texts), "no path of the machine"
    tensors = load_file(str(folder / "adapter_model.safetensors"))
    assert sum(tensor.numel() for tensor in tensors.values()) == trained.parameters == manifest["parameters"]


def test_a_finished_adapter_is_not_trained_again(base: str, trained: Adapter) -> None:
    def progress(step: int, total: int, loss: float) -> None:
        raise AssertionError("trained again")

    again = lora.build(FAST, layout="layout").tune(tune_child.examples(), base, Path(trained.path), seed=0, progress=progress)
    assert again == trained


@pytest.mark.parametrize(
    ("change", "words"),
    [({"seed": 1}, "seed"), ({"config": FAST.model_copy(update={"rank": 9})}, "config"), ({"few": True}, "data")],
)
def test_a_folder_of_another_run_is_refused(base: str, trained: Adapter, change: dict[str, Any], words: str) -> None:
    some = tune_child.examples(5 if change.get("few") else 10)
    with pytest.raises(MismatchError, match=words):
        lora.build(change.get("config", FAST), layout="layout").tune(some, base, Path(trained.path), seed=change.get("seed", 0))


def test_an_adapter_is_refused_by_another_base(trained: Adapter, tmp_path: Path) -> None:
    other = tiny_models.model(tmp_path / "other", seed=1)
    with pytest.raises(MismatchError, match="base_sha256"):
        hf.build(hf.Config(path=other, adapter=trained.path))
    with pytest.raises(MismatchError, match="base_sha256"):
        lora.build(FAST, layout="layout").tune(tune_child.examples(), other, Path(trained.path), seed=0)


def test_an_adapter_is_refused_by_another_chat_template(base: str, trained: Adapter, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(base, changed)
    template = changed / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|u|>", "<|a|>"))
    with pytest.raises(MismatchError, match="tokenizer_sha256"):
        hf.build(hf.Config(path=str(changed), adapter=trained.path))


def test_a_pickled_adapter_is_refused(base: str, trained: Adapter, tmp_path: Path) -> None:
    shutil.copytree(trained.path, tmp_path / "pickled")
    (tmp_path / "pickled" / "adapter_model.safetensors").rename(tmp_path / "pickled" / "adapter_model.bin")
    with pytest.raises(DataError, match=r"pickled"):
        hf.build(hf.Config(path=base, adapter=str(tmp_path / "pickled")))


def child(base: str, out: Path, kill_at: int) -> int:
    command = [sys.executable, tune_child.__file__, base, str(out), str(kill_at)]
    return subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, timeout=120).returncode


def test_a_killed_run_goes_on_to_the_same_bits(base: str, tmp_path: Path) -> None:
    """R4, with dropout on, so that the random state has to come back too. Killed between two checkpoints, 4 steps apart."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    finished = lora.build(tune_child.CONFIG, layout="layout").tune(tune_child.examples(), base, whole, seed=3)
    assert child(base, cut, 7) == -9
    assert not (cut / "manifest.json").exists()
    assert (cut / "checkpoints" / "checkpoint-4").is_dir()
    # What a kill in the middle of a checkpoint leaves behind.
    (cut / "checkpoints" / "checkpoint-6").mkdir()
    steps: list[int] = []
    resumed = lora.build(tune_child.CONFIG, layout="layout").tune(
        tune_child.examples(), base, cut, seed=3, progress=lambda step, total, loss: steps.append(step)
    )
    assert steps[0] == 5, "the first four steps are not trained again"
    assert resumed.losses == finished.losses
    name = "adapter_model.safetensors"
    assert (cut / name).read_bytes() == (whole / name).read_bytes()


def test_a_killed_run_is_not_continued_on_another_base(base: str, tmp_path: Path) -> None:
    out = tmp_path / "cut"
    out.mkdir()
    job = lora.build(FAST)._job(tune_child.examples(), base, 0)
    (out / "run.json").write_text(json.dumps(job.pins))
    other = tiny_models.model(tmp_path / "other", seed=1)
    with pytest.raises(MismatchError, match="base"):
        lora.build(FAST).tune(tune_child.examples(), other, out, seed=0)


def test_nothing_to_learn_says_why(base: str, tmp_path: Path) -> None:
    silent = [replace(example, learn=tuple(0.0 for _ in example.learn)) for example in tune_child.examples()]
    with pytest.raises(DataError, match="10 hold no learned token"):
        lora.build(FAST).tune(silent, base, tmp_path / "out", seed=0)
    with pytest.raises(DataError, match="of 0 examples"):
        lora.build(FAST).tune([], base, tmp_path / "out", seed=0)
    long = [
        replace(tune_child.examples()[0], messages=(Message.of("user", "mug " * 2000), *tune_child.examples()[0].messages[1:]))
    ]
    with pytest.raises(DataError, match="1 are longer"):
        lora.build(FAST).tune(long, base, tmp_path / "out", seed=0)


def test_the_parameter_limit(base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora, "PARAMETER_LIMIT", 1000)
    with pytest.raises(UsageError, match=r"12,288 trained parameters.*tuning\.unrestricted=true"):
        lora.build(FAST).tune(tune_child.examples(), base, tmp_path / "out", seed=0)
    free = FAST.model_copy(update={"unrestricted": True, "max_steps": 1})
    assert lora.build(free).tune(tune_child.examples(), base, tmp_path / "free", seed=0).parameters == 12288


def test_rank_is_8_to_32_unless_unrestricted() -> None:
    for rank in (4, 64):
        with pytest.raises(ValueError, match="unrestricted"):
            lora.Config(rank=rank)
        assert lora.Config(rank=rank, unrestricted=True).rank == rank


def gradients(base: str, encoded: Encoded) -> tuple[float, Any]:
    """Loss and one gradient of the training step itself."""
    from duomem.tuning._train import _Weighted

    model = lora._with_adapter(lora.build(FAST)._job(tune_child.examples(), base, 0), FAST, False)
    step = batch([encoded], Step((0,), len(encoded.ids) + 5)).tensors()
    loss = _Weighted.compute_loss(_Weighted.__new__(_Weighted), model, step)
    loss.backward()
    grad = next(parameter.grad for name, parameter in model.named_parameters() if "q_proj.lora_B" in name)
    return loss.item(), grad


def test_only_learned_tokens_make_the_loss(base: str) -> None:
    """A token that is neither learned nor before a learned one may be any other; a learned one may not."""
    tokenizer = weights.load_tokenizer(base)
    example = tune_child.examples()[1]
    messages = (*example.messages, Message.of("user", "look"))
    encoded = encode(tokenizer, messages, (*example.learn, 0.0))
    last = max(index for index, weight in enumerate(encoded.weights) if weight)
    loss, grad = gradients(base, encoded)

    def with_token(place: int) -> Encoded:
        ids = list(encoded.ids)
        ids[place] = (ids[place] + 7) % 200 + 20
        return Encoded(tuple(ids), encoded.weights)

    same, same_grad = gradients(base, with_token(last + 2))
    assert same == loss
    assert torch.equal(same_grad, grad)
    assert gradients(base, with_token(last))[0] != loss


def test_the_loss_is_the_weighted_mean(base: str) -> None:
    tokenizer = weights.load_tokenizer(base)
    example = tune_child.examples()[1]

    def loss(learn: list[float]) -> tuple[float, float]:
        encoded = encode(tokenizer, example.messages, learn)
        return gradients(base, encoded)[0], sum(encoded.weights)

    (both, _), (first, size), (second, other) = loss([0, 0.5, 0, 1]), loss([0, 0.5, 0, 0]), loss([0, 0, 0, 1])
    assert both == pytest.approx((first * size + second * other) / (size + other), rel=1e-5)


def test_batches_have_few_shapes_and_little_padding() -> None:
    draw = random.Random(0)
    lengths = [draw.randint(200, 1100) for _ in range(400)]
    steps = plan(lengths, tokens=4096, epochs=2, max_steps=None, seed=0)
    assert len({step.length for step in steps}) <= BUCKETS
    assert sorted(row for step in steps for row in step.rows) == sorted([*range(400)] * 2)
    assert all(lengths[row] <= step.length for step in steps for row in step.rows)
    assert all(len(step.rows) * step.length <= 4096 for step in steps)
    padded = sum(len(step.rows) * step.length for step in steps)
    assert 1 - 2 * sum(lengths) / padded < 0.1
    assert steps == plan(lengths, tokens=4096, epochs=2, max_steps=None, seed=0)
    assert steps != plan(lengths, tokens=4096, epochs=2, max_steps=None, seed=1)
    assert len(plan(lengths, tokens=4096, epochs=2, max_steps=7, seed=0)) == 7
    assert bucket_lengths([5]) == [16]


def test_bfloat16_trains_too(base: str, tmp_path: Path) -> None:
    config = FAST.model_copy(update={"dtype": "bfloat16", "epochs": 6})
    adapter = lora.build(config).tune(tune_child.examples(), base, tmp_path / "out", seed=0)
    assert adapter.losses[-1] < 0.7 * adapter.losses[0]
