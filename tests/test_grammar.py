"""Answers held to a grammar: by command forms, by legal actions, by tool schemas; on the real engine."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from duomem import constrain, weights
from duomem.agent import Player
from duomem.chat import call_form
from duomem.config import settings_of
from duomem.envs import household
from duomem.errors import UsageError
from duomem.models import _grammar, expert, llamacpp
from duomem.prompts import conversation, load_layout, parse
from duomem.types import Message, Observation, Reply, Sampling, Tool

pytest.importorskip("xllamacpp", reason="needs the extra 'llamacpp'")

LAYOUT = load_layout("pocket")
ASK = [Message.of("user", "You are in the middle of a room. You see a desk 1.\nTask: put a clean mug in cabinet.")]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "to": {"type": "string"},
        "copies": {"type": "integer"},
        "kind": {"enum": ["mail", "note"]},
        "tags": {"type": "array", "items": {"anyOf": [{"type": "boolean"}, {"const": None}]}},
        "more": {"type": "object", "properties": {"x": {"type": "number"}}},
    },
    "required": ["kind", "copies"],
}
SEND = Tool("send", "Send.", json.dumps(SCHEMA))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[llamacpp.LlamaCpp]:
    built = llamacpp.build(llamacpp.Config(folder=str(tmp_path_factory.mktemp("gguf")), threads=1, max_batch=2))
    yield built
    built.close()


def draws(model: llamacpp.LlamaCpp, grammar: str, count: int = 6, tokens: int = 200) -> list[Reply]:
    """Answers of a hot student, which says nonsense where it may."""
    hot = Sampling(temperature=3.0, max_tokens=tokens, grammar=grammar)
    return [model.reply(ASK, [], replace(hot, seed=seed)) for seed in range(count)]


def test_only_legal_actions_are_said(model: llamacpp.LlamaCpp) -> None:
    legal = ["go to desk 1", "go to desk 10", 'say "a\\b"', "look", "take mug 1 from desk 1", "take mug 2 from desk 1"]
    for reply in draws(model, _grammar.of_actions(LAYOUT.reply, legal), 5):
        call = parse(LAYOUT, reply)
        assert (call and call.command in legal) or reply.finish == "length"
    found = {reply.message.text for reply in draws(model, _grammar.of_actions("{command}", legal), 12)}
    assert found <= set(legal)
    assert len(found) > 1


def test_commands_have_the_environment_s_forms(model: llamacpp.LlamaCpp) -> None:
    grammar = _grammar.of_templates("{command}", household.COMMANDS)
    forms = [re.compile(form.replace("{thing}", r"[a-z]+( [a-z]+)? \d+")) for form in household.COMMANDS]
    for reply in draws(model, grammar, 12):
        assert reply.finish == "length" or any(form.fullmatch(reply.message.text) for form in forms)


def test_tool_calls_follow_their_schemas(model: llamacpp.LlamaCpp) -> None:
    form = call_form(weights.load_tokenizer("pocket"))
    grammar = _grammar.of_calls(form, [SEND, Tool("stop", "Stop.", '{"type": "object", "properties": {}}')])
    seen = set()
    for reply in draws(model, grammar, 8, tokens=200):
        if reply.finish == "length":
            continue
        for line in reply.message.text.splitlines():
            said = json.loads(line.removeprefix("Tool call: "))
            seen.add(said["name"])
            if said["name"] == "send":
                arguments = said["arguments"]
                assert list(arguments) == [key for key in SCHEMA["properties"] if key in arguments]
                assert isinstance(arguments["copies"], int)
                assert arguments["kind"] in ("mail", "note")
                assert all(tag in (True, False, None) for tag in arguments.get("tags", []))
    assert seen, "some of the hot answers end in time"


def test_an_answer_is_free_until_it_calls(tmp_path: Path) -> None:
    """With `hold_tools`: words are words, and a call that was begun is one that can be read."""
    held = llamacpp.build(llamacpp.Config(folder=str(tmp_path), threads=1, max_batch=1, hold_tools=True, tool_calls="text"))
    free = llamacpp.build(llamacpp.Config(folder=str(tmp_path), threads=1, max_batch=1, tool_calls="text"))
    for seed in range(3):
        hot = Sampling(temperature=1.0, max_tokens=24, seed=seed)
        one, other = held.reply(ASK, [SEND], hot), free.reply(ASK, [SEND], hot)
        assert one.message == other.message
    assert _grammar.trigger(call_form(held.tokenizer, held.style)) == "Tool call:"
    held.close()
    free.close()


def test_a_held_student_plays_only_what_is_legal(model: llamacpp.LlamaCpp) -> None:
    """The pocket student without memories loses its way; held to legal actions every turn is a valid one."""
    env = household.build(household.Config(games=2, admissible=True))
    settings = settings_of({"student": {"model": "llamacpp"}, "rollout": {"actions": "legal"}}, "test")
    held = constrain.constraint(settings, LAYOUT)
    free = Player(env, model, LAYOUT, sampling=Sampling(temperature=1.5, max_tokens=48), max_steps=8)
    legal = replace(free, constrain=held)
    shares = []
    for player in (free, legal):
        turns = [turn for task in env.tasks("dev") for turn in player.play(task).turns]
        whole = [turn for turn in turns if turn.reply.finish != "length"]
        shares.append(sum(turn.valid for turn in whole) / max(1, len(whole)))
    assert shares[1] == 1.0 > shares[0]


def test_guessing_ahead_says_the_same_in_fewer_forwards(tmp_path: Path, model: llamacpp.LlamaCpp) -> None:
    """Along an episode, whose turns resemble each other."""
    env = household.build(household.Config(games=4))
    player = Player(env, expert.build(expert.Config(layout="pocket")), LAYOUT)
    talk = conversation(LAYOUT, max((player.play(task) for task in env.tasks("dev")), key=lambda each: len(each.turns)))
    ahead = llamacpp.build(llamacpp.Config(folder=str(tmp_path), threads=1, max_batch=1, lookup=8))
    before, tokens = model.forwards, 0
    for index, message in enumerate(talk):
        if message.role == "assistant":
            one, other = (each.reply(talk[:index], [], Sampling(max_tokens=40)) for each in (model, ahead))
            assert one.message == other.message
            tokens += one.usage.completion
    assert model.forwards - before == tokens
    assert ahead.forwards < 0.9 * tokens
    ahead.close()


def test_what_cannot_be_held_is_refused() -> None:
    def found(**tables: Any) -> Any:
        return constrain.constraint(settings_of(tables, "test"), LAYOUT)

    assert found() is None
    with pytest.raises(UsageError, match=r"'hf' cannot be held to a grammar; llamacpp can"):
        found(rollout={"actions": "legal"}, student={"model": "hf"})
    held = {"rollout": {"actions": "legal"}, "student": {"model": "llamacpp"}}
    with pytest.raises(UsageError, match=r"env\.admissible=true"):
        found(**held)(Observation("You see nothing."))
    with pytest.raises(UsageError, match=r"'tools' lists no command forms"):
        found(rollout={"actions": "grammar"}, student={"model": "llamacpp"}, env={"name": "tools"})
    assert "take" in found(rollout={"actions": "grammar"}, student={"model": "llamacpp"}, env={"name": "household"})(
        Observation("")
    )
