"""Uses: what running processes have looked up or stored, kept from collection until they end.

A process that builds has a file in `running/`: who it is, then a digest a line, of each key before it is looked up and
of each object before it is stored. So a collection that moves something away and then reads these files knows whether
somebody may have found it, and puts it back. Where the file system has locks nobody gets to see even that: a lookup
and a collection exclude each other.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from dem_build.store import files
from dem_build.store.leases import (
    HEARTBEAT_SECONDS,
    SILENT_SECONDS,
    Heartbeat,
    Holder,
    clock,
    is_alive,
    parse_holder,
)
from dem_build.store.local import DIGESTS, NONCE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dem_build.digest import Digest
    from dem_build.store.local import CacheLayout

_VERSION = "dem-uses"


class Uses:
    """What this process uses of one store.

    Args:
        layout: The store.
        heartbeat: Seconds between two signs of life.

    Attributes:
        name: Of the file that says so while `noted` runs; None where there is none.
    """

    def __init__(self, layout: CacheLayout, heartbeat: float = HEARTBEAT_SECONDS) -> None:
        self._layout = layout
        self._heartbeat = heartbeat
        self.name: str | None = None
        self._file: int | None = None
        self._lock: int | None = None
        self._depth = 0
        self._patience = files.LOCK_SECONDS
        self._threads = threading.RLock()
        self._marked: set[Digest] = set()

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Write down what is used while the block runs. A store that cannot be written is used without."""
        if self._file is not None:
            yield
            return
        path = self._layout.running / files.nonce()
        try:
            heartbeat = Heartbeat(self._open(path), self._heartbeat)
        except OSError:
            yield
            return
        self.name = path.name
        try:
            yield
        finally:
            self.name = None
            heartbeat.stop()
            self._close(path)

    @contextmanager
    def using(self, name: Digest) -> Iterator[bool]:
        """Note a key or an object, and run the block that looks for it or stores it while nothing is collected.

        Yields whether it is noted, and so kept until this process ends.
        """
        if self._file is None:
            yield False
            return
        with self._threads:
            self._enter()
            try:
                if name not in self._marked and self._file is not None:
                    with suppress(
                        OSError
                    ):  # a full disk; what is looked up now may be collected, which costs a miss
                        os.write(self._file, name.encode() + b"\n")
                        self._marked.add(name)
                yield name in self._marked
            finally:
                self._leave()

    def is_running(self, name: str) -> bool:
        """Whether who called his notes so lives, and has not ended what he noted them for."""
        path = self._layout.running / name
        try:
            return bool(NONCE.fullmatch(name)) and _counts(path, files.read_bytes(path), self._layout)
        except OSError:  # there is none, or what lies there is no file
            return False

    def _open(self, path: Path) -> int:
        files.make_folder(path.parent)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._lock = os.open(self._layout.gc_lock, flags, 0o666)
        try:
            self._file = os.open(path, flags | os.O_EXCL | os.O_APPEND, 0o666)
            os.write(self._file, json.dumps(Holder.me().document(_VERSION)).encode() + b"\n")
        except OSError:
            self._close(path)
            raise
        return self._file

    def _close(self, path: Path) -> None:
        for descriptor in (self._file, self._lock):
            if descriptor is not None:
                os.close(descriptor)
        self._file = self._lock = None
        self._marked.clear()
        with suppress(OSError):
            path.unlink(missing_ok=True)

    def _enter(self) -> None:
        self._depth += 1
        if self._depth > 1 or self._lock is None:
            return
        # A collection that holds it for longer is stopped, and will look at our notes when it goes on. One wait is
        # enough.
        if not files.acquire(self._lock, fcntl.LOCK_SH, self._patience):
            self._patience = 0.0

    def _leave(self) -> None:
        self._depth -= 1
        if self._depth == 0 and self._lock is not None:
            with suppress(OSError):
                fcntl.flock(self._lock, fcntl.LOCK_UN)


def read_uses(layout: CacheLayout) -> tuple[frozenset[Digest], tuple[Path, ...]]:
    """What living processes use, and the files of dead ones.

    Raises:
        OSError: The store cannot be read.
    """
    used: set[Digest] = set()
    dead: list[Path] = []
    found: list[Path] = []
    with suppress(FileNotFoundError):  # nobody has built here
        found = sorted(path for path in layout.running.iterdir() if NONCE.fullmatch(path.name))
    for path in found:
        with suppress(FileNotFoundError, files.NotAFileError):  # it has ended just now; it was no note
            data = files.read_bytes(path)
            if _counts(path, data, layout):
                used |= {name.decode() for name in data.split(b"\n")[1:] if DIGESTS.fullmatch(name)}
            else:
                dead.append(path)
    return frozenset(used), tuple(dead)


def _counts(path: Path, data: bytes, layout: CacheLayout) -> bool:
    """Whether the process that wrote a file of notes lives; its bytes are `data`."""
    holder = parse_holder(data.partition(b"\n")[0], _VERSION)
    if holder is not None:
        return is_alive(holder, path, layout)
    # One that names nobody may be one that is just being written.
    return clock(layout) - path.stat().st_mtime < SILENT_SECONDS
