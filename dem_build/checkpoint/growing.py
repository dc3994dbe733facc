"""A file that is hashed while it is written: its digest is there when its last byte is.

Its bytes may come in any order, from any thread. Whoever has written some hashes them where all before them are hashed,
and then what others wrote behind them, which is read back out of the system's memory; unless another thread is at it.
Threads of their own, more than there are cores, would only have all of them wait for Python's lock.
"""

from __future__ import annotations

import hashlib
import os
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dem_build.digest import Digest

__all__ = ["Flusher", "Growing"]

PIECE = 1 << 19  # bytes that are read back at a time
FLUSH_SECONDS = 0.1


class Growing:
    """A new file of a known size, open until it is closed.

    Attributes:
        path: Where it is.
        descriptor: The open file.

    Raises:
        FileExistsError: There is a file already.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._size = size
        self._whole = 0  # bytes that are there from the beginning on
        self._ahead: dict[int, int] = {}  # of what is there beyond them: start → stop
        self._noting = threading.Lock()
        self._hashing = threading.Lock()
        self._hash = hashlib.sha256()
        self._hashed = self._flushed = 0

    @property
    def missing(self) -> int:
        """How many bytes have not been written."""
        return self._size - self._whole - sum(stop - start for start, stop in self._ahead.items())

    def write(self, start: int, data: memoryview) -> None:
        """Write bytes at a place; each place once.

        Raises:
            ValueError: They were written before.
        """
        stop, left = start + len(data), data
        while left:
            left = left[os.pwrite(self.descriptor, left, stop - len(left)) :]
        self._note(start, stop)
        if self._hashing.acquire(blocking=False):
            try:
                if start == self._hashed:
                    self._hash.update(data)
                    self._hashed = stop
                self._go_on()
            finally:
                self._hashing.release()

    def digest(self) -> Digest:
        """Return the SHA-256 of the file, all of which must have been written."""
        assert not self.missing
        with self._hashing:
            self._go_on()
            return self._hash.hexdigest()

    def flush(self) -> None:
        """Write to the disk what was hashed since the last time, and whatever else is there."""
        if (hashed := self._hashed) != self._flushed:
            os.fdatasync(self.descriptor)
            self._flushed = hashed

    def close(self) -> None:
        """Close the file."""
        os.close(self.descriptor)

    def _note(self, start: int, stop: int) -> None:
        if start == stop:
            return
        with self._noting:
            if start < self._whole or start in self._ahead:
                raise ValueError(f"{self.path}: bytes {start} to {stop} are written twice")
            self._ahead[start] = stop
            while (end := self._ahead.pop(self._whole, None)) is not None:
                self._whole = end

    def _go_on(self) -> None:
        """Hash what is there from the beginning on, and was not hashed."""
        whole = self._whole
        if self._hashed == whole:
            return
        buffer = memoryview(bytearray(min(PIECE, whole - self._hashed)))
        while self._hashed < whole:
            count = os.preadv(self.descriptor, [buffer[: whole - self._hashed]], self._hashed)
            if not count:
                raise OSError(f"{self.path} was cut off while it was written")
            self._hash.update(buffer[:count])
            self._hashed += count


class Flusher:
    """Writes to the disk what some files hold, time and again until it is stopped: the disk works while others compute.

    Args:
        files: The files. They may grow in number.
    """

    def __init__(self, files: Sequence[Growing]) -> None:
        self._files = files
        self._stop = threading.Event()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._work, name="dem-flushing", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End. What is left is flushed by whoever needs it on the disk.

        Raises:
            OSError: The disk did not take what was written: the system tells that once.
        """
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            while not self._stop.wait(FLUSH_SECONDS):
                for file in self._files:
                    file.flush()
        except OSError as error:
            self._error = error
