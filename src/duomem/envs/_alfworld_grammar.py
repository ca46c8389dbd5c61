"""The text grammar of an ALFWorld game, parsed once and derived without copying.

In: the grammar text of a `game.tw-pddl` and the facts of a state. Out: the same words as textworld's own derivation (a test
holds them equal by hash). The parsers are textworld's; every distinct text is parsed once a process. Unlike the stock engine,
which gives each `{expression}` of a game file to Python's `eval`, only names, their fields, `+`, `or` and `and` are accepted.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import textwrap
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from duomem.envs._alfworld_facts import Binding, Condition, Facts, GrammarError, parse_query

_FIELDS = frozenset({"id", "name", "type", "definite", "indefinite"})
_GOAL = "Your task is to: UNKNOWN GOAL."
_GOAL_RULE = re.compile(r'"Your task is to: ((?:[^"\\]|\\.)*)"')
_LOCK = threading.RLock()  # textworld's parsers keep state: one thread at a time


@dataclass(frozen=True, slots=True)
class Entity:
    """What the grammar may say of an object, a receptacle or a place."""

    id: str
    type: str
    name: str
    definite: str = "the"
    indefinite: str = "a"


Values = Mapping[str, Entity]


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """`#symbol#`: another production."""

    symbol: str


@dataclass(frozen=True, slots=True)
class Value:
    """`expression` over the entities in scope."""

    evaluate: Callable[[Values], str]


@dataclass(frozen=True, slots=True)
class Each:
    """`{item | query}`: the item once for each answer of the query; once if there is no query."""

    item: Call | Value
    query: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Listing:
    """`[{item | query}]`: the items as an English list."""

    each: Each


Node = Text | Call | Value | Each | Listing
Production = tuple[tuple[Condition, ...], tuple[Node, ...]]


@dataclass(frozen=True, slots=True)
class Phrase:
    """The text of one kind of action: its command and its feedback. `reads` are the predicates that the command depends on."""

    command: tuple[Node, ...]
    feedback: tuple[Node, ...]
    reads: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Grammar:
    """All productions of a game and the phrases of its actions (by lower-case PDDL name)."""

    productions: Mapping[str, Sequence[Production]]
    phrases: Mapping[str, Phrase] = field(default_factory=dict)

    def derive(self, nodes: Sequence[Node], facts: Facts, entities: Values, binding: Binding) -> str:
        """The text of `nodes`. `binding` says which entity each slot of the action stands for."""
        values = {name: entities[entity] for (name, _), entity in binding.items()}
        return _Derivation(self.productions, facts, entities).text(nodes, values, binding)


@dataclass(frozen=True, slots=True)
class _Derivation:
    productions: Mapping[str, Sequence[Production]]
    facts: Facts
    entities: Values

    def text(self, nodes: Sequence[Node], values: Values, binding: Binding) -> str:
        return "".join([self._node(node, values, binding) for node in nodes])

    def _node(self, node: Node, values: Values, binding: Binding) -> str:
        if isinstance(node, Text):
            return node.text
        if isinstance(node, Value):
            return node.evaluate(values)
        if isinstance(node, Call):
            return self._call(node.symbol, values, binding)
        if isinstance(node, Each):
            return "".join(self._each(node, values, binding))
        items = self._each(node.each, values, binding)
        if not items:
            return self._call("list_empty", values, binding)
        if len(items) == 1:
            return items[0]
        comma = self._call("list_separator", values, binding)
        return comma.join(items[:-1]) + self._call("list_last_separator", values, binding) + items[-1]

    def _each(self, each: Each, values: Values, binding: Binding) -> list[str]:
        if not each.query:
            return [self._node(each.item, values, binding)]
        texts = []
        for answer in self.facts.answers(each.query, binding):
            seen = {**values, **{name: self.entities[entity] for (name, _), entity in answer.items()}}
            texts.append(self._node(each.item, seen, answer))
        return texts

    def _call(self, symbol: str, values: Values, binding: Binding) -> str:
        for query, nodes in self.productions.get(symbol, ()):
            if not query or self.facts.answers(query, binding):
                return self.text(nodes, values, binding)
        raise GrammarError(f"no rule of the grammar applies to #{symbol}#")


def parse_grammar(text: str) -> Grammar:
    """The grammar of a game. Games share all of it but the task sentence, so the rest is parsed once and kept.

    Raises `GrammarError` for text that does not parse.
    """
    with _LOCK:
        goals = list(_GOAL_RULE.finditer(text))
        if len(goals) != 1:
            return _parse_document(text)
        (goal,) = goals
        shared = _parse_document(f'{text[: goal.start()]}"{_GOAL}"{text[goal.end() :]}')
        mine = compile_text(json.loads(goal.group(0)))
        swap = compile_text(_GOAL)
        rules = {
            symbol: [(query, mine if nodes == swap else nodes) for query, nodes in choices]
            for symbol, choices in shared.productions.items()
        }
        return Grammar(rules, shared.phrases)


@lru_cache(maxsize=16)
def _parse_document(text: str) -> Grammar:
    actions, raw = _read_document(text)
    rules: dict[str, list[Production]] = {
        symbol: [(parse_query(choice.get("condition", "")), compile_text(choice["rhs"])) for choice in choices]
        for symbol, choices in raw.items()
    }
    phrases = {}
    for name, (template, feedback) in actions.items():
        command = compile_text(template)
        phrases[name] = Phrase(command, compile_text(feedback), tuple(sorted(_reads(command, rules, set()))))
    return Grammar(rules, phrases)


def _read_document(text: str) -> tuple[dict[str, tuple[str, str]], dict[str, list[dict[str, Any]]]]:
    """Actions (name -> template, feedback) and productions of a grammar document, through textworld's parser."""
    model = _model("logic", "PddlLogicParser", "PddlLogicModelBuilderSemantics", text, "pddlStart")
    actions: dict[str, tuple[str, str]] = {}
    rules: dict[str, list[dict[str, Any]]] = {}
    try:
        for part in model.parts:
            if type(part).__name__ == "ActionGrammarNode":
                rules.update(json.loads(_block(part.code)))
                continue
            actions[part.name.lower()] = (part.template.template[1:-1], part.feedback.name[1:-1])
            lines = _block(part.grammar.code).split("\n") if part.grammar else ["{}"]
            rules.update(json.loads("\n".join(line for line in lines if not line.lstrip().startswith("#"))))
    except (json.JSONDecodeError, AttributeError, TypeError) as error:
        raise GrammarError(f"the grammar's rules do not read as JSON objects: {error}") from error
    return actions, rules


def _block(code: str) -> str:
    return textwrap.dedent(code[3:-3])


@lru_cache(maxsize=4)
def _parser(kind: str, parser: str, semantics: str) -> Any:
    """A parser of our own, so that a user's textworld never shares its state."""
    base = f"textworld.envs.pddl.{kind}"
    rules = getattr(importlib.import_module(f"{base}.model"), semantics)()
    return getattr(importlib.import_module(f"{base}.parser"), parser)(semantics=rules, parseinfo=True)


def _model(kind: str, parser: str, semantics: str, text: str, rule: str) -> Any:
    failed = importlib.import_module("tatsu.exceptions").ParseException
    try:
        with _LOCK:
            return _parser(kind, parser, semantics).parse(text, rule_name=rule)
    except failed as error:
        raise GrammarError(f"the text grammar does not parse: {str(error).splitlines()[0]}") from error


@lru_cache(maxsize=4096)
def compile_text(text: str) -> tuple[Node, ...]:
    """The nodes of a template such as `You open the {r.name}. #examine#`."""
    symbols = _model("textgen", "CSGParser", "CSGModelBuilderSemantics", text, "symbols")
    return tuple(_node(symbol) for symbol in symbols)


def _node(symbol: Any) -> Node:
    kind = type(symbol).__name__
    if kind == "TerminalSymbol":
        return Text(symbol.literal.replace("\\n", "\n"))
    if kind == "NonterminalSymbol":
        return Call(symbol.symbol)
    if kind == "EvalSymbol":
        return Value(_expression(symbol.statement))
    if kind == "ConditionalSymbol":
        item = _node(symbol.expression)
        assert isinstance(item, Call | Value)
        return Each(item, parse_query(symbol.given or ""))
    each = _node(symbol.symbol)
    assert isinstance(each, Each)
    return Listing(each)


@lru_cache(maxsize=1024)
def _expression(text: str) -> Callable[[Values], str]:
    try:
        return _evaluator(ast.parse(text.strip(), mode="eval").body, text)
    except SyntaxError as error:
        raise GrammarError(f"the grammar's expression {text!r} does not parse") from error


def _evaluator(node: ast.expr, text: str) -> Callable[[Values], str]:
    """A function for the few expressions that ALFWorld's grammars use; anything else is refused, never run."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        constant = node.value
        return lambda values: constant
    if isinstance(node, ast.Name):
        name = node.id
        return lambda values: _look_up(values, name).name
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.attr in _FIELDS:
        owner, attribute = node.value.id, node.attr
        return lambda values: str(getattr(_look_up(values, owner), attribute))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _evaluator(node.left, text), _evaluator(node.right, text)
        return lambda values: left(values) + right(values)
    if isinstance(node, ast.BoolOp):
        first, *rest = [_evaluator(value, text) for value in node.values]
        stop = isinstance(node.op, ast.Or)

        def choose(values: Values) -> str:
            result = first(values)
            for option in rest:
                if bool(result) is stop:
                    return result
                result = option(values)
            return result

        return choose
    raise GrammarError(f"the grammar's expression {text!r} is more than names, fields, '+', 'or' and 'and': it is not run")


def _look_up(values: Values, name: str) -> Entity:
    if name not in values:
        raise GrammarError(f"the grammar speaks of {name!r}, which is not in scope")
    return values[name]


def _reads(nodes: Sequence[Node], rules: Mapping[str, Sequence[Production]], seen: set[str]) -> set[str]:
    """The predicates that the text of `nodes` can depend on."""
    found: set[str] = set()
    for node in nodes:
        each = node.each if isinstance(node, Listing) else node
        if isinstance(node, Listing):
            found |= _reads([Call("list_empty"), Call("list_separator"), Call("list_last_separator")], rules, seen)
        if isinstance(each, Each):
            found |= {condition.predicate for condition in each.query} | _reads([each.item], rules, seen)
        if isinstance(each, Call) and each.symbol not in seen:
            seen.add(each.symbol)
            for query, inner in rules.get(each.symbol, ()):
                found |= {condition.predicate for condition in query} | _reads(inner, rules, seen)
    return found
