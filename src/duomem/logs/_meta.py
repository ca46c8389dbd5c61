"""What a conversation alone does not tell of an episode: kept beside it on export, so that nothing is lost when it comes back.

In: a trajectory. Out: `metadata = {"success": ..., "duomem": {...}}`; and back. Other tools may read `success` and ignore the
rest.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from duomem.errors import DataError
from duomem.logs import BadField, Body
from duomem.logs._messages import decoded
from duomem.prompts import Layout
from duomem.types import StopReason, Trajectory

KEY = "duomem"


class Meta(BaseModel):
    """An episode's own facts."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    task: str
    attempt: int
    goal: str
    scene: str
    stop: StopReason
    layout: str = ""
    invalid: tuple[int, ...] = ()
    """Turns whose action was not understood or did nothing."""
    silent: tuple[int, ...] = ()
    """Turns in whose reply no call was found."""
    last: str = ""
    """What came back after the last reply, which training formats leave out."""
    opening: int = 1
    """Messages before the first reply."""
    env: str = ""
    data_hash: str = ""
    model: str = ""
    revision: str = ""
    licence: str = ""
    seed: int = 0
    seconds: float = 0.0
    error: str = ""


def describe(trajectory: Trajectory) -> dict[str, Any]:
    """The value of `metadata`. `success` is null where nobody has judged the episode."""
    turns = trajectory.turns
    origin = trajectory.origin
    meta = Meta(
        task=trajectory.task.id,
        attempt=trajectory.attempt,
        goal=trajectory.goal,
        scene=trajectory.scene,
        stop=trajectory.stop,
        layout=origin.layout,
        invalid=tuple(index for index, turn in enumerate(turns) if not turn.valid),
        silent=tuple(index for index, turn in enumerate(turns) if turn.call is None),
        last=turns[-1].observation + turns[-1].recalled if turns else "",
        opening=len(trajectory.prompt),
        env=trajectory.task.env,
        data_hash=trajectory.task.data_hash,
        model=origin.model,
        revision=origin.revision,
        licence=origin.licence,
        seed=origin.seed,
        seconds=trajectory.seconds,
        error=trajectory.error,
    )
    won = trajectory.won if trajectory.stop.is_outcome else None
    return {"success": won, KEY: meta.model_dump(mode="json", exclude_defaults=True)}


def found(body: Body) -> Meta | None:
    """What `describe` left beside a conversation; None for one that another tool wrote."""
    metadata = decoded(body.get("metadata"))
    value = decoded(metadata.get(KEY)) if isinstance(metadata, dict) else None
    if value is None:
        return None
    try:
        return Meta.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in ("metadata", KEY, *first["loc"]))
        raise BadField(place, first["msg"]) from error


def checked_layout(trajectory: Trajectory, layout: Layout) -> None:
    """Raises `DataError` for a trajectory whose turns another layout writes."""
    needs = any(turn.results is None and not turn.reply.message.tool_calls for turn in trajectory.turns)
    if needs and trajectory.origin.layout not in ("", layout.hash):
        raise DataError(
            f"Task {trajectory.task.id} was played in layout {trajectory.origin.layout}; this run has {layout.name} "
            f"({layout.hash}). Export from a run with that layout, or set student.layout to it."
        )
