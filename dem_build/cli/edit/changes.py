"""A change to a recipe's file: which file, whether the recipe is one after it, and what of it is said.

Nothing is written before the new text is checked as `dem check` does it; then it takes the file's place in one step.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from dem_build.errors import RecipeError, UsageError
from dem_build.paths import absolute
from dem_build.recipe import toml
from dem_build.report.text import clean
from dem_build.session.session import checked
from dem_build.store.files import changing, overwrite
from dem_build.view.text import make_console

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dem_build.errors import Problem
    from dem_build.recipe import Recipe

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Draft:
    """A recipe's file as it was read.

    Attributes:
        named: The file, as the user named it.
        raw: Its bytes; None where it is new.
        text: What stands in it, with line feeds between its lines, unless it has both ends of lines.
    """

    named: str
    raw: bytes | None = None
    text: str = ""

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.named)

    def bytes_of(self, text: str) -> bytes:
        """A text as this file writes texts: with its mark at the beginning, and its ends of lines."""
        raw = self.raw or b""
        try:
            data = (text.replace("\n", "\r\n") if _is_crlf(raw) else text).encode()
        except UnicodeEncodeError as error:
            what = f"{error.object[error.start - 40 : error.end + 40].strip()!r} is not UTF-8, as a recipe is"
            raise UsageError(what, where=self.named, hint="rename the file or folder") from error
        return (_BOM if raw.startswith(_BOM) else b"") + data


def opened(named: str) -> Draft:
    """Read a recipe's file to change it.

    Raises:
        RecipeError: There is none, or it is no TOML.
    """
    # Read once: of what somebody wrote between two looks, the text would have nothing, and it would be written over.
    raw = toml.read(Path(named), "recipe")
    text, _ = toml.parse(raw, Path(named), "recipe")
    return Draft(named, raw, text.replace("\r\n", "\n") if _is_crlf(raw) else text)


def _is_crlf(raw: bytes) -> bool:
    """Whether all lines end as on Windows; where only some do, each keeps its end."""
    return b"\r\n" in raw and raw.count(b"\r\n") == raw.count(b"\n")


def recipe_here(words: Sequence[str], usage: str) -> tuple[str, tuple[str, ...]]:
    """The recipe that a call is about: its first word where that is a TOML file, else the one in this folder.

    Args:
        words: What the user said.
        usage: What he could have said, with `RECIPE` in it.

    Returns:
        The recipe's file, and the other words.

    Raises:
        UsageError: There is none here, or there are several.
    """
    if words and words[0].endswith(".toml"):
        return words[0], tuple(words[1:])
    found = [path.name for path in sorted(Path.cwd().glob("*.toml")) if _is_recipe(path)]
    if len(found) == 1:
        return found[0], tuple(words)
    if found:
        raise UsageError(f"there are several recipes here: {', '.join(found)}", hint=f"name one: {usage}")
    raise UsageError("there is no recipe in this folder", hint=f"`dem init` writes one; or name it: {usage}")


def _is_recipe(path: Path) -> bool:
    try:
        return "base" in tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return False


def relative_to(recipe: Path, named: str) -> str:
    """A path that starts from this folder, as it has to stand in a recipe: one from the recipe's folder."""
    if named.startswith(("~", "/")):
        return named
    # Through no link: what `..` leads to from there is another folder.
    home = absolute(recipe).parent.resolve()
    here = Path.cwd()
    return named if home == here else os.path.relpath(here / named, home).replace(os.sep, "/")


def settle(draft: Draft, text: str, *, dry_run: bool = False) -> Recipe:
    """Check a recipe's new text, write it, and show what of it is new; return the recipe as it is now.

    Raises:
        RecipeError: It would have mistakes; nothing is written.
        UsageError: Somebody else has changed the file meanwhile, or the disk does not take it.
    """
    recipe = accepted(draft, text)
    put(draft, text, dry_run=dry_run)
    return recipe


def accepted(draft: Draft, text: str) -> Recipe:
    """The recipe that a new text is.

    Raises:
        RecipeError: It would have mistakes.
    """
    try:
        return checked(draft.named, (), draft.bytes_of(text))
    except RecipeError as error:
        left = "left as it was" if draft.raw is not None else "not written"
        line = Text(f"{clean(draft.named)}: {left}; the recipe would have mistakes:")
        make_console(stderr=True).print(line, soft_wrap=True)
        raise RecipeError([*_as_it_is(draft, error.problems)]) from error


def put(draft: Draft, text: str, *, dry_run: bool = False) -> None:
    """Write a file's new text in one step, and show what of it is new.

    Raises:
        UsageError: Somebody else has changed the file meanwhile, or the disk does not take it.
    """
    if not dry_run:
        replace_text(draft, text)
    show(draft, text, dry_run=dry_run)


def _as_it_is(draft: Draft, problems: Sequence[Problem]) -> Iterator[Problem]:
    """The mistakes of a text that is not written, with the lines of the one that the user sees."""
    lines = toml.locate(draft.text) if draft.raw is not None else {}
    for problem in problems:
        own, key = problem.file == draft.named and problem.key, toml.parsed(problem.key)
        # Of a table that is not there yet the nearest is another one.
        line = toml.line_of(lines, key) if key[:2] in lines else 0
        yield problem._replace(line=line) if own else problem


def replace_text(draft: Draft, text: str) -> None:
    """Write a file's new text in one step.

    Raises:
        UsageError: Somebody else has changed the file since it was read, or the disk does not take it.
    """
    with replacing(draft, text) as write:
        write()


@contextmanager
def replacing(draft: Draft, text: str) -> Iterator[Callable[[], None]]:
    """Run the block while no other call of dem's changes a file, which is as it was read.

    Yields:
        What writes its new text, in one step.

    Raises:
        UsageError: Somebody else has changed the file since it was read, or the disk does not take it.
    """
    # A link stays one: what it leads to is written.
    path, data = draft.path.resolve(), draft.bytes_of(text)
    try:
        with changing(path.parent):
            now = path.read_bytes() if path.exists() else None
            if now != draft.raw:
                what = (
                    "has been changed by somebody else just now"
                    if draft.raw is not None
                    else "is there already"
                )
                raise UsageError(what, where=draft.named, hint="look at it, and call this again")
            yield partial(overwrite, path, data)
    except OSError as error:
        what = f"cannot be written: {error.strerror}"
        raise UsageError(
            what, where=draft.named, hint="mend the permissions of its folder, or free some space"
        ) from error


def show(draft: Draft, text: str, *, dry_run: bool = False) -> None:
    """Print what is new and what is gone, line by line, and where."""
    console = make_console()
    word = "written" if draft.raw is None else "unchanged" if text == draft.text else "changed"
    console.print(
        Text(f"{clean(draft.named)}: {f'not {word}, as asked' if dry_run else word}"), soft_wrap=True
    )
    if draft.raw is None and not dry_run:
        return  # all of it is new, and there to be read
    styles = {"@": "dim cyan", "-": "red", "+": "green"}
    for line in difference(draft.text, text):
        console.print(Text(clean(line).rstrip(), styles[line[0]]), soft_wrap=True)


def difference(before: str, after: str) -> list[str]:
    """What is new and what is gone, line by line: `@@ line 8`, where it is, then `- gone` and `+ new`."""
    old, new = before.splitlines(), after.splitlines()
    lines: list[str] = []
    for kind, i, j, k, n in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        gone, come = _from_header(old, i, j), _from_header(new, k, n)
        place = gone if k == n else come
        lines += [
            f"@@ line {place.start + 1}",
            *(f"- {old[at]}" for at in gone),
            *(f"+ {new[at]}" for at in come),
        ]
    return lines


def _from_header(lines: list[str], start: int, stop: int) -> range:
    """A run of lines that is new or gone; of runs that say the same it is the one that begins with a header."""
    for slid in range(len(lines) - stop + 1):
        if start == stop or lines[start + slid].startswith("["):
            return range(start + slid, stop + slid)
        if stop + slid == len(lines) or lines[start + slid] != lines[stop + slid]:
            break
    return range(start, stop)
