"""Procedural memories: a short script of what worked, the reference trajectory, or both (the three builds of MemP).

In: trajectories; goals of new episodes. Out: memories keyed by their goal; the nearest ones at an episode's first turn. Rules
write them from the trajectory's text alone (`_script`), or a model does (`_writer`): the config says which, and neither stands
in for the other. docs/memories.md has the whole of it, MemP's settings included. Not here: files and the order of work.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from duomem.errors import UsageError
from duomem.memory import BankView, Refusal
from duomem.memory._common import Counter, Tally, count_tokens, provenance
from duomem.memory._compose import LESSON, Composer, reason
from duomem.memory._keys import Key, key_of
from duomem.memory._prompts import load_prompts
from duomem.memory._script import RULES, calls_script, events, plain_transcript, script, transcript
from duomem.memory._show import Shower
from duomem.models import Model
from duomem.types import BankEdit, Budget, EpisodeView, Memory, MemoryId, Outcome, Recall, Trajectory, digest

Level = Literal["task", "subtask", "action"]


class Config(BaseModel):
    """How procedural memories are written and shown."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    build: Literal["script", "trajectory", "both"] = "script"
    """What a memory says: numbered steps without instance numbers, the winning commands, or both."""
    key: Key = "goal"
    """What it is found by: the task's words (goal), these and the first observation (goal+scene), facts that rules read from
    the goal (facts), the mean similarity of such facts (average), or chance (random: a control)."""
    fit: float = Field(default=0.5, ge=0)
    """What a memory's similarity gains, at most, for naming things that the present goal and scene have; 0: nothing."""
    distinct: bool = True
    """Pass over a memory whose steps equal those of a nearer one, so that k memories are k different procedures."""
    observation_words: int = Field(default=16, ge=0)
    """Words kept of each observation in a reference trajectory."""
    writer: Literal["rules", "teacher", "student", "model"] = "rules"
    """Who writes: rules, the run's teacher, its student, or the model of writer_model. A model that writes nothing usable is
    refused and counted; rules never stand in for it."""
    writer_model: dict[str, Any] = {}
    """For writer = "model": a component of models/ as model, and its own keys, for example { model = "hf", path = "..." }."""
    writer_prompts: str = "default"
    """What a writing model is asked: a set of memory/prompts/ (default, pocket) or the path of such a TOML file."""
    writer_tokens: int = Field(default=400, gt=0)
    """Longest answer of a writing model, in tokens; a longer one is cut off and refused."""
    writer_temperature: float = Field(default=0.0, ge=0)
    """Sampling temperature of a writing model; 0 is greedy."""
    writer_tries: int = Field(default=2, ge=1)
    """How often a writing model is asked for one memory, each time with the reason why the last answer could not be used."""
    writer_words: int = Field(default=40, ge=0)
    """Words of each observation that a writing model reads."""
    stages: Literal["direct", "staged"] = "direct"
    """How a model writes a script: at once, or from the steps that it picked out first (MemP's staged builder)."""
    levels: tuple[Level, ...] = Field(default=("task",), min_length=1)
    """What a model writes of a trajectory: whole procedures, their parts, single actions (shown only after an error)."""
    lessons: bool = False
    """A model also writes what failed attempts teach."""
    update: Literal["add", "validate", "reflect"] = "validate"
    """Which trajectories enter: all (add), won ones (validate), or won ones, and a memory that was shown in a failed one is
    rewritten (reflect, by a model). MemP calls them vanilla, validation and adjustment."""
    retire_after: int = Field(default=0, ge=0)
    """Retire a memory that was shown so many times and won too rarely (MemP: 3); 0: never."""
    retire_below: float = Field(default=0.5, ge=0, le=1)
    """The share of won episodes below which it is retired."""

    @field_validator("writer_prompts")
    @classmethod
    def _prompts_exist(cls, value: str) -> str:
        load_prompts(value)
        return value

    @model_validator(mode="after")
    def _goes_together(self) -> Config:
        """Raises ValueError for settings that only a model can fulfil, and for those that contradict each other."""
        needs_model = {
            f"levels = {list(self.levels)}": self.levels != ("task",),
            "lessons = true": self.lessons,
            'stages = "staged"': self.stages == "staged",
            'update = "reflect"': self.update == "reflect",
        }
        if self.writer == "rules" and (first := next((words for words, needed in needs_model.items() if needed), "")):
            raise ValueError(f"{first} needs a model that writes: set writer to teacher, student or model")
        if self.update == "reflect" and self.build == "trajectory":
            raise ValueError('update = "reflect" rewrites scripts: set build to script or both')
        if (self.writer == "model") != bool(self.writer_model.get("model")):
            raise ValueError('writer = "model" and writer_model = { model = ... } need each other')
        return self


class Procedure:
    """The strategy; see the contract in `duomem.memory`."""

    def __init__(self, config: Config, count: Counter = count_tokens) -> None:
        self._config = config
        self._rules = f"rules:{digest([RULES, config.build, config.key, config.observation_words])[:12]}"
        first = tuple(config.build if level == "task" else level for level in config.levels if level != "action")
        self._shower = Shower(
            kinds=(*first, *((LESSON,) if config.lessons else ())),
            action="action" if "action" in config.levels else "",
            key=config.key,
            distinct=config.distinct,
            fit=config.fit,
            count=count,
        )
        self._tally = Tally(config.retire_after, config.retire_below)
        self._lock = threading.Lock()
        self._composer = Composer(config, load_prompts(config.writer_prompts))

    @property
    def takes_failures(self) -> bool:
        """Whether `write` has a use for trajectories that were not won."""
        return self._config.update != "validate" or self._config.lessons

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """What a writing model was asked for and did not write usably, by trajectory and question."""
        return self._composer.refusals

    def write(self, trajectory: Trajectory, bank: BankView, teacher: Model | None) -> Sequence[BankEdit]:
        """The memories of a trajectory in which anything was done. Raises `UsageError` where the writing model is missing."""
        if self._config.writer != "rules":
            if teacher is None:
                raise UsageError(f'memory.writer = "{self._config.writer}" needs a model that writes, and none was given.')
            return self._composer.edits(trajectory, bank, teacher)
        enters = trajectory.won or (self._config.update == "add" and trajectory.stop.is_outcome)
        text = self._text(trajectory) if enters else ""
        if not text:
            return []
        goal = key_of(self._config.key, trajectory.goal, trajectory.scene)
        memory = Memory(goal, text, self._config.build, provenance(trajectory, self._rules))
        return [BankEdit("add", reason(trajectory), memory)]

    def _text(self, trajectory: Trajectory) -> str:
        found = events(trajectory)
        acted = any(event.object for event in found)
        lines = script(trajectory.goal, found) if acted else calls_script(trajectory)
        if self._config.build == "script" or not lines:
            return lines
        words = self._config.observation_words
        shown = transcript(found, words) if acted else plain_transcript(trajectory.turns, words)
        return f"{lines if self._config.build == 'both' else trajectory.goal.strip()}\n{shown}"

    def recall(self, view: EpisodeView, bank: BankView, budget: Budget) -> Recall:
        """The nearest memories at the first turn; later at most how an action works, after an error (level action)."""
        return self._shower.recall(view, bank, budget)

    def feedback(self, outcome: Outcome, shown: Sequence[MemoryId]) -> Sequence[BankEdit]:
        """Retires what did not help often enough, where the config asks for it."""
        with self._lock:
            reasons = {memory: self._tally.count(memory, outcome.won) for memory in shown}
        return [BankEdit("retire", reason, target=memory) for memory, reason in reasons.items() if reason]


def build(config: Config, count: Counter = count_tokens) -> Procedure:
    """`count` gives the tokens of a text, for the budget; the default is an upper estimate without a tokenizer."""
    return Procedure(config, count)
