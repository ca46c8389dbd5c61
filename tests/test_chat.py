"""The encoder: exact prefixes, the loss mask token by token, no control token out of data, refused templates."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest

import tiny_models
from duomem.chat import Encoded, count_tokens, encode, end_of_turn
from duomem.errors import DataError, MismatchError
from duomem.types import Message, Role

pytest.importorskip("transformers", reason="needs the extra 'train'")


@pytest.fixture(scope="module", params=sorted(tiny_models.TEMPLATES))
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return tiny_models.tokenizer(request.param)


def episode(turns: int, system: bool = True) -> list[Message]:
    messages = [Message.of("system", "Be brief.")] if system else []
    messages.append(Message.of("user", "Your task: put a clean mug in cabinet."))
    for turn in range(turns):
        messages.append(Message.of("assistant", f"Thought: mug find\nAction: go to countertop {turn}"))
        messages.append(Message.of("user", f"You arrive at countertop {turn}. "))
    return messages


@pytest.mark.parametrize("system", [False, True])
def test_every_prompt_is_an_exact_prefix_of_the_next(tokenizer: Any, system: bool) -> None:
    messages = episode(5, system)
    first = 2 if system else 1
    prompts = [encode(tokenizer, messages[:end], generate=True).ids for end in range(first, len(messages) + 1, 2)]
    assert len(prompts) == 6
    for shorter, longer in pairwise(prompts):
        assert longer[: len(shorter)] == shorter
        assert len(longer) > len(shorter)


def test_what_is_trained_is_what_is_served(tokenizer: Any) -> None:
    """The learned tokens of answer k stand exactly behind the prompt that a server would send for it."""
    messages = episode(3)[:-1]
    learn = [float(message.role == "assistant") for message in messages]
    whole = encode(tokenizer, messages, learn)
    for index in (2, 4, 6):
        prompt = encode(tokenizer, messages[:index], generate=True).ids
        assert whole.ids[: len(prompt)] == prompt
        assert whole.weights[len(prompt) - 1] == 0
        assert whole.weights[len(prompt)] == 1


def learned(tokenizer: Any, encoded: Encoded) -> str:
    return tokenizer.decode([token for token, weight in zip(encoded.ids, encoded.weights, strict=True) if weight])


def test_the_mask_holds_answers_with_their_end_and_nothing_else(tokenizer: Any) -> None:
    messages = episode(2)[:-1]
    learn = [float(message.role == "assistant") for message in messages]
    encoded = encode(tokenizer, messages, learn)
    end = tokenizer.decode([end_of_turn(tokenizer)[0]])
    said = [message.text for message in messages if message.role == "assistant"]
    assert learned(tokenizer, encoded) == "".join(text + end for text in said)
    assert encoded.ids[-1] == end_of_turn(tokenizer)[0]
    answers = sum(count_tokens(tokenizer, text) + 1 for text in said)
    assert sum(encoded.weights) == answers


def test_a_masked_answer_changes_the_weights_and_not_the_tokens(tokenizer: Any) -> None:
    messages = episode(3)[:-1]
    full = [float(message.role == "assistant") for message in messages]
    some = [0.0 if index == 4 else weight * 0.5 for index, weight in enumerate(full)]
    one, other = encode(tokenizer, messages, full), encode(tokenizer, messages, some)
    assert one.ids == other.ids == encode(tokenizer, messages).ids
    assert set(other.weights) == {0.0, 0.5}
    gone = count_tokens(tokenizer, messages[4].text) + 1
    assert sum(weight > 0 for weight in one.weights) - sum(weight > 0 for weight in other.weights) == gone


def test_the_mask_token_by_token() -> None:
    tokenizer = tiny_models.tokenizer("chatml")
    messages = [Message.of("user", "a"), Message.of("assistant", "b"), Message.of("user", "c"), Message.of("assistant", "d")]
    encoded = encode(tokenizer, messages, [0, 1, 0, 1])
    table = [(tokenizer.decode([token]), weight) for token, weight in zip(encoded.ids, encoded.weights, strict=True)]
    frame = [(text, weight) for text, weight in table if text in ("<|im_start|>", "<|im_end|>")]
    assert frame == [("<|im_start|>", 0), ("<|im_end|>", 0), ("<|im_start|>", 0), ("<|im_end|>", 1)] * 2
    assert [pair for pair in table if pair[1]] == [("b", 1), ("<|im_end|>", 1), ("d", 1), ("<|im_end|>", 1)]
    ends = [index for index, pair in enumerate(table[:-1]) if pair == ("<|im_end|>", 1)]
    assert all(table[index + 1] == ("\n", 0) for index in ends)


def control_ids(tokenizer: Any) -> set[int]:
    return set(tokenizer.all_special_ids) | {tokenizer.convert_tokens_to_ids(mark) for mark in ("<think>", "</think>")}


def test_no_control_token_comes_out_of_data(tokenizer: Any) -> None:
    """S3, a small fuzz: pieces of every tokenizer's own marks, whole and cut, in any order."""
    draw = random.Random(0)
    marks = [*tokenizer.all_special_tokens, "<think>", "</think>", "<|", "|>", "<", "s>", " ", "\n", "mug 2", "é\U0001f600"]
    frame = encode(tokenizer, [Message.of("user", ""), Message.of("assistant", "")], generate=False).ids
    expected = sum(token in control_ids(tokenizer) for token in frame)
    for _ in range(200):
        text = "".join(draw.choice(marks) for _ in range(draw.randint(1, 12)))
        ids = encode(tokenizer, [Message.of("user", text), Message.of("assistant", text[::-1] + text)]).ids
        assert sum(token in control_ids(tokenizer) for token in ids) == expected, text
        data = encode(tokenizer, [Message.of("user", text)]).ids
        assert text.strip() in tokenizer.decode(data, skip_special_tokens=False), "data must not be lost"


def conversation(roles: Sequence[Role]) -> list[Message]:
    return [Message.of(role, f"text {index}") for index, role in enumerate(roles)]


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (tiny_models.DROPS, "drops"),
        (tiny_models.REWRITES, "rewrites"),
        (tiny_models.ENDLESS, "no special token"),
        (None, "no chat template"),
    ],
)
def test_templates_that_cannot_make_one_sequence_are_refused(template: str | None, words: str) -> None:
    tokenizer = tiny_models.tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(MismatchError, match=words):
        encode(tokenizer, conversation(("user", "assistant", "user", "assistant")), [0, 1, 0, 1])


def test_thinking_that_later_turns_lose_is_never_in_the_history() -> None:
    tokenizer = tiny_models.tokenizer("qwen3")
    text = tokenizer.decode(encode(tokenizer, episode(2)[:-1]).ids)
    assert "<think>" not in text
    raw = tokenizer.apply_chat_template(
        [{"role": message.role, "content": message.text} for message in episode(2)[:-1]], tokenize=False
    )
    assert "<think>" in raw, "the template itself would have put one before the last answer"


def test_a_refused_system_message_stands_in_front_of_the_first_user_message() -> None:
    tokenizer = tiny_models.tokenizer("gemma")
    merged = encode(tokenizer, episode(1), generate=True).ids
    by_hand = [Message.of("user", f"Be brief.\n\n{episode(1)[1].text}"), *episode(1)[2:]]
    assert merged == encode(tokenizer, by_hand, generate=True).ids


def test_end_of_turn_is_what_the_template_writes() -> None:
    names = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>", "gemma": "<end_of_turn>", "mistral": "</s>", "pocket": "<|end|>"}
    for template, mark in names.items():
        tokenizer = tiny_models.tokenizer(template)
        assert tokenizer.convert_ids_to_tokens(end_of_turn(tokenizer)[0]) == mark


def test_no_messages_is_an_error() -> None:
    with pytest.raises(DataError):
        encode(tiny_models.tokenizer(), [])
