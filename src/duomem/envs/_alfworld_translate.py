"""PDDL to Fast Downward's own input, through a private copy of Fast Downward's translator.

In: the domain and the problem as text. Out: the same SAS text as `fast_downward.pddl2sas`, and what the engine needs of the
task. The copy is loaded under a name of its own with its own options and `print`, so `sys.stdout`, `sys.argv` and the options
of the library that a user may have loaded stay as they are. Not thread-safe: the caller holds a lock.
"""

from __future__ import annotations

import importlib.util
import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

from duomem.envs._alfworld_facts import GrammarError, Slot

_NAME = "_duomem_fast_downward_translate"
_OPTIONS = {
    "generate_relaxed_task": False,
    "use_partial_encoding": False,
    "invariant_generation_max_candidates": 0,
    "invariant_generation_max_time": 300,
    "add_implied_preconditions": False,
    "filter_unreachable_facts": False,
    "reorder_variables": True,
    "skip_variable_reordering": True,
    "filter_unimportant_vars": False,
    "dump_task": False,
    "layer_strategy": "min",
}
"""What `fast_downward.pddl2sas` sets to keep every fact and operator; the rest are the translator's defaults."""

Fact = tuple[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Translation:
    """A translated game: the SAS text, and the task's types, objects, actions and first facts in PDDL's (lower-case) names."""

    sas: bytes
    supertypes: dict[str, tuple[str, ...]]
    types: dict[str, str]
    parameters: dict[str, tuple[Slot, ...]]
    facts: list[Fact]


def translate(domain: str, problem: str) -> Translation:
    """Raises `GrammarError` for PDDL that does not parse or does not fit its domain."""
    copy = _translator()
    reader = import_module(f"{copy}.pddl_parser.lisp_parser")
    parse_task = import_module(f"{copy}.pddl_parser.parsing_functions").parse_task
    try:
        task = parse_task(*(reader.parse_nested_list(text.split("\n")) for text in (domain, problem)))
        import_module(f"{copy}.normalize").normalize(task)
        sas = import_module(f"{copy}.translate").pddl_to_sas(task)
    except (reader.ParseError, SystemExit, AssertionError, LookupError, TypeError, ValueError, AttributeError) as error:
        # The translator has no error of its own beyond the first: whatever broken PDDL trips over comes out.
        raise GrammarError(f"the PDDL does not translate ({type(error).__name__}: {error})") from error
    if not sas.operators:
        raise GrammarError("the game cannot be won: its goal is out of reach from the first state")
    out = io.StringIO()
    sas.output(out)
    supertypes: dict[str, tuple[str, ...]] = {}
    for kind in task.types:
        supertypes.setdefault(kind.name, tuple(kind.supertype_names))
    return Translation(
        sas=out.getvalue().encode(),
        supertypes=supertypes,
        types={item.name: item.type_name for item in task.objects},
        parameters={action.name: tuple((p.name.strip("?"), p.type_name) for p in action.parameters) for action in task.actions},
        facts=list(_facts(task.init)),
    )


def _facts(init: Any) -> Iterator[Fact]:
    """The first facts as textworld reads them: no equalities, no costs, no distances."""
    for item in init:
        if type(item).__name__ == "Atom" and item.predicate != "=":
            yield item.predicate, tuple(item.args)
        elif type(item).__name__ == "Assign" and item.fluent.symbol != "total-cost":
            value = str(item.expression.value)
            if not value.isdigit():
                yield value, tuple(item.fluent.args)


@lru_cache(maxsize=1)
def _translator() -> str:
    """Loads the private copy; returns its package name."""
    source = Path(str(import_module("fast_downward").__file__)).parent / "translate"
    spec = importlib.util.spec_from_file_location(_NAME, source / "__init__.py", submodule_search_locations=[str(source)])
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    options = ModuleType(f"{_NAME}.options")
    vars(options).update(_OPTIONS)
    sys.modules |= {_NAME: package, options.__name__: options}
    vars(package)["options"] = options
    spec.loader.exec_module(package)
    import_module(f"{_NAME}.translate")
    for name, module in list(sys.modules.items()):
        if name.startswith(_NAME):
            vars(module)["print"] = _print
    return _NAME


def _print(*words: object, file: TextIO | None = None, **options: Any) -> None:
    """The translator writes its result with `print` too; only what it tells about its progress is dropped."""
    if file is not None:
        print(*words, file=file, **options)
