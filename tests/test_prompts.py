"""Layouts, the renderer and the reply parser."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duomem import prompts
from duomem.errors import ConfigError
from duomem.types import Message, Reply, ToolCall

DEFAULT, POCKET = prompts.load_layout("default"), prompts.load_layout("pocket")
LAYOUTS = [DEFAULT, POCKET]


def said(text: str, finish: str = "stop") -> Reply:
    return Reply(Message.of("assistant", text), finish)  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
@given(text=st.text(max_size=300))
@settings(max_examples=300, deadline=None)
def test_the_parser_never_raises(layout: prompts.Layout, text: str) -> None:
    call = prompts.parse(layout, said(text))
    assert call is None or (call.name == "act" and call.command == call.command.strip() != "")
    assert isinstance(prompts.thought_of(layout, text), str)


_MARKUP = st.sampled_from(
    ["Action:", "action :", "Thought:", ">", "> ", "\n", "\r", " ", "go to desk 1", "\x00", "{goal}", "é"]
)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
@given(parts=st.lists(_MARKUP, max_size=40))
@settings(max_examples=300, deadline=None)
def test_the_parser_never_raises_on_pieces_of_replies(layout: prompts.Layout, parts: list[str]) -> None:
    prompts.parse(layout, said("".join(parts)))


_WORDS = st.text(alphabet="abcdefghij 0123456789", min_size=1, max_size=40).map(str.strip).filter(bool)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
@given(thought=_WORDS, command=_WORDS)
@settings(max_examples=100, deadline=None)
def test_what_a_teacher_writes_is_read_back(layout: prompts.Layout, thought: str, command: str) -> None:
    text = prompts.reply_text(layout, thought, command)
    assert prompts.parse(layout, said(text)) == ToolCall.act(command)
    assert prompts.thought_of(layout, text) == thought


def test_the_last_action_counts_and_a_cut_reply_has_none() -> None:
    text = "Thought: a\nAction: look\nThought: b\nAction: go to desk 1"
    call = prompts.parse(DEFAULT, said(text))
    assert call is not None
    assert call.command == "go to desk 1"
    assert prompts.parse(DEFAULT, said(text, "length")) is None
    assert prompts.parse(DEFAULT, said("I would go to desk 1.")) is None


def test_slots_are_filled_once() -> None:
    messages = prompts.opening(DEFAULT, "{scene}", "a {memories} room", ["{goal}"])
    assert messages[-1].text == "Your task: {scene}\n\na {memories} room"
    assert "{goal}" in messages[0].text


def test_no_memories_leave_no_trace() -> None:
    with_none, system = prompts.opening(POCKET, "find mug", "A room.\n", []), prompts.opening(POCKET, "g", "s", [])
    assert with_none[0].text == "A room.\n\nTask: find mug"
    assert [message.role for message in system] == ["user"]
    assert "Guide" not in with_none[0].text


def test_the_hash_follows_every_string() -> None:
    assert DEFAULT.hash == prompts.load_layout("default").hash
    changed = [DEFAULT.model_copy(update={name: f"{getattr(DEFAULT, name)} "}) for name in type(DEFAULT).model_fields]
    assert len({DEFAULT.hash, *(layout.hash for layout in changed)}) == len(changed) + 1


def test_an_unknown_layout_names_those_that_exist() -> None:
    with pytest.raises(ConfigError, match=r"default.*pocket"):
        prompts.load_layout("defualt")
    with pytest.raises(ConfigError, match="does not exist"):
        prompts.load_layout("nowhere.toml")


def test_a_layout_file_in_another_encoding_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes('name = "Küche"'.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"mine\.toml.*utf-8"):
        prompts.load_layout(str(path))
