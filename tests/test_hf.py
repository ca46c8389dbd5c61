"""The local model: equal to plain generation, batched without lock-step, caches reused, wrong adapters refused."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import tiny_models
from duomem import weights
from duomem.chat import encode, end_of_turn
from duomem.errors import DataError, InfraError, UsageError
from duomem.models import ContextFull, hf
from duomem.types import Message, Reply, Sampling

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("llama", "pocket", {}),
    "qwen3": ("qwen3", "chatml", {}),
    "sliding": ("gemma3", "gemma", {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {
        name: tiny_models.model(tmp_path_factory.mktemp(name), kind, template, **changes)
        for name, (kind, template, changes) in KINDS.items()
    }


@pytest.fixture
def load(folders: dict[str, str]) -> Iterator[Callable[..., hf.HfModel]]:
    made: list[hf.HfModel] = []

    def build(kind: str = "llama", **settings: Any) -> hf.HfModel:
        made.append(hf.build(hf.Config(path=folders[kind], threads=1, **settings)))
        return made[-1]

    yield build
    for model in made:
        model.close()
        model.close()


def plain(reference: Any, tokenizer: Any, messages: list[Message], tokens: int) -> str:
    """The same answer by transformers' own generate."""
    ids = torch.tensor([encode(tokenizer, messages, generate=True).ids])
    ends = end_of_turn(tokenizer)
    made = reference.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=list(ends),
        pad_token_id=tokenizer.eos_token_id,
    )[0][ids.shape[1] :].tolist()
    return str(tokenizer.decode([token for token in made if token not in ends], skip_special_tokens=True))


def talk(model: hf.HfModel, number: int, turns: int = 3) -> list[tuple[list[Message], Reply]]:
    """One conversation whose next message follows from the answer."""
    messages = [Message.of("user", f"put mug {number} in cabinet " * (number + 1))]
    seen = []
    for turn in range(turns):
        reply = model.reply(messages, [], Sampling(max_tokens=4 + number))
        seen.append((list(messages), reply))
        messages += [reply.message, Message.of("user", f"You see knife {turn}")]
    return seen


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("slots", [2, 8])
def test_greedy_answers_equal_plain_generation(load: Callable[..., hf.HfModel], folders: Any, kind: str, slots: int) -> None:
    """Six conversations at once, on more and on fewer slots than that, prompts read in small chunks."""
    model = load(kind, max_batch=slots, chunk=16)
    reference = weights.load_base(folders[kind], dtype="float32").eval()
    with ThreadPoolExecutor(6) as pool:
        seen = [pair for pairs in pool.map(lambda number: talk(model, number), range(6)) for pair in pairs]
    for messages, reply in seen:
        tokens = 4 + int(messages[0].text.split()[2])
        assert reply.message.text == plain(reference, model.tokenizer, messages, tokens)
        assert reply.usage.prompt == len(encode(model.tokenizer, messages, generate=True).ids)


def test_a_turn_reuses_the_tokens_of_the_last(load: Callable[..., hf.HfModel]) -> None:
    model = load(max_batch=2)
    messages = [Message.of("user", "You arrive at countertop 1. " * 10)]
    first = model.reply(messages, [], Sampling(max_tokens=4))
    assert first.usage.cached == 0
    # An answer in the tokenizer's own spelling: what the model said is sampled noise, which may be spelled anew.
    messages += [Message.of("assistant", "go"), Message.of("user", "Nothing happens.")]
    second = model.reply(messages, [], Sampling(max_tokens=4))
    assert second.usage.cached >= first.usage.prompt
    other = model.reply([Message.of("user", messages[0].text + "And then?")], [], Sampling(max_tokens=2))
    assert other.usage.cached > first.usage.prompt // 2, "another conversation copies a common start"
    again = model.reply(messages, [], Sampling(max_tokens=4))
    assert again.usage.cached >= second.usage.prompt - 1
    assert again.message == second.message


def test_sampling_follows_its_seed_and_not_the_company(load: Callable[..., hf.HfModel]) -> None:
    model = load()
    messages = [Message.of("user", "open the fridge")]

    def draw(seed: int) -> str:
        return model.reply(messages, [], Sampling(temperature=1.0, max_tokens=12, seed=seed)).message.text

    alone = [draw(seed) for seed in range(6)]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(draw, range(6)))
    assert alone == together
    assert len(set(alone)) > 1


def test_a_long_answer_holds_nobody_up(load: Callable[..., hf.HfModel], monkeypatch: pytest.MonkeyPatch) -> None:
    model = load()
    # Without ends a random model talks to its limit.
    monkeypatch.setattr(model._scheduler, "_ends", frozenset())
    order: list[str] = []

    def ask(name: str, tokens: int) -> None:
        reply = model.reply([Message.of("user", name)], [], Sampling(max_tokens=tokens))
        order.append(name)
        assert reply.finish == "length"
        assert reply.usage.completion == tokens

    long = threading.Thread(target=ask, args=("long", 400))
    long.start()
    while model._scheduler.forwards < 5:
        time.sleep(0.001)
    for name in ("short", "shorter"):
        ask(name, 3)
    long.join()
    assert order == ["short", "shorter", "long"]


def test_callers_share_forwards(load: Callable[..., hf.HfModel], monkeypatch: pytest.MonkeyPatch) -> None:
    model = load()
    monkeypatch.setattr(model._scheduler, "_ends", frozenset())
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: model.reply([Message.of("user", f"mug {n}")], [], Sampling(max_tokens=60)), range(8)))
    assert model._scheduler.forwards < 8 * 60 / 2


def test_guessed_tokens_change_nothing_but_the_forwards(
    load: Callable[..., hf.HfModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, guessing = load(lookup=0), load(lookup=8)
    for model in (plain, guessing):
        monkeypatch.setattr(model._scheduler, "_ends", frozenset())  # a random model repeats itself sooner or later
    for number, limit in ((1, 90), (2, 7), (3, 61), (4, 2), (5, 1)):
        messages = [Message.of("user", f"mug {number} mug {number} mug {number}")]
        before, other = (model.reply(messages, [], Sampling(max_tokens=limit)) for model in (plain, guessing))
        assert before.message == other.message
        assert before.usage.completion == other.usage.completion == limit
        longer = [*messages, before.message, Message.of("user", "mug 1")]
        assert (
            plain.reply(longer, [], Sampling(max_tokens=9)).message
            == guessing.reply(longer, [], Sampling(max_tokens=9)).message
        )


def test_guessing_saves_most_forwards_of_an_episode() -> None:
    from duomem.agent import Player
    from duomem.envs import household
    from duomem.prompts import load_layout

    env = household.build(household.Config(games=2))
    played = {}
    for lookup in (0, 8):
        model = hf.build(hf.Config(threads=1, lookup=lookup))
        trajectory = Player(env, model, load_layout("pocket"), max_steps=8).play(env.tasks("train")[0])
        played[lookup] = trajectory.content_hash, model._scheduler.forwards
        model.close()
    assert played[0][0] == played[8][0]
    assert played[8][1] < 0.6 * played[0][1]


def test_stop_strings_cut_the_answer(load: Callable[..., hf.HfModel]) -> None:
    model = load()
    messages = [Message.of("user", "look")]
    whole = model.reply(messages, [], Sampling(max_tokens=20)).message.text
    assert len(whole) > 4
    stop = whole[3:5]
    cut = model.reply(messages, [], Sampling(max_tokens=20, stop=("never said", stop)))
    assert cut.message.text == whole[: whole.index(stop)]
    assert cut.finish == "stop"


def test_an_end_token_ends_the_answer(load: Callable[..., hf.HfModel], monkeypatch: pytest.MonkeyPatch) -> None:
    model = load()
    free = model.reply([Message.of("user", "look")], [], Sampling(max_tokens=6))
    third = model._scheduler._slots[0].tokens[free.usage.prompt + 2]
    monkeypatch.setattr(model._scheduler, "_ends", frozenset({third}))
    cut = model.reply([Message.of("user", "look")], [], Sampling(max_tokens=6))
    assert cut.finish == "stop"
    assert cut.usage.completion == 2
    assert free.message.text.startswith(cut.message.text)


def test_context_full(load: Callable[..., hf.HfModel]) -> None:
    model = load(context=40)
    with pytest.raises(ContextFull, match="exceed 40"):
        model.reply([Message.of("user", "mug " * 40)], [], Sampling(max_tokens=8))
    prompt = len(encode(model.tokenizer, [Message.of("user", "mug")], generate=True).ids)
    full = model.reply([Message.of("user", "mug")], [], Sampling(max_tokens=40 - prompt))
    assert full.usage.completion <= 40 - prompt


def test_a_failing_model_fails_its_callers_and_goes_on(
    load: Callable[..., hf.HfModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load()
    sampling, messages = Sampling(max_tokens=3), [Message.of("user", "look")]
    before = model.reply(messages, [], sampling).message
    network = model._scheduler._network
    with monkeypatch.context() as patch:
        patch.setattr(network, "forward", lambda rows: (_ for _ in ()).throw(RuntimeError("no memory")))
        with pytest.raises(InfraError, match="no memory"):
            model.reply(messages, [], sampling)
    assert model.reply(messages, [], sampling).message == before
    model.close()
    with pytest.raises(InfraError, match="closed"):
        model.reply(messages, [], sampling)


def test_tokens_are_counted_alike_with_and_without_weights(load: Callable[..., hf.HfModel], folders: dict[str, str]) -> None:
    text = "Guide: put a mug 2 in cabinet 14.\n1. find <|end|> mug"
    assert hf.counter(hf.Config(path=folders["llama"]))(text) == load().count(text) > 10


def test_provenance_pins_the_weights(load: Callable[..., hf.HfModel], folders: dict[str, str]) -> None:
    facts = load().provenance()
    assert facts["base_sha256"] == weights.base_hash(folders["llama"]) != weights.base_hash(folders["qwen3"])
    assert facts["model"] == Path(folders["llama"]).name
    assert folders["llama"] not in facts.values(), "no path of the machine"
    assert {"dtype", "torch", "transformers", "tokenizer_sha256", "adapter_sha256"} <= facts.keys()


def test_models_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        hf.build(hf.Config(path=str(tmp_path / "nowhere")))
    with pytest.raises(UsageError, match="No model 'pocket/nothing'"):
        hf.build(hf.Config(path="pocket/nothing"))
    folder = Path(tiny_models.model(tmp_path / "pickled"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"\.bin"):
        hf.build(hf.Config(path=str(folder)))
