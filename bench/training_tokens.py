"""P13: training tokens of the same teacher runs, one sequence an episode, against one sample a step.

In: ALFWorld games, played by the expert through the real engine. Out: one JSON line: `ratio` = tokens of all samples, one a
step, / tokens of the episodes' sequences; `equal` = every sample is an exact prefix of its episode's sequence and both learn
the same tokens. Counts only: no model is trained. The ratio is bounded by the mean turns of an episode, which the teacher
decides. The figure is for a teacher that needs about 20 turns, as a language model does on ALFWorld; `arms` has the project's
expert too, which needs about 7.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

from _common import arguments, data_root, report
from duomem import weights
from duomem.agent import Player
from duomem.chat import encode
from duomem.envs import alfworld
from duomem.examples import Options, prepare
from duomem.models import expert
from duomem.prompts import Layout, load_layout
from duomem.types import Example, Trajectory

SLIP = 0.6
"""Chance of a detour before a right action: won episodes get about as long as a language model's."""


def tokenizer_for(layout: Layout, name: str, episodes: list[Trajectory]) -> Any:
    """The tokenizer of a model, or, without one, the pocket recipe's on the episodes' own words."""
    if name:
        return weights.load_tokenizer(name)
    from duomem.pocket.tokenizer import train_tokenizer

    texts = [f"{layout.instructions} {each.scene} {each.goal}" for each in episodes]
    texts += [turn.observation for each in episodes for turn in each.turns]
    return train_tokenizer(texts, 1200, [], 4096)


def both(tokenizer: Any, example: Example) -> tuple[int, int, bool]:
    """Tokens of an episode as one sequence and as one sample a step, and whether the two learn the same."""
    whole = encode(tokenizer, example.messages, example.learn)
    tokens, same, learned = 0, True, 0.0
    for index, weight in enumerate(example.learn):
        if weight > 0:
            only = [0.0] * index + [weight]
            sample = encode(tokenizer, example.messages[: index + 1], only)
            tokens += len(sample.ids)
            learned += sum(sample.weights)
            same &= whole.ids[: len(sample.ids)] == sample.ids
    return len(whole.ids), tokens, same and learned == sum(whole.weights)


def play(root: Path, layout: Layout, games: int, slip: float) -> list[Trajectory]:
    """Won episodes of a seeded sample of games."""
    env = alfworld.build(alfworld.Config(data_root=str(root)))
    tasks = env.tasks("valid_seen")
    some = random.Random(0).sample(list(tasks), min(games, len(tasks)))
    player = Player(env, expert.build(expert.Config(layout=layout.name, slip=slip)), layout, max_steps=30)
    return [episode for task in some if (episode := player.play(task)).won]


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--games", type=int, default=30, help="games to play")
    parser.add_argument("--model", default="", help="whose tokenizer counts; none: the pocket model's where it is there")


def main() -> None:
    given = arguments(__doc__ or "", options)
    name = given.model or ("pocket" if weights.pocket_names() else "")
    found: dict[str, dict[str, float]] = {}
    equal, default = True, load_layout("default")
    with data_root(n=given.games) as (root, source):
        for layout, slip in ((default, 0.0), (load_layout("pocket"), 0.0), (default, SLIP)):
            episodes = play(root, layout, given.games, slip)
            tokenizer = tokenizer_for(layout, name, episodes)
            made = prepare(episodes, layout, Options(memories="none", filter="none")).examples
            counts = [both(tokenizer, example) for example in made]
            one, each_step = sum(count[0] for count in counts), sum(count[1] for count in counts)
            equal &= all(count[2] for count in counts)
            turns = sum(len(episode.turns) for episode in episodes) / len(episodes)
            arm = f"{layout.name}, {'about 20 turns' if slip else 'expert'}"
            found[arm] = {"ratio": round(each_step / one, 2), "tokens": one, "tokens_per_step": each_step}
            found[arm] |= {"episodes": len(episodes), "mean_turns": round(turns, 1)}
            if not given.json:
                print(f"{arm}: {found[arm]}")
    long = found["default, about 20 turns"]
    report(
        "P13",
        ratio=long["ratio"],
        mean_turns=long["mean_turns"],
        equal=equal,
        arms=found,
        tokenizer=name or "trained here",
        data=source,
    )


if __name__ == "__main__":
    main()
