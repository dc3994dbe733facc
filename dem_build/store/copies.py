"""Copies of files that are on the disk when they are made.

A large file is not copied through the system's memory, where the copy would push out what others need: it is written
from the pages that hold the original, past them, which takes no time of the CPU and leaves nothing to be flushed.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

__all__ = ["copy"]

_FICLONE = 0x40049409  # ioctl of Linux: share the blocks of another file until either is written
_DIRECT = getattr(os, "O_DIRECT", 0)
_LARGE = 1 << 20
_PIECE = 1 << 24
_BLOCK = (
    1 << 16
)  # what is written past memory begins and ends at a multiple of a disk's blocks, which are smaller
# A file system, or a disk of larger blocks, that does not take it.
_REFUSED = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS})


def copy(source: Path, target: Path) -> None:
    """Copy a file to a new one, flushed; blocks are shared where the file system can.

    Never a second name of the same file: what is written to the copy must not reach the original.

    Raises:
        FileExistsError: The target is there.
    """
    with source.open("rb") as read, target.open("xb") as write:
        if not (_shared(read, write) or _written_directly(read, write, target)):
            write.seek(0)
            shutil.copyfileobj(read, write, _PIECE)
            write.flush()
        os.fsync(write.fileno())


def _shared(read: BinaryIO, write: BinaryIO) -> bool:
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
    """Return False for an error of a file system that cannot do it; raise any other."""
    if error.errno in _REFUSED:
        return False
    raise error
