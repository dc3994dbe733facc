"""Reads namespaces of remotes: records when keys become known, bytes when something opens them.

A record that came once is noted in the cache's folder `remote/`, so that a build with nothing to do asks nobody. A note
says what was promised, never what was checked: that a key has no record, or an object no bytes, is asked anew by the
next process, and bytes are hashed whenever they come. The folder may be deleted at any time.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
import time
from collections import defaultdict
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from itertools import product
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from dem_build import digest
from dem_build.errors import InterruptedBuildError, RemoteError
from dem_build.store import files
from dem_build.store.local import open_layout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from dem_build.digest import Blob, Digest
    from dem_build.store.local import CacheLayout
    from dem_build.store.records import Record
    from dem_build.store.remote.namespace import Namespace

T = TypeVar("T")

ASKED_AT_ONCE = 32
FETCHED_AT_ONCE = 8
TOLD_SECONDS = 5.0
FORGIVEN_SECONDS = 60.0
"""After this a remote that did not answer is asked again by whoever runs for hours."""
PAUSE_SECONDS = 0.5
"""Before a transfer that was cut goes on. Whatever brought nothing since the last cut has failed."""
_PIECE = 1 << 23


class Caller(NamedTuple):
    """What is called when something happens, from any thread.

    Attributes:
        warn: Once of each remote that does not answer, with the reason.
        fetched: Every few seconds, with how many bytes of how many have come, where nobody else hears of it.
    """

    warn: Callable[[str], None]
    fetched: Callable[[int, int], None] = lambda _done, _total: None


class RemoteReader:
    """Stores that others share: their records count here, and their bytes come when something opens them.

    Methods may be called from several threads at once. A store that does not answer is one that holds nothing, unless
    it must answer (`required`): then each raises `RemoteError`.

    Args:
        layout: The cache, whose folder `remote/` has what came.
        namespaces: Where to look, the first one first.
        caller: Who is told what happens.
        required: Raise where one does not answer, instead of going on without it.
    """

    def __init__(
        self,
        layout: CacheLayout,
        namespaces: Sequence[Namespace],
        caller: Caller,
        *,
        required: bool = False,
    ) -> None:
        self._layout = layout
        self._namespaces = namespaces
        self._caller = caller
        self._required = required
        self._found: dict[Digest, list[Record]] = {}
        self._noted: set[Digest] = set()  # keys of which only notes were read
        self._lost: set[Blob] = set()
        self._refused_at = 0.0
        self._lock = threading.Lock()
        self._coming: defaultdict[Digest, threading.Lock] = defaultdict(threading.Lock)

    # Records.

    def expect(self, keys: Iterable[Digest]) -> None:
        """Look for the records of some keys: in notes, else in all namespaces at once."""
        new = [key for key in dict.fromkeys(keys) if key not in self._found]
        for key in new:
            self._found[key] = self._read_notes(key)
        self._noted |= {key for key in new if self._found[key]}
        self._ask([key for key in new if not self._found[key]])

    def ask_again(self, keys: Iterable[Digest]) -> None:
        """Look for the records of keys that had none when they were looked for before."""
        new = list(dict.fromkeys(keys))
        if time.monotonic() - self._refused_at > FORGIVEN_SECONDS:
            for namespace in self._namespaces:
                namespace.remote.forgive()
        for key in new:
            if not self._found.get(key):
                self._found.pop(key, None)
        self.expect(new)

    def records(self, key: Digest) -> Iterator[Record]:
        """The records of a key, in the order of the namespaces."""
        self.expect([key])
        yield from list(self._found[key])
        if key in self._noted:  # what was noted is not there any more: something else may be
            self._noted.discard(key)
            self._ask([key])
            yield from list(self._found[key])

    def _ask(self, keys: Sequence[Digest]) -> None:
        todo = list(product(keys, self._namespaces))
        if not todo:
            return
        with ThreadPoolExecutor(min(ASKED_AT_ONCE, len(todo))) as pool:
            answers = list(pool.map(lambda each: self._holding(*each), todo))
        for (key, _), record in zip(todo, answers, strict=True):
            self._found[key] += [record] if record is not None else []

    def _holding(self, key: Digest, namespace: Namespace) -> Record | None:
        record = self._answer(namespace, lambda: namespace.holding(key))
        if record is not None and record.away is not None:
            self._note(namespace, key, record.away.data)
        return record

    def _answer(self, namespace: Namespace, question: Callable[[], T]) -> T | None:
        """What a remote answers; None where it does not, or has not before."""
        remote = namespace.remote
        if remote.down is not None:
            return None
        try:
            return question()
        except RemoteError as error:
            if self._required:
                raise
            with self._lock:
                first, remote.down = remote.down is None, error
                self._refused_at = time.monotonic()
            if first:
                self._caller.warn(f"{error}; this call goes on without it")
            return None

    # Notes.

    def _note_of(self, namespace: Namespace, key: Digest) -> Path:
        store = f"{namespace.remote.identity} ({namespace.name})"
        return self._layout.pulled(digest.of_bytes(store.encode())[:16], key)

    def _read_notes(self, key: Digest) -> list[Record]:
        found = []
        for namespace in self._namespaces:
            with suppress(OSError):
                record = namespace.judged(files.read_bytes(self._note_of(namespace, key)), key)
                found += [record] if record is not None else []
        return found

    def _note(self, namespace: Namespace, key: Digest, data: bytes) -> None:
        path = self._note_of(namespace, key)
        with suppress(OSError):  # who may not write here asks again
            if self._layout.tmp.is_dir():  # who only looks makes no cache
                path.parent.mkdir(parents=True, exist_ok=True)
                partial = self._layout.temporary()
                partial.write_bytes(data)
                partial.replace(path)  # and not flushed: one that a power cut damages is none, by its seal

    # Bytes.

    def lacks(self, blob: Blob) -> bool:
        """Whether an object was asked for in vain."""
        return blob in self._lost

    def fetch(
        self,
        blobs: Iterable[Blob],
        place: Callable[[Path, Blob], None],
        came: Callable[[int], None] | None = None,
    ) -> None:
        """Bring objects, the largest first; what no namespace has is lacking, and the notes of it are removed.

        Args:
            blobs: The objects; those that are here by now are passed over.
            place: Takes a file, read-only, flushed and hashed, for an object.
            came: Told how many more bytes have come. What it raises ends all of them; what came is kept, and is not
                asked for again.

        Raises:
            StoreError: They cannot be written here.
        """
        todo = sorted(blobs, key=lambda blob: -blob.size)
        if not todo:
            return
        open_layout(self._layout.root, work=self._layout.scratch)  # a report may be the first to write here
        heard = _Heard(came)
        with ThreadPoolExecutor(min(FETCHED_AT_ONCE, len(todo))) as pool:
            running = [pool.submit(self._bring, blob, place, heard) for blob in todo]
            try:
                while (state := wait(running, TOLD_SECONDS, FIRST_EXCEPTION)).not_done:
                    for one in state.done:
                        one.result()
                    if came is None:
                        self._caller.fetched(heard.bytes, sum(blob.size for blob in todo))
                for one in running:
                    one.result()
            except BaseException:  # Ctrl-C too
                heard.stopped = True
                pool.shutdown(cancel_futures=True)
                raise

    def _bring(self, blob: Blob, place: Callable[[Path, Blob], None], came: Callable[[int], None]) -> None:
        with self._lock:
            coming = self._coming[blob.digest]
        with coming:  # two actions may want the same base
            target = self._layout.object(blob.digest)
            if target.is_file() and target.stat().st_size == blob.size:
                return
            for namespace in self._namespaces:
                file = self._answer(namespace, lambda at=namespace: self._download(at, blob, came))  # type: ignore[misc]
                if file is not None:
                    place(file, blob)
                    return
            self._lose(blob)

    def _lose(self, blob: Blob) -> None:
        self._lost.add(blob)
        for key, records in list(self._found.items()):
            if any(blob in record.blobs() for record in records):
                for namespace in self._namespaces:
                    with suppress(OSError):
                        self._note_of(namespace, key).unlink(missing_ok=True)

    def _download(self, namespace: Namespace, blob: Blob, came: Callable[[int], None]) -> Path | None:
        """Fetch an object into a file; None where it is not there, or its bytes are not what its name says.

        Raises:
            RemoteError: The remote does not answer, or nothing more comes of it.
        """
        with self._part(blob) as (path, file):
            begun = file.seek(0, os.SEEK_END) > 0
            right = self._transfer(namespace, blob, file, came)
            if begun and right is False:  # what an earlier process left may be what is wrong
                file.truncate(0)
                right = self._transfer(namespace, blob, file, came)
            if not right:
                if right is False:
                    file.truncate(0)
                    name = f"{namespace.remote.url}/{namespace.object(blob.digest)}"
                    mend = (
                        "delete it there, then `dem cache verify --remote --repair` takes away what names it"
                    )
                    self._caller.warn(f"{name} has other bytes than its name says: {mend}")
                return None
            file.flush()
            os.fsync(file.fileno())
            taken = self._layout.temporary()
            path.rename(taken)  # nobody who waits for our lock takes it for left behind
            taken.chmod(0o444)
            return taken

    def _transfer(
        self, namespace: Namespace, blob: Blob, file: BinaryIO, came: Callable[[int], None]
    ) -> bool | None:
        """Fetch what a file lacks of an object, whatever cuts it; whether it is right then, None of no object."""
        hashed, size = hashlib.sha256(), 0
        file.seek(0)
        while piece := file.read(_PIECE):
            hashed.update(piece)
            size += len(piece)
        came(size)
        while size < blob.size:
            before = size
            try:
                for piece in namespace.remote.bucket.read(namespace.object(blob.digest), size):
                    file.write(piece)
                    hashed.update(piece)
                    size += len(piece)
                    came(len(piece))
                    if size > blob.size:
                        return False
            except FileNotFoundError:
                return None
            except RemoteError:
                if size == before:
                    raise
                time.sleep(PAUSE_SECONDS)
            else:
                if size == before:
                    break
        return size == blob.size and hashed.hexdigest() == blob.digest

    @contextmanager
    def _part(self, blob: Blob) -> Iterator[tuple[Path, BinaryIO]]:
        """A file to fetch an object into: one that a dead process has left, if there is one, else a new one.

        Who writes to it holds a lock on it. Where the file system has no locks, nobody's is taken over.
        """
        folder = self._layout.parts
        folder.mkdir(parents=True, exist_ok=True)
        left = (_taken_over(path) for path in folder.glob(f"{blob.digest}-*"))
        found = next(filter(None, left), None)
        while found is None:
            found = _begun(folder / f"{blob.digest}-{files.nonce()}")
        path, file = found
        with file:
            try:
                yield path, file
            finally:
                if file.seek(0, os.SEEK_END) == 0:
                    path.unlink(missing_ok=True)


class _Heard:
    """Counts the bytes that come, in any thread, until it is stopped."""

    def __init__(self, came: Callable[[int], None] | None) -> None:
        self.bytes = 0
        self.stopped = False
        self._came = came
        self._counting = threading.Lock()

    def __call__(self, more: int) -> None:
        if self.stopped:
            raise InterruptedBuildError("stopped while objects were fetched")
        with self._counting:
            self.bytes += more
        if self._came is not None:
            self._came(more)


def _begun(path: Path) -> tuple[Path, BinaryIO] | None:
    """A new file, locked where there are locks; None where another process took it over before it was."""
    file = path.open("x+b")
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError:
        pass  # no locks here, so nobody takes it over
    return path, file


def _taken_over(path: Path) -> tuple[Path, BinaryIO] | None:
    """A file of a dead process, opened and locked; None of one that lives, and where there are no locks."""
    try:
        file = path.open("r+b")
    except OSError:
        return None
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):
            os.utime(path)  # it is in the making again: no collection takes it for left behind
            return path, file
    except OSError:
        pass
    file.close()
    return None
