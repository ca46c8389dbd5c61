"""Makes text from models, environments and files harmless on a terminal, and still readable.

In: any string. Out: one without control characters, escape sequences, bidi controls, invisible characters or halves of
surrogate pairs, each shown as a visible stand-in, and cut with a count where it is long. It escapes no markup (rich's is left
alone by printing `rich.text.Text`) and no HTML (the page's templates do that).
"""

from __future__ import annotations

import re

LONG = 20_000
"""Characters of one text that are shown unless a caller says otherwise: some screens, far from what stalls a terminal."""
_UNSAFE = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f"  # control characters: ESC, CSI, OSC, BEL, backspace, carriage return, tab
    "\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # bidi controls, invisible, separators
    "\ud800-\udfff"  # halves of surrogate pairs: what is left of broken UTF-8
    "\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e007f]"  # format controls, tags
)
"""What is shown by a stand-in. Escape sequences need no grammar of their own: without their first character (ESC, or its C1
form) they are plain text. Not in it: the line feed, the two joiners (U+200C, U+200D) that scripts and emoji need, and the
format characters of Arabic, Syriac and Kaithi, which are visible signs."""


def _stand_in(match: re.Match[str]) -> str:
    """Control pictures for ASCII's controls (ESC is ␛), spaces for a tab, U+FFFD for half a surrogate pair, else the number."""
    code = ord(match[0])
    if code == 9:
        return "    "
    if code < 32 or code == 127:
        return chr(0x2400 + code) if code < 32 else "\u2421"
    return "\ufffd" if 0xD800 <= code <= 0xDFFF else f"<U+{code:04X}>"


def plain(text: str, limit: int | None = LONG, chars: int | None = None) -> str:
    """The text over as many lines as it has, `limit` characters of it (None: all). Line ends of Windows become a line feed.

    `chars` is the length of the whole text, where this is its beginning.
    """
    left = max(len(text), chars or 0) - len(text[:limit])
    return _shown(text[:limit].replace("\r\n", "\n"), left)


def line(text: str, limit: int = 200) -> str:
    """The text on one line: each run of white space is one space. Where it is longer than `limit` its end is given as `...`."""
    # White space only shrinks: so much of the text is enough, however long it is.
    words = " ".join(text[: 20 * limit].split())
    whole = len(words) <= limit and len(text) <= 20 * limit
    return _shown(words if whole else words[: max(0, limit - 3)] + "...")


def whole(text: str) -> str:
    """Text that can be written as UTF-8: halves of surrogate pairs, as broken bytes or JSON leave them, become U+FFFD."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _shown(text: str, left: int = 0) -> str:
    safe = _UNSAFE.sub(_stand_in, text)
    return safe if left <= 0 else f"{safe} [... {left:,} more characters]"
