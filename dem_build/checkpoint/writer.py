"""Weights written tensor by tensor, in one canonical way: the same tensors are the same bytes.

A file is hashed while it is written: its digest is there when its last byte is.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from dem_build.checkpoint.filenames import INDEX, SINGLE
from dem_build.checkpoint.header import ITEM_SIZES, canonical_order, header_bytes
from dem_build.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from numpy.typing import NDArray

    from dem_build.checkpoint.header import TensorSpec
    from dem_build.digest import Digest

MAX_SHARD_BYTES = 5_000_000_000
PIECE = 1 << 19  # bytes that are read back at a time
FLUSH_SECONDS = 0.1
NOT_SUPPORTED = frozenset({errno.EINVAL, errno.EOPNOTSUPP})  # a file system that cannot reserve
METADATA = {"format": "pt"}  # what transformers asks of a file of PyTorch weights


class Writer:
    """Safetensors files whose headers are written first and whose tensors come in any order, from any thread.

    Use it in a `with`: leaving it without an error closes the files, and is an error if a byte is missing.

    Where several processes write the files, one of them calls `reserve`, then each enters a writer of its own with
    `shared` set. Nothing is hashed then, and that all bytes came is for who knows what each wrote.

    Attributes:
        digests: The SHA-256 of each file, once the block was left without an error.
        written: Of shared files, the bytes of tensors that this process wrote, once the block was left.
        shared: Whether other processes write the same files.
    """

    shared = False

    def __init__(self, files: Mapping[Path, Iterable[TensorSpec]], metadata: Mapping[str, str]) -> None:
        self.digests: Mapping[Path, Digest] = {}
        self._specs = {path: canonical_order(specs) for path, specs in files.items()}
        self._metadata = metadata
        self._places: dict[str, tuple[_HashedFile, int, TensorSpec]] = {}
        self._files: list[_HashedFile] = []
        self.written = 0

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors."""
        return sum(spec.nbytes for specs in self._specs.values() for spec in specs)

    def reserve(self) -> None:
        """Make the files, with their headers and room for the tensors, for processes that share them."""
        for path, specs in self._specs.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            header = header_bytes(specs, self._metadata)
            size = len(header) + sum(spec.nbytes for spec in specs)
            with path.open("xb") as file:
                _allocate(file.fileno(), size, path)
                file.write(header)

    def __enter__(self) -> Self:
        for path, specs in self._specs.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            header = header_bytes(specs, self._metadata)
            offset, size = len(header), len(header) + sum(spec.nbytes for spec in specs)
            file = _SharedFile(path, size) if self.shared else _HashedFile(path, size)
            self._files.append(file)
            for spec in specs:
                self._places[spec.name] = (file, offset, spec)
                offset += spec.nbytes
            if not self.shared:
                _allocate(file.descriptor, size, path)
                file.write(0, memoryview(header))
        self._flusher = _Flusher(self._files)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        missing = sum(file.missing for file in self._files)
        self.written = sum(file.written for file in self._files if isinstance(file, _SharedFile))
        try:
            self._flusher.stop()
            if kind is None and not missing and not self.shared:
                self.digests = {file.path: file.digest() for file in self._files}
        finally:
            while self._files:
                self._files.pop().close()
        # After the files are closed; and of an error inside the block, that one counts.
        if kind is None and missing:
            raise ValueError(f"{missing} bytes of the tensors were not written")

    def write(self, name: str, start: int, stored: NDArray[np.generic]) -> None:
        """Write stored elements of a tensor, from the `start`-th on; each element once."""
        file, offset, spec = self._places[name]
        file.write(offset + start * ITEM_SIZES[spec.dtype], stored.view(np.uint8).data)


def weights_writer(
    folder: Path,
    specs: Iterable[TensorSpec],
    max_shard_bytes: int = MAX_SHARD_BYTES,
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> Writer:
    """A writer of a folder of weights, which must not exist; `metadata` are those beside the format.

    The folder will hold `model.safetensors`, or above `max_shard_bytes` shards and their index, named as
    transformers names them. A shard exceeds `max_shard_bytes` only to hold a single tensor.
    """
    shards: list[list[TensorSpec]] = [[]]
    filled = 0
    for spec in canonical_order(specs):
        if shards[-1] and filled + spec.nbytes > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(spec)
        filled += spec.nbytes
    folder.mkdir(parents=True)
    if len(shards) == 1:
        return Writer({folder / SINGLE: shards[0]}, {**METADATA, **metadata})
    names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    files = {folder / name: held for name, held in zip(names, shards, strict=True)}
    index = {
        "metadata": {"total_size": sum(spec.nbytes for held in shards for spec in held)},
        "weight_map": {spec.name: path.name for path, held in files.items() for spec in held},
    }
    (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return Writer(files, {**METADATA, **metadata})


def _allocate(file: int, size: int, path: Path) -> None:
    """Reserve the file's blocks, so that a full disk is told before hours of work and not after."""
    try:
        os.ftruncate(file, size)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file, 0, size)
    except OSError as error:
        if error.errno not in NOT_SUPPORTED:
            what, hint = f"cannot hold {size} bytes: {error.strerror}", "free some space, and build again"
            raise CheckpointError(what, where=str(path), hint=hint) from error


class _HashedFile:
    """A new file of a known size, open until it is closed; its bytes may come in any order, from any thread.

    Raises:
        FileExistsError: There is a file already.
    """

    opened = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.descriptor = os.open(path, self.opened, 0o666)
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
        # Whoever has written some bytes hashes them where all before them are hashed, and then what others wrote
        # behind them, which is read back out of the system's memory; unless another thread is at it. Threads for
        # hashing alone, more than there are cores, would only have all of them wait for Python's lock.
        if self._hashing.acquire(blocking=False):
            try:
                if start == self._hashed:
                    self._hash.update(data)
                    self._hashed = stop
                self._go_on()
            finally:
                self._hashing.release()

    def digest(self) -> Digest:
        """The SHA-256 of the file, all of which must have been written."""
        assert not self.missing
        with self._hashing:
            self._go_on()
            return self._hash.hexdigest()

    def flush(self) -> None:
        """Write to the disk what was hashed since the last time, and whatever else is there."""
        if (hashed := self._hashed) != self._flushed:
            # While others compute: at the end, the disk would be waited for with all of a model to write.
            flush = os.fdatasync if hasattr(os, "fdatasync") else os.fsync  # macOS has the second one alone
            flush(self.descriptor)
            self._flushed = hashed

    def close(self) -> None:
        """Close the file."""
        os.close(self.descriptor)

    def _note(self, start: int, stop: int) -> None:
        if start == stop:
            return
        # Its own lock: who only notes a write does not wait for who hashes.
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


class _SharedFile(_HashedFile):
    """A file that `Writer.reserve` made, into which other processes write too."""

    opened = os.O_RDWR | os.O_CLOEXEC
    written = 0

    @property
    def missing(self) -> int:
        """None that this process knows of."""
        return 0

    def write(self, start: int, data: memoryview) -> None:
        """Write bytes at a place that no other process writes."""
        stop, left = start + len(data), data
        while left:
            left = left[os.pwrite(self.descriptor, left, stop - len(left)) :]
        self.written += stop - start

    def flush(self) -> None:
        """Nothing: who shares a file flushes it as a whole."""


class _Flusher:
    """Writes to the disk what some files hold, time and again until it is stopped: the disk works while others compute.

    Args:
        files: The files. They may grow in number.
    """

    def __init__(self, files: Sequence[_HashedFile]) -> None:
        self._files = files
        self._stopped = threading.Event()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._work, name="dem-flushing", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End. What is left is flushed by whoever needs it on the disk.

        Raises:
            OSError: The disk did not take what was written: the system tells that once.
        """
        self._stopped.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            while not self._stopped.wait(FLUSH_SECONDS):
                for file in self._files:
                    file.flush()
        except OSError as error:
            self._error = error
