"""ALFWorld by our fast engine for verifiers (0.4 and later): `vf-eval duomem-games --env.taskset.data-root DIR`.

In: the config of a taskset: a data root in ALFWorld's layout (or another text environment and its options), a split. Out:
tasks, an environment in which the engine plays the user, reward 1 for a game that the environment says is won, and a harness
that is a plain chat: no container, no program to install. Needs the extra `verifiers`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
from pydantic import Field

from duomem.errors import MissingExtra
from duomem.offer._game import MAX_STEPS, Game, environment

try:
    import verifiers.v1 as vf
    from verifiers.v1.dialects.chat import message_to_wire
except ImportError as error:
    raise MissingExtra("verifiers", "verifiers") from error

from duomem import parts
from duomem.envs import Env
from duomem.types import Task

__all__ = ["Chat", "GameEnv", "GameTaskset"]


class GameConfig(vf.TasksetConfig):
    """Which games, and how they are told."""

    data_root: str = ""
    """Folder in ALFWorld's layout; none: `$ALFWORLD_DATA`."""
    split: str = "train"
    """A split of the environment."""
    games: int = 0
    """A seeded sample of so many games; 0: all."""
    seed: int = 0
    """Seed of the sample."""
    layout: str = "default"
    """The prompt layout, by name or path."""
    world: str = "alfworld"
    """Another text environment of `duomem list envs`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Its own config keys."""

    @property
    def told(self) -> dict[str, Any]:
        return {**({"data_root": self.data_root} if self.data_root else {}), **self.options}


class GameData(vf.TaskData):
    """One game: enough to open it anywhere."""

    world: str
    options: dict[str, Any]
    layout: str
    split: str
    data_hash: str


class GameTask(vf.Task[GameData]):
    """A game has no set-up, tools or scoring of its own."""


class GameTaskset(vf.Taskset[GameTask, GameConfig]):
    """The games of a split, by id."""

    def load(self) -> Iterator[GameTask]:
        config = self.config
        _, tasks = environment(config.world, config.told, config.split, config.games, config.seed)
        for task in tasks:
            data = GameData(
                id=task.id,
                name=task.id,
                prompt=None,
                world=config.world,
                options=config.told,
                layout=config.layout,
                split=task.split,
                data_hash=task.data_hash,
            )
            yield GameTask(data, config.task)


class GameEnvConfig(vf.EnvConfig):
    """Who plays, and for how long."""

    player: vf.AgentConfig = vf.AgentConfig(runtime=vf.SubprocessConfig())
    max_steps: int = MAX_STEPS
    """Replies of an episode, invalid ones included."""


class GameEnv(vf.Env[GameEnvConfig]):
    """The engine plays the user: each reply is a command, each observation the next user turn."""

    def __init__(self, config: GameEnvConfig) -> None:
        super().__init__(config)
        self._worlds: dict[str, Env] = {}

    async def run(self, task: GameTask, agents: vf.Agents) -> None:
        data = task.data
        key = f"{data.world} {sorted(data.options.items())}"
        if key not in self._worlds:
            self._worlds[key] = parts.build("envs", data.world, data.options)
        played = Task(data.id, data.split, data.world, data.data_hash)
        game = await asyncio.to_thread(Game, self._worlds[key], played, data.layout)
        try:
            async with agents.player.interaction(task) as interaction:
                said: Any = [{"role": message.role, "content": message.text} for message in game.prompt]
                while game.steps < self.config.max_steps:
                    segment = await interaction.turn(said)
                    if segment.terminated:
                        break
                    answer = await asyncio.to_thread(game.answer, segment.last_reply)
                    if answer.done:
                        break
                    said = answer.text
        finally:
            game.close()
        interaction.trace.record_reward("won", float(game.won))
        interaction.trace.record_metric("steps", float(game.steps))
        interaction.trace.record_metric("invalid", float(game.invalid))


class ChatConfig(vf.HarnessConfig):
    """Of a plain chat: nothing to set."""


class Chat(vf.Harness[ChatConfig]):
    """One request for each turn, from this process: what a text game needs, and nothing to install."""

    APPENDS_SYSTEM_PROMPT = True
    SUPPORTS_RESUME = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    async def launch(
        self,
        ctx: vf.ModelContext,
        trace: vf.Trace,
        runtime: vf.Runtime,
        endpoint: str,
        secret: str,
        mcp_urls: dict[str, str],
        data: vf.TaskData,
    ) -> vf.ProgramResult:
        messages = [message_to_wire(message) for message in data.prompt or ()]
        async with httpx.AsyncClient(timeout=None) as client:  # the rollout's own time-out bounds it
            answered = await client.post(
                f"{endpoint.rstrip('/')}/chat/completions",
                json={"model": ctx.model, "messages": messages},
                headers={"Authorization": f"Bearer {secret}"},
            )
        failed = answered.is_error
        return vf.ProgramResult(int(failed), "", answered.text if failed else "")
