"""Files under the names that readers expect: inputs as links, unfinished work, copies for a user to keep."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING

from dem_build.digest import Blob
from dem_build.store import files
from dem_build.store.hints import Hashed

if TYPE_CHECKING:
    from pathlib import Path

    from dem_build.digest import Digest, Output
    from dem_build.store.hints import Hints
    from dem_build.store.local import CacheLayout
    from dem_build.store.objects import Objects


class Views:
    """Shows outputs under the names that readers expect."""

    def __init__(self, objects: Objects, hints: Hints) -> None:
        self._objects = objects
        self._hints = hints

    def view(self, output: Output, folder: Path, name: str) -> Path:
        """A path that a step can read, its bytes verified: the object itself, or a folder of links to a tree's files.

        Raises:
            CorruptObjectError: An object is damaged or gone.
            StoreError: The links cannot be written.
        """
        self._objects.check(output)
        if output.files is None:
            return self._objects.path(output.digest)
        target = folder / name
        with files.writing(target):
            target.mkdir(parents=True, exist_ok=True)
            for relative, blob in output.files.items():
                link = target / relative
                link.parent.mkdir(parents=True, exist_ok=True)
                link.unlink(missing_ok=True)
                link.symlink_to(self._objects.path(blob.digest))
        return target

    def export(self, output: Output, target: Path) -> None:
        """Copy an output to `target`, each file replaced at once; other files in a folder stay.

        A file that holds the right bytes already is left alone.

        Raises:
            CorruptObjectError: An object is damaged or gone.
            StoreError: The copy cannot be written.
        """
        named = {target: Blob(output.digest, output.size)}
        if output.files is not None:
            named = {target / name: blob for name, blob in output.files.items()}
        with files.writing(target):
            if output.files is not None:
                target.mkdir(parents=True, exist_ok=True)
            due = {path: blob for path, blob in named.items() if not self._holds(path, blob)}
            if due:
                self._objects.check(output)
            files.in_parallel(lambda path: self._copy(due[path], path), due)
            for folder in {path.parent for path in due}:
                files.sync_folder(folder)
            # The bytes are those of verified objects, so they need no second reading.
            self._hints.remember([Hashed(p, blob, p.stat(), settled=True) for p, blob in due.items()])

    def _holds(self, path: Path, blob: Blob) -> bool:
        try:
            stat = path.stat()
        except FileNotFoundError:
            return False
        if path.is_symlink() or stat.st_nlink > 1 or stat.st_size != blob.size:
            return False
        return self._hints.digest_of(path) == blob

    def _copy(self, blob: Blob, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{files.nonce()}")
        try:
            try:
                files.copy(self._objects.open(blob), partial)
            except (
                FileNotFoundError
            ):  # where locks do nothing, a collection may move it in between: it is put back
                files.copy(self._objects.open(blob), partial)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)


class WorkFolders:
    """What unfinished runs of actions have made so far.

    Each run has a folder of its own, so that a run that is late can harm nobody. A successor reads what earlier ones
    left and copies what it wants.
    """

    def __init__(self, layout: CacheLayout) -> None:
        self._layout = layout

    def new(self, key: Digest) -> Path:
        """Make a folder for a run of `key`, with `out/` and `checkpoints/` in it.

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
        """The folders of all runs of `key` that left something, newest first."""
        folder = self._layout.work / key
        with files.writing(folder):
            return sorted(folder.iterdir(), reverse=True) if folder.is_dir() else []

    def drop(self, key: Digest) -> None:
        """Remove all folders of `key`; a run that still writes there fails, and harms nobody."""
        shutil.rmtree(self._layout.work / key, ignore_errors=True)
