"""Finds components: the file name is the registry.

In: a kind ("envs", "models", "memory", "tuning") and a name. Out: the module, which defines `Config` and `build`. An
unknown name
lists the names that exist; a missing library shows as itself. Files that start with an underscore are not components.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from types import ModuleType

from duomem.errors import UsageError

KINDS = ("envs", "models", "memory", "tuning")


def names(kind: str) -> list[str]:
    """The component names of a kind, sorted."""
    package = importlib.import_module(f"duomem.{kind}")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_"))


def component(kind: str, name: str) -> ModuleType:
    """The module of one component. Raises `UsageError` for a name that does not exist."""
    known = names(kind)
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"No component {name!r} in {kind}.{hint} There are: {', '.join(known)}.")
    return importlib.import_module(f"duomem.{kind}.{name}")


def summary(kind: str, name: str) -> str:
    """The first line of a component's docstring."""
    return (component(kind, name).__doc__ or "").strip().splitlines()[0]
