"""P1: ALFWorld environment steps a second, against the stock textworld and alfworld wrappers, played side by side.

In: official games (or what `$ALFWORLD_DATA` holds) and generated ones, of six task types. Out: one JSON line: `ratio` = stock
seconds a step / ours, `equal` = feedback, admissible commands, facts and won have the same hash after every step of every
episode. Each game is played by the package's handcoded expert and thrice at random. `ratio` is of steps; `episode_ratio` has
loading and resetting in.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from _common import arguments, data_root, report
from duomem.envs._alfworld_engine import Engine, GameText, Session
from duomem.envs._alfworld_index import KINDS, read_game_file
from duomem.envs.alfworld import Config, build
from duomem.games.write import write_games
from duomem.types import digest

EXPERT_STEPS, RANDOM_STEPS, RANDOM_EPISODES = 30, 8, 3
SPLIT = "valid_seen"


@dataclass
class Tally:
    """Seconds of both arms, and what was played."""

    stock_step: float = 0.0
    our_step: float = 0.0
    stock_open: float = 0.0
    our_open: float = 0.0
    our_reopen: float = 0.0
    steps: int = 0
    won: int = 0
    episodes: Counter[str] = field(default_factory=Counter)
    unequal: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


def timed(action: Callable[[], Any]) -> tuple[Any, float]:
    start = perf_counter()
    result = action()
    return result, perf_counter() - start


def add_facts(env: Any, state: Any) -> list[Any]:
    """The state's facts in readable names, made outside the clock: only the comparison and the expert need them."""
    state["facts"] = list(map(env.unwrapped._get_human_readable_fact, state["_facts"]))
    return sorted({(fact.name, tuple((v.name, v.type) for v in fact.arguments)) for fact in state["facts"]})


def compare(tally: Tally, where: str, env: Any, state: Any, session: Session, feedback: str) -> None:
    stock = digest([state.feedback, state.admissible_commands, add_facts(env, state), bool(state["won"])])
    if digest([feedback, session.admissible(), session.facts(), session.won]) != stock:
        tally.unequal.append(where)


def expert(game: Path) -> Callable[[Any, str], str | None]:
    """The package's handcoded expert; None when it gives up."""
    from alfworld.agents.expert import HandCodedAgentFailed, HandCodedAgentTimeout, HandCodedTWAgent

    agent = HandCodedTWAgent(max_steps=EXPERT_STEPS + 1)
    agent.reset(str(game))

    def act(state: Any, last: str) -> str | None:
        try:
            if not last:
                agent.observe(state.feedback)
                return "look"
            command: str = agent.act(state, 0, state["won"], last)
        except (HandCodedAgentFailed, HandCodedAgentTimeout):
            return None
        return command if command in state.admissible_commands else "look"

    return act


def at_random(seed: str) -> Callable[[Any, str], str | None]:
    rng = random.Random(seed)
    return lambda state, last: rng.choice([*state.admissible_commands, "go to nowhere 1", "move mug 1 to"])


def play(tally: Tally, where: str, env: Any, session: Session, policy: Callable[[Any, str], str | None], steps: int) -> None:
    """One episode of the stock environment and ours, the same commands, each step timed and compared."""
    state, seconds = timed(env.reset)
    tally.stock_open += seconds
    compare(tally, f"{where} start", env, state, session, session.world.intro)
    command: str | None = ""
    for step in range(steps):
        command = policy(state, command or "")
        if command is None:
            break
        (state, _, done), stock = timed(lambda said=command: env.step(said))
        (feedback, _, won), ours = timed(lambda said=command: (session.step(said), session.admissible(), session.won))
        tally.stock_step, tally.our_step, tally.steps = tally.stock_step + stock, tally.our_step + ours, tally.steps + 1
        compare(tally, f"{where} step {step}: {command}", env, state, session, feedback)
        if done or won:
            tally.won += 1
            break


def play_game(job: tuple[Path, str]) -> Tally:
    """All episodes of one game, in a worker process of its own."""
    import textworld
    from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
    from textworld.envs.pddl import PddlEnv

    (game, kind), tally, engine = job, Tally(), Engine()

    def ours() -> Session:
        data, sha = read_game_file(game)
        return engine.open(sha, str(game), lambda: GameText(data["pddl_domain"], data["pddl_problem"], data["grammar"]))

    env = AlfredDemangler(PddlEnv(textworld.EnvInfos(won=True, admissible_commands=True)))
    tally.stock_open += timed(lambda: env.load(str(game)))[1]
    policies = [(expert(game), EXPERT_STEPS)]
    policies += [(at_random(f"{game.parent.name} {number}"), RANDOM_STEPS) for number in range(RANDOM_EPISODES)]
    for number, (policy, steps) in enumerate(policies):
        session, seconds = timed(ours)
        if number:
            tally.our_reopen += seconds
        tally.our_open += seconds
        play(tally, f"{kind} {game.parent.name} episode {number}", env, session, policy, steps)
        session.close()
        tally.episodes[kind] += 1
    return tally


def spread(root: Path, split: str, n: int) -> Iterator[tuple[Path, str]]:
    """`n` games of a split, the task types in turn."""
    env = build(Config(data_root=str(root)))
    base = root / "json_2.1.1" if (root / "json_2.1.1").is_dir() else root
    by_kind: dict[str, list[Path]] = {kind: [] for kind in KINDS}
    tasks = list(env.tasks(split))
    random.Random(0).shuffle(tasks)
    for task in tasks:
        by_kind[env.labels(task).kind].append(base / task.id / "game.tw-pddl")
    places = [(place, kind) for place in range(len(tasks)) for kind in KINDS if place < len(by_kind[kind])]
    return iter([(by_kind[kind][place], kind) for place, kind in places[:n]])


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--games", type=int, default=44, help="games of the data root; four episodes each")
    parser.add_argument("--jobs", type=int, default=2, help="worker processes; both arms of a game run in the same one")
    parser.add_argument("--seconds", type=float, default=540.0, help="no game is begun after this time; `complete` tells")
    parser.add_argument("--generated", type=int, default=8, help="generated games beside them; four episodes each")


def main() -> None:
    options = arguments(__doc__ or "", add_options)
    tally, begun, done = Tally(), perf_counter(), 0
    with TemporaryDirectory(prefix="duomem-bench-") as made, data_root(SPLIT) as (root, source):
        games = list(spread(root, SPLIT, options.games))
        if options.generated:
            write_games(Path(made), "dev", options.generated, seed=1)
            games += spread(Path(made), "dev", options.generated)
        random.Random(0).shuffle(games)
        with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
            left = iter(games)
            running = {pool.submit(play_game, job) for job in islice(left, options.jobs)}
            while running:
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    tally.add(future.result())
                    done += 1
                late = perf_counter() - begun > options.seconds
                running |= {pool.submit(play_game, job) for job in islice(left, 0 if late else len(finished))}
                if not options.json:
                    print(f"{done}/{len(games)} games", file=sys.stderr, flush=True)
    for where in tally.unequal[:10]:
        print(f"not equal: {where}", file=sys.stderr)
    episodes = sum(tally.episodes.values())
    report(
        "P1",
        ratio=tally.stock_step / tally.our_step,
        equal=not tally.unequal,
        episodes=episodes,
        complete=done == len(games),
        steps=tally.steps,
        won=tally.won,
        by_kind=dict(tally.episodes),
        source=f"{source} ({options.games} games) and generated ({options.generated})",
        stock_step_ms=1e3 * tally.stock_step / tally.steps,
        ours_step_ms=1e3 * tally.our_step / tally.steps,
        stock_open_ms=1e3 * tally.stock_open / episodes,
        ours_open_ms=1e3 * tally.our_open / episodes,
        ours_reopen_ms=1e3 * tally.our_reopen / max(1, episodes - done),
        episode_ratio=(tally.stock_step + tally.stock_open) / (tally.our_step + tally.our_open),
    )
    sys.exit(1 if tally.unequal else 0)


if __name__ == "__main__":
    main()
