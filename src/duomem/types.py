"""The nouns of DuoMem: what crosses a module boundary, and nothing else.

In: nothing. Out: frozen dataclasses that pydantic can validate from JSON (`dump`, `load`) and whose stored forms
carry `SCHEMA`. Not here: behaviour. A task's type is deliberately not a field of `Task`: only evaluation and report may
ask an environment for `Labels`, so it cannot reach a prompt, a retriever or a memory writer by accident.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter

SCHEMA = 1
"""Version of every stored noun; a reader refuses a newer one."""

Role = Literal["system", "user", "assistant", "tool"]
MemoryId = str
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TextPart:
    """One piece of message content. Text is the only kind today; others join as sibling classes."""

    text: str
    kind: Literal["text"] = "text"


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the environment offers. `parameters` is JSON Schema as text (hashable, byte-stable)."""

    name: str
    description: str
    parameters: str = "{}"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool. `arguments` is a JSON object as text. A text environment has the one tool `act(command)`."""

    name: str
    arguments: str = "{}"
    id: str = ""

    @classmethod
    def act(cls, command: str, call_id: str = "") -> ToolCall:
        return cls("act", json.dumps({"command": command}), call_id)

    @property
    def command(self) -> str:
        """The command of an `act` call; empty for any other tool."""
        value = json.loads(self.arguments).get("command", "")
        return value if isinstance(value, str) else ""


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message. Reasoning is kept apart from content; tool calls keep their ids."""

    role: Role
    parts: tuple[TextPart, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    reasoning: str = ""

    @classmethod
    def of(cls, role: Role, text: str) -> Message:
        return cls(role, (TextPart(text),))

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a model samples. Temperature 0 is greedy. `max_tokens` bounds the completion.

    `grammar` is GBNF that the answer is held to, for models that say they can (`CONSTRAINS`); empty: nothing. `logprob` asks
    how sure the model was (`Reply.logprob`).
    """

    temperature: float = 0.0
    max_tokens: int = 64
    stop: tuple[str, ...] = ()
    seed: int = 0
    grammar: str = ""
    logprob: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one reply. `cached` prompt tokens were served from a KV cache and are part of `prompt`."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.prompt + other.prompt, self.cached + other.cached, self.completion + other.completion)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model answered. `finish` is the model's own reason for stopping; seconds are wall-clock."""

    message: Message
    finish: Literal["stop", "length", "tool_calls"] = "stop"
    usage: Usage = Usage()
    seconds: float = 0.0
    logprob: float | None = None
    """Natural logarithm of the answer's probability: the sum over its tokens, without the one that ends it. None unless
    `Sampling.logprob` asked for it and the model can tell."""


@dataclass(frozen=True, slots=True)
class Task:
    """One thing to solve. `id` is split + path (or seed) and is unique in its environment; `data_hash` pins the game's
    bytes."""

    id: str
    split: str
    env: str
    data_hash: str = ""


@dataclass(frozen=True, slots=True)
class Labels:
    """What only evaluation and report may know of a task: its type, its room, its main object and target."""

    kind: str
    room: str
    object: str = ""
    target: str = ""


@dataclass(frozen=True, slots=True)
class Observation:
    """What the environment says. `goal` and `text` of the first observation are the task's words and the scene.

    `valid` is False when the action was not understood or did nothing ("Nothing happens."). `admissible` is filled only
    where the environment was asked for it. `won` is the environment's own word, the only success there is.
    """

    text: str
    goal: str = ""
    done: bool = False
    won: bool = False
    valid: bool = True
    admissible: tuple[str, ...] | None = None


class StopReason(StrEnum):
    """Why an episode ended. ERROR and INTERRUPTED are infrastructure: retried on resume, never a 0. UNKNOWN is a recording
    that nobody has judged: kept, and never used as a success."""

    WON = "won"
    LOST = "lost"
    STEP_CAP = "step_cap"
    CONTEXT = "context"
    TIMEOUT = "timeout"
    BUDGET = "budget"
    ERROR = "error"
    INTERRUPTED = "interrupted"
    UNKNOWN = "unknown"

    @property
    def is_outcome(self) -> bool:
        """True where the episode says something about the agent (a success or a failure)."""
        return self not in (StopReason.ERROR, StopReason.INTERRUPTED, StopReason.BUDGET, StopReason.UNKNOWN)

    @property
    def truncated(self) -> bool:
        return self in (StopReason.STEP_CAP, StopReason.CONTEXT, StopReason.TIMEOUT)


@dataclass(frozen=True, slots=True)
class Turn:
    """One exchange: the reply, the call parsed from it (None if unparseable), and what the environment answered.

    `valid` is the observation's; an unparseable reply is an invalid turn. `repaired` marks an action changed by repair.
    `recalled` is memory text that a later recall put behind the observation, in the same user message. `results` are the
    messages that came back, where they are not the one message that `observation` makes: results of parallel calls, several
    messages, none at all after an episode's last reply.
    """

    reply: Reply
    call: ToolCall | None
    observation: str
    valid: bool = True
    repaired: bool = False
    recalled: str = ""
    results: tuple[Message, ...] | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a trajectory came from: enough to make it again."""

    model: str = ""
    revision: str = ""
    layout: str = ""
    env: str = ""
    seed: int = 0
    licence: str = ""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One finished episode. `prompt` holds the messages before the first reply; later ones follow from the turns."""

    task: Task
    attempt: int
    goal: str
    scene: str
    prompt: tuple[Message, ...]
    turns: tuple[Turn, ...]
    stop: StopReason
    shown: tuple[MemoryId, ...] = ()
    origin: Origin = Origin()
    error: str = ""
    seconds: float = 0.0
    schema: int = SCHEMA
    tools: tuple[Tool, ...] = ()
    """What the model was offered; none where a text environment's one tool is spoken in the layout's words."""

    @property
    def won(self) -> bool:
        return self.stop is StopReason.WON

    @property
    def usage(self) -> Usage:
        return sum((turn.reply.usage for turn in self.turns), Usage())

    @property
    def content_hash(self) -> str:
        """sha256 over task id, attempt, messages, actions, observations and outcome; no times, no token counts."""
        body = {
            "task": self.task.id,
            "attempt": self.attempt,
            "prompt": [(message.role, message.text) for message in self.prompt],
            "turns": [
                (
                    turn.reply.message.text,
                    turn.call and (turn.call.name, turn.call.arguments),
                    turn.observation + turn.recalled,
                    turn.valid,
                    *_exchange(turn),
                )
                for turn in self.turns
            ],
            "stop": self.stop.value,
        }
        return digest(body)


def _exchange(turn: Turn) -> list[Any]:
    """What a hash covers of a turn whose results are messages of their own; nothing of any other turn."""
    if turn.results is None:
        return []
    calls = [(call.name, call.arguments) for call in turn.reply.message.tool_calls]
    return [calls, turn.reply.message.reasoning, [(result.role, result.text) for result in turn.results]]


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a memory came from. `written_by` names rules or the model; `licence` is that of the teacher's output."""

    task_id: str
    attempt: int
    trajectory: str
    teacher: str
    written_by: str
    run: str = ""
    prompt: str = ""
    licence: str = ""


@dataclass(frozen=True, slots=True)
class Memory:
    """A procedural memory. `key` is embedded for retrieval, `text` is what the student reads, `id` hashes both and `kind`."""

    key: str
    text: str
    kind: str
    provenance: Provenance

    @property
    def id(self) -> MemoryId:
        return digest({"key": self.key, "text": self.text, "kind": self.kind})[:16]


@dataclass(frozen=True, slots=True)
class BankEdit:
    """A strategy's wish for the bank: add a memory, revise one (replace `target` by `memory`) or retire one."""

    op: Literal["add", "revise", "retire"]
    reason: str
    memory: Memory | None = None
    target: MemoryId | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """A memory found by a search, with its cosine similarity to the query."""

    memory: Memory
    score: float


@dataclass(frozen=True, slots=True)
class EpisodeView:
    """What a strategy may see when it recalls: the task's words, the scene, the turns so far. Never id, path or type."""

    goal: str
    scene: str
    turns: tuple[Turn, ...] = ()
    exclude: frozenset[str] = frozenset()
    """Content hashes of trajectories whose memories must not be shown (a memory never meets its own source)."""
    exclude_tasks: frozenset[str] = frozenset()
    """Task ids whose memories must not be shown; held by the caller, never rendered."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of a recall: at most `k` memories, each at least `floor` similar, `tokens` in all (counted by the
    caller's counter)."""

    k: int = 2
    floor: float = -1.0
    tokens: int = 512


@dataclass(frozen=True, slots=True)
class Recall:
    """What is injected: memories in canonical order (by id) with their scores; may be empty ("inject nothing")."""

    hits: tuple[Hit, ...] = ()

    @property
    def memories(self) -> tuple[Memory, ...]:
        return tuple(hit.memory for hit in self.hits)

    @property
    def ids(self) -> tuple[MemoryId, ...]:
        return tuple(hit.memory.id for hit in self.hits)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an episode, told back to the memory strategy."""

    task_id: str
    won: bool
    steps: int


@dataclass(frozen=True, slots=True)
class Example:
    """One episode as one training conversation. `learn[i]` is the loss weight of message i (0 for all but the
    student's own)."""

    messages: tuple[Message, ...]
    learn: tuple[float, ...]
    source: str
    memories: tuple[MemoryId, ...] = ()
    tools: tuple[Tool, ...] = ()


@dataclass(frozen=True, slots=True)
class Adapter:
    """A trained adapter on disk, with the counts that its manifest holds."""

    path: str
    base: str
    base_hash: str
    parameters: int
    examples: int
    tokens: int
    seconds: float
    losses: tuple[float, ...] = field(default=())


_ADAPTERS: dict[type, TypeAdapter[Any]] = {}


def _adapter(kind: type) -> TypeAdapter[Any]:
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def dump(value: object) -> str:
    """JSON text of a noun."""
    return _adapter(type(value)).dump_json(value).decode()


def load(kind: type[T], text: str | bytes) -> T:
    """A noun from its JSON text; raises pydantic's ValidationError with the field that is wrong."""
    value: T = _adapter(kind).validate_json(text)
    return value


def digest(value: Any) -> str:
    """sha256 of the canonical JSON form of a plain value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def run_hash(trajectories: Sequence[Trajectory]) -> str:
    """Content hash of a run: the sorted hashes of its trajectories; equal for an interrupted and an uninterrupted run."""
    return digest(sorted(trajectory.content_hash for trajectory in trajectories))
