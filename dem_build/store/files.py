"""The few ways in which the store touches the disk, so that each order of writes is stated once.

A file becomes visible complete or not at all: it is written under a unique name in `tmp/`, flushed, and only then
renamed or linked to the name that others look for; the folder is flushed last. A kill at any point leaves a stray
file in `tmp/`, never half a file under a name that means something.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import shutil
import stat
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

from dem_build.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path
    from typing import BinaryIO

T = TypeVar("T")
U = TypeVar("U")

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors of a disk, a quota or a limit that takes no more bytes."""

LOCK_SECONDS = 10.0
"""How long a lock is waited for: what it is held for takes milliseconds, so a longer wait is for a stopped process."""

_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_ACROSS = frozenset({errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})
"""Errors of a link from one folder to another, where a file system has links within a folder alone (BeeGFS)."""
_NO_LINKS = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_FICLONE = 0x40049409  # ioctl of Linux: share the blocks of another file until either is written
_TO_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_NOWAIT = getattr(os, "RWF_NOWAIT", 0)  # Linux alone has it
_AHEAD = 64
"""Files that are begun before one is waited for: a disk has something to do, and a system's memory is not filled."""
_DIRECT = getattr(os, "O_DIRECT", 0)
_LARGE = 1 << 20
_PIECE = 1 << 24
_BLOCK = (
    1 << 16
)  # what is written past memory begins and ends at multiples of a disk's blocks, which are smaller
# A file system, or a disk of larger blocks, that does not take it.
_REFUSED = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS})


class NotAFileError(OSError):
    """A folder, a pipe or the like lies where a file should."""


def nonce() -> str:
    """A name that nobody else uses."""
    return os.urandom(8).hex()


def beside(path: Path) -> Path:
    """A new name in the folder of a file, for what is to have that name."""
    return path.with_name(f".{nonce()}")


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Turn an error of the operating system inside the block into one that says how to mend it.

    Raises:
        StoreError: Something at `path` could not be read or written.
    """
    try:
        yield
    except OSError as error:
        raise explained(error, path) from error


def explained(error: OSError, path: Path | str) -> StoreError:
    """The error that tells a user about `error`, and how to mend it."""
    place = str(error.filename or path)
    if error.errno in FULL:
        # A copy names what it reads first; what it writes is on the disk that is full.
        return StoreError(
            "no space left on this disk",
            where=str(error.filename2 or place),
            hint="`dem cache stats` shows what is large",
        )
    if error.errno in _FORBIDDEN:
        hint = "mend the permissions, or choose another folder: --cache chooses the cache's"
        return StoreError("not allowed to read or write here", where=place, hint=hint)
    if error.errno in _NO_LINKS:
        hint = "put the cache on a file system that has hard links, with --cache"
        return StoreError("the record cannot be written without hard links", where=place, hint=hint)
    if error.errno == errno.ENOTDIR:
        what = "cannot be reached: a part of this path is a file, not a folder"
        return StoreError(what, where=place, hint="move the file away, or choose another cache with --cache")
    reason = error.strerror or type(error).__name__
    return StoreError(f"cannot be read or written: {reason}", where=place)


def read_bytes(path: Path | str, waits: Callable[[], None] | None = None) -> bytes:
    """What a file holds; a named pipe, which others wait for to be written, is none.

    Args:
        path: The file.
        waits: Called before the disk is waited for, where the system tells that it will be.

    Raises:
        NotAFileError: It is no file.
        OSError: It cannot be read.
    """
    descriptor = os.open(path, _TO_READ)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise NotAFileError(errno.EISDIR, "it is not a file", str(path))
        if waits is not None and not _in_memory(descriptor):
            waits()
        parts = [os.read(descriptor, found.st_size + 1)]
        while (
            len(parts[-1]) > 0 and sum(map(len, parts)) != found.st_size
        ):  # it grows, or a read was cut short
            parts.append(os.read(descriptor, _PIECE))
        return b"".join(parts)
    finally:
        os.close(descriptor)


def _in_memory(descriptor: int) -> bool:
    """Whether a file's beginning is read without waiting for a disk; True where the system does not tell."""
    if not _NOWAIT:
        return True
    try:
        os.preadv(descriptor, [bytearray(1)], 0, _NOWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


class ReadAhead:
    """Reads small files whose order is known: where one is waited for, the system begins to read the next ones.

    Who reads one file after another from a disk sleeps once a file, and finds nothing of its own in the processor's
    caches when it wakes, which doubles what a plan costs. Of files that are in memory it changes nothing.

    Args:
        names: What is about to be read, in this order. Other files may be read as well, and are waited for.
        path: Name → file.
    """

    def __init__(self, names: Iterable[str], path: Callable[[str], Path | str]) -> None:
        self._names = [*names]
        self._places = {name: place for place, name in enumerate(self._names)}
        self._path = path
        self._begun = 0

    def read(self, name: str) -> bytes | None:
        """What a file holds; None where there is none.

        Raises:
            ValueError: It is no file.
            StoreError: It cannot be read.
        """
        return read_document(self._path(name), lambda: self.begin_after(name))

    def begin_after(self, name: str) -> None:
        """Begin to read the files that come next after one, before that one is waited for."""
        place = self._places.get(name)
        if place is None or not hasattr(os, "posix_fadvise"):
            return
        end = place + 1 + _AHEAD
        for other in self._names[max(self._begun, place + 1) : end]:
            with suppress(OSError):  # who reads it says what is wrong with it
                descriptor = os.open(self._path(other), _TO_READ)
                try:
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
                finally:
                    os.close(descriptor)
        self._begun = max(self._begun, end)


def read_document(path: Path | str, waits: Callable[[], None] | None = None) -> bytes | None:
    """What a file of the store holds; None where there is none.

    Args:
        path: The file.
        waits: As of `read_bytes`.

    Raises:
        ValueError: It is no file.
        StoreError: It cannot be read.
    """
    try:
        return read_bytes(path, waits)
    except FileNotFoundError:
        return None
    except NotAFileError as error:
        raise ValueError("it is not a file") from error
    except OSError as error:
        raise explained(error, path) from error


def sync_file(path: Path) -> None:
    """Flush a file's bytes to the disk."""
    _sync(path, os.O_RDONLY)


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to the disk, so that a rename in it outlives a power cut."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder whose parent is there; a new one outlives a power cut."""
    if not path.is_dir():
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def write_new(path: Path, data: bytes) -> None:
    """Write a new read-only file and flush it; the folder is not flushed.

    Raises:
        FileExistsError: The file is there already.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
            file.write(data)
            file.flush()
            os.fsync(descriptor)
    except OSError:
        path.unlink()
        raise


def replace_file(path: Path, data: bytes) -> None:
    """Replace a file of the user's in one step; what a killed process left beside it, half-written, goes.

    Raises:
        OSError: The folder cannot be written.
    """
    with changing(path.parent):
        overwrite(path, data)


@contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Run the block while no other process of dem's replaces files of the user's in a folder.

    Raises:
        OSError: The folder cannot be read.
    """
    # The folder itself is locked, which leaves no file behind.
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        acquire(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def overwrite(path: Path, data: bytes) -> None:
    """What `replace_file` does, for whoever is `changing` the folder already.

    Raises:
        OSError: The folder cannot be written.
    """
    swap_in(path, data, path.with_name(f".{path.name}.partial"))
    sync_folder(path.parent)


def swap_in(path: Path, data: bytes, partial: Path) -> None:
    """Write a file of the user's under the name `partial` beside `path`, and rename it to `path`, whose mode it keeps.

    Raises:
        OSError: The folder cannot be written.
    """
    # Never written into: it may be a link, or its writer be stopped rather than dead.
    partial.unlink(missing_ok=True)
    write_new(partial, data)
    partial.chmod(stat.S_IMODE(path.stat().st_mode) if path.is_file() else 0o644)
    partial.replace(path)


def take(path: Path, target: Path) -> None:
    """Move a file to the new name `target`; nobody else can write to what arrives there.

    A file that another name leads to (a link), or that lies on another file system, is copied and removed.
    """
    if not path.is_symlink() and path.stat().st_nlink == 1:
        try:
            path.rename(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        else:
            return
    shutil.copyfile(path, target)
    path.unlink()


def move_back(path: Path, target: Path) -> None:
    """Give a file its old name, in another folder, unless another file has it by now, which stays.

    It may keep the name that it has: where there are links from one folder to another there is no moment without any.

    Raises:
        FileExistsError: Another file has the name.
    """
    try:
        os.link(path, target)
    except OSError as error:
        if error.errno not in _ACROSS:
            raise
        temporary = beside(target)
        path.rename(temporary)
        try:
            os.link(temporary, target)
        finally:
            temporary.unlink()


@contextmanager
def exclusively(lock: Path, seconds: float = LOCK_SECONDS) -> Iterator[bool]:
    """Run the block while no other process runs one with the same lock; yield whether that is so.

    Where the lock is not given within `seconds`, as its holder is stopped, the block runs anyway, and so it does where
    the file system has no locks: what it guards is checked again afterwards, or saves work only.
    """
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        yield acquire(descriptor, fcntl.LOCK_EX, seconds)
    finally:
        os.close(descriptor)


def acquire(descriptor: int, operation: int, seconds: float = LOCK_SECONDS) -> bool:
    """Lock an open file (`fcntl.LOCK_EX`, `fcntl.LOCK_SH`); return False where others hold it for `seconds`.

    True where the file system has no locks: nobody will ever give it back there.
    """
    deadline, pause = time.monotonic() + seconds, 0.001
    while True:
        try:
            fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
        except OSError:
            return True
        else:
            return True
        time.sleep(pause)
        pause = min(2 * pause, 0.05)


def in_parallel(function: Callable[[T], U], items: Iterable[T]) -> list[U]:
    """`function` of each item, in order, computed by threads (hashing and fsync leave Python's lock)."""
    todo = list(items)
    if len(todo) < 2:
        return [function(item) for item in todo]
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - a build with nothing to do needs no threads

    with ThreadPoolExecutor(min(len(todo), 8, os.cpu_count() or 1)) as pool:
        return list(pool.map(function, todo))


def copy(source: Path, target: Path) -> None:
    """Copy a file to a new one, flushed; blocks are shared where the file system can.

    Never a second name of the same file: what is written to the copy must not reach the original. A large file is not
    copied through the system's memory, where the copy would push out what others need: it is written from the pages
    that hold the original, past them, which takes no time of the CPU and leaves nothing to be flushed.

    Raises:
        FileExistsError: The target is there.
    """
    with source.open("rb") as read, target.open("xb") as write:
        if not (share(read, write) or _written_directly(read, write, target)):
            write.seek(0)
            shutil.copyfileobj(read, write, _PIECE)
            write.flush()
        os.fsync(write.fileno())


def share(read: BinaryIO, write: BinaryIO) -> bool:
    """Give an empty file the blocks of another, until either is written (a reflink); return whether that could be."""
    try:
        fcntl.ioctl(write.fileno(), _FICLONE, read.fileno())
    except OSError:
        return False
    return True


def _written_directly(read: BinaryIO, write: BinaryIO, target: Path) -> bool:
    """Write a file past the system's memory; return False where that cannot be, whatever is written by then."""
    size = os.fstat(read.fileno()).st_size
    if not _DIRECT or size < _LARGE:
        return False
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CLOEXEC | _DIRECT)
    except OSError as error:
        return _refused(error)
    try:
        whole = size - size % _BLOCK
        for at in range(0, whole, _PIECE):
            _write(descriptor, read, at, min(_PIECE, whole - at))
        if whole < size:
            _write(write.fileno(), read, whole, size - whole)
    except OSError as error:
        return _refused(error)
    finally:
        os.close(descriptor)
    return True


def _write(descriptor: int, read: BinaryIO, at: int, size: int) -> None:
    """Write a piece of a file to the same place in another, from the pages that hold it."""
    with mmap.mmap(read.fileno(), size, prot=mmap.PROT_READ, offset=at) as mapped, memoryview(mapped) as data:
        done = 0
        while done < size:
            with data[done:] as left:
                done += os.pwrite(descriptor, left, at + done)


def _refused(error: OSError) -> bool:
    """False for an error of a file system that cannot do it; any other is raised."""
    if error.errno in _REFUSED:
        return False
    raise error
