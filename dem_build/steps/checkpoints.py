"""Checkpoints of an unfinished action: a folder counts only once its marker, written last, is there.

Trainer writes checkpoints in place; a kill in the middle leaves half a one. `mark_complete` writes the list of
files and sizes last, so a folder whose marker is missing or disagrees is never resumed from.
"""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["MARKER", "complete_checkpoints", "mark_complete", "newest_complete", "step_of"]

MARKER = "complete.json"


def mark_complete(checkpoint: Path) -> None:
    """Flush a checkpoint's files to disk and mark it complete."""
    sizes = {}
    for path in _files(checkpoint):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        sizes[path.relative_to(checkpoint).as_posix()] = path.stat().st_size
    partial = checkpoint / (MARKER + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(sizes, file)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(checkpoint / MARKER)


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


def _files(checkpoint: Path) -> list[Path]:
    return sorted(p for p in checkpoint.rglob("*") if p.is_file() and not p.name.startswith(MARKER))


def _complete(checkpoint: Path) -> bool:
    try:
        sizes = json.loads((checkpoint / MARKER).read_text(encoding="utf-8"))
        return isinstance(sizes, dict) and all((checkpoint / n).stat().st_size == s for n, s in sizes.items())
    except (OSError, ValueError):
        return False
