"""Which files a dataset's `path` means, and of what type each is. On the planning path: standard library only."""

from __future__ import annotations

import difflib
import glob
import os
from typing import TYPE_CHECKING

from dem_build.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["FILE_TYPES", "expand", "file_type"]

FILE_TYPES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".parquet": "parquet",
}


def expand(pattern: str, folder: Path) -> list[Path]:
    """Return the files that a dataset's `path` names, sorted.

    Args:
        pattern: A file or a glob (`**` crosses folders); `~` is the home folder.
        folder: What a relative pattern is relative to.

    Raises:
        UsageError: Nothing matches, or the pattern names a folder.
    """
    pattern = os.path.expanduser(pattern)  # noqa: PTH111  Path's raises for a `~name` that is no user
    path = folder / pattern
    if path.is_file():  # first, so that a file whose own name holds [ or * can be named
        return [path]
    if path.is_dir():
        raise UsageError(f"`{pattern}` is a folder", hint=f"name its files: {pattern.rstrip('/')}/*.jsonl")
    # root_dir, so that a folder whose own name holds [ or * is no pattern; Path.glob takes no absolute ones.
    matches = glob.glob(pattern, root_dir=folder, recursive=True)  # noqa: PTH207
    found = sorted(p for p in (folder / match for match in matches) if p.is_file())
    if not found:
        raise UsageError(f"no file matches `{pattern}`", hint=_nearest(path))
    return found


def file_type(path: Path) -> str:
    """Return the type of a data file by its suffix: `jsonl`, `json`, `csv` or `parquet`.

    Raises:
        UsageError: A suffix that is none of these.
    """
    tag = FILE_TYPES.get(path.suffix.lower())
    if tag is None:
        kinds = ", ".join(FILE_TYPES)
        raise UsageError(f"`{path.name}` is of no type that dem reads", hint=f"a data file ends in {kinds}")
    return tag


def _nearest(path: Path) -> str:
    """Say which files the user may have meant, and where was looked."""
    parent = path.parent
    while not parent.is_dir():
        parent = parent.parent
    names = sorted(p.name for p in parent.iterdir() if p.is_file() and p.suffix.lower() in FILE_TYPES)
    close = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5) or names[:5]
    if not close:
        return f"{parent} holds no data file"
    return f"{parent} holds {', '.join(close)}"
