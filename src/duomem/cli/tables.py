"""How commands show tables, pairs of name and text, and differences, with rich. Every text that goes in is made harmless here.

In: plain strings and numbers. Out: rich renderables for `Terminal.result`. Not here: any command.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

from rich import box
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from duomem import safetext
from duomem.types import Usage

RIGHT = re.compile(r"[\s\d.,+\-–%:<>×/s]*")
"""What stands in a column of numbers."""
LOOKS = {"won": "green", "lost": "yellow", "live": "green", "error": "red"}


def cell(text: object, limit: int = 200, style: str = "") -> Text:
    """One line of a table."""
    said = safetext.line(str(text), limit)
    return Text(said, style or LOOKS.get(said, ""))


def block(text: str, style: str = "", limit: int | None = safetext.LONG, chars: int | None = None) -> Text:
    """Text over several lines. `chars` is its whole length, where it has been cut already."""
    return Text(safetext.plain(text, limit, chars), style)


def table(head: Sequence[str], rows: Iterable[Sequence[object]], title: str = "", note: str = "") -> Table:
    """A table; columns of numbers stand to the right. Where room lacks, headings and a last column of words take several lines;
    other cells stay whole."""
    lines = [[each if isinstance(each, Text) else cell(each) for each in row] for row in rows]
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, title_justify="left", caption_justify="left")
    made.title = Text.assemble("\n", cell(title, 400, "bold")) if title else None
    made.caption = cell(note, 1000, "dim") if note else None
    widths = []
    for number, name in enumerate(head):
        numbers = lines and all(RIGHT.fullmatch(line[number].plain) for line in lines)
        whole = [] if number == len(head) - 1 and not numbers else [part for line in lines for part in line[number].split()]
        widths.append(max((part.cell_len for part in [*whole, *cell(name).split()]), default=1))
        made.add_column(cell(name), justify="right" if numbers else "left", min_width=widths[-1], overflow="fold")
    for line in lines:
        made.add_row(*line)
    made.min_width = sum(widths) + 3 * (len(head) - 1)
    return made


def grid(space: int) -> Table:
    """Labels and texts; a word that has no room is folded, not cut."""
    made = Table.grid(padding=(0, space))
    made.add_column()
    made.add_column(overflow="fold")
    return made


def indented(text: Text) -> Padding:
    return Padding(text, (0, 0, 0, 4))


def pairs(rows: Iterable[tuple[str, object]]) -> Table:
    """Names and what stands for them, without lines; what is empty is left out."""
    made = grid(2)
    for name, value in rows:
        text = value if isinstance(value, Text) else cell(value, 1000)
        if text.plain:
            made.add_row(Text(name, "dim"), text)
    return made


def tokens(usage: Usage) -> str:
    """Tokens of an episode or a step, with the share of the prompt that came from a cache."""
    cached = f" ({usage.cached / usage.prompt:.0%} cached)" if usage.prompt else ""
    return f"{usage.prompt:,} in{cached}, {usage.completion:,} out"


def changed(left: str, right: str, limit: int = 2000) -> tuple[Text, Text]:
    """Two texts with the words that only one of them has set off, by weight as well as by colour."""
    words = [re.split(r"(\s+)", safetext.plain(text, limit)) for text in (left, right)]
    both = [Text(), Text()]
    for what, a, b, c, d in difflib.SequenceMatcher(None, words[0], words[1], autojunk=False).get_opcodes():
        for text, own, (start, end), look in zip(both, words, ((a, b), (c, d)), ("bold red", "bold green"), strict=True):
            text.append("".join(own[start:end]), "" if what == "equal" else look)
    return both[0], both[1]


def diff(left: str, right: str, names: tuple[str, str]) -> list[Text]:
    """Lines that differ, as `diff -u` without context; empty where none does."""
    lines = difflib.unified_diff(left.splitlines(), right.splitlines(), *names, lineterm="", n=0)
    looks = {"+": "green", "-": "red"}
    return [Text(safetext.line(line, 400), looks.get(line[:1], "")) for line in lines if not line.startswith("@@")]
