"""A TOML file that a person wrote: read it, and turn mistakes in it into problems with lines."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dem_build.errors import Problem, RecipeError
from dem_build.recipe.locate import PART, Key, dotted, key_parts, line_of, locate

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["TOO_DEEP", "Origin", "decode", "frozen", "read", "too_deep"]

MOST_BYTES = 1_000_000
MOST_LEVELS = 32
TOO_DEEP = "nested too deeply"
# Every run of text is stepped over once: strings of many lines and comments, which may hold anything, then keys.
_RUNS = re.compile(
    r'"""(?:\\[\s\S]|[^\\])*?"""|' + r"'''[\s\S]*?'''|#[^\n]*"
    rf"|(?P<key>{PART}(?:[ \t]*\.[ \t]*{PART})*+)"
)


def read(path: Path, word: str) -> str:
    """Return the text of a file.

    Args:
        path: The file.
        word: What it should be, such as `recipe`.

    Raises:
        RecipeError: It cannot be read, is far too large, or is not UTF-8.
    """
    try:
        data = path.read_bytes()
        if len(data) > MOST_BYTES:
            what = f"is {len(data)} bytes: a {word} has at most {MOST_BYTES}"
            raise RecipeError([Problem(str(path), 0, "", what, "is it another file?")])
        return data.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise RecipeError([Problem(str(path), 0, "", f"there is no such {word}", _nearest(path))]) from error
    except IsADirectoryError as error:
        raise RecipeError(
            [Problem(str(path), 0, "", f"is a folder, not a {word}", "name its file")]
        ) from error
    except OSError as error:
        raise RecipeError([Problem(str(path), 0, "", f"cannot be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        problem = Problem(str(path), line, "", "is not UTF-8", "save it as UTF-8")
        raise RecipeError([problem]) from error


def _nearest(path: Path) -> str:
    """Say which TOML files lie where one was sought."""
    if ":" in path.name:
        return "an action is named after `--`: dem build RECIPE -- ACTION"
    folder = path.absolute().parent
    if not folder.is_dir():
        return f"there is no folder {folder} either"
    found = sorted(p.name for p in folder.glob("*.toml"))
    import difflib  # noqa: PLC0415  only for a mistake

    close = difflib.get_close_matches(path.name, found, n=3) or found[:5]
    return f"the TOML files there are {', '.join(close)}" if close else "there is no TOML file in its folder"


def decode(text: str, path: Path) -> dict[str, Any]:
    """Read TOML.

    Raises:
        RecipeError: It is no TOML; with the line.
    """
    if (line := _line_of_long_key(text)) is not None:
        raise RecipeError([Problem(str(path), line, "", f"is not TOML: {TOO_DEEP}")])
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        what, line = _syntax(str(error), text)
        raise RecipeError([Problem(str(path), line, "", f"is not TOML: {what}")]) from error
    except RecursionError as error:
        raise RecipeError([Problem(str(path), 0, "", f"is not TOML: {TOO_DEEP}")]) from error
    except ValueError as error:  # a number with more digits than Python reads
        raise RecipeError([Problem(str(path), 0, "", f"is not TOML: {error}")]) from error


def too_deep(value: Any) -> bool:
    """Return whether tables and lists are nested deeper than any recipe's, and than code that descends can follow."""
    level = [value]
    for _ in range(MOST_LEVELS):
        inner = (v.values() if isinstance(v, dict) else v for v in level)
        level = [item for items in inner for item in items if isinstance(item, dict | list)]
        if not level:
            return False
    return True


def _line_of_long_key(text: str) -> int | None:
    """Return the line of a key of more parts than any table is deep, which costs its reader time and memory squared."""
    keys = (m for m in _RUNS.finditer(text) if m["key"] and m["key"].count(".") >= MOST_LEVELS)
    found = next((m for m in keys if len(key_parts(m["key"])[0]) > MOST_LEVELS), None)
    return None if found is None else text.count("\n", 0, found.start()) + 1


def frozen(value: Any) -> Any:
    """Return TOML values with tuples for lists, which is what strict models of frozen values take."""
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
        """Return a mistake at a key, with the line or the option that it is from."""
        if (option := self._option(key)) is not None:
            return Problem(option, 0, dotted(key), what, hint)
        return Problem(self.file, line_of(self._lines, key), dotted(key), what, hint)

    @cached_property
    def _lines(self) -> dict[Key, int]:
        return locate(self.text)

    def _option(self, key: Key) -> str | None:
        """Return the option that set a key, or a table around it, or that alone made the table that it is."""
        around = (self.sets[key[:n]] for n in range(len(key), 0, -1) if key[:n] in self.sets)
        below = (option for k, option in self.sets.items() if k[: len(key)] == key and key not in self._lines)
        return next(around, None) or (next(below, None) if key else None)


def _syntax(message: str, text: str) -> tuple[str, int]:
    """Split tomllib's `… (at line 3, column 5)`, and say the commonest in plainer words."""
    found = re.fullmatch(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", message, re.DOTALL)
    what, line = (found[1], found[2]) if found else (message, "0")
    if table := re.fullmatch(r"Cannot declare \((.*)\) twice", what):
        names = re.findall(r"'([^']*)'", table[1])
        what = f"[{'.'.join(names)}] is given twice"
    what = _SYNTAX.get(what, what[:1].lower() + what[1:])
    return what, int(line) if line else text.rstrip("\n").count("\n") + 1


_SYNTAX = {
    "Cannot overwrite a value": "the key is given twice",
    r"Illegal character '\n'": "the text has no end on this line",
}
