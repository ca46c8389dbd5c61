"""The expert: it searches by what it saw, speaks in the layout's form, and never needs hidden state."""

from __future__ import annotations

import pytest

from duomem.agent import Player
from duomem.envs.household import Config as Houses
from duomem.envs.household import build as build_houses
from duomem.models.expert import Config, build, decide, procedure
from duomem.prompts import load_layout, opening, parse, thought_of
from duomem.types import Message, Sampling, StopReason

PLACES = ("cabinet 2", "cabinet 1", "countertop 1", "desk 1", "fridge 1", "microwave 1", "sinkbasin 1")


@pytest.mark.parametrize(
    ("goal", "kinds"),
    [
        ("put a mug in desk.", "take move"),
        ("put some mug on desk.", "take move"),
        ("put a clean mug in desk.", "take process move"),
        ("heat some mug and put it in desk.", "take process move"),
        ("cool some mug and put it in desk.", "take process move"),
        ("put two mug in desk.", "take move take move"),
        ("find two mug and put them in desk.", "take move take move"),
        ("look at mug under the desklamp.", "take use"),
        ("examine the mug with the desklamp.", "take use"),
    ],
)
def test_both_wordings_of_the_six_types_become_steps(goal: str, kinds: str) -> None:
    assert " ".join(step.kind for step in procedure(goal, PLACES)) == kinds


def test_an_unknown_task_is_an_error() -> None:
    with pytest.raises(ValueError, match="six task types"):
        procedure("paint the wall.", PLACES)


def test_it_solves_every_house_through_the_prompt_and_the_parser() -> None:
    """The teacher's path is the student's: layout, parser, loop. Thirty houses, of which it wins all."""
    env = build_houses(Houses(games=30))
    player = Player(env, build(Config()), load_layout("pocket"), max_steps=50)
    trajectories = [player.play(task) for task in env.tasks("train")]
    assert [trajectory.stop for trajectory in trajectories] == [StopReason.WON] * 30
    assert all(turn.valid for trajectory in trajectories for turn in trajectory.turns)


def test_it_takes_only_what_it_has_seen() -> None:
    """With nothing seen it goes looking; the object's place is not known to it before it is shown."""
    steps = procedure("put a mug in desk.", PLACES)
    thought, command = decide(PLACES, steps, [])
    assert command.startswith("go to ")
    place = command.removeprefix("go to ")
    shown = f"You arrive at {place}. On the {place}, you see a mug 3, and a plate 1."
    assert decide(PLACES, steps, [(command, shown)])[1] == f"take mug 3 from {place}"
    empty = f"You arrive at {place}. On the {place}, you see a plate 1."
    assert decide(PLACES, steps, [(command, empty)])[1] not in (command, f"take mug 3 from {place}")
    assert thought.startswith("1. mug: find ")


def test_it_goes_back_to_the_second_one_that_it_saw() -> None:
    steps = procedure("put two mug in desk.", PLACES)
    history = [
        ("go to countertop 1", "You arrive at countertop 1. On the countertop 1, you see a mug 2, and a mug 1."),
        ("take mug 2 from countertop 1", "You pick up the mug 2 from the countertop 1."),
        ("go to desk 1", "You arrive at desk 1. On the desk 1, you see nothing."),
        ("move mug 2 to desk 1", "You move the mug 2 to the desk 1."),
    ]
    assert decide(PLACES, steps, history) == ("3. mug: find countertop", "go to countertop 1")


def test_a_place_beside_is_opened_without_going_there() -> None:
    """Going to a place at the same spot does nothing; it is used from where the agent stands."""
    steps = procedure("put a mug in cabinet.", PLACES)
    history = [
        ("go to countertop 1", "You arrive at countertop 1. On the countertop 1, you see a mug 2."),
        ("take mug 2 from countertop 1", "You pick up the mug 2 from the countertop 1."),
        ("go to cabinet 2", "Nothing happens."),
    ]
    assert decide(PLACES, steps, history)[1] == "open cabinet 2"
    assert decide(PLACES, steps, [*history, ("open cabinet 2", "Nothing happens.")])[1] == "move mug 2 to cabinet 2"


def test_slips_are_recorded_and_recovered_from() -> None:
    env = build_houses(Houses(games=20))
    player = Player(env, build(Config(slip=0.3)), load_layout("pocket"), max_steps=60)
    trajectories = [player.play(task) for task in env.tasks("train")]
    assert sum(trajectory.won for trajectory in trajectories) >= 19
    assert any(not turn.valid for trajectory in trajectories for turn in trajectory.turns)


def test_variety_makes_other_solutions_of_one_task() -> None:
    env = build_houses(Houses(games=6))
    player = Player(env, build(Config(variety=1.0)), load_layout("pocket"), max_steps=50, sampling=Sampling(seed=1))
    differ = [
        [turn.call for turn in player.play(task, 0).turns] != [turn.call for turn in player.play(task, 1).turns]
        for task in env.tasks("train")
    ]
    assert any(differ)


def test_it_speaks_in_the_default_layout_too() -> None:
    layout = load_layout("default")
    scene = "You are in the middle of a room. Looking quickly around you, you see a desk 1, and a shelf 1."
    messages: tuple[Message, ...] = opening(
        layout, "put a pen in shelf.", scene, ["put a cup in desk.\n1. cup: take from shelf"]
    )
    reply = build(Config(layout="default")).reply(messages, (), Sampling())
    call = parse(layout, reply)
    assert call is not None
    assert call.command == "go to desk 1"
    assert thought_of(layout, reply.message.text) == "1. pen: find desk"


def test_it_loses_where_it_is_told_of_no_places() -> None:
    """A few games, official ones too, start at a place, and the room's list is never told."""
    layout = load_layout("pocket")
    scene = "You are facing the cabinet 4. Next to it, you see nothing."
    for goal in ("put a clean soapbar in toilet.", "look at cd under the desklamp."):
        messages = opening(layout, goal, scene, [])
        for slip in (0.0, 1.0):
            reply = build(Config(slip=slip)).reply(messages, [], Sampling())
            call = parse(layout, reply)
            assert call is not None
            assert call.command == "look"
