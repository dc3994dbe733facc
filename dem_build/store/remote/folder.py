"""A folder as a bucket: on this disk, or on one that several machines mount."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from dem_build.errors import RemoteError
from dem_build.store import files
from dem_build.store.remote.bucket import PIECE, Stored

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_PARTIAL = ".partial-"
_ABSENT = (FileNotFoundError, NotADirectoryError)


class FolderBucket:
    """Files under a folder; see `Bucket`.

    A file is written beside its own name and then linked or renamed: some file systems that are shared (BeeGFS) have
    hard links within a folder alone.
    """

    conditional = True
    writable = True
    listed = True
    lively = True

    def __init__(self, folder: Path) -> None:
        self.url = str(folder)
        self._root = folder

    def get(self, name: str) -> bytes | None:
        """See `Bucket`."""
        with self._explained(name):
            try:
                return files.read_bytes(self._root / name)
            except _ABSENT:
                self._reachable()
                return None

    def read(self, name: str, start: int = 0) -> Iterator[bytes]:
        """See `Bucket`."""
        with self._explained(name):
            try:
                descriptor = os.open(self._root / name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except _ABSENT as error:
                self._reachable()
                raise _AbsentError(name) from error
            with os.fdopen(descriptor, "rb", buffering=0) as file:
                file.seek(start)
                while piece := file.read(PIECE):
                    yield piece

    def size(self, name: str) -> int | None:
        """See `Bucket`."""
        with self._explained(name):
            try:
                found = os.stat(self._root / name)  # noqa: PTH116  beside os.open
            except _ABSENT:
                self._reachable()
                return None
            if not stat.S_ISREG(found.st_mode):
                raise files.NotAFileError(errno.EISDIR, "it is not a file", str(self._root / name))
            return found.st_size

    def put(self, name: str, file: Path) -> None:
        """See `Bucket`."""
        with self._explained(name), self._beside(name) as partial:
            files.copy(file, partial)
            partial.replace(self._root / name)
            files.sync_folder(partial.parent)

    def create(self, name: str, data: bytes) -> bool:
        """See `Bucket`."""
        with self._explained(name), self._beside(name) as partial:
            files.write_new(partial, data)
            try:
                os.link(partial, self._root / name)
            except FileExistsError:
                return False
            files.sync_folder(partial.parent)
            return True

    def list(self, prefix: str) -> Iterator[Stored]:
        """See `Bucket`."""
        with self._explained(prefix):
            self._reachable()
            for folder, _, names in os.walk(self._root / prefix.rpartition("/")[0], onerror=_unless_absent):
                for found in names:
                    path = os.path.join(folder, found)  # noqa: PTH118  there may be hundreds of thousands
                    name = os.path.relpath(path, self._root)
                    if name.startswith(prefix) and not found.startswith(_PARTIAL):
                        with suppress(FileNotFoundError):  # deleted meanwhile
                            kept = os.stat(path, follow_symlinks=False)  # noqa: PTH116
                            if stat.S_ISREG(kept.st_mode):
                                yield Stored(name, kept.st_size, kept.st_mtime)

    def delete(self, names: Iterable[str]) -> None:
        """See `Bucket`."""
        for name in names:
            path = self._root / name
            with self._explained(name), suppress(*_ABSENT):
                path.unlink()
            # Only what is nobody else's: who makes a file makes its folder just before, and would find it gone.
            if path.parent.name.startswith("."):
                with suppress(OSError):
                    path.parent.rmdir()

    def _reachable(self) -> None:
        """Refuse to speak of a root that is not there: a disk that is not mounted has lost nothing."""
        if not self._root.is_dir():
            raise RemoteError(
                "the folder is not there",
                where=self.url,
                hint="mount it, or make it: `dem cache remote init`",
            )

    @contextmanager
    def _beside(self, name: str) -> Iterator[Path]:
        """A path for a file that is not complete, in the folder of the name that it will have."""
        self._reachable()
        folder = (self._root / name).parent
        for above in reversed([folder, *folder.parents]):
            files.make_folder(above)
        partial = folder / f"{_PARTIAL}{files.nonce()}"
        try:
            yield partial
        finally:
            partial.unlink(missing_ok=True)

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        try:
            yield
        except _AbsentError as error:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name) from error
        except OSError as error:
            full = "no space left there" if error.errno in files.FULL else None
            reason = full or error.strerror or type(error).__name__
            raise RemoteError(f"cannot be read or written: {reason}", where=f"{self.url}/{name}") from error


def _unless_absent(error: OSError) -> None:
    """Refuse a listing that lacks a folder: objects would look as if no record named them, and be collected."""
    if not isinstance(error, _ABSENT):
        raise error


class _AbsentError(OSError):
    """There is no file of the name: the one error of the system that is an answer."""
