"""Text that others wrote, on a terminal: nothing in it moves the cursor, sets a title, hides or turns words, or floods."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from corridor import Corridor, walker
from duomem import safetext
from duomem.agent import Player
from duomem.cli.console import Terminal, safe
from duomem.journal import Journal
from duomem.models.scripted import Scripted
from duomem.prompts import load_layout
from duomem.types import Message, StopReason

VISIBLE = {0x600, 0x601, 0x602, 0x603, 0x604, 0x605, 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD}
"""Format characters that are signs one can see: Arabic, Syriac and Kaithi numbers and abbreviations."""


def harmful(text: str) -> list[str]:
    """By Unicode's own categories, apart from the list in the module."""
    kinds = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    kept = {"\n", "\u200c", "\u200d", *map(chr, VISIBLE)}
    return [char for char in text if unicodedata.category(char) in kinds and char not in kept]


def test_no_control_format_or_surrogate_character_of_unicode_gets_through() -> None:
    everything = "".join(map(chr, range(0x110000)))
    assert len(harmful(everything)) > 2000
    assert harmful(safetext.plain(everything, None)) == []


@given(st.text(st.characters() | st.characters(categories=["Cs"]) | st.sampled_from("\x1b\x9b\x07\r\n\u202e\u2066")))
def test_what_is_safe_stays_as_it_is(text: str) -> None:
    once = safetext.plain(text)
    assert harmful(once) == []
    assert safetext.plain(once) == once
    assert "\n" not in safetext.line(text)
    assert harmful(safetext.line(text)) == []


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b[2J\x1b[31mred", "␛[2J␛[31mred"),
        ("\x1b]0;title\x07", "␛]0;title␇"),
        ("\x9b31m\x9d52;c;aGk=\x9c", "<U+009B>31m<U+009D>52;c;aGk=<U+009C>"),
        ("safe\roverwritten", "safe␍overwritten"),
        ("two\r\nlines", "two\nlines"),
        ("a\x08b\x7f\x00", "a␈b␡␀"),
        ("open\u202edrawer\u2069", "open<U+202E>drawer<U+2069>"),
        ("hidden\U000e0068\U000e0069", "hidden<U+E0068><U+E0069>"),
        ("half \ud83d of a pair", "half \ufffd of a pair"),
        (b"bytes \xff\xfe".decode(errors="surrogateescape"), "bytes \ufffd\ufffd"),
        ("a\tb", "a    b"),
        ("naïve 日本語 \u2705 👩\u200d🚀 می\u200cخواهم", "naïve 日本語 \u2705 👩\u200d🚀 می\u200cخواهم"),
    ],
)
def test_a_stand_in_says_what_was_there(hostile: str, shown: str) -> None:
    assert safetext.plain(hostile) == shown


def test_long_text_is_cut_with_a_count() -> None:
    flood = "ab\x1b" * 1_700_000
    assert safetext.plain(flood, 4) == "ab␛a [... 5,099,996 more characters]"
    assert len(safetext.plain(flood)) < safetext.LONG + 60
    assert safetext.plain("abcd", 4) == "abcd"
    assert safetext.line(flood, 10) == "ab␛ab␛a..."
    assert safetext.line("\n" * 5_000_000 + "x", 10) == "..."
    assert safetext.line("one  two\n three", 13) == "one two three"
    assert safetext.line("one  two\n three", 12) == "one two t..."


def test_markup_links_and_emoji_names_mean_nothing_to_rich() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, color_system="truecolor", width=100, legacy_windows=False)
    console.print(safe("[bold red]x[/] [link=http://e.vil]y[/link] :bomb: [/nothing] \x1b]8;;http://e.vil\x1b\\z"))
    assert out.getvalue() == "[bold red]x[/] [link=http://e.vil]y[/link] :bomb: [/nothing] ␛]8;;http://e.vil␛\\z\n"


def test_results_notes_and_errors_pass_through_it(capsys: pytest.CaptureFixture[str]) -> None:
    terminal, hostile = Terminal(), "[b]\x1b[31m:bomb:\u202e\udc80"
    terminal.result({}, hostile)
    terminal.result({"key": hostile})
    terminal.note(hostile)
    terminal.error(hostile)
    said = capsys.readouterr()
    assert said.out.splitlines() == ["[b]␛[31m:bomb:<U+202E>\ufffd", "key: [b]␛[31m:bomb:<U+202E>\ufffd"]
    assert harmful(said.err) == []
    terminal.json = True
    terminal.result({"key": hostile})
    said = capsys.readouterr()
    assert said.out.isascii()
    assert said.out.rstrip("\n").isprintable()


def test_broken_text_of_an_environment_or_a_model_spoils_no_journal(tmp_path: Path) -> None:
    """Half a surrogate pair cannot be written: it once made every later commit of the run fail."""
    corridor = Corridor(n=2, drift=" \udc80\ud83d")

    def says(messages: Sequence[Message]) -> str:
        return "\udcff" + walker([Message.of("user", messages[-1].text.partition(" \ufffd")[0])])

    with Journal.open(tmp_path / "journal.sqlite") as journal:
        player = Player(corridor, Scripted(says), load_layout("default"))
        for task in corridor.tasks("train"):
            player.play(task, journal=journal, phase="collect")
        kept = list(journal.trajectories("collect"))
    assert [each.stop for each in kept] == [StopReason.WON] * 2
    assert all("\ufffd\ufffd" in each.scene for each in kept)
    assert all("\ufffd" in turn.reply.message.text for each in kept for turn in each.turns)
