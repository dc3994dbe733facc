"""Objects: files named by the SHA-256 of their bytes, read-only, never changed.

An object is complete when it is there: it is hashed, flushed and renamed into place, a folder's files before the
tree that names them. Its bytes are read again only where this host has not verified them as they are.
"""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dem_build import digest
from dem_build.digest import Blob
from dem_build.errors import CorruptObjectError, StoreError
from dem_build.store import files
from dem_build.store.hints import Hashed, Hints, hash_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dem_build.digest import Digest
    from dem_build.store.layout import Layout
    from dem_build.store.uses import Uses

__all__ = ["Fault", "Objects", "Output"]


@dataclass(frozen=True)
class Output:
    """One output of an action.

    Attributes:
        digest: Of the file's bytes, or of the tree's description (`digest.tree_bytes`), itself an object.
        size: Bytes of the file, or the sum over the tree's files.
        files: None for a single file; else relative POSIX path → file.
    """

    digest: Digest
    size: int
    files: Mapping[str, Blob] | None = None

    def blobs(self) -> tuple[Blob, ...]:
        """Return every object that the output consists of, a tree's description last."""
        if self.files is None:
            return (Blob(self.digest, self.size),)
        tree = Blob(self.digest, len(digest.tree_bytes(self.files)))
        return (*self.files.values(), tree)


@dataclass(frozen=True)
class Fault:
    """What is wrong with an object: `missing`, or its bytes are not what its name says."""

    blob: Blob
    path: Path
    what: str
    missing: bool = False


class Objects:
    """The content-addressed files of one store."""

    def __init__(self, layout: Layout, hints: Hints, uses: Uses) -> None:
        self._layout = layout
        self._hints = hints
        self._uses = uses

    def path(self, name: Digest) -> Path:
        """Return where the object of a digest lies, or would."""
        return self._layout.object(name)

    def present(self, blob: Blob) -> bool:
        """Return whether the object is there at its size; nothing is read."""
        return self._misplaced(blob) is None

    def put(self, path: Path) -> Output:
        """Move a file or folder into the store; nothing is left at `path`.

        Raises:
            StoreError: It cannot be moved there, or holds something that is neither file nor folder.
        """
        with files.writing(self._layout.root):
            if not path.is_dir() or path.is_symlink():
                [blob] = self._admit([path])
                return Output(blob.digest, blob.size)
            return self._put_folder(path)

    def _put_folder(self, folder: Path) -> Output:
        paths = _files_below(folder)
        blobs = self._admit(paths)
        found = {p.relative_to(folder).as_posix(): b for p, b in zip(paths, blobs, strict=True)}
        tree = self.put_bytes(digest.tree_bytes(found))
        shutil.rmtree(folder)
        return Output(tree.digest, sum(b.size for b in blobs), found)

    def put_bytes(self, data: bytes) -> Blob:
        """Store some bytes.

        Raises:
            StoreError: They cannot be written.
        """
        temporary = self._layout.temporary()
        with files.writing(self._layout.root):
            files.write_new(temporary, data)
            [blob] = self._admit([temporary])
        return blob

    def _admit(self, paths: list[Path]) -> list[Blob]:
        """Move files to the names of their digests, flushed, and their folders flushed."""
        strange = [p for p in paths if not p.is_file()]
        if strange:
            raise StoreError(
                "an output holds what is not a file", where=str(strange[0]), hint="a fault of its step"
            )
        taken = [self._layout.temporary() for _ in paths]
        try:
            for path, temporary in zip(paths, taken, strict=True):
                files.take(path, temporary)
            hashed = files.in_parallel(_settle, taken)
            folders = {self._place(h) for h in hashed}
        finally:
            for temporary in taken:
                temporary.unlink(missing_ok=True)
        files.in_parallel(files.sync_folder, folders)
        return [h.blob for h in hashed]

    def _place(self, hashed: Hashed) -> Path:
        """Rename a flushed file to its digest, unless sound bytes are there; return the folder."""
        target = self.path(hashed.blob.digest)
        files.make_folder(target.parent)
        with self._uses.using(hashed.blob.digest):
            fault = self.examine(hashed.blob)
            if fault is None:
                return target.parent
            self.set_aside(fault)
            hashed.path.rename(target)
        # Its bytes were read after the last change, so they count as verified however young they are.
        self._hints.remember([Hashed(target, hashed.blob, target.stat(), settled=True)])
        return target.parent

    def examine(self, blob: Blob, *, reread: bool = False) -> Fault | None:
        """Return what is wrong with an object; its bytes are read unless this host has verified them as they are.

        Args:
            blob: The object.
            reread: Read the bytes in any case.
        """
        if not reread and self._verified(blob):
            return None
        if fault := self._misplaced(blob):
            return fault
        path = self.path(blob.digest)
        try:
            hashed = hash_file(path)
        except FileNotFoundError:
            return Fault(blob, path, "is missing", missing=True)
        except OSError as error:
            raise _unreadable(error, path) from error
        if hashed.blob != blob:
            self._hints.forget(path)  # a disk that rots changes bytes and no time: the next reader must look
            return Fault(blob, path, f"holds other bytes (sha256 {hashed.blob.digest})")
        if hashed.settled:
            self._hints.remember([hashed])
        return None

    def _misplaced(self, blob: Blob) -> Fault | None:
        """Return what `stat` says is wrong with an object; nothing is read."""
        path = self.path(blob.digest)
        try:
            found = path.stat()
        except FileNotFoundError:
            return Fault(blob, path, "is missing", missing=True)
        except OSError as error:
            raise files.explained(error, path) from error
        if not stat.S_ISREG(found.st_mode):
            return Fault(blob, path, "is not a file")
        if found.st_size != blob.size:
            return Fault(blob, path, f"is {found.st_size} bytes, not {blob.size}")
        return None

    def _verified(self, blob: Blob) -> bool:
        """Return whether this host has verified the object as it is now; nothing is read."""
        path = self.path(blob.digest)
        try:
            found = path.stat()
        except OSError:
            return False
        return found.st_size == blob.size and self._hints.recall(path, found) == blob.digest

    def check(self, output: Output) -> None:
        """Verify what this host has not verified; damaged objects go to quarantine.

        Raises:
            CorruptObjectError: An object is damaged or gone.
        """
        doubtful = [b for b in dict.fromkeys(output.blobs()) if not self._verified(b)]
        faults = [f for f in files.in_parallel(self.examine, doubtful) if f]
        if faults:
            raise self.condemn(faults)

    def condemn(self, faults: Iterable[Fault]) -> CorruptObjectError:
        """Put damaged objects into quarantine, and return the error that says so."""
        lines = [f"object {f.blob.digest} {f.what}{self.set_aside(f)}" for f in faults]
        return CorruptObjectError(
            "; ".join(lines), where=str(self._layout.root), hint="build again: what made it runs again"
        )

    def set_aside(self, fault: Fault) -> str:
        """Move a damaged object to quarantine; return what to say about it."""
        if fault.missing:
            return ""
        if self._layout.set_aside(fault.path, "object") is None:
            return " and could not be moved to quarantine"
        return ", now in quarantine"

    def read_bytes(self, blob: Blob) -> bytes:
        """Return the bytes of a small object, verified.

        Raises:
            CorruptObjectError: The object is damaged or gone.
        """
        path = self.path(blob.digest)
        if fault := self._misplaced(blob):
            raise self.condemn([fault])
        try:
            data = path.read_bytes()
        except OSError as error:
            raise _unreadable(error, path) from error
        if digest.of_bytes(data) != blob.digest:
            raise self.condemn([Fault(blob, path, "holds other bytes")])
        return data


def _unreadable(error: OSError, path: Path) -> StoreError:
    """Return the error for an object that is there and whose bytes the system does not give."""
    found = files.explained(error, path)
    found.hint = found.hint or "`dem cache verify --repair` sets aside what cannot be read; then build again"
    return found


def _settle(path: Path) -> Hashed:
    """Make a file read-only, and flush it while it is hashed: the one waits for the disk, the other computes.

    Its time says when it was stored.
    """
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - a build with nothing to do needs no threads

    os.utime(path)
    path.chmod(0o444)
    with ThreadPoolExecutor(1) as pool:
        flushed = pool.submit(files.sync_file, path)
        hashed = hash_file(path)
        flushed.result()
    return hashed


def _files_below(folder: Path) -> list[Path]:
    """Return all that is no folder; a link to a folder is among it."""
    found: list[Path] = []
    for parent, folders, names in os.walk(folder):
        here = Path(parent)
        found += [here / name for name in names]
        found += [here / name for name in folders if (here / name).is_symlink()]
    return sorted(found)
