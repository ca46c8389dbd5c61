"""Which conversation is in which of llama.cpp's slots, for whom, and how their caches outlive the engine.

In: prompts as token ids, their owners; a folder for caches. Out: the slot that has most of a prompt already; files that a later
engine of the same weights reads again. The engine itself reuses what a slot's cache and a prompt have in common.
"""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from duomem.errors import InfraError

INDEX = "slots.json"


@dataclass(frozen=True, slots=True)
class Held:
    """What a slot's cache holds: the last prompt, and whose it was."""

    ids: tuple[int, ...] = ()
    owner: str = ""

    def shared(self, ids: Sequence[int], owner: str) -> int:
        """Tokens that a prompt of that owner has in common with it."""
        if owner != self.owner:
            return 0
        both = zip(self.ids, ids, strict=False)
        return next((index for index, (ours, theirs) in enumerate(both) if ours != theirs), min(len(self.ids), len(ids)))


@dataclass(frozen=True, slots=True)
class Taken:
    """A slot for one answer; `fresh` where its cache is another owner's and must not be used."""

    slot: int
    fresh: bool


class Slots:
    """Safe for many threads."""

    def __init__(self, count: int) -> None:
        self._held = [Held()] * count
        self._free = list(range(count))
        """Least recently used first."""
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, ids: tuple[int, ...], owner: str) -> Iterator[Taken]:
        """A free slot: the one whose prompt these ids continue, else an empty one, else of the longer unused half the one with
        most in common."""
        with self._changed:
            while not self._free:
                self._changed.wait()
            slot = self._best(ids, owner)
            fresh = bool(self._held[slot].ids) and self._held[slot].owner != owner
            self._free.remove(slot)
            self._held[slot] = Held(ids, owner)
        try:
            yield Taken(slot, fresh)
        finally:
            with self._changed:
                self._free.append(slot)
                self._changed.notify()

    def _best(self, ids: tuple[int, ...], owner: str) -> int:
        shared = {slot: self._held[slot].shared(ids, owner) for slot in self._free}
        continued = [slot for slot in self._free if self._held[slot].ids and shared[slot] == len(self._held[slot].ids)]
        if continued:
            return max(continued, key=lambda slot: shared[slot])
        empty = [slot for slot in self._free if not self._held[slot].ids]
        older = self._free[: (len(self._free) + 1) // 2]  # a conversation that was heard of lately will go on
        return empty[0] if empty else max(older, key=lambda slot: shared[slot])

    def save(self, folder: Path, engine: Engine) -> int:
        """Write the caches of all slots that hold something; how many. Raises `InfraError`."""
        with self._changed:
            full = {slot: self._held[slot] for slot in self._free if self._held[slot].ids}
        for slot in full:
            engine.order(slot, "save", _name(slot))
        (folder / INDEX).write_text(json.dumps({str(slot): asdict(held) for slot, held in full.items()}), encoding="utf-8")
        return len(full)

    def restore(self, folder: Path, engine: Engine) -> int:
        """Read saved caches again, before anything is asked; how many. Caches that do not fit are left out."""
        index = folder / INDEX
        if not index.is_file():
            return 0
        done = 0
        for name, held in json.loads(index.read_text(encoding="utf-8")).items():
            slot = int(name)
            if slot >= len(self._held) or not (folder / _name(slot)).is_file():
                continue
            try:
                engine.order(slot, "restore", _name(slot))
            except InfraError:
                continue  # written by another build of the engine: the conversation is read again
            with self._changed:
                self._held[slot] = Held(tuple(held["ids"]), held["owner"])
            done += 1
        return done


@dataclass(frozen=True, slots=True)
class Engine:
    """llama.cpp's own HTTP server, which has the orders for slots; `key` is the one that nobody else knows."""

    url: str
    key: str

    def order(self, slot: int, action: str, name: str) -> None:
        """Raises `InfraError`."""
        request = urllib.request.Request(
            f"{self.url}/slots/{slot}?action={action}",
            json.dumps({"filename": name}).encode(),
            {"content-type": "application/json", "authorization": f"Bearer {self.key}"},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=60) as answer:
                answer.read()
        except (urllib.error.URLError, OSError) as error:
            raise InfraError(f"models/llamacpp: the cache of slot {slot} cannot be {action}d: {error}") from error


def _name(slot: int) -> str:
    return f"slot{slot}.bin"
