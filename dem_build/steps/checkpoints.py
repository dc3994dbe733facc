"""Checkpoints of an unfinished action: a folder counts only once its marker, written last, is there.

Trainer writes checkpoints in place; a kill in the middle leaves half a one. `mark_complete` writes the list of
files and sizes last, so a folder whose marker is missing or disagrees is never resumed from. What a checkpoint
replaces goes only when the checkpoint would outlive a power cut.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["adopt", "complete_checkpoints", "keep", "mark_complete", "newest_complete", "step_of"]

MARKER = "complete.json"
KEPT = 2


def keep(checkpoint: Path) -> None:
    """Complete a checkpoint; only then remove all but the last few that it replaces."""
    mark_complete(checkpoint)
    for old in complete_checkpoints(checkpoint.parent)[:-KEPT]:
        shutil.rmtree(old)


def adopt(checkpoint: Path, folder: Path) -> Path:
    """Return a complete copy of a checkpoint in the run's own `folder`."""
    copied = folder / checkpoint.name
    # Without the marker: copied before the files are flushed, it would vouch for bytes that a power cut takes.
    shutil.copytree(checkpoint, copied, ignore=shutil.ignore_patterns(MARKER + "*"), dirs_exist_ok=True)
    mark_complete(copied)
    return copied


def mark_complete(checkpoint: Path) -> None:
    """Flush a checkpoint to the disk, files and names, and mark it complete; the mark is flushed as well."""
    sizes = {}
    for path in _files(checkpoint):
        _flush(path)
        sizes[path.relative_to(checkpoint).as_posix()] = path.stat().st_size
    for folder in (p for p in checkpoint.rglob("*") if p.is_dir()):
        _flush(folder)
    partial = checkpoint / (MARKER + ".partial")
    partial.write_text(json.dumps(sizes), encoding="utf-8")
    _flush(partial)
    _flush(checkpoint)  # the files' names come before the mark that counts on them
    partial.rename(checkpoint / MARKER)
    _flush(checkpoint)
    _flush(checkpoint.parent)


def newest_complete(folder: Path) -> Path | None:
    """Return the complete checkpoint of the highest step in `folder` (`checkpoint-STEP`), or None."""
    return max(complete_checkpoints(folder), key=step_of, default=None)


def complete_checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints in `folder`, in the order of their steps."""
    found = [
        p for p in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", p.name) and _complete(p)
    ]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """Return the optimizer step that a checkpoint's folder is named for."""
    return int(checkpoint.name.rpartition("-")[2])


def _flush(path: Path) -> None:
    """Flush a file's bytes, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files(checkpoint: Path) -> list[Path]:
    return sorted(p for p in checkpoint.rglob("*") if p.is_file() and not p.name.startswith(MARKER))


def _complete(checkpoint: Path) -> bool:
    try:
        sizes = json.loads((checkpoint / MARKER).read_text(encoding="utf-8"))
        return isinstance(sizes, dict) and all((checkpoint / n).stat().st_size == s for n, s in sizes.items())
    except (OSError, ValueError):
        return False
