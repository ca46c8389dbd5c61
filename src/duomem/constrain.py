"""What a student may say at a turn, as a grammar: any command of the environment's forms, or one that is legal right now.

In: a run's settings. Out: a function from the last observation to a grammar, or None where replies are free. Which one was used
is in the report: legal actions are a strong hint. Typed tools are held to their schemas by the model itself (`hold_tools`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from duomem.config import Settings
from duomem.errors import UsageError
from duomem.models._grammar import of_actions, of_templates
from duomem.prompts import Layout
from duomem.registry import component, names
from duomem.types import Observation

Constrain = Callable[[Observation], str]


def constraint(settings: Settings, layout: Layout) -> Constrain | None:
    """The config's `rollout.actions`. Raises `UsageError` for a student that cannot be held to a grammar, and for an
    environment that has no command forms; what it gives raises it where the environment does not tell its legal actions.
    """
    kind = settings.rollout.actions
    if kind == "free":
        return None
    if not getattr(component("models", settings.student.model), "CONSTRAINS", False):
        able = [name for name in names("models") if getattr(component("models", name), "CONSTRAINS", False)]
        raise UsageError(
            f"rollout.actions = {kind!r}: student.model = {settings.student.model!r} cannot be held to a grammar; "
            f"{', '.join(able)} can: --set student.model={able[0]}"
        )
    if kind == "legal":
        return _legal(layout.reply)
    forms = getattr(component("envs", settings.env.name), "COMMANDS", ())
    if not forms:
        raise UsageError(
            f"rollout.actions = 'grammar': the environment {settings.env.name!r} lists no command forms (COMMANDS in its file)."
        )
    text = of_templates(layout.reply, forms)
    return lambda seen: text


def _legal(reply: str) -> Constrain:
    @cache
    def grammar(actions: tuple[str, ...]) -> str:
        return of_actions(reply, actions)

    def of(seen: Observation) -> str:
        if not seen.admissible:
            raise UsageError(
                "rollout.actions = 'legal' needs an environment that tells its legal actions: --set env.admissible=true"
            )
        return grammar(tuple(seen.admissible))

    return of
