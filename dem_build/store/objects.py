"""Objects: files named by the SHA-256 of their bytes, read-only, never changed.

An object is complete when it is there: it is hashed, flushed and renamed into place, a folder's files before the
tree that names them. Its bytes are read again only where this host has not verified them as they are.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dem_build import digest
from dem_build.digest import Blob, Output
from dem_build.errors import CorruptObjectError, StoreError
from dem_build.store import files
from dem_build.store.hints import Hashed, Hints, hash_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from dem_build.digest import Digest
    from dem_build.store.local import ObjectFiles
    from dem_build.store.remote.reader import RemoteReader
    from dem_build.store.uses import Uses


@dataclass(frozen=True)
class ObjectFault:
    """What is wrong with an object: `missing`, or its bytes are not what its name says."""

    blob: Blob
    what: str
    missing: bool = False


class Objects:
    """The content-addressed files of one store: hashed before they are placed, verified before they are read.

    What is not here is brought from elsewhere, where there is such a place, by whoever opens or checks it.
    """

    def __init__(
        self, held: ObjectFiles, hints: Hints, uses: Uses, elsewhere: RemoteReader | None = None
    ) -> None:
        self._bytes = held
        self._hints = hints
        self._uses = uses
        self._elsewhere = elsewhere
        self._ahead = files.ReadAhead((), held.path)

    def path(self, name: Digest) -> Path:
        """Where the file of an object lies on this host once it was opened or checked; nothing is touched."""
        return self._bytes.path(name)

    def open(self, source: Output | Blob) -> Path:
        """The file of one object, verified, and brought here if it is elsewhere; not to be written to.

        Raises:
            CorruptObjectError: The object is damaged or gone.
            ValueError: The output is a folder.
        """
        blob = _single(source)
        self._check([blob])
        return self.path(blob.digest)

    def present(self, blob: Blob) -> bool:
        """Whether the object is there at its size; nothing is read."""
        return self._misplaced(blob) is None

    def lacking(self, blob: Blob) -> bool:
        """Whether an object that is not here was asked for elsewhere, and was nowhere."""
        return self._elsewhere is None or self._elsewhere.lacks(blob)

    def away(self, blobs: Iterable[Blob]) -> list[Blob]:
        """Those of some objects that are not here, and may be brought from elsewhere."""
        if self._elsewhere is None:
            return []
        return [b for b in dict.fromkeys(blobs) if not self.present(b) and not self.lacking(b)]

    def bring(self, blobs: Iterable[Blob], came: Callable[[int], None] | None = None) -> None:
        """Bring objects here that are not, several at a time; those that no other store has stay missing.

        Args:
            blobs: The objects.
            came: Told how many more bytes have come; what it raises ends it.

        Raises:
            StoreError: They cannot be written here.
        """
        if self._elsewhere is not None and (away := self.away(blobs)):
            with files.writing(self._bytes.where):
                self._elsewhere.fetch(away, self._take_in, came)

    def _take_in(self, file: Path, blob: Blob) -> None:
        """Place a file that came from elsewhere; nothing is left at its path."""
        try:
            self._place({file: blob})
        finally:
            file.unlink(missing_ok=True)

    def all(self) -> Iterator[Blob]:
        """Every object that is there, by its name and its size."""
        return self._bytes.all()

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
        with files.writing(self._bytes.where):
            folders = {name for name, path in paths.items() if path.is_dir() and not path.is_symlink()}
            held = {n: _files_below(path) if n in folders else [path] for n, path in paths.items()}
            blobs = self._admit([path for found in held.values() for path in found], hashed)
            trees = {
                name: {path.relative_to(paths[name]).as_posix(): blobs[path] for path in held[name]}
                for name in paths
                if name in folders
            }
            # Only now: a tree that is on the disk means that its files are.
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
        with files.writing(self._bytes.where):
            return self._put_bytes([data])[0]

    def _put_bytes(self, contents: list[bytes]) -> list[Blob]:
        """Store bytes, each as an object of its own."""
        temporary = {self._bytes.staged(): data for data in contents}
        try:
            files.in_parallel(lambda path: files.write_new(path, temporary[path]), temporary)
            blobs = [Blob(digest.of_bytes(data), len(data)) for data in contents]
            self._place(dict(zip(temporary, blobs, strict=True)))
        finally:
            _remove(temporary)
        return blobs

    def _admit(self, paths: list[Path], hashed: Mapping[Path, Digest]) -> dict[Path, Blob]:
        """Take files in under their digests, flushed, as their names are."""
        strange = [p for p in paths if not p.is_file()]
        if strange:
            raise StoreError(
                "an output holds what is not a file", where=str(strange[0]), hint="a fault of its step"
            )
        taken = {path: self._bytes.staged() for path in paths}
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
        """Give flushed files their digests for names, where sound bytes are not there yet; flush the names."""
        moved = [(self.path(blob.digest), blob) for path, blob in blobs.items() if self._named(path, blob)]
        # Their bytes were read after the last change, so they count as verified however young they are.
        self._hints.remember([Hashed(path, blob, path.stat(), settled=True) for path, blob in moved])
        self._bytes.flush({blob.digest for blob in blobs.values()})

    def _named(self, file: Path, blob: Blob) -> bool:
        """Give a file its digest for a name; whether it was not there, sound, before."""
        # Noted before it is looked for: a collection that moves it away at this moment reads the note and puts it back.
        with self._uses.using(blob.digest):
            # Asked first whether it is there: a file of this host, verified once, says nothing of a store elsewhere.
            fault = self._misplaced(blob) or self.examine(blob)
            if fault is None:
                return False
            self.set_aside(fault)
            self._bytes.place(file, blob.digest)
        return True

    def examine(self, blob: Blob, *, reread: bool = False) -> ObjectFault | None:
        """What is wrong with an object; its bytes are read unless this host has verified them as they are.

        With `reread` they are read in any case.
        """
        if not reread and self._verified(blob):
            return None
        if fault := self._misplaced(blob):
            return fault
        try:
            hashed = hash_file(self._bytes.open(blob.digest))
        except FileNotFoundError:
            return ObjectFault(blob, "is missing", missing=True)
        except OSError as error:
            raise _unreadable(error, self.path(blob.digest)) from error
        if hashed.blob != blob:
            # A disk that rots changes bytes and no time: the next reader must look.
            self._hints.forget(hashed.path)
            return ObjectFault(blob, f"holds other bytes (sha256 {hashed.blob.digest})")
        if hashed.settled:
            self._hints.remember([hashed])
        return None

    def _misplaced(self, blob: Blob) -> ObjectFault | None:
        """What the size of an object says is wrong with it; nothing is read."""
        try:
            size = self._bytes.size(blob.digest)
        except files.NotAFileError:
            return ObjectFault(blob, "is not a file")
        except OSError as error:
            raise files.explained(error, self.path(blob.digest)) from error
        if size is None:
            return ObjectFault(blob, "is missing", missing=True)
        return None if size == blob.size else ObjectFault(blob, f"is {size} bytes, not {blob.size}")

    def _verified(self, blob: Blob) -> bool:
        """Whether this host has verified the object as it is now; nothing is read."""
        path = self.path(blob.digest)
        try:
            found = path.stat()
        except OSError:
            return False
        return found.st_size == blob.size and self._hints.recall(path, found) == blob.digest

    def check(self, output: Output) -> None:
        """Verify what this host has not verified; damaged objects go to quarantine. The rest lies at its `path`.

        Raises:
            CorruptObjectError: An object is damaged or gone.
        """
        self._check(output.blobs())

    def _check(self, blobs: Iterable[Blob]) -> None:
        doubtful = [b for b in dict.fromkeys(blobs) if not self._verified(b)]
        self.bring(doubtful)
        faults = [f for f in files.in_parallel(self.examine, doubtful) if f]
        if faults:
            raise self._condemn(faults)

    def _condemn(self, faults: Iterable[ObjectFault]) -> CorruptObjectError:
        """Put damaged objects into quarantine; the error that says so."""
        lines = [f"object {f.blob.digest} {f.what}{self.set_aside(f)}" for f in faults]
        return CorruptObjectError(
            "; ".join(lines), where=self._bytes.where, hint="build again: what made it runs again"
        )

    def set_aside(self, fault: ObjectFault) -> str:
        """Move a damaged object to quarantine; what to say about it."""
        if fault.missing:
            return ""
        moved = self._bytes.set_aside(fault.blob.digest)
        return ", now in quarantine" if moved else " and could not be moved to quarantine"

    def expect(self, sources: Iterable[Output]) -> None:
        """Hear which small files are about to be read, in this order; bring those here that are elsewhere."""
        blobs = [blob for source in sources for blob in source.blobs()]
        self.bring(blobs)
        self._ahead = files.ReadAhead((blob.digest for blob in blobs), self._bytes.path)

    def read_bytes(self, source: Output | Blob) -> bytes:
        """The bytes of a small file, verified.

        Raises:
            CorruptObjectError: The object is damaged or gone.
            ValueError: The output is a folder.
        """
        blob = _single(source)
        self.bring([blob])
        if fault := self._misplaced(blob):
            raise self._condemn([fault])
        try:
            path = self._bytes.open(blob.digest)
            data = files.read_bytes(path, lambda: self._ahead.begin_after(blob.digest))
        except OSError as error:
            raise _unreadable(error, self.path(blob.digest)) from error
        if digest.of_bytes(data) != blob.digest:
            raise self._condemn([ObjectFault(blob, "holds other bytes")])
        return data


def _single(source: Output | Blob) -> Blob:
    if isinstance(source, Output) and source.files is not None:
        raise ValueError("a folder has no bytes of its own")
    return Blob(source.digest, source.size)


def _unreadable(error: OSError, path: Path) -> StoreError:
    """The error for an object that is there and whose bytes the system does not give."""
    found = files.explained(error, path)
    found.hint = found.hint or "`dem cache verify --repair` sets aside what cannot be read; then build again"
    return found


def _settle(paths: list[Path], known: Mapping[Path, Digest]) -> dict[Path, Blob]:
    """Make files read-only, flush them and say what they are. Their time says when they were stored.

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


def _files_below(folder: Path) -> list[Path]:
    """All that is no folder; a link to a folder is among it."""
    found: list[Path] = []
    for parent, folders, names in os.walk(folder):
        here = Path(parent)
        found += [here / name for name in names]
        found += [here / name for name in folders if (here / name).is_symlink()]
    return sorted(found)
