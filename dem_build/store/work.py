"""Work folders: what an unfinished run of an action has made so far.

Each run has a folder of its own, so that a run that is late can harm nobody. A successor reads what earlier ones
left and copies what it wants.
"""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING

from dem_build.store import files

if TYPE_CHECKING:
    from pathlib import Path

    from dem_build.digest import Digest
    from dem_build.store.layout import Layout

__all__ = ["WorkFolders"]


class WorkFolders:
    """The work folders of one store."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def new(self, key: Digest) -> Path:
        """Return a new folder for a run of `key`, with `out/` and `checkpoints/` in it.

        Raises:
            StoreError: It cannot be made.
        """
        # Time first: names sort by age.
        folder = self._layout.work / key / f"{time.time_ns():019d}-{files.nonce()}"
        with files.writing(folder):
            for name in ("out", "checkpoints"):
                (folder / name).mkdir(parents=True)
            for place in (folder, folder.parent, self._layout.work):
                files.sync_folder(place)  # so that checkpoints in it can outlive a power cut
        return folder

    def previous(self, key: Digest) -> list[Path]:
        """Return the folders of all runs of `key` that left something, newest first."""
        folder = self._layout.work / key
        with files.writing(folder):
            return sorted(folder.iterdir(), reverse=True) if folder.is_dir() else []

    def drop(self, key: Digest) -> None:
        """Remove all folders of `key`; a run that still writes there fails, and harms nobody."""
        shutil.rmtree(self._layout.work / key, ignore_errors=True)
