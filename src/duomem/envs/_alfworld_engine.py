"""ALFWorld's real engine without the work that the stock wrappers repeat.

In: the text of a `game.tw-pddl`. Out: a `Session` whose feedback, commands and facts equal those of the stock environment.
The rules of the world stay Fast Downward's: its translation (once a game, kept) and its C library (one copy for each running
session, lent from a pool). Nothing in textworld, alfworld or fast_downward is patched; the translator is a private copy,
because the stock call swaps `sys.stdout`, `sys.argv` and module-wide options under everybody's feet.
"""

from __future__ import annotations

import os
import threading
import weakref
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from duomem.envs._alfworld_facts import Facts, GrammarError, Slot
from duomem.envs._alfworld_grammar import Entity, Grammar, Node, compile_text, parse_grammar
from duomem.envs._alfworld_translate import translate
from duomem.errors import DataError, InfraError

NOTHING = "Nothing happens."


@dataclass(frozen=True, slots=True)
class GameText:
    """The three texts of a game file that make a world."""

    domain: str
    problem: str
    grammar: str


@dataclass(frozen=True, slots=True)
class World:
    """A game made ready: what all of its sessions share."""

    name: str
    """What the game is called in errors: its file."""
    sas: bytes
    """Fast Downward's input, zlib-compressed (a megabyte of text becomes some 25 kB)."""
    grammar: Grammar
    parameters: Mapping[str, tuple[Slot, ...]]
    """The slots of each PDDL action, by its name."""
    types: Mapping[str, str]
    """The type of each PDDL object."""
    entities: Mapping[str, Entity]
    facts: Facts
    """Those of the first state; sessions copy them."""
    intro: str


@dataclass(frozen=True, slots=True)
class _Choice:
    """A grounded operator of the C library: its id and how many effects it has, its action and its slots."""

    operator: int
    effects: int
    action: str
    binding: Mapping[Slot, str]


class Engine:
    """Opens games. Thread-safe; keeps the last `keep` games ready and as many C libraries as there were sessions at once."""

    def __init__(self, keep: int = 256) -> None:
        self.keep = keep
        self._worlds: OrderedDict[str, World] = OrderedDict()
        self._libraries: list[Any] = []
        self._renew()
        renew = weakref.WeakMethod(self._renew)
        os.register_at_fork(after_in_child=lambda: (method := renew()) and method())

    def _renew(self) -> None:
        """New locks: a lock that another thread held at a fork would stay locked in the child for ever."""
        self._lock, self._making = threading.Lock(), threading.Lock()

    def open(self, key: str, name: str, game: Callable[[], GameText]) -> Session:
        """A new session of a game. `key` is the hash of what `game` reads when it is needed; `name` says its file in errors.

        Raises `DataError` for a game that does not parse, `InfraError` where the C library cannot be loaded.
        """
        library = self._take()
        session = None
        try:
            session = Session(self._world(key, name, game, library), library, self._libraries.append)
        finally:
            if session is None:
                self._libraries.append(library)
        return session

    def _world(self, key: str, name: str, game: Callable[[], GameText], library: Any) -> World:
        with self._lock:
            if key in self._worlds:
                self._worlds.move_to_end(key)
                return self._worlds[key]
        with self._making:  # the translator keeps state in its modules: one game at a time
            world = self._worlds.get(key) or _prepare(name, game(), library)
            with self._lock:
                self._worlds[key] = world
                while len(self._worlds) > self.keep:
                    self._worlds.popitem(last=False)
        return world

    def _take(self) -> Any:
        try:
            return self._libraries.pop()
        except IndexError:
            pass
        try:
            return import_module("fast_downward").load_lib()
        except OSError as error:
            raise InfraError(
                f"Fast Downward's library could not be loaded: {error}. It is copied to the temporary folder for each running "
                "episode: check its free space and that it allows executables."
            ) from error


class Session:
    """One play of one game, from its first state. Not thread-safe. `close` gives the C library back; it may be called again."""

    def __init__(self, world: World, library: Any, give: Callable[[Any], None]) -> None:
        self.world = world
        self._library = library
        library.load_sas(zlib.decompress(world.sas))
        self._facts = world.facts.copy()
        self._memo: dict[int, tuple[tuple[int, ...], str, _Choice]] = {}
        self._commands: dict[str, _Choice] | None = None
        self._end = weakref.finalize(self, give, library)  # gives it back for a session that nobody closed, too
        self._end.atexit = False

    @property
    def won(self) -> bool:
        return bool(self._library.check_goal())

    def admissible(self) -> list[str]:
        """All commands that do something in this state, sorted, each once."""
        return sorted(self._choices())

    def facts(self) -> list[tuple[str, tuple[tuple[str, str], ...]]]:
        """The true facts, sorted: (predicate, ((name, type), ...)). Hidden state: for tests and proofs, never for an agent."""
        names = self.world.entities
        rows = (
            (predicate, tuple((names[arg].name, kind) for arg, kind in zip(row, types, strict=True)))
            for (predicate, types), row in self._facts.all()
        )
        return sorted(rows)

    def step(self, command: str) -> str:
        """The game's answer to a command; `Nothing happens.` for one that is not admissible here, which changes nothing."""
        choice = self._choices().get(command.strip())
        if choice is None:
            return NOTHING
        self._apply(choice)
        self._commands = None
        return self._derive(self.world.grammar.phrases[choice.action].feedback, choice.binding)

    def close(self) -> None:
        self._library = None
        self._end()

    def _derive(self, nodes: Sequence[Node], binding: Mapping[Slot, str]) -> str:
        try:
            return self.world.grammar.derive(nodes, self._facts, self.world.entities, binding)
        except GrammarError as error:
            raise DataError(f"{self.world.name}: {error}.") from error

    def _choices(self) -> dict[str, _Choice]:
        """Command -> operator, for this state; the first operator wins where two have one command, as in the stock engine."""
        if self._commands is None:
            self._commands = {}
            for operator in _operators(self._library):
                command, choice = self._phrase(operator)
                self._commands.setdefault(command, choice)
        return self._commands

    def _phrase(self, operator: Any) -> tuple[str, _Choice]:
        """An operator's command. It is kept for the session and made again only if a predicate that it reads has changed."""
        known = self._memo.get(operator.id)
        if known is None:
            action, *arguments = operator.name.split()
            slots = self.world.parameters[action]
            choice = _Choice(operator.id, operator.nb_effect_atoms, action, dict(zip(slots, arguments, strict=False)))
        else:
            choice = known[2]
        phrase = self.world.grammar.phrases.get(choice.action)
        if phrase is None:
            raise DataError(f"{self.world.name}: the grammar has no action {choice.action!r}, but the PDDL domain has.")
        versions = self._facts.versions(phrase.reads)
        if known is None or known[0] != versions:
            known = self._memo[operator.id] = (versions, self._derive(phrase.command, choice.binding), choice)
        return known[1], choice

    def _apply(self, choice: _Choice) -> None:
        effects = (import_module("fast_downward").Atom * choice.effects)()
        self._library.apply_operator(choice.operator, effects)
        for effect in effects:
            true, name, row = _read_atom(effect.name)
            types = tuple([self.world.types[entity] for entity in row])
            self._facts.discard((f"not_{name}" if true else name, types), row)
            self._facts.add((name if true else f"not_{name}", types), row)


def _operators(library: Any) -> Any:
    count = library.get_applicable_operators_count()
    operators = (import_module("fast_downward").Operator * count)()
    library.get_applicable_operators(operators)
    return operators


@lru_cache(maxsize=65536)
def _read_atom(text: str) -> tuple[bool, str, tuple[str, ...]]:
    """`Atom holds(agent1, mug)` or `NegatedAtom ...` -> (true, predicate, arguments)."""
    sign, rest = text.split(" ", 1)
    name, arguments = rest.split("(", 1)
    return sign != "NegatedAtom", name, tuple(argument for argument in arguments[:-1].split(", ") if argument)


def _prepare(name: str, game: GameText, library: Any) -> World:
    try:
        grammar = parse_grammar(game.grammar)
        translation = translate(game.domain, game.problem)
        facts = Facts(_subtypes(translation.supertypes))
        library.load_sas(translation.sas)
        for predicate, row in [*translation.facts, *_state(library)]:
            facts.add((predicate, tuple(translation.types[entity] for entity in row)), row)
        entities = _entities(facts)
        intro = grammar.derive(compile_text("#intro#"), facts, entities, {})
    except GrammarError as error:
        raise DataError(f"{name}: {error}. Make the game again, or leave it out.") from error
    sas = zlib.compress(translation.sas, 1)
    return World(name, sas, grammar, translation.parameters, translation.types, entities, facts, intro)


def _state(library: Any) -> list[tuple[str, tuple[str, ...]]]:
    atoms = (import_module("fast_downward").Atom * library.get_state_size())()
    library.get_state(atoms)
    read = [_read_atom(atom.name) for atom in atoms]
    return [(name, row) for true, name, row in read if true and not name.startswith("not_")]


def _entities(facts: Facts) -> dict[str, Entity]:
    """Everything that a fact speaks of, under the names that ALFWorld's own demangler gives."""
    types = {entity: kind for (_, kinds), row in facts.all() for entity, kind in zip(row, kinds, strict=True)}
    demangler = import_module("alfworld.agents.utils.misc").Demangler
    names = demangler(game_infos={entity: SimpleNamespace(id=entity) for entity in types})
    return {entity: Entity(entity, kind, names.demangle_alfred_name(entity)) for entity, kind in types.items()}


def _subtypes(supertypes: Mapping[str, tuple[str, ...]]) -> Any:
    """textworld's own walk over the subtypes of a signature: its order is part of what a player reads."""
    logic = import_module("textworld.logic")
    hierarchy = logic.TypeHierarchy()
    for name, parents in supertypes.items():
        hierarchy.add(logic.Type(name, parents))
    known: dict[tuple[str, ...], list[tuple[str, ...]]] = {}

    def subtypes(types: tuple[str, ...]) -> list[tuple[str, ...]]:
        if types not in known:
            unknown = sorted(set(types) - set(supertypes))
            if unknown:
                raise GrammarError(f"the grammar speaks of the type {unknown[0]!r}, which the PDDL domain does not have")
            found = hierarchy.multi_subtypes([hierarchy.get(name) for name in types])
            known[types] = [tuple(kind.name for kind in kinds) for kinds in found]
        return known[types]

    return subtypes
