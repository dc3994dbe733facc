"""Reads JSON that anybody may have written: what cannot be read is a ValueError, and nothing else is."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

MALFORMED = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError)
"""What is raised where a document is taken apart that has another shape than it should."""
LARGEST = 2**1023


class TwinKeyError(ValueError):
    """An object has a key twice, of which a reader would take one without a word."""


def parse_json(
    text: str | bytes, pairs: Callable[[list[tuple[str, Any]]], dict[str, Any]] | None = None
) -> Any:
    """The document that a text holds.

    Args:
        text: JSON; of bytes, in UTF-8, UTF-16 or UTF-32.
        pairs: Makes an object of its members, where that is not just a dictionary.

    Raises:
        ValueError: It is no JSON, or nested so deeply that to read it takes more stack than there is.
    """
    try:
        return json.loads(text, object_pairs_hook=pairs)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def unique(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its members, for `parse_json`: Python's own reader takes the last of two that share a key.

    Raises:
        TwinKeyError: A key stands twice.
    """
    made = dict(members)
    if len(made) < len(members):
        names = [name for name, _ in members]
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise TwinKeyError(f"the key {twice!r} stands twice in one object")
    return made


def text_at(document: Any, name: str) -> str:
    """A field that is text.

    Raises:
        KeyError, TypeError: There is no such field, or it holds something else.
    """
    value = document[name]
    if not isinstance(value, str):
        raise TypeError(f"{name} is no text")
    return value


def number(value: Any) -> float | None:
    """A value that is a number which a float can hold, infinite ones and NaN too; None for all others."""
    if isinstance(value, float):
        return value
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST
    return float(value) if whole else None


def finite(value: float | None) -> float | None:
    """A number if it is finite, else None: JSON has no NaN and no infinity."""
    return value if value is not None and math.isfinite(value) else None


def quantity(value: Any) -> float | None:
    """A value that is a finite number, None for all others."""
    found = number(value)
    return found if found is not None and math.isfinite(found) else None
