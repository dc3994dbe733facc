"""A recipe's text with a table more or less, or with other ω, and every other byte as it was.

The text is cut between its statements and never written anew: comments, order, blank lines and how a value is written
are the user's. That an edit did what it should, and nothing else, is proved by reading both texts (`_proved`).
"""

from __future__ import annotations

import copy
import json
import re
import tomllib
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from dem_build.errors import UsageError
from dem_build.recipe.toml import dotted, key_parts, line_of, locate, statements

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dem_build.recipe.toml import Key, Statement

ORDER = ("name", "base", "train", "datasets", "vectors", "probes")
"""Sections that a new table comes after, where the recipe has none of its own section yet."""

# Comments right below a table, with a blank line or nothing below them: keys of it that somebody put aside.
_PUT_ASIDE = re.compile(r"(?:[ \t]*#[^\n]*(?:\n|\Z))+(?=[ \t]*(?:\r?\n|\Z))")
_BLANK = re.compile(r"[ \t]*\r?\n")
_CONTROL = re.compile("\x7f")  # the one character that JSON leaves as it is, and TOML does not take


def table_text(key: Key, table: Mapping[str, Any]) -> str:
    """A table as a person writes it, each of its keys on a line.

    Args:
        key: Where it is, such as `("datasets", "math")`.
        table: Its keys, with values as `tomllib` reads them.
    """
    lines = [f"{dotted((name,))} = {value_text(value)}\n" for name, value in table.items()]
    return f"[{dotted(key)}]\n{''.join(lines)}"


def value_text(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return _CONTROL.sub(r"\\u007f", json.dumps(value, ensure_ascii=False))
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{dotted((key,))} = {value_text(item)}' for key, item in value.items())} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(value_text, value))}]"
    return str(value)  # of numbers, dates and times Python's own form is TOML's


def with_table(text: str, section: str, name: str, table: Mapping[str, Any]) -> str:
    """A recipe's text with one table more, of a name that is not there yet, below the last one of its section.

    Raises:
        UsageError: The section stands in a form that no header can add to, as an inline table.
    """
    found, at = statements(text), 0
    before = ORDER[: ORDER.index(section) + 1] if section in ORDER else ORDER
    for wanted in before:
        ends = [index for index, statement in enumerate(found) if statement.key[0] == wanted]
        at = ends[-1] + 1 if ends else at
    # What stands below a header is of its table, so a new one begins where another does, or at the end.
    while at < len(found) and not found[at].is_header:
        at += 1
    place = _line_end(text, found[at - 1].end) if at else 0
    if aside := _PUT_ASIDE.match(text, place):
        place = aside.end()
    head, rest, new = text[:place], text[place:], table_text((section, name), table)
    head += "\n" if head and not head.endswith("\n") else ""
    new_text = (
        f"{head}{chr(10) if head else ''}{new}{chr(10) if rest and not _BLANK.match(rest) else ''}{rest}"
    )
    expected = tomllib.loads(text)
    expected.setdefault(section, {})[name] = dict(table)
    return _proved(new_text, expected, text, (section,), f"write it there by hand:\n{new.rstrip()}")


def without_table(text: str, section: str, name: str) -> str:
    """A recipe's text without a table, which has to be there, and without those in it.

    Comments above its header and below its last key stay.

    Raises:
        UsageError: It stands inside of an inline table with others.
    """
    found = statements(text)
    new_text = text
    for first, last in reversed(_runs(found, (section, name))):
        start = text.rfind("\n", 0, found[first].start) + 1
        head, rest = new_text[:start], new_text[_line_end(text, found[last].end) :]
        # One blank line of the two that now meet.
        if (not head or head.endswith(("\n\n", "\n\r\n"))) and (blank := _BLANK.match(rest)):
            rest = rest[blank.end() :]
        new_text = head + rest if rest else head[: _line_end(head, len(head.rstrip("\r\n")))]
    expected = tomllib.loads(text)
    del expected[section][name]
    return _proved(new_text, expected, text, (section, name), "take it out by hand")


def with_omegas(text: str, omegas: Mapping[tuple[str, str], float]) -> str:
    """A recipe's text with other ω of its vectors; what says the same number stays as it is written.

    Args:
        text: The text.
        omegas: Section and name of a table that is there, such as `("datasets", "math")` → its ω.

    Raises:
        UsageError: A table stands in a form in which no key can be changed, as an inline table.
    """
    expected, found = tomllib.loads(text), statements(text)
    first = {statement.key: at for at, statement in reversed([*enumerate(found)])}
    edits: list[tuple[int, int, str]] = []
    changed: list[tuple[tuple[str, str], str]] = []
    for key, omega in omegas.items():
        table = expected[key[0]][key[1]]
        if table.get("omega") == omega and not isinstance(table["omega"], bool):
            continue
        table["omega"] = omega
        changed.append((key, f"write it there by hand: omega = {value_text(omega)}"))
        edit = _omega_edit(text, found, first, key, value_text(omega))
        if edit is None:
            raise _not_edited(text, *changed[-1])
        edits.append(edit)
    new_text = text
    for start, stop, new in sorted(edits, reverse=True):
        new_text = new_text[:start] + new + new_text[stop:]
    return _proved(new_text, expected, text, *changed[0]) if changed else text


def _omega_edit(
    text: str, found: Sequence[Statement], first: Mapping[Key, int], table: tuple[str, str], value: str
) -> tuple[int, int, str] | None:
    """Where a table's ω goes, and what is put there; None where it is no place for a key.

    Args:
        text: The recipe's text.
        found: Its statements.
        first: Key → number of the first statement of it.
        table: Its key.
        value: ω as it is written.
    """
    if (at := first.get((*table, "omega"))) is not None:
        _, place = key_parts(text, found[at].start)
        place = text.index("=", place) + 1
        # Blanks between a number and a comment are of the number, to the scanner.
        old = text[place : found[at].end]
        return place + len(old) - len(old.lstrip()), place + len(old.rstrip()), value
    if (at := first.get(table)) is None or not found[at].is_header:
        return None
    # Below the keys that stand there, above a table of its own such as `train`.
    *_, last = found[at], *takewhile(lambda statement: not statement.is_header, found[at + 1 :])
    place = _line_end(text, last.end)
    return place, place, f"{'' if text[:place].endswith(chr(10)) else chr(10)}omega = {value}\n"


def _runs(found: Sequence[Statement], key: tuple[str, str]) -> list[tuple[int, int]]:
    """The first and the last of each run of statements that are of a table."""
    runs: list[tuple[int, int]] = []
    for index, statement in enumerate(found):
        if statement.key[:2] == key:
            follows = runs and runs[-1][1] == index - 1
            runs[-1:] = [(runs[-1][0], index)] if follows else [*runs[-1:], (index, index)]
    return runs


def _line_end(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end + 1


def _proved(new_text: str, expected: dict[str, Any], text: str, key: tuple[str, ...], by_hand: str) -> str:
    """The new text, where it says what it should; an empty section is none."""
    try:
        said = tomllib.loads(new_text)
    except tomllib.TOMLDecodeError:
        said = None
    if said is None or _without_empty(said, key[0]) != _without_empty(expected, key[0]):
        raise _not_edited(text, key, by_hand)
    return new_text


def _not_edited(text: str, key: tuple[str, ...], by_hand: str) -> UsageError:
    line = line_of(locate(text), key)
    return UsageError(
        f"`{dotted(key)}` (line {line}) is written in a form that dem does not edit", hint=by_hand
    )


def _without_empty(data: dict[str, Any], section: str) -> dict[str, Any]:
    data = copy.copy(data)
    if data.get(section) == {}:
        del data[section]
    return data
