"""Trajectories (and memories, never their own) to training examples: one conversation per won episode.

In: trajectories, the layout they were played in, perhaps a strategy with its bank. Out: `Example`s whose loss weight is above 0
on the student's own, useful turns only, and counts of what was left out. Not here: token ids (chat.py), training (tuning/).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from duomem.chat import encode
from duomem.errors import MismatchError, UsageError
from duomem.memory import BankView, MemoryStrategy
from duomem.prompts import AS_RECORDED, Layout, opening, turn_messages, with_memories
from duomem.types import Budget, EpisodeView, Example, Memory, Trajectory, Turn

if TYPE_CHECKING:
    from rich.text import Text


class Options(BaseModel):
    """How examples are made. A tuner's config holds these keys beside its own."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    memories: Literal["none", "all", "half"] = "half"
    """Which training prompts hold memories, recalled as at test time but never an episode's own: none, all, or a seeded half.
    """
    filter: Literal["mask", "drop", "none"] = "drop"
    """Invalid, unparseable and repaired turns, repeats and no-ops: "mask" keeps them in the context and learns none of them;
    "drop" also takes invalid and unparseable ones out, which changed nothing in the world; "none" learns every turn."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Examples and what was left out of them. `reasons`: turns by why they are not learned."""

    examples: tuple[Example, ...]
    trajectories: int
    turns: int
    learned: int
    dropped: int
    reasons: tuple[tuple[str, int], ...]
    with_memories: int

    @property
    def words(self) -> str:
        """One sentence for a report."""
        left = ", ".join(f"{count} {reason}" for reason, count in self.reasons) or "none"
        return (
            f"{len(self.examples)} of {self.trajectories} trajectories were won; {self.learned} of their {self.turns} turns "
            f"are learned ({self.dropped} dropped; not learned: {left}); {self.with_memories} prompts hold memories."
        )


def prepare(
    trajectories: Iterable[Trajectory],
    layout: Layout,
    options: Options,
    *,
    strategy: MemoryStrategy | None = None,
    bank: BankView | None = None,
    budget: Budget | None = None,
    seed: int = 0,
) -> Prepared:
    """Examples of the won trajectories, sorted by content hash, so that the order of a journal decides nothing.

    Raises `UsageError` when memories are asked for and there is no strategy or bank, `MismatchError` for a trajectory that was
    played in another layout.
    """
    given = list(trajectories)
    if options.memories != "none" and (strategy is None or bank is None):
        raise UsageError(
            f'[tuning] memories = "{options.memories}" needs a [memory] table. Set tuning.memories=none, or add the table.'
        )
    made: list[Example] = []
    reasons: Counter[str] = Counter()
    turns = learned = dropped = 0
    for trajectory in sorted((each for each in given if each.won), key=lambda each: each.content_hash):
        if trajectory.origin.layout not in ("", AS_RECORDED, layout.hash):
            raise MismatchError(
                f"Task {trajectory.task.id} was played in layout {trajectory.origin.layout}; training has layout {layout.name} "
                f"({layout.hash}). Collect again, or set student.layout to the layout of the collection."
            )
        memories: tuple[Memory, ...] = ()
        if strategy is not None and bank is not None and _shown(options, seed, trajectory):
            memories = _recall(trajectory, strategy, bank, budget or Budget())
        why = [_reason(trajectory, index) if options.filter != "none" else "" for index in range(len(trajectory.turns))]
        made.append(_example(trajectory, layout, memories, why, options.filter == "drop"))
        reasons.update(reason for reason in why if reason)
        turns, learned = turns + len(why), learned + why.count("")
        dropped += sum(_droppable(reason) for reason in why) if options.filter == "drop" else 0
    with_memories = sum(bool(example.memories) for example in made)
    return Prepared(tuple(made), len(given), turns, learned, dropped, tuple(sorted(reasons.items())), with_memories)


def _shown(options: Options, seed: int, trajectory: Trajectory) -> bool:
    """Whether this example's prompt holds memories; the coin depends on nothing but the seed and the episode."""
    if options.memories == "half":
        return random.Random(f"{seed} {trajectory.content_hash}").random() < 0.5
    return options.memories == "all"


def _recall(trajectory: Trajectory, strategy: MemoryStrategy, bank: BankView, budget: Budget) -> tuple[Memory, ...]:
    """What the bank would show this task, were it new: nothing made from this trajectory or another attempt at its task."""
    view = EpisodeView(
        trajectory.goal,
        trajectory.scene,
        exclude=frozenset((trajectory.content_hash,)),
        exclude_tasks=frozenset((trajectory.task.id,)),
    )
    return strategy.recall(view, bank, budget).memories


def _reason(trajectory: Trajectory, index: int) -> str:
    """Why a turn is not worth learning; empty where it is."""
    turns: Sequence[Turn] = trajectory.turns
    turn = turns[index]
    if turn.call is None:
        return "unparseable"
    if not turn.valid:
        return "invalid"
    if turn.repaired:
        return "repaired"
    if any(before.call == turn.call and before.observation == turn.observation for before in turns[:index]):
        return "repeat"
    if index and turns[index - 1].observation == turn.observation and trajectory.origin.layout != AS_RECORDED:
        return "no-op"
    return ""


def _droppable(reason: str) -> bool:
    """Only what never changed the world: a repeat may have closed what was opened between."""
    return reason in ("unparseable", "invalid")


def _example(trajectory: Trajectory, layout: Layout, memories: Sequence[Memory], why: Sequence[str], drop: bool) -> Example:
    texts = [memory.text for memory in memories]
    if trajectory.origin.layout == AS_RECORDED:
        messages = list(with_memories(layout, trajectory.prompt, texts))
    else:
        messages = list(opening(layout, trajectory.goal, trajectory.scene, texts))
    learn = [0.0] * len(messages)
    for turn, reason in zip(trajectory.turns, why, strict=True):
        if not (drop and _droppable(reason)):
            answer, *results = turn_messages(layout, turn)
            messages.extend((answer, *results))
            learn.extend((0.0 if reason else 1.0, *(0.0 for _ in results)))
    answers = [index for index, message in enumerate(messages) if message.role == "assistant"]
    end = answers[-1] + 1 if answers else len(messages)  # what came back last is nobody's to learn
    shown = tuple(memory.id for memory in memories)
    return Example(tuple(messages[:end]), tuple(learn[:end]), trajectory.content_hash, shown, trajectory.tools)


def preview(tokenizer: Any, example: Example) -> Text:
    """The example as a model sees it: learned tokens bold and green, the rest dim. Print it with rich."""
    from rich.text import Text

    encoded = encode(tokenizer, example.messages, example.learn)
    text = Text()
    start = 0
    for index in range(1, len(encoded.ids) + 1):
        # Runs of equal weight are decoded as one: a character may be made of several tokens.
        if index == len(encoded.ids) or encoded.weights[index] != encoded.weights[start]:
            piece = tokenizer.decode(list(encoded.ids[start:index]), skip_special_tokens=False)
            text.append(piece, style="bold green" if encoded.weights[start] else "dim")
            start = index
    return text


def tokens_per_episode(tokenizer: Any, example: Example) -> int:
    """Training tokens of an example as one sequence."""
    return len(encode(tokenizer, example.messages, example.learn).ids)


def tokens_per_step(tokenizer: Any, example: Example) -> int:
    """Training tokens of the same turns as one sample a step: each learned answer with all that came before it."""
    return sum(
        len(encode(tokenizer, example.messages[: index + 1]).ids) for index, weight in enumerate(example.learn) if weight > 0
    )
