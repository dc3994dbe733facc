"""Checkpoints of an unfinished action: a folder counts only once its marker, written last, is there.

Trainer writes checkpoints in place; a kill in the middle leaves half a one. `mark_complete` writes the list of
files, sizes and digests last, so a folder whose marker is missing or disagrees is never resumed from.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

from dem_build import digest
from dem_build.json_text import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MARKER = "complete.json"
UNREADABLE = frozenset({errno.EACCES, errno.EIO, errno.EPERM})
KEPT = 2  # the newest may turn out to be damaged when it is taken up: then the one before it serves


def keep(checkpoint: Path) -> None:
    """Complete a checkpoint; only then remove all but the last few that it replaces."""
    mark_complete(checkpoint)
    # What it replaces goes only now: the new one would outlive a power cut.
    for old in complete_checkpoints(checkpoint.parent)[:-KEPT]:
        shutil.rmtree(old)


def adopt(checkpoint: Path, folder: Path) -> Path | None:
    """A complete copy of a checkpoint in the run's own `folder`; None where its bytes are not those saved."""
    copied = folder / checkpoint.name
    # Without the marker: copied before the files are flushed, it would vouch for bytes that a power cut takes.
    saved = _saved(checkpoint)
    # Digests are compared here, which may be days later: a flipped bit would be in the vector for good.
    if _copy(checkpoint, copied, saved) and (files := _flushed(copied)) == saved:
        _mark(copied, files)
        return copied
    shutil.rmtree(copied)
    return None


def _copy(checkpoint: Path, copied: Path, names: Iterable[str]) -> bool:
    """Copy files; return whether all could be read."""
    copied.mkdir(parents=True, exist_ok=True)
    for name in names:
        (copied / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(checkpoint / name, copied / name)
        except OSError as error:
            if error.errno not in UNREADABLE:
                raise
            return False
    return True


def mark_complete(checkpoint: Path) -> None:
    """Flush a checkpoint to the disk, files and names, and mark it complete; the mark is flushed as well."""
    _mark(checkpoint, _flushed(checkpoint))


def _flushed(checkpoint: Path) -> dict[str, tuple[int, str]]:
    """Flush a checkpoint's files and folders; return the size and digest of each file."""
    found = {}
    files = (p for p in checkpoint.rglob("*") if p.is_file() and not p.name.startswith(MARKER))
    for path in sorted(files):
        _flush(path)
        found[path.relative_to(checkpoint).as_posix()] = (path.stat().st_size, digest.of_file(path))
    for folder in (p for p in checkpoint.rglob("*") if p.is_dir()):
        _flush(folder)
    return found


def _mark(checkpoint: Path, files: dict[str, tuple[int, str]]) -> None:
    partial = checkpoint / (MARKER + ".partial")
    partial.write_text(json.dumps(files), encoding="utf-8")
    _flush(partial)
    _flush(checkpoint)  # the files' names come before the mark that counts on them
    partial.rename(checkpoint / MARKER)
    _flush(checkpoint)
    _flush(checkpoint.parent)


def newest_complete(folder: Path) -> Path | None:
    """The complete checkpoint of the highest step in `folder` (`checkpoint-STEP`), or None."""
    return max(complete_checkpoints(folder), key=step_of, default=None)


def complete_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints in `folder`, in the order of their steps."""
    found = []
    for path in folder.glob("checkpoint-*"):
        saved = _saved(path) if re.fullmatch(r"checkpoint-\d+", path.name) else {}
        # By sizes, since every resume looks at every checkpoint: bytes are hashed once one is taken up.
        with suppress(OSError, ValueError):
            if saved and all((path / name).stat().st_size == size for name, (size, _) in saved.items()):
                found.append(path)
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The optimizer step that a checkpoint's folder is named for."""
    return int(checkpoint.name.rpartition("-")[2])


def _flush(path: Path) -> None:
    """Flush a file's bytes, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _saved(checkpoint: Path) -> dict[str, tuple[int, str]]:
    """What the marker says of each file; empty where it says nothing that can be read."""
    try:
        said = parse_json((checkpoint / MARKER).read_text(encoding="utf-8"))
        return {str(name): (int(size), str(found)) for name, (size, found) in said.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
