"""A TOML file that a person wrote: its tables, and the line of each key, so that a mistake has a place.

`tomllib` reads the values and tells no positions. The scanner that finds them follows strings, lists, tables and keys
of a text that `tomllib` accepts, and looks at no value. It runs only when there is something to say, so it costs a
good recipe nothing.
"""

from __future__ import annotations

import bisect
import json
import re
import tomllib
from collections import deque
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from dem_build.errors import Problem, RecipeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

Key: TypeAlias = tuple[str | int, ...]

MOST_BYTES = 1_000_000
MOST_LEVELS = 32
TOO_DEEP = "nested too deeply"

_PART = r'(?:"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|[^\s"\'.=\[\]#{},]+)'
_KEY = re.compile(rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*")
# Every run of text is stepped over once: strings of many lines and comments, which may hold anything, then keys.
_RUNS = re.compile(
    r'"""(?:\\[\s\S]|[^\\])*?"""|' + r"'''[\s\S]*?'''|#[^\n]*"
    rf"|(?P<key>{_PART}(?:[ \t]*\.[ \t]*{_PART})*+)"
)
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


def load(path: Path, word: str) -> tuple[str, dict[str, Any]]:
    """The text of a file, and its tables as `tomllib` reads them.

    Args:
        path: The file.
        word: What it should be, such as `recipe`.

    Raises:
        RecipeError: It cannot be read, is far too large, is not UTF-8, or is no TOML.
    """
    return parse(read(path, word), path, word)


def read(path: Path, word: str) -> bytes:
    """The bytes of a file; arguments as of `load`.

    Raises:
        RecipeError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise RecipeError([Problem(str(path), 0, "", f"there is no such {word}", _nearest(path))]) from error
    except IsADirectoryError as error:
        problem = Problem(str(path), 0, "", f"is a folder, not a {word}", "name its file")
        raise RecipeError([problem]) from error
    except OSError as error:
        raise RecipeError([Problem(str(path), 0, "", f"cannot be read: {error.strerror}")]) from error


def parse(data: bytes, path: Path, word: str) -> tuple[str, dict[str, Any]]:
    """The text of a file's bytes, and its tables, as `load` returns them.

    Args:
        data: The bytes.
        path: What messages call the file.
        word: What it should be, such as `recipe`.

    Raises:
        RecipeError: It is far too large, is not UTF-8, or is no TOML.
    """
    if len(data) > MOST_BYTES:
        what = f"is {len(data)} bytes: a {word} has at most {MOST_BYTES}"
        raise RecipeError([Problem(str(path), 0, "", what, "is it another file?")])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise RecipeError([Problem(str(path), line, "", "is not UTF-8", "save it as UTF-8")]) from error
    return text, _decoded(text, path)


def _nearest(path: Path) -> str:
    """Which TOML files lie where one was sought."""
    if ":" in path.name:
        return "an action is named after `--`: dem build RECIPE -- ACTION"
    folder = path.absolute().parent
    if not folder.is_dir():
        return f"there is no folder {folder} either"
    found = sorted(p.name for p in folder.glob("*.toml"))
    import difflib  # noqa: PLC0415  only for a mistake

    close = difflib.get_close_matches(path.name, found, n=3) or found[:5]
    return f"the TOML files there are {', '.join(close)}" if close else "there is no TOML file in its folder"


def _decoded(text: str, path: Path) -> dict[str, Any]:
    # A key of more parts than any table is deep costs tomllib time and memory squared.
    long = (m for m in _RUNS.finditer(text) if m["key"] and m["key"].count(".") >= MOST_LEVELS)
    if found := next((m for m in long if len(key_parts(m["key"])[0]) > MOST_LEVELS), None):
        line = text.count("\n", 0, found.start()) + 1
        raise RecipeError([Problem(str(path), line, "", f"is not TOML: {TOO_DEEP}")])
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        what, line = _syntax(str(error), text)
        raise RecipeError(
            [Problem(str(path), line, "", f"is not TOML: {what}", _other_tool(path))]
        ) from error
    except RecursionError as error:
        raise RecipeError([Problem(str(path), 0, "", f"is not TOML: {TOO_DEEP}")]) from error
    except ValueError as error:  # a number with more digits than Python reads
        raise RecipeError([Problem(str(path), 0, "", f"is not TOML: {error}")]) from error


def _other_tool(path: Path) -> str:
    """A hint, where a file is most likely another tool's."""
    if path.suffix not in {".yml", ".yaml"}:
        return ""
    return "a recipe is TOML: docs/coming-from.md has files of mergekit, Axolotl and DVC with the recipe for each"


_SYNTAX = {
    "Cannot overwrite a value": "the key is given twice",
    r"Illegal character '\n'": "the text has no end on this line",
}


def _syntax(message: str, text: str) -> tuple[str, int]:
    """Split tomllib's `… (at line 3, column 5)`, and say the commonest in plainer words."""
    found = re.fullmatch(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", message, re.DOTALL)
    what, line = (found[1], found[2]) if found else (message, "0")
    if table := re.fullmatch(r"Cannot declare \((.*)\) twice", what):
        names = re.findall(r"'([^']*)'", table[1])
        what = f"[{'.'.join(names)}] is given twice"
    what = _SYNTAX.get(what, what[:1].lower() + what[1:])
    return what, int(line) if line else text.rstrip("\n").count("\n") + 1


def too_deep(value: Any) -> bool:
    """Whether tables and lists are nested deeper than any recipe's, and than code that descends can follow."""
    level = [value]
    for _ in range(MOST_LEVELS):
        inner = (v.values() if isinstance(v, dict) else v for v in level)
        level = [item for items in inner for item in items if isinstance(item, dict | list)]
        if not level:
            return False
    return True


def frozen(value: Any) -> Any:
    """TOML values with tuples for lists, which is what strict models of frozen values take."""
    if isinstance(value, dict):
        return {key: frozen(item) for key, item in value.items()}
    return tuple(frozen(item) for item in value) if isinstance(value, list) else value


@dataclass(frozen=True)
class Origin:
    """Where the keys of a file's tables are from: lines of the file, or options of the command line.

    Attributes:
        file: The file, as the user named it.
        text: What stands in it.
        sets: Keys that the command line set → the option that did.
    """

    file: str
    text: str = ""
    sets: Mapping[Key, str] = field(default_factory=dict)

    def problem(self, key: Key, what: str, hint: str = "") -> Problem:
        """A mistake at a key, with the line or the option that it is from."""
        # The option that set the key, or a table around it, or that alone made the table that it is.
        around = (self.sets[key[:n]] for n in range(len(key), 0, -1) if key[:n] in self.sets)
        below = (option for k, option in self.sets.items() if k[: len(key)] == key and key not in self._lines)
        option = next(around, None) or (next(below, None) if key else None)
        if option is not None:
            return Problem(option, 0, dotted(key), what, hint)
        return Problem(self.file, line_of(self._lines, key), dotted(key), what, hint)

    @cached_property
    def _lines(self) -> dict[Key, int]:
        return locate(self.text)


def locate(text: str) -> dict[Key, int]:
    """The 1-based line of every key, table and list item of a valid TOML text.

    Items of lists, and of arrays of tables, are numbered from 0: `("gates", 0, "min")`.
    """
    scanner = _Scanner(text)
    deque(scanner.document(), maxlen=0)
    return scanner.lines


class Statement(NamedTuple):
    """A header, or a key with its value, of a TOML text.

    Attributes:
        key: What it is of: the whole key, with the tables around it.
        end: Where it ends; a comment behind it is no part of it.
    """

    key: Key
    start: int
    end: int
    is_header: bool


def statements(text: str) -> list[Statement]:
    """The statements of a valid TOML text, in its order."""
    return list(_Scanner(text).document())


def line_of(lines: Mapping[Key, int], key: Key) -> int:
    """The line of a key, or of the nearest table around it; 0 where nothing of it is in the file."""
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
    parts = re.findall(_PART, found.group())
    return tuple(
        tomllib.loads(f"text = {part}")["text"] if part.startswith('"') else part.strip("'") for part in parts
    ), found.end()


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[Key, int] = {}
        self.newlines = [m.start() for m in re.finditer("\n", text)]
        self.last_item: dict[Key, int] = {}

    def document(self) -> Iterator[Statement]:
        table: Key = ()
        while self.more():
            start = self.at
            if is_header := self.text.startswith("[", start):
                key = table = self.header()
            else:
                key = self.pair(table)
            yield Statement(key, start, self.at, is_header=is_header)

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
        """The table that a header names: in an array of tables, the last item."""
        table: Key = ()
        for part in parts:
            table += (part,)
            if table in self.last_item:
                table += (self.last_item[table],)
        return table

    def pair(self, table: Key) -> Key:
        line = self.line()
        parts, self.at = key_parts(self.text, self.at)
        key = table + parts
        self.note(key, line)
        self.at = self.text.index("=", self.at) + 1
        self.value(key)
        return key

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
