"""Examples: only won episodes, loss on the student's useful turns, memories never an episode's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

import tiny_models
from duomem import examples, prompts
from duomem.chat import encode
from duomem.errors import MismatchError, UsageError
from duomem.types import (
    BankEdit,
    Budget,
    EpisodeView,
    Example,
    Hit,
    Memory,
    MemoryId,
    Message,
    Origin,
    Outcome,
    Provenance,
    Recall,
    Reply,
    StopReason,
    Task,
    ToolCall,
    Trajectory,
    Turn,
)

LAYOUT = prompts.load_layout("pocket")
NONE = examples.Options(memories="none")


def turn(command: str, observation: str, valid: bool = True, parsed: bool = True, repaired: bool = False) -> Turn:
    reply = Reply(Message.of("assistant", prompts.reply_text(LAYOUT, "next", command)))
    return Turn(reply, ToolCall.act(command) if parsed else None, observation, valid, repaired)


def trajectory(name: str, turns: Sequence[Turn], stop: StopReason = StopReason.WON, **changes: Any) -> Trajectory:
    task = Task(f"train/{name}", "train", "household")
    fields = {"goal": f"find {name}", "scene": f"A room with a {name}.", **changes}
    prompt = prompts.opening(LAYOUT, fields["goal"], fields["scene"], [])
    return Trajectory(task, fields.pop("attempt", 0), prompt=prompt, turns=tuple(turns), stop=stop, **fields)


EPISODE = [
    turn("go to desk 1", "You see a mug."),
    turn("take mug", "Nothing happens.", valid=False),
    turn("I think so", "Nothing happens.", valid=False, parsed=False),
    turn("go to desk 1", "You see a mug."),
    turn("look", "You see a mug."),
    turn("Take mug 1.", "You take it.", repaired=True),
    turn("use lamp 1", "It is on."),
]


def learned(example: Example) -> list[str]:
    return [message.text for message, weight in zip(example.messages, example.learn, strict=True) if weight]


def shape(example: Example) -> list[str]:
    return [message.role for message in example.messages]


def test_drop_takes_invalid_turns_out_and_masks_the_rest() -> None:
    prepared = examples.prepare([trajectory("mug", EPISODE)], LAYOUT, NONE)
    (example,) = prepared.examples
    assert learned(example) == ["next > go to desk 1", "next > use lamp 1"]
    said = [message.text for message in example.messages]
    assert not any("Nothing happens." in text for text in said)
    assert shape(example) == ["user", *["assistant", "user"] * 4, "assistant"]
    assert dict(prepared.reasons) == {"invalid": 1, "unparseable": 1, "repeat": 1, "no-op": 1, "repaired": 1}
    assert (prepared.turns, prepared.learned, prepared.dropped) == (7, 2, 2)


def test_mask_keeps_every_turn_in_the_context() -> None:
    prepared = examples.prepare([trajectory("mug", EPISODE)], LAYOUT, NONE.model_copy(update={"filter": "mask"}))
    (example,) = prepared.examples
    assert learned(example) == ["next > go to desk 1", "next > use lamp 1"]
    assert len(example.messages) == 2 * len(EPISODE)
    assert prepared.dropped == 0


def test_no_filter_learns_every_answer() -> None:
    (example,) = examples.prepare([trajectory("mug", EPISODE)], LAYOUT, NONE.model_copy(update={"filter": "none"})).examples
    assert len(learned(example)) == len(EPISODE)
    assert example.messages == prompts.conversation(LAYOUT, trajectory("mug", EPISODE))


def test_only_the_environment_says_what_was_won() -> None:
    lost = [trajectory(f"mug {stop}", EPISODE, stop) for stop in StopReason if stop is not StopReason.WON]
    prepared = examples.prepare([*lost, trajectory("mug", EPISODE)], LAYOUT, NONE)
    assert len(prepared.examples) == 1
    assert prepared.trajectories == len(lost) + 1


def test_order_of_the_journal_decides_nothing() -> None:
    given = [trajectory(name, EPISODE) for name in ("mug", "pen", "cup")]
    assert examples.prepare(given, LAYOUT, NONE).examples == examples.prepare(given[::-1], LAYOUT, NONE).examples


def test_another_layout_is_refused() -> None:
    other = trajectory("mug", EPISODE, origin=Origin(layout=prompts.load_layout("default").hash))
    with pytest.raises(MismatchError, match="layout"):
        examples.prepare([other], LAYOUT, NONE)


class Everything:
    """A bank and strategy that show any memory they are not forbidden, and note what they were told."""

    def __init__(self, sources: Sequence[Trajectory]) -> None:
        self.made = {
            each.content_hash: Memory(each.goal, f"memory of {each.task.id}", "test", self._origin(each)) for each in sources
        }
        self.views: list[EpisodeView] = []
        self.budgets: list[Budget] = []

    @staticmethod
    def _origin(source: Trajectory) -> Provenance:
        return Provenance(source.task.id, source.attempt, source.content_hash, "expert", "rules")

    def recall(self, view: EpisodeView, bank: object, budget: Budget) -> Recall:
        self.views.append(view)
        self.budgets.append(budget)
        shown = [
            memory
            for source, memory in self.made.items()
            if source not in view.exclude and memory.provenance.task_id not in view.exclude_tasks
        ]
        return Recall(tuple(Hit(memory, 1.0) for memory in sorted(shown, key=lambda memory: memory.id)))

    def write(self, trajectory: Trajectory, bank: object, teacher: object) -> Sequence[BankEdit]:
        return []

    def feedback(self, outcome: Outcome, shown: Sequence[MemoryId]) -> Sequence[BankEdit]:
        return []

    def search(self, query: str, k: int, *, floor: float = -1.0, allow: Callable[[Memory], bool] | None = None) -> list[Hit]:
        return []

    def get(self, memory: MemoryId) -> Memory:
        raise KeyError(memory)

    def memories(self) -> Sequence[Memory]:
        return list(self.made.values())


def test_a_memory_never_meets_its_own_source_or_task() -> None:
    attempts = [trajectory("mug", EPISODE, attempt=attempt) for attempt in range(2)]
    given = [*attempts, trajectory("pen", EPISODE), trajectory("cup", EPISODE)]
    bank = Everything(given)
    budget = Budget(k=3, tokens=99)
    prepared = examples.prepare(given, LAYOUT, examples.Options(memories="all"), strategy=bank, bank=bank, budget=budget)
    assert prepared.with_memories == 4
    by_source = {example.source: example for example in prepared.examples}
    for each in given:
        example = by_source[each.content_hash]
        text = example.messages[0].text
        others = {other.task.id for other in given} - {each.task.id}
        assert f"memory of {each.task.id}" not in text
        assert all(f"memory of {other}" in text for other in others)
        assert len(example.memories) == len([other for other in given if other.task.id != each.task.id])
        assert list(example.memories) == sorted(example.memories)
    assert bank.budgets == [budget] * 4
    assert all(each.task.id not in (view.goal + view.scene) for view in bank.views for each in given)


def test_half_is_a_seeded_coin_of_each_episode() -> None:
    given = [trajectory(f"thing {number}", EPISODE) for number in range(60)]
    bank = Everything(given[:3])

    def made(seed: int, some: Sequence[Trajectory]) -> dict[str, bool]:
        prepared = examples.prepare(some, LAYOUT, examples.Options(memories="half"), strategy=bank, bank=bank, seed=seed)
        return {example.source: bool(example.memories) for example in prepared.examples}

    whole = made(0, given)
    assert 15 < sum(whole.values()) < 45
    assert made(0, given[::-2]).items() <= whole.items(), "an episode's coin does not depend on the others"
    assert made(1, given) != whole


def test_memories_without_a_bank_are_an_error() -> None:
    with pytest.raises(UsageError, match="memories"):
        examples.prepare([trajectory("mug", EPISODE)], LAYOUT, examples.Options(memories="half"))


def test_preview_shows_exactly_what_is_learned() -> None:
    tokenizer = tiny_models.tokenizer()
    (example,) = examples.prepare([trajectory("mug", EPISODE)], LAYOUT, NONE).examples
    text = examples.preview(tokenizer, example)
    bold = [text.plain[span.start : span.end] for span in text.spans if "bold" in str(span.style)]
    assert bold == [f"{said}<|end|>" for said in learned(example)]
    assert text.plain == tokenizer.decode(list(encode(tokenizer, example.messages).ids))


def test_one_sequence_an_episode_costs_far_fewer_tokens_than_one_a_step() -> None:
    tokenizer = tiny_models.tokenizer()
    turns = [turn(f"go to desk {number}", f"You arrive at desk {number}.") for number in range(20)]
    (example,) = examples.prepare([trajectory("mug", turns)], LAYOUT, NONE).examples
    once, each = examples.tokens_per_episode(tokenizer, example), examples.tokens_per_step(tokenizer, example)
    assert once == len(encode(tokenizer, example.messages).ids)
    assert each > 8 * once
