"""Outputs as files with names: links for a step to read, copies for a user to keep."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.digest import Blob
from dem_build.store import files
from dem_build.store.copies import copy
from dem_build.store.hints import Hashed

if TYPE_CHECKING:
    from pathlib import Path

    from dem_build.digest import Output
    from dem_build.store.hints import Hints
    from dem_build.store.objects import Objects

__all__ = ["Views"]


class Views:
    """Shows outputs under the names that readers expect."""

    def __init__(self, objects: Objects, hints: Hints) -> None:
        self._objects = objects
        self._hints = hints

    def view(self, output: Output, folder: Path, name: str) -> Path:
        """Return a path that a step can read: the object itself, or a folder of links to a tree's files.

        Raises:
            StoreError: The links cannot be written.
        """
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
            copy(self._objects.path(blob.digest), partial)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
