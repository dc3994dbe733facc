"""Which files a dataset's `path` means, and of what type each is. On the planning path: standard library only."""

from __future__ import annotations

import glob
import os
from typing import TYPE_CHECKING

from dem_build.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from dem_build.action import SourceFile

FILE_TYPES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".parquet": "parquet",
}

HELD_OUT = frozenset({"validation", "test"})

MOST_FOLDERS = 100_000  # that a `**` goes through: links to links may stand for any number of them


def expand(pattern: str, folder: Path, otherwise: Callable[[], list[Path]] = list) -> list[Path]:
    """The files that a dataset's `path` names, sorted.

    Args:
        pattern: A file or a glob (`**` crosses folders); `~` is the home folder.
        folder: What a relative pattern is relative to.
        otherwise: What it names where nothing here matches.

    Raises:
        UsageError: Nothing matches, the pattern names a folder, or it leads through too many of them.
    """
    pattern = os.path.expanduser(pattern)  # noqa: PTH111  Path's raises for a `~name` that is no user
    path = folder / pattern
    if path.is_file():  # first, so that a file whose own name holds [ or * can be named
        return [path]
    if path.is_dir():
        raise UsageError(f"`{pattern}` is a folder", hint=f"name its files: {pattern.rstrip('/')}/*.jsonl")
    found = sorted({match for match in matching(pattern, folder) if match.is_file()}) or otherwise()
    if not found:
        raise UsageError(f"no file matches `{pattern}`", hint=_nearest(path))
    return found


def matching(pattern: str, folder: Path) -> Iterator[Path]:
    """Yield what a pattern of shells names in a folder, as `glob.glob` does: `**` crosses folders, and links to them.

    A link that leads back to a folder above it is passed over: what lies there is found under its own name.

    Raises:
        UsageError: A `**` goes through too many folders.
    """
    parts = pattern.split("/")
    if "**" not in parts:
        # root_dir, so that a folder whose own name holds [ or * is no pattern; Path.glob takes no absolute ones.
        yield from (folder / match for match in glob.iglob(pattern, root_dir=folder))  # noqa: PTH207
        return
    place = parts.index("**")
    head = "/".join(parts[:place])
    rest = "/".join(part for part in parts[place + 1 :] if part) or ("" if pattern.endswith("/") else "*")
    above = matching(head, folder) if head else [folder / "/" if place else folder]
    for top in above:
        for below in _folders(top, pattern):
            yield from matching(rest, below)


def _folders(top: Path, pattern: str) -> Iterator[Path]:
    """Yield a folder and those below it that are not hidden, but for links to one that they lie in."""
    todo: list[tuple[Path, frozenset[tuple[int, int]]]] = [(top, frozenset())]
    for _ in range(MOST_FOLDERS):
        if not todo:
            return
        folder, above = todo.pop()
        try:
            stat = folder.stat()
            identity = (stat.st_dev, stat.st_ino)
            with os.scandir(folder) as entries:
                # By os.path: what a link leads to may be nobody's to look at, and then is no folder and no error.
                names = [
                    e.name
                    for e in entries
                    if not e.name.startswith(".")
                    and (e.is_dir(follow_symlinks=False) or (e.is_symlink() and os.path.isdir(e.path)))  # noqa: PTH112
                ]
        except OSError:  # no folder, or one that nobody may read: nothing in it matches
            continue
        if identity not in above:
            yield folder
            todo += [(folder / name, above | {identity}) for name in names]
    hint = "name the folders that hold the files; a link among them may lead to others again and again"
    raise UsageError(f"`{pattern}` goes through more than {MOST_FOLDERS:,} folders", hint=hint)


def file_type(path: Path) -> str:
    """The type of a data file by its suffix: `jsonl`, `json`, `csv` or `parquet`.

    Raises:
        UsageError: A suffix that is none of these.
    """
    tag = FILE_TYPES.get(path.suffix.lower())
    if tag is None:
        kinds = ", ".join(FILE_TYPES)
        raise UsageError(f"`{path.name}` is of no type that dem reads", hint=f"a data file ends in {kinds}")
    return tag


def side_of(source: SourceFile) -> str | None:
    """The split that a whole file is held out for (tag `validation:jsonl`), or None: its rows are split."""
    side = source.tag.rpartition(":")[0]
    return side if side in HELD_OUT else None


def part_of(source: SourceFile) -> tuple[str, str] | None:
    """The part of its dataset that a file belongs to, and its sub-dataset in it (tag `PART/SUB-DATASET:jsonl`).

    None for a file of a dataset without parts, and for one that is held out whole.
    """
    part, slash, subset = source.tag.rpartition(":")[0].partition("/")
    return (part, subset) if slash else None


def _nearest(path: Path) -> str:
    """Say which files the user may have meant, and where was looked."""
    parent = path.parent
    while not parent.is_dir():
        parent = parent.parent
    names = sorted(p.name for p in parent.iterdir() if p.is_file() and p.suffix.lower() in FILE_TYPES)
    import difflib  # noqa: PLC0415  only for a mistake

    close = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5) or names[:5]
    if not close:
        return f"{parent} holds no data file"
    return f"{parent} holds {', '.join(close)}"
