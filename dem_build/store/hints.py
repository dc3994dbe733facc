"""What this host has hashed already: path, size, times and inode → digest.

A hint saves reading a file again and is never needed: the file may be deleted at any time, and where it is damaged
or cannot be written everything works without it. It lies outside the cache, which several hosts may share. A file
that changed less than two seconds before it was hashed is hashed again next time: a second change within the
clock's grain would leave no trace. Each row has a check of its own: a wrong digest of a data file would go into keys
and locks, so a row that does not add up is no row.
"""

from __future__ import annotations

import hashlib
import math
import os
import sqlite3
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dem_build import digest
from dem_build.digest import Blob
from dem_build.errors import StoreError
from dem_build.host import host_folder
from dem_build.store.files import in_parallel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dem_build.digest import Digest

T = TypeVar("T")

# Of the process, and held while it is copied: SQLite has locks of its own, which would stay locked in a copy if another
# thread had one then. Again by one thread, as what is collected while it is held may close a database.
_SQLITE = threading.RLock()
os.register_at_fork(before=_SQLITE.acquire, after_in_parent=_SQLITE.release, after_in_child=_SQLITE.release)

_GRAIN_NS = 2_000_000_000
_WAIT_SECONDS = 2.0
_RESTS_SECONDS = 60.0
_NAME = "hints-2.sqlite"  # another number for another schema: old ones are simply not read
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS hints (path BLOB PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, "
    "ctime_ns INTEGER NOT NULL, inode INTEGER NOT NULL, sha256 BLOB NOT NULL) WITHOUT ROWID"
)
_SELECT = (
    "SELECT sha256 FROM hints WHERE path = ? AND size = ? AND mtime_ns = ? AND ctime_ns = ? AND inode = ?"
)


@dataclass(frozen=True)
class Hashed:
    """A file that was read: its digest, what `stat` said before, and whether a later change would show."""

    path: Path
    blob: Blob
    stat: os.stat_result
    settled: bool


def hash_file(path: Path) -> Hashed:
    """Read a file and return its digest.

    Raises:
        OSError: It cannot be read.
        StoreError: It changes while it is read.
    """
    now = time.time_ns()
    before = path.stat()
    found = digest.of_file(path)
    if _identity(before) != _identity(path.stat()):
        raise StoreError("this file is being written", where=str(path), hint="try again when it is complete")
    settled = now - max(before.st_mtime_ns, before.st_ctime_ns) > _GRAIN_NS
    return Hashed(path, Blob(found, before.st_size), before, settled)


def _identity(stat: os.stat_result) -> tuple[int, int, int, int]:
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


class Hints:
    """The digests of files on this host.

    Args:
        folder: Where the file lies. Default: `host_folder`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        place = host_folder() if folder is None else folder
        self._folder = None if place is None else Path(place)
        self._database: sqlite3.Connection | None = None
        self._process = os.getpid()
        self._usable = self._folder is not None
        self._rests_until = math.inf  # once it is not usable

    def digest_of(self, path: Path) -> Blob:
        """The digest and size of a file, which is read only if it may have changed since it was last read.

        Raises:
            OSError: It cannot be read.
            StoreError: It changes while it is read.
        """
        return self.digests_of([path])[path]

    def digests_of(self, paths: Iterable[Path]) -> dict[Path, Blob]:
        """The digest and size of each file; those that must be read are read in parallel.

        Raises:
            OSError: One cannot be read.
            StoreError: One changes while it is read.
        """
        found: dict[Path, Blob] = {}
        unknown: list[Path] = []
        for path in dict.fromkeys(paths):
            stat = path.stat()
            known = self.recall(path, stat)
            if known is None:
                unknown.append(path)
            else:
                found[path] = Blob(known, stat.st_size)
        hashed = in_parallel(hash_file, unknown)
        self.remember([h for h in hashed if h.settled])
        return found | {h.path: h.blob for h in hashed}

    def recall(self, path: Path, stat: os.stat_result) -> Digest | None:
        """The digest that this host computed of the file when it had this size, inode and these times."""
        values = (_name(path), *_identity(stat))
        row = self._run(lambda db: db.execute(_SELECT, values).fetchone())
        if not row or not isinstance(row[0], bytes):
            return None
        found = row[0][:64].decode("ascii", "replace")
        return (
            found if row[0] == _checked(values, found) else None
        )  # else it was changed since it was written

    def remember(self, hashed: Iterable[Hashed]) -> None:
        """Keep digests, in one transaction."""
        rows = []
        for file in hashed:
            values = (_name(file.path), *_identity(file.stat))
            rows.append((*values, _checked(values, file.blob.digest)))

        def insert(database: sqlite3.Connection) -> None:
            with database:
                database.execute("BEGIN IMMEDIATE")
                database.executemany("INSERT OR REPLACE INTO hints VALUES (?, ?, ?, ?, ?, ?)", rows)

        if rows:
            self._run(insert)

    def forget(self, path: Path) -> None:
        """Drop what is known of a file, whose bytes are others without a trace in `stat`."""
        name = _name(path)
        self._run(lambda db: db.execute("DELETE FROM hints WHERE path = ?", (name,)))

    def close(self) -> None:
        """Close the file; it is opened again when needed."""
        with _SQLITE:
            if self._database is not None and self._process == os.getpid():
                self._database.close()
            self._database = None

    def __del__(self) -> None:
        if _SQLITE:  # else the interpreter ends, and the names of this module are gone
            self.close()

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        with _SQLITE:
            for _ in range(2):
                if not self._usable and time.monotonic() < self._rests_until:
                    return None
                try:
                    return work(self._connection())
                except (sqlite3.Error, ValueError) as error:
                    # Damaged: make a new one, once. Locked, read-only, full, no folder: go on without, for a while. A
                    # worker lives for days, and a base is read for minutes where nothing says what it is.
                    self._usable = _is_damage(error) and self._discard()
                    self._rests_until = time.monotonic() + _RESTS_SECONDS
        return None

    def _connection(self) -> sqlite3.Connection:
        assert self._folder is not None
        if self._process != os.getpid():  # a connection must not be carried over a fork
            self._database, self._process = None, os.getpid()
        if self._database is None:
            with suppress(OSError):  # sqlite reports what matters of it
                self._folder.mkdir(parents=True, exist_ok=True)
            self._database = _connect(self._folder / _NAME)
        return self._database

    def _discard(self) -> bool:
        assert self._folder is not None
        if self._database is not None:
            self._database.close()
            self._database = None
        try:
            (self._folder / _NAME).unlink(missing_ok=True)
        except OSError:
            return False
        return True


def _is_damage(error: Exception) -> bool:
    """Whether the file is to blame: its pages, its schema, or text in it that is none (a `ValueError`)."""
    if isinstance(error, sqlite3.OperationalError):
        # Without a code it is Python's own, of text that is none.
        return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) == sqlite3.SQLITE_ERROR
    return True


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=_WAIT_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        # A kill is survived by the journal. A power cut may damage the file, which costs only reading again.
        database.execute("PRAGMA synchronous = OFF")
        database.execute(_SCHEMA)
    except sqlite3.Error:
        database.close()
        raise
    return database


def _checked(values: tuple[bytes | int, ...], found: Digest) -> bytes:
    """A digest and the check of its row."""
    row = repr((*values, found)).encode()
    return found.encode() + hashlib.blake2b(row, digest_size=8).digest()


def _name(path: Path) -> bytes:
    return os.fsencode(os.path.abspath(path))  # noqa: PTH100 - resolve() costs a call of the system a folder
