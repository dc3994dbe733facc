"""Where keys stand in a TOML text: key → line. `tomllib` reads the values and tells no positions.

A scanner for texts that `tomllib` accepts: it follows strings, lists, tables and keys, and looks at no value. It is
used only when there is something to say, so it costs a good recipe nothing.
"""

from __future__ import annotations

import bisect
import json
import re
import tomllib
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["PART", "Key", "dotted", "key_parts", "line_of", "locate", "parsed"]

Key: TypeAlias = tuple[str | int, ...]

PART = r'(?:"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|[^\s"\'.=\[\]#{},]+)'
_KEY = re.compile(rf"{PART}(?:[ \t]*\.[ \t]*{PART})*")
_STRING = re.compile(
    # A multi-line string ends at the first three quotes, and up to two more before them are its own.
    r'"""(?:\\[\s\S]|[^\\])*?"""(?:"{0,2})'
    r"|'''[\s\S]*?'''(?:'{0,2})"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
)
_BARE = re.compile(r"[^,\]}#\n]+")
_SPACE = re.compile(r"(?:\s|#[^\n]*)*")
_ITEM = re.compile(r"\[(\d+)\]")
_PLAIN = re.compile(r"[A-Za-z0-9_-]+")


def locate(text: str) -> dict[Key, int]:
    """Return the 1-based line of every key, table and list item of a valid TOML text.

    Items of lists, and of arrays of tables, are numbered from 0: `("gates", 0, "min")`.
    """
    scanner = _Scanner(text)
    scanner.document()
    return scanner.lines


def line_of(lines: Mapping[Key, int], key: Key) -> int:
    """Return the line of a key, or of the nearest table around it; 0 where nothing of it is in the file."""
    while key and key not in lines:
        key = key[:-1]
    return lines.get(key, 0)


def dotted(key: Key) -> str:
    """Write a key as a person does: `evaluate.tasks[1].name`."""
    text = ""
    for part in key:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if _PLAIN.fullmatch(part) else json.dumps(part, ensure_ascii=False)
            text += f".{name}" if text else name
    return text


def parsed(key: str) -> Key:
    """Read what `dotted` wrote."""
    found: list[str | int] = []
    at = 0
    while at < len(key):
        if item := _ITEM.match(key, at):
            found.append(int(item[1]))
            at = item.end()
        else:
            parts, at = key_parts(key, at + (key[at] == "."))
            assert parts, f"{key} is a key"
            found.extend(parts)
    return tuple(found)


def key_parts(text: str, start: int = 0) -> tuple[tuple[str, ...], int]:
    """Read a TOML key, which may be dotted and quoted.

    Returns:
        The key's parts, none where there is no key at `start`; and where the key ends.
    """
    found = _KEY.match(text, start)
    if found is None:
        return (), start
    return tuple(_unquoted(part) for part in re.findall(PART, found.group())), found.end()


def _unquoted(part: str) -> str:
    if not part.startswith('"'):
        return part.strip("'")
    text: str = tomllib.loads(f"text = {part}")["text"]
    return text


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[Key, int] = {}
        self.newlines = [m.start() for m in re.finditer("\n", text)]
        self.last_item: dict[Key, int] = {}

    def document(self) -> None:
        table: Key = ()
        while self.more():
            if self.text.startswith("[", self.at):
                table = self.header()
            else:
                self.pair(table)

    def header(self) -> Key:
        is_item = self.text.startswith("[[", self.at)
        line = self.line()
        self.at += 2 if is_item else 1
        self.more()
        parts, self.at = key_parts(self.text, self.at)
        table = self.current(parts[:-1]) + parts[-1:]
        self.at = self.text.index("]", self.at) + (2 if is_item else 1)
        if is_item:
            self.lines.setdefault(table, line)
            self.last_item[table] = self.last_item.get(table, -1) + 1
            table += (self.last_item[table],)
        self.note(table, line)
        return table

    def current(self, parts: tuple[str, ...]) -> Key:
        """Return the table that a header names: in an array of tables, the last item."""
        table: Key = ()
        for part in parts:
            table += (part,)
            if table in self.last_item:
                table += (self.last_item[table],)
        return table

    def pair(self, table: Key) -> None:
        line = self.line()
        parts, self.at = key_parts(self.text, self.at)
        key = table + parts
        self.note(key, line)
        self.at = self.text.index("=", self.at) + 1
        self.value(key)

    def value(self, key: Key) -> None:
        self.more()
        if self.text[self.at] == "[":
            self.items(key)
        elif self.text[self.at] == "{":
            self.inline(key)
        else:
            found = _STRING.match(self.text, self.at) or _BARE.match(self.text, self.at)
            assert found is not None, "tomllib read a value here"
            self.at = found.end()

    def items(self, key: Key) -> None:
        index = 0
        while self.inside("]"):
            self.note((*key, index), self.line())
            self.value((*key, index))
            index += 1

    def inline(self, key: Key) -> None:
        while self.inside("}"):
            self.pair(key)

    def inside(self, end: str) -> bool:
        """Step over the opening bracket or the comma; tell whether an item follows, or step over the end."""
        self.more()
        if self.text[self.at] != end:
            self.at += 1
            self.more()
        if self.text[self.at] != end:
            return True
        self.at += 1
        return False

    def more(self) -> bool:
        """Step over white space and comments; tell whether anything follows."""
        found = _SPACE.match(self.text, self.at)
        assert found is not None, "the pattern matches the empty text"
        self.at = found.end()
        return self.at < len(self.text)

    def line(self) -> int:
        return bisect.bisect_left(self.newlines, self.at) + 1

    def note(self, key: Key, line: int) -> None:
        self.lines[key] = line
        for length in range(1, len(key)):
            self.lines.setdefault(key[:length], line)
