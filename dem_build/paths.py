"""Paths as people write them → paths of this machine."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["absolute", "expanded"]


def expanded(text: str) -> Path:
    """Return a path with a leading `~` as the home folder; that of a user who is not there stays as it is."""
    return Path(os.path.expanduser(text))  # noqa: PTH111  Path.expanduser raises for such a user


def absolute(path: Path) -> Path:
    """Return a file's absolute path without `..`, so that it is one file from wherever it is named."""
    whole = path.absolute()
    # Followed, not cut: what lies above a link is the system's to say.
    return whole.parent.resolve() / whole.name if ".." in whole.parts else whole
