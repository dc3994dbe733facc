"""A power cut after a kill: what no fsync has covered is lost, from the journal of `failpoints`.

Two things a file system may do, and common ones do: bytes that were not flushed are not there, while the file is
(emptied, or as long as it was and zero); names that were not flushed with their folder are not there.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

Identity: TypeAlias = tuple[int, int, int]
"""Inode, size and time of a file: while they stay, its bytes do."""


def identities(home: Path) -> set[Identity]:
    """Return the files that are on the disk for good: all that are there now."""
    return {_identity(path) for path in _files(home)}


def cut(home: Path, journal: Path, settled: set[Identity], form: str) -> None:
    """Take from a folder what a power cut may take after the calls in a journal.

    Args:
        home: The folder.
        journal: Of the process that died.
        settled: `identities` before it began.
        form: What is taken: `names`, or the bytes of files, which are `empty` or `zeros` then.
    """
    done = [
        entry[2:-1] for line in journal.read_bytes().splitlines() if (entry := json.loads(line))[0] == "done"
    ]
    if form == "names":
        for call in reversed(_unflushed_names(done)):
            _undo(*call)
        return
    flushed = {tuple(call[2:]) for call in done if call[0] == "fsync"}
    for path in _files(home):
        if (found := _identity(path)) not in flushed | settled:
            _overwrite(path, found[1] if form == "zeros" else 0)


def _unflushed_names(done: list[list[str]]) -> list[list[str]]:
    left: list[list[str]] = []
    for call in done:
        if call[0] == "fsync":
            left = [c for c in left if os.path.dirname(c[-1]) != call[1]]  # noqa: PTH120
        else:
            left.append(call)
    return left


def _undo(name: str, *paths: str) -> None:
    target = Path(paths[-1])
    if not os.path.lexists(target):
        return
    if name == "rename" and Path(paths[0]).parent.is_dir() and not os.path.lexists(paths[0]):
        target.rename(paths[0])
    elif target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    else:
        target.unlink()


def _overwrite(path: Path, size: int) -> None:
    mode = path.stat().st_mode
    path.chmod(0o600)
    with path.open("wb") as file:
        file.truncate(size)
    path.chmod(mode)


def _files(home: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(home):
        yield from (p for name in names if not (p := Path(folder, name)).is_symlink())


def _identity(path: Path) -> Identity:
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
