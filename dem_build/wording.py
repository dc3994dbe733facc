"""How counts and lists are put into words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def counted(number: int, word: str) -> str:
    """A number of things: `1 row`, `2 rows`."""
    return f"{number} {word}{'' if number == 1 else 's'}"


def together(names: Iterable[str]) -> str:
    """All of some names: `a`, `a and b`, `a, b and c`."""
    *others, last = [*names] or [""]
    return f"{', '.join(others)} and {last}" if others else last


def overflow_hint(dtype: str) -> str:
    """What may help where what a model makes is not finite: a wider dtype, where there is one.

    Args:
        dtype: The one that it computed in.
    """
    if dtype == "float32":
        return "the model is broken: a vector is damaged, or its `omega` far too large; lower that, or make it again"
    return 'the model is broken or overflows its dtype; try `dtype = "float32"` in [compose]'


def vector_name(digest: str) -> str:
    """What calls a vector that knows no names; who knows them puts one in its place."""
    return f"vector {digest[:12]}…"


def first_of(names: Iterable[str], most: int) -> str:
    """The first few of some names, and how many more there are: `a, b and 3 more`."""
    found = [*names]
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more
