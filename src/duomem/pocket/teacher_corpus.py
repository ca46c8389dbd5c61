"""The pocket teacher's episodes: writing pairs, real tasks played by the expert, and the student's own corpus.

In: a seed. Out: `Example`s, houses from the training rooms only. A writing pair is an episode of the invented world as the
writer's prompt shows it (`memory/prompts/pocket.toml`), and the lines that the rules write of it; no real task's procedure is
among them. A real task is played without memories, slips shown and not learned. Not here: the invented world (`corpus`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from duomem.envs.household import NOTHING, House, World
from duomem.games.sample import sample_game
from duomem.memory._prompts import PromptSet, load_prompts
from duomem.memory._script import events, script
from duomem.models import expert
from duomem.pocket import corpus
from duomem.pocket.play import OBSERVED, Recipe, Script
from duomem.prompts import Layout, load_layout, opening, parse, thought_of
from duomem.types import Example, Message, Reply, Sampling, StopReason, Task, Trajectory, Turn

WRITING = 0.5
"""Share of writing pairs."""
REAL = 0.4
"""Share of real tasks; what is left is the student's corpus."""
WORDS = (6, 6, 6, 40)
"""Words of each observation in a writer's prompt, drawn. 40: the default of memory.writer_words; fewer are read faster."""
WEIGHT = 2.0
"""Loss weight of a script, which is short beside the turns of an episode in the same step; a turn's is 1."""
TURNS = 30
SLIP = 0.1
"""Chance of a wrong action at a turn of a real task."""


def episodes(seed: int, number: int, recipe: Recipe) -> Iterator[Example]:
    """`number` examples, the same ones for the same seed."""
    layout, prompts = load_layout("pocket"), load_prompts("pocket")
    for index in range(number):
        source = f"{seed}/{index}"
        rng = random.Random(f"teacher {source}")
        draw = rng.random()
        if draw < WRITING:
            yield writing(rng, layout, prompts, recipe, source)
        elif draw < WRITING + REAL:
            yield real_task(rng, layout, source)
        else:
            yield corpus.episode(rng, layout, recipe, source)


def writing(rng: random.Random, layout: Layout, prompts: PromptSet, recipe: Recipe, source: str) -> Example:
    """The question for a script of an episode, and the rules' answer to it."""
    trajectory = invented(rng, layout, recipe, source)
    question = prompts.ask("task", trajectory, prompts.transcript(trajectory.turns, rng.choice(WORDS)))
    lines = script(trajectory.goal, events(trajectory)).partition("\n")[2]
    return Example((question, Message.of("assistant", lines)), (0.0, WEIGHT), source)


def invented(rng: random.Random, layout: Layout, recipe: Recipe, source: str) -> Trajectory:
    """An episode of the invented world as a recorded one: what the student's corpus holds, without its guides."""
    while True:
        house = House.from_pddl(sample_game(rng, "train").pddl(), "")
        play = corpus.guided(rng, house, layout, recipe)
        if play is None or play.example(source) is None:
            continue
        goal = play.script.messages[0].text.rpartition("Task: ")[2]
        return _recorded(layout, goal, house.scene, play.script, source)


def _recorded(layout: Layout, goal: str, scene: str, played: Script, source: str) -> Trajectory:
    first = next(index for index, message in enumerate(played.messages) if message.role == "assistant")
    said, answers = played.messages[first::2], played.messages[first + 1 :: 2]
    turns = []
    for message, answer in zip(said, answers, strict=True):
        reply = Reply(message)
        turns.append(Turn(reply, parse(layout, reply), answer.text, answer.text != NOTHING))
    task = Task(source, "train", "invented")
    return Trajectory(task, 0, goal, scene, opening(layout, goal, scene, ()), tuple(turns), StopReason.WON)


def real_task(rng: random.Random, layout: Layout, source: str) -> Example:
    """A real task of a training room, won by the expert."""
    right, wrong = (expert.build(expert.Config(layout=layout.name, slip=slip)) for slip in (0.0, 1.0))
    while True:
        game = sample_game(rng, "train")
        house = House.from_pddl(game.pddl(), f"{game.task_text}.")
        world = World(house)
        messages = list(opening(layout, house.text, house.scene, ()))
        script = Script(layout, messages, [OBSERVED] * len(messages))
        sampling = Sampling(seed=rng.getrandbits(30))
        for _ in range(TURNS):
            slips = rng.random() < SLIP
            reply = (wrong if slips else right).reply(script.messages, (), sampling)
            call = parse(layout, reply)
            command = call.command if call else ""
            thought = thought_of(layout, reply.message.text)
            script.turn(thought, command, world.act(command), 0.0 if slips else 1.0)
            if world.won:
                return script.example(source)
