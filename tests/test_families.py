"""Students of each family, tiny and random: served as transformers would, taught a tool call, held to how they were trained."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import families
import tiny_models
from duomem.chat import encode, end_of_turn
from duomem.config import settings_of
from duomem.errors import DataError, MismatchError, UsageError
from duomem.models import hf
from duomem.models._scheduler import Job
from duomem.tuning import lora
from duomem.types import Example, Message, Sampling, TextPart, Tool, ToolCall

torch = pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("peft", reason="needs the extra 'train'")

SEND = Tool("send_mail", "Sends a mail.", '{"type": "object", "properties": {"to": {"type": "string"}}}')
CALL = ToolCall("send_mail", '{"to": "ann"}', "call_1")
EPISODE = Example(
    (
        Message.of("user", "Mail the plan to ann."),
        Message("assistant", (), (CALL,)),
        Message("tool", (TextPart("sent"),), tool_call_id="call_1"),
        Message.of("assistant", "Done."),
    ),
    (0.0, 1.0, 0.0, 1.0),
    "episode",
    tools=(SEND,),
)


def plain(model: Any, tokenizer: Any, messages: list[Message], tokens: int) -> str:
    ids = torch.tensor([encode(tokenizer, messages, generate=True).ids])
    ends = end_of_turn(tokenizer)
    settings: dict[str, Any] = {"max_new_tokens": tokens, "do_sample": False, "pad_token_id": tokenizer.eos_token_id}
    made = model.generate(ids, attention_mask=torch.ones_like(ids), eos_token_id=list(ends), **settings)[0][ids.shape[1] :]
    return str(tokenizer.decode([token for token in made.tolist() if token not in ends], skip_special_tokens=True))


@pytest.mark.parametrize("name", ["mistral", "smollm3", "gemma2", "lfm2"])
def test_answers_equal_plain_generation(tmp_path: Path, name: str) -> None:
    """Gemma 2 caps its attention and LFM2 has convolutions: no slots for them, the same answers all the same."""
    made = families.tokenizer(name) if name in families.FAMILIES else None
    changes: dict[str, Any] = {"layer_types": ["conv", "full_attention"]} if name == "lfm2" else {}
    changes |= {"sliding_window": 16} if name in ("gemma2", "mistral") else {}
    folder = tiny_models.model(tmp_path / name, name, "pocket", made=made, **changes)
    served = hf.build(hf.Config(path=folder, threads=1, max_batch=2, chunk=16))
    assert bool(served.provenance()["one_by_one"]) == (name in ("gemma2", "lfm2"))
    reference = hf.weights.load_base(folder, dtype="float32").eval()
    messages = [Message.of("user", "put mug 1 in cabinet " * 4)]
    try:
        for turn in range(3):
            reply = served.reply(messages, [], Sampling(max_tokens=6))
            if not reply.message.reasoning:
                assert reply.message.text == plain(reference, served.tokenizer, messages, 6)
            messages += [Message.of("assistant", f"go {turn}"), Message.of("user", f"You see knife {turn}")]
        assert reply.usage.cached > 0
    finally:
        served.close()


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A random base with Qwen3's template and an adapter that was taught one episode with a tool call."""
    root = tmp_path_factory.mktemp("qwen3")
    base = tiny_models.model(root / "base", "qwen3", made=families.tokenizer("qwen3", 900))
    config = lora.Config(rank=16, learning_rate=1e-2, epochs=50, tokens_per_step=1024, dtype="float32", memories="none")
    lora.build(config).tune([EPISODE], base, root / "adapter", seed=0)
    return base, str(root / "adapter")


def test_a_taught_tool_call_is_made_when_served(taught: tuple[str, str]) -> None:
    """From a training example to a served call and the answer to its result."""
    base, adapter = taught
    model = hf.build(hf.Config(path=base, adapter=adapter, threads=1))
    try:
        called = model.reply(EPISODE.messages[:1], [SEND], Sampling(max_tokens=60))
        assert called.finish == "tool_calls"
        assert [(call.name, call.arguments) for call in called.message.tool_calls] == [(CALL.name, CALL.arguments)]
        result = Message("tool", (TextPart("sent"),), tool_call_id=called.message.tool_calls[0].id)
        ended = model.reply([EPISODE.messages[0], called.message, result], [SEND], Sampling(max_tokens=20))
        assert (ended.message.text, ended.finish) == ("Done.", "stop")
        assert ended.usage.cached >= called.usage.prompt, "the turn before is a prefix of this one"
    finally:
        model.close()


@pytest.mark.parametrize("family", sorted(families.FAMILIES))
def test_a_model_that_says_what_it_learned_makes_the_call(tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The learned tokens of an example, said when served, are the example's call: in each family's own form."""
    kind = families.ARCHITECTURES[family]
    base = tiny_models.model(tmp_path / "b", kind, made=families.tokenizer(family), max_position_embeddings=2048)
    model = hf.build(hf.Config(path=base, threads=1))
    prompt = encode(model.tokenizer, EPISODE.messages[:1], generate=True, tools=[SEND]).ids
    whole = encode(model.tokenizer, EPISODE.messages[:2], EPISODE.learn[:2], tools=[SEND])
    learned = [token for token, weight in zip(whole.ids, whole.weights, strict=True) if weight]

    def say(ids: tuple[int, ...], sampling: Sampling) -> Job:
        assert ids == prompt, "served with the prompt of the training example"
        tokens = learned[:-1]
        return Job(
            list(ids), sampling, tokens=tokens, text=model.tokenizer.decode(tokens, skip_special_tokens=True), finish="stop"
        )

    monkeypatch.setattr(model._scheduler, "run", say)
    reply = model.reply(EPISODE.messages[:1], [SEND], Sampling(max_tokens=60))
    model.close()
    assert learned[-1] == end_of_turn(model.tokenizer)[0]
    assert [(call.name, call.arguments) for call in reply.message.tool_calls] == [(CALL.name, CALL.arguments)]
    assert reply.finish == "tool_calls"


def test_an_adapter_is_served_as_it_was_trained(taught: tuple[str, str], tmp_path: Path) -> None:
    base, adapter = taught
    with pytest.raises(MismatchError, match=r"thinking = 'off'"):
        hf.build(hf.Config(path=base, adapter=adapter, thinking="keep"))
    with pytest.raises(MismatchError, match=r"tool_calls = 'auto'"):
        hf.build(hf.Config(path=base, adapter=adapter, tool_calls="text"))
    (tmp_path / "own.jinja").write_text(tiny_models.CHATML)
    with pytest.raises(MismatchError, match="tokenizer"):
        hf.build(hf.Config(path=base, adapter=adapter, chat_template=str(tmp_path / "own.jinja")))
    with pytest.raises(UsageError, match=r"other\.jinja does not exist"):
        hf.build(hf.Config(path=base, chat_template=str(tmp_path / "other.jinja")))


def test_an_adapter_of_another_tool_is_taken_where_that_is_said(taught: tuple[str, str], tmp_path: Path) -> None:
    base, adapter = taught
    other = tmp_path / "other"
    shutil.copytree(adapter, other)
    (other / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"manifest\.json"):
        hf.build(hf.Config(path=base, adapter=str(other)))
    model = hf.build(hf.Config(path=base, adapter=str(other), unpinned=True, threads=1))
    assert model.reply(EPISODE.messages[:1], [SEND], Sampling(max_tokens=60)).message.tool_calls
    model.close()
    (other / "adapter_model.safetensors").rename(other / "adapter_model.bin")
    with pytest.raises(DataError, match=r"\.bin"):
        hf.build(hf.Config(path=base, adapter=str(other), unpinned=True))


def test_a_tuner_speaks_as_its_student() -> None:
    student = {"model": "hf", "thinking": "keep", "chat_template": "own.jinja", "revision": "abc"}
    settings = settings_of({"student": student, "tuning": {}}, "test")
    assert settings.options("tuning").items() >= {"thinking": "keep", "chat_template": "own.jinja", "revision": "abc"}.items()
    own = settings_of({"student": student, "tuning": {"thinking": "off"}}, "test")
    assert own.options("tuning")["thinking"] == "off"
    assert "revision" not in settings_of({"student": {"model": "hf"}, "tuning": {}}, "test").options("tuning")
