"""Invented words and invented procedures for the pocket student's corpus.

In: a random generator and what a room holds. Out: verbs that exist in no real task, procedures made of them, the words
of a task and the
guide that a memory would show for it. No procedure has the shape of one of ALFWorld's six task types (`REAL_SHAPES`),
whatever its words.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from duomem.policy import Kind, Step

REAL_SHAPES = frozenset({"tm", "tpm", "tmtm", "tu"})
"""take-move, take-process-move, twice take-move, take-use: the shapes of the six task types. Never generated."""
REAL_TASK = re.compile(
    r"put an? (?:clean|hot|cool) |(?:clean|heat|cool) some |put two |find two |"
    r"look at \S+ under|examine the \S+ with|put (?:a|some) \S+ (?:in|on) "
)
"""The wordings of real tasks. A sentence that matches is drawn again."""
_OWN = {"take": ("take",), "move": ("move",), "use": ("use",), "process": ("clean", "heat", "cool")}
_TOOL = {"clean": "sinkbasin", "heat": "microwave", "cool": "fridge"}
_REAL_VERBS = ("take", "move", "use", "clean", "heat", "cool")
_REAL_PREPOSITION = {"take": "from", "move": "to"}
_ADJECTIVES = ("put", "clean", "hot", "cool", "heat", "find", "look", "examine", "get", "bring")
_LETTER = {"take": "t", "move": "m", "process": "p", "use": "u"}
_PREPOSITIONS = ("from", "to", "off", "in", "on", "into", "by", "near", "over", "under")
_FILLERS = ("a", "some", "the", "it", "and", "in", "on", "with", "under", "two", "them", "at", "of", "then")


@cache
def invented_words(number: int = 300) -> tuple[str, ...]:
    """Pronounceable words that are not English, the same ones every time."""
    rng = random.Random("duomem invented words")
    onsets = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "dr", "gl", "kr", "pl", "st", "tr")
    vowels = ("a", "e", "i", "o", "u")
    codas = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "v", "x", "z")
    words: dict[str, None] = {}
    while len(words) < number:
        word = rng.choice(onsets) + rng.choice(vowels) + rng.choice(onsets[:14]) + rng.choice(vowels) + rng.choice([*codas, ""])
        words.setdefault(word)
    return tuple(words)


@dataclass(frozen=True, slots=True)
class Verb:
    """How one kind of step is said: a word and a preposition."""

    word: str
    preposition: str


def means_itself(kind: Kind, verb: Verb) -> bool:
    """True where a real verb stands for its real operation: `take` takes, `heat` is a tool's use."""
    return verb.word in _OWN[kind]


@dataclass(frozen=True, slots=True)
class Slot:
    """One step of a procedure before its nouns are chosen. `thing` and `place` index the procedure's nouns; a fixed
    tool is a class."""

    kind: Kind
    verb: Verb
    thing: int
    place: int | str = ""


@dataclass(frozen=True, slots=True)
class Procedure:
    """Steps over noun slots, and the words of its tasks ("{a0}" and "{p0}" stand for nouns)."""

    slots: tuple[Slot, ...]
    words: str

    def task(self, things: Sequence[str], places: Sequence[str]) -> str:
        text = self.words
        for index, noun in enumerate(things):
            text = text.replace(f"{{a{index}}}", noun)
        for index, noun in enumerate(places):
            text = text.replace(f"{{p{index}}}", noun)
        return text

    def steps(self, things: Sequence[str], places: Sequence[str], found: Sequence[Sequence[str]]) -> list[Step]:
        """Steps with their nouns; `found[i]` lists the place classes to search at step i (for takes and uses)."""
        steps = []
        for slot, searched in zip(self.slots, found, strict=True):
            where = tuple(searched) if slot.kind in ("take", "use") else (place_of(slot, places),)
            steps.append(Step(slot.kind, things[slot.thing], where, slot.verb.word))
        return steps

    def guide(self, things: Sequence[str], places: Sequence[str], found: Sequence[Sequence[str]]) -> str:
        """The text a memory of this procedure would have, in the form `duomem.memory.procedure` writes."""
        lines = [self.task(things, places)]
        for number, (slot, searched) in enumerate(zip(self.slots, found, strict=True), 1):
            where = ", ".join(searched) if slot.kind in ("take", "use") else place_of(slot, places)
            lines.append(f"{number}. {say(things[slot.thing], slot.verb, where)}")
        return "\n".join(lines)

    @property
    def shape(self) -> str:
        return shape(self.slots)


def shape(slots: Sequence[Slot]) -> str:
    """The procedure's kinds as letters, for example "tpm"."""
    return "".join(_LETTER[slot.kind] for slot in slots)


def place_of(slot: Slot, places: Sequence[str]) -> str:
    return slot.place if isinstance(slot.place, str) else places[slot.place]


def say(thing: str, verb: Verb, place: str) -> str:
    """`mug: zorid off shelf`, the form of a thought and of a guide's line."""
    return f"{thing}: {verb.word} {verb.preposition} {place}"


def invent(rng: random.Random, tools: Sequence[str]) -> Procedure:
    """A procedure of 1 to 6 steps, never of a real shape, in invented verbs, real verbs that mean something else, and real
    ones that mean themselves; but where `take` takes, neither `move` moves nor `use` uses. `tools` are place classes to choose
    fixed tools from."""
    while True:
        slots = _slots(rng, tools)
        if shape(slots) not in REAL_SHAPES and not near_real(slots):
            return Procedure(tuple(slots), _words(rng, slots))


def near_real(slots: Sequence[Slot]) -> bool:
    """True where real verbs that mean themselves take a thing and also move something or use a lamp."""
    real = {slot.kind for slot in slots if means_itself(slot.kind, slot.verb)}
    return "take" in real and bool(real & {"move", "use"})


def rename(rng: random.Random, procedure: Procedure, tools: Sequence[str]) -> Procedure:
    """A distractor: the same words but for one, another procedure."""
    known = [word for word in procedure.words.split() if word in invented_words() or word in _ADJECTIVES]
    other = invent(rng, tools)
    same_nouns = _nouns(other.slots) == _nouns(procedure.slots)
    words = procedure.words.replace(rng.choice(known), _naming(rng, invented_words()), 1) if known else procedure.words
    if words == procedure.words or not same_nouns or REAL_TASK.search(words):
        return other
    return Procedure(other.slots, words)


def real(rng: random.Random, tools: Sequence[str], lamps: Sequence[str]) -> Procedure | None:
    """Real verbs in guided use, but never with `move` and never a lamp beside a held object, so never a real task's
    procedure."""
    process = [
        slot
        for tool, verb in (("sinkbasin", "clean"), ("microwave", "heat"), ("fridge", "cool"))
        if tool in tools
        for slot in [(verb, tool)]
    ]
    if lamps and (not process or rng.random() < 0.3):
        slots = [Slot("use", Verb("use", "at"), 0)]
    elif process:
        rng.shuffle(process)
        slots = [Slot("take", Verb("take", "from"), 0)]
        slots += [Slot("process", Verb(verb, "with"), 0, tool) for verb, tool in process[: rng.randint(1, 3)]]
    else:
        return None
    return Procedure(tuple(slots), _words(rng, slots))


def _slots(rng: random.Random, tools: Sequence[str]) -> list[Slot]:
    kinds: tuple[Kind, ...] = ("take", "move", "use", "process", "process", "process")
    take, move, use, *process = (_verb(rng, kind, tools) for kind in kinds)
    slots: list[Slot] = []
    held, thing, target = False, 0, 0
    fixed = rng.random() < 0.3
    for _ in range(rng.choice((1, 2, 2, 3, 3, 3, 4, 4, 5, 6))):
        choice = rng.random()
        if not held and choice < 0.8:
            slots.append(Slot("take", take, thing))
            held = True
        elif not held:
            slots.append(Slot("use", use, 1))
        elif choice < 0.45:
            verb = rng.choice(process)
            slots.append(Slot("process", verb, thing, _TOOL.get(verb.word) or rng.choice(tools)))
        elif choice < 0.85:
            slots.append(Slot("move", move, thing, rng.choice(tools) if fixed else target))
            held, thing = False, (thing if rng.random() < 0.7 else 2)
            target = target if rng.random() < 0.7 else 1
        else:
            slots.append(Slot("use", use, 1))
    return slots


def _verb(rng: random.Random, kind: Kind, tools: Sequence[str]) -> Verb:
    """An invented word, a real one that means itself, or a real one that means something else here."""
    draw = rng.random()
    own = [word for word in _OWN[kind] if kind != "process" or _TOOL[word] in tools]
    if draw < 0.4 and own:
        return Verb(rng.choice(own), _REAL_PREPOSITION.get(kind) or _preposition(rng, kind))
    if draw < 0.55:
        return Verb(rng.choice([word for word in _REAL_VERBS if word not in _OWN[kind]]), _preposition(rng, kind))
    return Verb(rng.choice(invented_words()), _preposition(rng, kind))


def _preposition(rng: random.Random, kind: Kind) -> str:
    """`with` marks a tool's use, `at` a use in place, as in the game; else a guide would not say what to open or to name."""
    return {"process": "with", "use": "at"}.get(kind) or rng.choice(_PREPOSITIONS)


def _nouns(slots: Sequence[Slot]) -> list[str]:
    """The noun slots a task's words must name: every thing, and every place that is not a fixed tool."""
    nouns = [f"{{a{slot.thing}}}" for slot in slots]
    nouns += [f"{{p{slot.place}}}" for slot in slots if isinstance(slot.place, int)]
    return list(dict.fromkeys(nouns))


def _words(rng: random.Random, slots: Sequence[Slot]) -> str:
    """A sentence of invented and common words and noun slots, such as "zorid a plemu {a0} in {p0}.", but no real task's."""
    verbs = [slot.verb.word for slot in slots]
    while True:
        parts: list[str] = []
        for index, noun in enumerate(_nouns(slots)):
            words = [rng.choice(_FILLERS) for _ in range(rng.choice((0, 1, 1, 2)))]
            if index == 0 or rng.random() < 0.4:
                words.insert(0 if index == 0 else rng.randint(0, len(words)), _naming(rng, verbs))
            if index == 0 and rng.random() < 0.4:
                words.append(_naming(rng, verbs))
            parts += [*words, noun]
        sentence = " ".join(parts) + rng.choice((".", ".", ""))
        if not REAL_TASK.search(sentence):
            return sentence


def _naming(rng: random.Random, verbs: Sequence[str]) -> str:
    """A word that tells one procedure's tasks from another's."""
    draw = rng.random()
    return rng.choice(verbs) if draw < 0.3 else rng.choice(_ADJECTIVES) if draw < 0.65 else rng.choice(invented_words())
