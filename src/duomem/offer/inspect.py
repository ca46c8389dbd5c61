"""ALFWorld by our fast engine as an Inspect task: `inspect eval duomem/alfworld -T data_root=DIR -T split=valid_seen`.

In: a data root in ALFWorld's layout (or another text environment and its options), a split, how many games. Out: a task whose
solver plays each game with the evaluated model and whose score is the environment's own word. Needs the extra `inspect`.
"""

from __future__ import annotations

import asyncio
from typing import Any

from duomem.errors import MissingExtra
from duomem.offer._game import MAX_STEPS, Game, environment

try:
    from inspect_ai import Task, task
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.model import ChatMessage, ChatMessageSystem, ChatMessageUser
    from inspect_ai.scorer import CORRECT, INCORRECT, Score, Scorer, Target, accuracy, scorer, stderr
    from inspect_ai.solver import Generate, Solver, TaskState, solver
except ImportError as error:
    raise MissingExtra("inspect-ai", "inspect") from error

from duomem.envs import Env
from duomem.types import Message
from duomem.types import Task as Played


@task
def alfworld(
    data_root: str = "",
    split: str = "valid_seen",
    games: int = 0,
    seed: int = 0,
    max_steps: int = MAX_STEPS,
    layout: str = "default",
    env: str = "alfworld",
    options: dict[str, Any] | None = None,
) -> Task:
    """The games of a split, or a seeded sample of `games` of them. `env` and `options` name another text environment and its
    config. A sample's metadata tells the type of task, for grouped results; the model is never told.
    """
    root = {"data_root": data_root} if data_root else {}
    world, tasks = environment(env, {**root, **(options or {})}, split, games, seed)
    samples = [Sample(input=each.id, id=each.id, metadata=_about(world, each)) for each in tasks]
    known = {each.id: each for each in tasks}
    return Task(
        dataset=MemoryDataset(samples, name=f"{env}/{split}"),
        solver=play(world, known, layout, max_steps),
        scorer=won(),
        metadata=world.provenance(),
    )


def _about(env: Env, played: Played) -> dict[str, Any]:
    labels = env.labels(played)
    return {"kind": labels.kind, "room": labels.room}


@solver
def play(env: Env, tasks: dict[str, Played], layout: str, max_steps: int) -> Solver:
    """Plays a sample's game: the model answers, the game answers, until it is over or `max_steps` replies were given."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        game = await asyncio.to_thread(Game, env, tasks[str(state.sample_id)], layout)
        try:
            state.messages = [_message(message) for message in game.prompt]
            while game.steps < max_steps:
                state = await generate(state)
                answer = await asyncio.to_thread(game.answer, state.output.completion)
                if answer.done:
                    break
                state.messages.append(ChatMessageUser(content=answer.text))
            state.metadata |= {"won": game.won, "steps": game.steps, "invalid": game.invalid}
        finally:
            game.close()
        state.completed = True
        return state

    return solve


def _message(message: Message) -> ChatMessage:
    return ChatMessageSystem(content=message.text) if message.role == "system" else ChatMessageUser(content=message.text)


@scorer(metrics=[accuracy(), stderr()])
def won() -> Scorer:
    """Whether the environment said that the game is won."""

    async def score(state: TaskState, target: Target) -> Score:
        return Score(value=CORRECT if state.metadata["won"] else INCORRECT, answer=f"{state.metadata['steps']} steps")

    return score
