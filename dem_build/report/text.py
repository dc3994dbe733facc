"""Text from outside, made safe for what shows it: a page, a card, a terminal."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

Line: TypeAlias = "Sequence[str | tuple[str, str]]"
"""A line for a terminal, in parts that are plain or (text, style of rich). Text from outside is `joined` already."""

UNSHOWN = ("Cc", "Cf", "Cs", "Cn")
# Cf holds the direction overrides that make text read as something else (N. Boucher and R. Anderson, Trojan Source,
# arXiv 2111.00169); joiners in emoji go with them.
OBEYED = ("Cc", "Cf", "Cs", "Zl", "Zp")
JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"


def printable(text: str) -> str:
    """The text on one line, without what is not shown: escape sequences, direction overrides, no characters."""
    spaced = " ".join(text.split())
    return "".join(c for c in spaced if unicodedata.category(c) not in UNSHOWN).strip()


def printable_lines(text: str) -> str:
    """The text with its lines and spaces, without what is not shown; joiners stay, which some scripts need."""
    spaced = "\n".join(text.expandtabs(4).splitlines())
    return "".join(c for c in spaced if c in ("\n", *JOINERS) or unicodedata.category(c) not in UNSHOWN)


def clean(text: object) -> str:
    r"""The text without what a terminal would obey: control characters are shown as `\x1b`, lines are kept."""
    text = str(text)
    if text.isascii() and text.isprintable():  # as nearly all names are
        return text
    shown = text.replace("\t", " ")
    escaped = (c.encode("unicode_escape").decode("ascii") for c in shown)
    return "".join(
        c if c == "\n" or unicodedata.category(c) not in OBEYED else e
        for c, e in zip(shown, escaped, strict=True)
    )


def joined(text: object) -> str:
    """Cleaned text on one line."""
    return clean(" ".join(str(text).split()))
