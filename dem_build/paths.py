"""Paths as people write them → paths of this machine; what of a recipe's names is a path at all."""

from __future__ import annotations

import os
import re
from pathlib import Path

_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_ROOTS = (".git", "pyproject.toml")


def expanded(text: str) -> Path:
    """A path with a leading `~` as the home folder; that of a user who is not there stays as it is."""
    return Path(os.path.expanduser(text))  # noqa: PTH111  Path.expanduser raises for such a user


def absolute(path: Path) -> Path:
    """A file's absolute path without `..`, so that it is one file from wherever it is named."""
    whole = path.absolute()
    # Followed, not cut: what lies above a link is the system's to say.
    return whole.parent.resolve() / whole.name if ".." in whole.parts else whole


def may_be_hub_id(model: str) -> bool:
    """Whether a model's name has the form `org/name`; every other form is local, and nothing else."""
    return _HUB_ID.fullmatch(model) is not None and not model.endswith(".gguf")


def is_local(model: str, folder: Path | None) -> bool:
    """Whether a recipe's model is a file or folder here, and not a hub id.

    Args:
        model: As the recipe writes it.
        folder: The recipe's folder; None where nothing is looked at.

    Returns:
        True for bare names, `./`, `../`, `/`, `~` and `*.gguf`; for `org/name`, whether there is such a folder.
    """
    if not may_be_hub_id(model):
        return True
    return folder is not None and os.path.isdir(folder / model)  # noqa: PTH112  Path.is_dir raises for a name that is too long


def project_folder(recipe: Path) -> Path:
    """The nearest folder around a recipe that holds `.git` or `pyproject.toml`, else the recipe's own."""
    folders = recipe.absolute().parents
    return next((f for f in folders if any((f / root).exists() for root in _ROOTS)), folders[0])
