"""What the page and the terminal show of runs: frozen nouns that become JSON as they are.

In: nothing. Out: dataclasses. Shares are fractions, times are seconds, tokens are counts; `None` where something is not there.
Text is as it was recorded: whoever shows it makes it harmless for the place where it is shown.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from duomem.curate import Status
from duomem.decision import Decision, Pair
from duomem.summary import Summary
from duomem.types import Usage
from duomem.usefulness import Use

State = Literal[
    "collecting", "remembering", "tuning", "evaluating", "stopped", "new", "collected", "remembered", "tuned", "done"
]
"""The verbs' forms in -ing where a process is at work; "stopped" where a verb was begun, is not done and nobody works."""
Outcome = Literal["", "won", "lost", "running", "error"]


@dataclass(frozen=True, slots=True)
class ArmLine:
    """One arm in the table of runs. `interval` is the one to quote, or Wilson's of the games so far while it is played."""

    arm: str
    title: str
    won: int
    played: int
    success: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run folder in a table. `id` is its path below the folder that was opened; `running` counts open episodes."""

    id: str
    name: str
    path: str
    state: State
    live: bool
    changed: float
    """Unix seconds of the last change of its journals, steps or report."""
    teacher: str
    student: str
    env: str
    split: str
    seeds: tuple[int, ...]
    arms: tuple[ArmLine, ...]
    episodes: int
    """Episodes with an outcome, the teacher's included."""
    running: int
    verdict: str
    tokens: Usage | None
    """Of the arms that were evaluated, all episodes; None before there is a report."""
    cost: float | None
    currency: str
    has_bank: bool
    has_adapter: bool
    problem: str = ""
    """Why the folder could not be read; then the rest is empty."""


@dataclass(frozen=True, slots=True)
class Part:
    """One group of episodes: who played which games. `journal` is "" for the run's own, else "seed0"; `current` is False for
    evaluations of earlier settings, which nothing lists unless asked."""

    journal: str
    phase: str
    verb: str
    split: str
    arm: str
    seed: int | None
    episodes: int
    won: int
    lost: int
    running: int
    errors: int
    current: bool


@dataclass(frozen=True, slots=True)
class Facets:
    """What a run's episodes can be filtered by."""

    parts: tuple[Part, ...]
    arms: tuple[str, ...]
    splits: tuple[str, ...]
    seeds: tuple[int, ...]
    kinds: tuple[str, ...]
    """Task types, of games that were scored."""
    stops: tuple[str, ...]
    total: int


@dataclass(frozen=True, slots=True)
class Filters:
    """Which episodes; what is empty filters nothing. `arm` is an arm of the evaluation, or "collect", "practice", ..."""

    arm: str = ""
    split: str = ""
    seed: int | None = None
    kind: str = ""
    outcome: Outcome = ""
    stop: str = ""
    memory: str = ""
    """Only episodes that showed this memory (its id, or the beginning of one)."""
    text: str = ""
    """In the goal or the task's id."""
    task: str = ""
    lost_in: str = ""
    """Only games that this arm lost: with arm=memory, outcome=won and lost_in=none, those that memory turned."""
    won_in: str = ""
    earlier: bool = False
    """Evaluations of earlier settings too."""


@dataclass(frozen=True, slots=True)
class EpisodeRow:
    """One episode in a list. `ref` names it within its run: "17", or "seed0:17" in a seed's journal. `stop` is empty while it
    is played."""

    ref: str
    verb: str
    split: str
    arm: str
    seed: int | None
    task: str
    goal: str
    kind: str
    room: str
    attempt: int
    stop: str
    won: bool
    steps: int
    invalid: int
    usage: Usage
    seconds: float
    memories: tuple[str, ...]
    error: str


@dataclass(frozen=True, slots=True)
class EpisodePage:
    """`rows` from `offset` on, of `total` that match."""

    total: int
    offset: int
    rows: tuple[EpisodeRow, ...]


@dataclass(frozen=True, slots=True)
class Said:
    """One message of a prompt. `chars` is its whole length where `text` was cut."""

    role: str
    text: str
    chars: int


@dataclass(frozen=True, slots=True)
class Step:
    """One turn, as it is shown: thought and action apart. `reply` is the whole text; texts longer than `browse.LONG` are cut,
    and `reply_chars` and `observation_chars` say how long they are. `action` is empty where no call could be read."""

    index: int
    thought: str
    action: str
    reply: str
    reply_chars: int
    reasoning: str
    observation: str
    observation_chars: int
    recalled: str
    valid: bool
    repaired: bool
    waiting: bool
    """The environment has not answered yet."""
    usage: Usage
    seconds: float
    finish: str


@dataclass(frozen=True, slots=True)
class Injected:
    """A memory that was shown in an episode. `status` and `text` are empty where the bank no longer has it."""

    id: str
    key: str
    text: str
    status: Status | Literal[""]


@dataclass(frozen=True, slots=True)
class EpisodeFull:
    """One episode in full, and the same game in the other arms (`beside`)."""

    row: EpisodeRow
    scene: str
    model: str
    layout: str
    prompt: tuple[Said, ...]
    steps: tuple[Step, ...]
    injected: tuple[Injected, ...]
    beside: tuple[EpisodeRow, ...]
    bank_seed: int | None
    """The seed whose bank the memories are in; None where the run has one bank."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two episodes of one game. Up to step `first_difference` (counted from 0) both did and saw the same; None: all along.

    `differs` says what differs there: the action, what came back, or that one of them ended.
    """

    left: EpisodeFull
    right: EpisodeFull
    same_task: bool
    first_difference: int | None
    differs: Literal["", "action", "observation", "end"]
    only_left: tuple[str, ...]
    """Memories that only the left one was shown."""
    only_right: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """One run of a sweep over the number of memories."""

    run: str
    k: int
    arms: dict[str, tuple[float, float, float]]
    """Success with its interval, by arm."""


@dataclass(frozen=True, slots=True)
class DecisionView:
    """A report, ready to draw. `curves` holds the share of games won within 0, 1, 2, ... steps, by arm; `sentences` say each
    paired test in words."""

    summary: Summary
    titles: dict[str, str]
    sentences: dict[str, str]
    curves: dict[str, tuple[float, ...]]
    sweep: tuple[SweepPoint, ...] = ()


@dataclass(frozen=True, slots=True)
class MemoryRow:
    """One memory in a list. `uses`: counts by arm on the newest evaluation; `copies`: others with the same key or text."""

    id: str
    status: Status
    kind: str
    key: str
    text: str
    sources: int
    uses: dict[str, Use]
    copies: int
    score: float | None = None
    """Similarity to the query, where there was one."""


@dataclass(frozen=True, slots=True)
class MemoryPage:
    """`split` names the games the counts are of; `live` of `stored` memories can be recalled."""

    seed: int | None
    seeds: tuple[int, ...]
    split: str
    version: int
    live: int
    stored: int
    total: int
    offset: int
    rows: tuple[MemoryRow, ...]


@dataclass(frozen=True, slots=True)
class Near:
    """A live memory close to another: the cosine of their keys. `copy`: the same key or the same text."""

    id: str
    key: str
    text: str
    score: float
    copy: bool


@dataclass(frozen=True, slots=True)
class Source:
    """A trajectory that a memory was made from. `episode` is its ref in the run with the id `run`; both empty where it is not
    among these runs."""

    task: str
    attempt: int
    teacher: str
    written_by: str
    prompt: str
    licence: str
    trajectory: str
    run: str
    episode: str


@dataclass(frozen=True, slots=True)
class Change:
    """One edit of the bank that names a memory. `time` is Unix seconds."""

    version: int
    op: str
    reason: str
    time: float


@dataclass(frozen=True, slots=True)
class MemoryFull:
    row: MemoryRow
    seed: int | None
    split: str
    sources: tuple[Source, ...]
    changes: tuple[Change, ...]
    near: tuple[Near, ...]


@dataclass(frozen=True, slots=True)
class Logged:
    """One optimiser step. `seconds` since training began, `tokens` of the step; 0 where they were not logged."""

    step: int
    loss: float
    rate: float
    tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Span:
    """A run of tokens of equal loss weight, as text. `tokens` are its pieces one by one."""

    weight: float
    tokens: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TrainingView:
    """The training of one seed. `total` steps are planned, `log` holds those done; `facts`: the adapter's manifest."""

    seed: int | None
    seeds: tuple[int, ...]
    live: bool
    total: int
    log: tuple[Logged, ...]
    examples: int
    tokens: int
    seconds: float
    tokens_per_second: float | None
    facts: dict[str, str]
    words: str
    """What was left out of the examples, in one sentence."""


@dataclass(frozen=True, slots=True)
class ExampleView:
    """One training example as the model sees it. `learned` of `tokens` tokens have a loss weight."""

    index: int
    of: int
    task: str
    episode: str
    memories: tuple[str, ...]
    tokens: int
    learned: int
    spans: tuple[Span, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class BundleMember:
    """One file of a bundle. `size` is in bytes."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class BundleView:
    """A bundle, checked as `duomem inspect` checks it. `page` is what that command prints, `card` the model card's text,
    `bytes` sizes by part, `held` those of adapter, bank and embedder. A damaged one has a `problem` and nothing else."""

    path: str
    name: str = ""
    version: int = 0
    signed: bool = False
    """By somebody whom this machine trusts."""
    signature: str = ""
    ships: str = ""
    card: str = ""
    page: str = ""
    bytes: dict[str, int] = field(default_factory=dict)
    held: int = 0
    members: tuple[BundleMember, ...] = ()
    config: str = ""
    problem: str = ""


__all__ = [
    "ArmLine", "BundleMember", "BundleView", "Change", "Comparison", "Decision", "DecisionView", "EpisodeFull",
    "EpisodePage", "EpisodeRow", "ExampleView", "Facets", "Filters", "Injected", "Logged", "MemoryFull", "MemoryPage",
    "MemoryRow", "Near", "Outcome", "Pair", "Part", "RunRow", "Said", "Source", "Span", "State", "Step", "SweepPoint",
    "TrainingView", "Use",
]  # fmt: skip
