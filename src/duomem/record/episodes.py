"""The exchanges of an episode as a forest, its main line, and why an episode can't be used where it can't.

In: exchanges with the ones they go on from, and an outcome. Out: an `Episode` with its trees. A line is followed while it is
certain what the agent went on from; a fork where it isn't is listed as a problem. Not here: SQL, training data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from duomem import wire
from duomem.record._kinds import Kind, Talk, asides, kinds
from duomem.record._links import fingerprint
from duomem.record._rows import Exchange, Outcome
from duomem.record.store import RecordStore
from duomem.types import Message, Reply, Usage

LOST = "lost"
"""The problem of an episode that is whole, but no success."""

UNLOCATED = "the task locator failed"
"""How the problem of an episode begins whose task the user's locator could not find, since it raised an error."""


@dataclass(frozen=True, slots=True)
class Tree:
    """One conversation and its retries. `line` is the part of it that the agent certainly went through, from the first on."""

    kind: Kind
    exchanges: tuple[Exchange, ...]
    line: tuple[Exchange, ...]
    choices: tuple[int, ...]
    """Which reply of each exchange on the line the agent went on from."""
    problem: str = ""

    @property
    def said(self) -> tuple[Message, ...]:
        """What the model said on the line, as far as it can be read."""
        return tuple(self.reply(index).message for index in range(len(self.line)) if self.line[index].answer)

    def reply(self, index: int) -> Reply:
        answer = self.line[index].answer
        assert answer is not None
        return answer.replies[self.choices[index]]


@dataclass(frozen=True, slots=True)
class Episode:
    """One recorded episode. `problem` says why it can't be a success to learn from; empty where it can."""

    id: str
    task: str
    exchanges: tuple[Exchange, ...]
    trees: tuple[Tree, ...]
    outcome: Outcome | None
    problem: str

    @property
    def main(self) -> tuple[Tree, ...]:
        """The main conversation, and its continuations after a change of history."""
        return tuple(tree for tree in self.trees if tree.kind != "side")

    @property
    def messages(self) -> tuple[Message, ...]:
        """The last conversation of the main line, its last reply included."""
        tree = self.main[-1] if self.trees else None
        return (*tree.line[-1].messages, tree.reply(-1).message) if tree and tree.line else ()

    @property
    def turns(self) -> int:
        return sum(len(tree.line) for tree in self.main)

    @property
    def usage(self) -> Usage:
        answers = [each.answer for each in self.exchanges if each.answer]
        return sum((reply.usage for answer in answers for reply in answer.replies), Usage())

    @property
    def usable(self) -> bool:
        return not self.problem


def read(store: RecordStore, name: str, outcome: Outcome | None) -> Episode:
    return build(name, store.exchanges(name), outcome)


def read_all(store: RecordStore) -> list[Episode]:
    """Every episode, in the order in which they began."""
    outcomes = store.outcomes()
    return [read(store, name, outcomes.get(name)) for name in store.episodes()]


def build(name: str, exchanges: Sequence[Exchange], outcome: Outcome | None) -> Episode:
    trees = _trees(exchanges)
    own = [each for tree in trees if tree.kind != "side" for each in tree.exchanges]
    task = next((each.task for each in own or exchanges if each.task), "")
    return Episode(name, task, tuple(exchanges), trees, outcome, _problem(exchanges, trees, task, outcome))


def _problem(exchanges: Sequence[Exchange], trees: Sequence[Tree], task: str, outcome: Outcome | None) -> str:
    if any(each.state == "open" for each in exchanges):
        return "an exchange is under way"
    if any(each.doubt for each in exchanges):
        return "ambiguous: its exchanges could belong to another episode with the same beginning"
    main = [tree for tree in trees if tree.kind != "side"]
    if not main:
        return "no reply came to its end"
    if problem := next((tree.problem for tree in main if tree.problem), "") or _stranger(main):
        return problem
    if not task and (failed := next((each.task_error for each in exchanges if each.task_error), "")):
        return f"{UNLOCATED}: {failed}"
    if outcome is None:
        return "no outcome"
    if not outcome.won:
        return LOST
    return "" if task else "the task locator found no task"


def _stranger(main: Sequence[Tree]) -> str:
    """A turn that another model answered than was asked, where the one asked answered others. (A router never does.)"""
    named = [(each, each.answer.model) for tree in main for each in tree.line if each.answer and each.answer.model]
    other = [(each, said) for each, said in named if not wire.same_model(each.model, said)]
    if not other or len(other) == len(named):
        return ""
    each, said = other[0]
    return f"{said!r} answered exchange {each.id} in the place of {each.model!r}"


def _trees(exchanges: Sequence[Exchange]) -> tuple[Tree, ...]:
    """Trees by their first request: the same request sent again is the same tree."""
    first: dict[int, str] = {}
    groups: dict[str, list[Exchange]] = {}
    for each in exchanges:
        root = first.get(each.parent or 0) or each.before
        first[each.id] = root
        groups.setdefault(root, []).append(each)
    found: list[Tree] = []
    apart: list[Tree] = []
    for members in groups.values():
        left = {each.id: each for each in asides(members)}
        apart += [_tree([each], "side") for each in left.values()]
        found.append(_tree([each for each in members if each.id not in left]))
    found = [tree for tree in found if tree.line or tree.problem]
    kind = kinds([Talk(tree.exchanges, tree.said) for tree in found])
    known = [replace(tree, kind=each) for tree, each in zip(found, kind, strict=True)]
    return tuple(sorted((*known, *apart), key=lambda tree: tree.exchanges[0].id))


def _tree(members: Sequence[Exchange], kind: Kind = "main") -> Tree:
    line, choices, problem = _line(members)
    return Tree(kind, tuple(members), line, choices, problem)


def _line(members: Sequence[Exchange]) -> tuple[tuple[Exchange, ...], tuple[int, ...], str]:
    """From the root on, what the agent went through; it ends at a leaf or at the first fork that can't be told."""
    known = {each.id for each in members}
    followers: dict[int, list[Exchange]] = {}
    for each in members:
        followers.setdefault(each.parent if each.parent in known else 0, []).append(each)
    line: list[Exchange] = []
    choices: list[int] = []
    now = 0
    while True:
        step, problem = _step(followers.get(now, []), followers)
        if step is not None and line:
            choices.append(step.choice)
        if step is None or problem:
            break
        line.append(step)
        if problem := _flaw(step):
            break
        now = step.id
    if len(choices) < len(line):
        choices.append(0)
        many = line[-1].answer
        if not problem and many and len(many.replies) > 1:
            problem = f"ambiguous: exchange {line[-1].id} has {len(many.replies)} last replies"
    return tuple(line), tuple(choices), problem


def _flaw(exchange: Exchange) -> str:
    if exchange.gap:
        return exchange.gap
    return f"exchange {exchange.id} went on from a reply that was cut" if exchange.state != "whole" else ""


def _step(options: Sequence[Exchange], followers: dict[int, list[Exchange]]) -> tuple[Exchange | None, str]:
    """The one that the agent went on with, or why that can't be told. Tries without a whole reply are no options."""
    used = [each for each in options if followers.get(each.id) and each.answer]
    alive = used or [each for each in options if each.state == "whole"]
    alive = [each for each in alive if each.delivered] or alive
    if not alive:
        cut = [each.id for each in options if each.state == "broken"]
        return None, f"its last reply, exchange {cut[-1]}, was cut" if cut else ""
    if len({each.before for each in options if each.state == "whole" or each in used}) > 1 or len(used) > 1:
        return None, f"ambiguous: a fork at exchanges {', '.join(str(each.id) for each in options)}"
    same = {fingerprint(each.before, reply.message) for each in alive if each.answer for reply in each.answer.replies}
    if len(alive) > 1 and len(same) > 1:
        return None, f"ambiguous: exchanges {', '.join(str(each.id) for each in alive)} are the same request with other replies"
    return alive[-1], ""
