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
from dem_build.digest import Blob, Output
from dem_build.errors import CorruptObjectError, StoreError
from dem_build.store import files
from dem_build.store.hints import Hashed, Hints, hash_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dem_build.digest import Digest
    from dem_build.store.layout import Layout
    from dem_build.store.uses import Uses

__all__ = ["Fault", "Objects"]


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
        """Move a file or folder into the store. Nothing is left at `path`.

        When this returns, the bytes are on the disk under their digests.
        """
        return self.put_all({"": path}, {})[""]

    def put_all(self, paths: Mapping[str, Path], hashed: Mapping[Path, Digest]) -> dict[str, Output]:
        """Move files and folders into the store; nothing is left at their paths.

        Args:
            paths: Name → file or folder.
            hashed: Files among them → their digest, where who wrote them knows it; all others are read.

        Raises:
            StoreError: One cannot be moved there, or holds something that is neither file nor folder.
        """
        with files.writing(self._layout.root):
            held = {name: _files_below(path) if _is_folder(path) else [path] for name, path in paths.items()}
            blobs = self._admit([path for found in held.values() for path in found], hashed)
            trees = {
                name: {path.relative_to(paths[name]).as_posix(): blobs[path] for path in found}
                for name, found in held.items()
                if _is_folder(paths[name])
            }
            described = self._put_bytes([digest.tree_bytes(tree) for tree in trees.values()])
            for name in trees:
                shutil.rmtree(paths[name])
        outputs = {
            name: Output(tree.digest, sum(blob.size for blob in trees[name].values()), trees[name])
            for name, tree in zip(trees, described, strict=True)
        }
        files_alone = {name: blobs[path] for name, path in paths.items() if name not in trees}
        return outputs | {name: Output(blob.digest, blob.size) for name, blob in files_alone.items()}

    def put_bytes(self, data: bytes) -> Blob:
        """Store some bytes.

        Raises:
            StoreError: They cannot be written.
        """
        with files.writing(self._layout.root):
            return self._put_bytes([data])[0]

    def _put_bytes(self, contents: list[bytes]) -> list[Blob]:
        """Store bytes, each as an object of its own."""
        temporary = {self._layout.temporary(): data for data in contents}
        try:
            files.in_parallel(lambda path: files.write_new(path, temporary[path]), temporary)
            blobs = [Blob(digest.of_bytes(data), len(data)) for data in contents]
            self._place(dict(zip(temporary, blobs, strict=True)))
        finally:
            _remove(temporary)
        return blobs

    def _admit(self, paths: list[Path], hashed: Mapping[Path, Digest]) -> dict[Path, Blob]:
        """Move files to the names of their digests, flushed, and their folders flushed."""
        strange = [p for p in paths if not p.is_file()]
        if strange:
            raise StoreError(
                "an output holds what is not a file", where=str(strange[0]), hint="a fault of its step"
            )
        taken = {path: self._layout.temporary() for path in paths}
        try:
            for path, temporary in taken.items():
                files.take(path, temporary)
            known = {taken[path]: found for path, found in hashed.items() if path in taken}
            blobs = _settle(list(taken.values()), known)
            self._place(blobs)
        finally:
            _remove(taken.values())
        return {path: blobs[temporary] for path, temporary in taken.items()}

    def _place(self, blobs: Mapping[Path, Blob]) -> None:
        """Rename flushed files to their digests, where sound bytes are not there yet, and flush their folders."""
        moved = [self.path(blob.digest) for path, blob in blobs.items() if self._named(path, blob)]
        # Their bytes were read after the last change, so they count as verified however young they are.
        placed = dict(zip(map(self.path, (b.digest for b in blobs.values())), blobs.values(), strict=True))
        self._hints.remember([Hashed(path, placed[path], path.stat(), settled=True) for path in moved])
        files.in_parallel(files.sync_folder, {path.parent for path in placed})

    def _named(self, path: Path, blob: Blob) -> bool:
        """Rename a file to its digest; return whether it was not there, sound, before."""
        target = self.path(blob.digest)
        files.make_folder(target.parent)
        with self._uses.using(blob.digest):
            fault = self.examine(blob)
            if fault is None:
                return False
            self.set_aside(fault)
            path.rename(target)
        return True

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

    def read_bytes(self, source: Output | Blob) -> bytes:
        """The bytes of a small file, verified.

        Raises:
            CorruptObjectError: The object is damaged or gone.
            ValueError: The output is a folder.
        """
        if isinstance(source, Output) and source.files is not None:
            raise ValueError("a folder has no bytes of its own")
        blob = Blob(source.digest, source.size)
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


def _settle(paths: list[Path], known: Mapping[Path, Digest]) -> dict[Path, Blob]:
    """Make files read-only and flush them, and return what they are. Their time says when they were stored.

    Those whose digest is not known are hashed meanwhile: the one waits for the disk, the other computes.
    """
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - a build with nothing to do needs no threads

    for path in paths:
        os.utime(path)
        path.chmod(0o444)
    with ThreadPoolExecutor(8) as pool:
        flushed = pool.map(files.sync_file, paths)
        read = {h.path: h.blob for h in files.in_parallel(hash_file, (p for p in paths if p not in known))}
        list(flushed)
    return {path: read.get(path) or Blob(known[path], path.stat().st_size) for path in paths}


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _files_below(folder: Path) -> list[Path]:
    """Return all that is no folder; a link to a folder is among it."""
    found: list[Path] = []
    for parent, folders, names in os.walk(folder):
        here = Path(parent)
        found += [here / name for name in names]
        found += [here / name for name in folders if (here / name).is_symlink()]
    return sorted(found)
