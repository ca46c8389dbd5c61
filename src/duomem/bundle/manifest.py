"""What a bundle says of itself: manifest.json, and the names that its members may have.

In: JSON. Out: a checked `Manifest`. Every open part of a bundle is pinned here by hash; the signature covers this file. It
reads no other file and decides nothing.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from duomem.errors import DataError
from duomem.types import Budget, Sampling

FORMAT = 1
"""Version of the bundle's format; a reader refuses a newer one."""

MANIFEST, SIGNATURE = "manifest.json", "model.sig"
"""The two files that are no members: the manifest lists the members, the signature covers members and manifest."""
CARD, BANK, LAYOUT, PROMPTS, ADAPTER, GGUF = "README.md", "bank.sqlite", "layout.json", "prompts.json", "adapter", "gguf"
TEMPLATE, PARITY, TOKENIZER = "chat_template.jinja", "parity.json", "tokenizer"

Sha = str
_HEX64 = r"^[0-9a-f]{64}$"

NAMES = re.compile(
    r"README\.md|LICENSE|report\.(json|md|html)|bank\.sqlite|layout\.json|prompts\.json|parity\.json|chat_template\.jinja"
    r"|adapter/(adapter_model\.safetensors|adapter_config\.json|manifest\.json)"
    r"|gguf/[a-z0-9][a-z0-9._-]{0,60}\.gguf"
    r"|(tokenizer|embedder)/[a-z0-9][a-z0-9._-]{0,60}\.(json|jinja|txt|model|safetensors|gguf|onnx)"
)
"""Every name that a member may have, in full. A bundle with any other file is refused."""


class Part(BaseModel):
    """A table of the manifest."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Member(Part):
    """One file of the bundle."""

    path: str
    """Relative to the bundle, with forward slashes; one of `NAMES`."""
    size: int = Field(ge=0)
    """Bytes."""
    sha256: Sha = Field(pattern=_HEX64)

    @field_validator("path")
    @classmethod
    def _known(cls, value: str) -> str:
        if not NAMES.fullmatch(value):
            raise ValueError("no member of a bundle has such a name")
        return value


class Base(Part):
    """The base model that the student is. It is not in the bundle, unless `Engine.kind` is "merged"."""

    name: str
    """duomem/pocket (it ships with the package), a hub name, or the last part of a folder's path."""
    source: Literal["package", "hub", "folder", "endpoint"]
    """Where it is found: in the package, in the hub's cache, in a folder that the user names, behind an endpoint."""
    revision: str = ""
    """Revision of a hub name."""
    weights_sha256: str = ""
    """`duomem.weights.base_hash` of its safetensors."""
    tokenizer_sha256: str = ""
    """`duomem.weights.tokenizer_hash` of its tokenizer with its chat template."""
    template_sha256: str = ""
    """sha256 of the chat template's text."""
    files: dict[str, Sha] = {}
    """sha256 of its config, tokenizer and template files by name; they are compared before anything is loaded."""


class Gguf(Part):
    """One GGUF file, as llama.cpp reads it."""

    path: str
    """The member's path."""
    kind: Literal["adapter", "merged"]
    """"adapter": to be laid over the base; "merged": base and adapter in one file, which needs no base."""
    weights: str
    """Precision: f32, f16, q8_0, ..."""


class Embedder(Part):
    """What turned the bank's keys into vectors."""

    name: str
    revision: str
    dim: int
    file: str = ""
    """A member that holds its weights; empty where it is code of this package or weights of a package (see `name`)."""


class Memories(Part):
    """The bank and how it is asked. Recall is a pure function of these, the bank and the task."""

    version: int
    """Version of the bank that is shown; the file is never written to."""
    content_sha256: Sha
    """`content_hash` of that version's view."""
    count: int
    """Memories alive in it."""
    strategy: str
    """Name of the memory strategy."""
    options: dict[str, Any]
    """The strategy's own options."""
    k: int
    floor: float
    tokens: int
    retrieval: Literal["dense", "bm25", "hybrid"]
    embedder: Embedder
    agreement: float = 1.0
    """Share of checked searches whose results by int8 vectors are those by float32."""

    @property
    def budget(self) -> Budget:
        return Budget(self.k, self.floor, self.tokens)


class TaskRule(Part):
    """How the task is found in a request."""

    locator: str
    """A spec of `duomem.record.functions.locator`. Prompts that the layout wrote are read by the layout itself, before it."""
    pin: str = ""
    """Hash of a callable's source, where the locator is the user's own function."""


class Student(Part):
    """How the student is asked."""

    model: str
    """The component that played the evaluation: hf, llamacpp, openai_api."""
    thinking: Literal["off", "keep"] = "off"
    tool_calls: Literal["auto", "text"] = "auto"
    temperature: float = 0.0
    max_tokens: int = 48
    max_steps: int = 30
    """Turns that an episode of the evaluation had."""

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.max_tokens)


class Verdict(Part):
    """What was decided, by which figures."""

    arm: Literal["none", "memory", "adapter", "both"]
    memory: bool
    adapter: bool
    words: str
    rule: str
    forced: bool = False
    """The user chose another arm than the decision (`--arm`)."""


class Figure(Part):
    """One arm's success, as fractions."""

    success: float
    low: float
    high: float
    games: int


class Teacher(Part):
    """Whose output the parts were made from."""

    name: str
    licence: str
    """Licence or terms of its output; "unknown" where nobody said."""


class Data(Part):
    """What the parts were made from and measured on."""

    env: str
    train_split: str
    episodes: int
    episodes_sha256: str
    """Content hash of the teacher's episodes."""
    eval_split: str
    eval_games: int
    facts: dict[str, str] = {}


class Parity(Part):
    """The replay-parity gate that the bundle passed; `parity.json` holds what was compared."""

    requests: int
    episodes: int
    against: str
    """Which recorded episodes."""


class Rescored(Part):
    """What became of the student in the GGUF file, against the one that was measured."""

    weights: str
    replies: int
    """Recorded replies that were asked for again."""
    equal: int
    """Those that came back word for word."""
    games: int = 0
    """Games that both played; 0 where the same words made that needless."""
    change: float = 0.0
    """Success less that of the measured one, as a fraction."""
    low: float = 0.0
    """Lower end of its paired 95% interval."""
    split: str = ""


class Manifest(Part):
    """manifest.json."""

    format: int
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Of the run; with `version` and the key it says which bundle is the newer one."""
    version: int = Field(ge=1)
    """Counts up with every bundle of that name; a device refuses one older than it had."""
    duomem: str
    """Version of the package that wrote it."""
    commit: str = ""
    made: str = ""
    """When the evaluation ended (UTC); no clock is read when a bundle is made, so the same run gives the same bytes."""
    config_hash: str
    seed: int
    """The seed whose adapter and bank these are; figures are over all seeds."""
    base: Base
    student: Student
    layout_hash: str
    task: TaskRule
    verdict: Verdict
    figures: dict[str, Figure]
    teacher: Teacher
    data: Data
    adapter_sha256: str = ""
    """`duomem.weights.adapter_hash` of adapter/; empty where there is none."""
    gguf: tuple[Gguf, ...] = ()
    memory: Memories | None = None
    rescored: Rescored | None = None
    """None where no GGUF file is in the bundle, or there was nothing to compare it with."""
    parity: Parity | None = None
    """None only in a bundle that was written with `--parity 0`."""
    members: tuple[Member, ...]

    @model_validator(mode="after")
    def _whole(self) -> Manifest:
        paths = [member.path for member in self.members]
        if paths != sorted(set(paths)):
            raise ValueError("members are not sorted, or one is there twice")
        has = set(paths)
        for what, wanted, path in (
            ("verdict.adapter", self.verdict.adapter, f"{ADAPTER}/adapter_model.safetensors"),
            ("verdict.memory", self.verdict.memory, BANK),
        ):
            if wanted != (path in has):
                raise ValueError(f"{what} is {wanted}, and the members say otherwise ({path})")
        if (self.memory is not None) != self.verdict.memory:
            raise ValueError("memory and verdict disagree")
        if missing := [path for path in (CARD, LAYOUT, *(each.path for each in self.gguf)) if path not in has]:
            raise ValueError(f"{missing[0]} is not among the members")
        return self

    def member(self, path: str) -> Member | None:
        return next((member for member in self.members if member.path == path), None)

    def to_json(self) -> bytes:
        return (self.model_dump_json(indent=1) + "\n").encode()


def read_manifest(text: bytes, where: str) -> Manifest:
    """Raises `DataError` for what is no manifest, or one of a newer format."""
    try:
        head = _Head.model_validate_json(text)
        if head.format != FORMAT:
            raise DataError(f"{where} has bundle format {head.format}; this duomem reads format {FORMAT}. Update duomem.")
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise DataError(f"{where}: {MANIFEST} is not one that duomem wrote: {place}: {first['msg']}.") from error


class _Head(BaseModel):
    format: int
