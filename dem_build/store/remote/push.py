"""Pushes what a store holds to a namespace: files before the trees that name them, the log, then the record.

So whatever ends a push, at any step, leaves objects that no record names and never a record whose objects are not
there; whoever pushes next sends what is missing. Training does not reproduce, so two machines may come to two results
for one key: the one that is there stays there, ours stays here, and the caller is told.
"""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from dem_build.errors import DemError, RemoteError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from dem_build.digest import Blob, Digest
    from dem_build.store import Record, Store
    from dem_build.store.remote.namespace import Connection, Namespace

SENT_AT_ONCE = 4
RECORDS_AT_ONCE = 4


class NotKeptError(RemoteError):
    """The remote answers, and does not have what it was given: there is damage, or a fault of its own."""


class Pushed(StrEnum):
    """What became of a record: it is there now, it was there, or another result of its key is."""

    SENT = "sent"
    KNOWN = "known"
    DIFFERS = "differs"


@dataclass(frozen=True)
class Push:
    """What became of a record, and how many bytes of objects were sent for it."""

    result: Pushed
    bytes: int = 0


def push(record: Record, store: Store, to: Namespace) -> Push:
    """Push a record of this store, after its objects, which are here.

    Raises:
        RemoteError: The remote does not answer, or does not keep what it was given (`NotKeptError`).
        StoreError: An object cannot be read.
    """
    there = to.holding(record.key)
    if there is not None:
        return Push(_compared(record, there))
    data, log = store.records.document(record)
    trees = {output.digest for output in record.outputs.values() if output.files is not None}
    objects = record.blobs()
    steps = (
        [blob for blob in objects if blob.digest not in trees],
        [blob for blob in objects if blob.digest in trees],
        [] if log is None else [log],
    )
    sent = _put_all(steps, store, to)
    holding = to.publish(record, data)
    if holding is None:
        what = f"the record {record.key} is not there after it was put, or what is there is none"
        raise NotKeptError(
            what, where=to.where, hint="`dem cache verify --remote --repair` takes damage away"
        )
    result = _compared(record, holding)
    if result is Pushed.DIFFERS:
        return Push(result, sum(blob.size for blob in sent))
    # A collection that did not see the record may have taken what no other one named: see `survey.take`.
    reused = [[blob for blob in step if blob not in sent] for step in steps]
    if any(_lacking(step, to) for step in reused):
        sent += _put_all(reused, store, to)
    return Push(Pushed.SENT, sum(blob.size for blob in sent))


def _put_all(steps: Sequence[Sequence[Blob]], store: Store, to: Namespace) -> list[Blob]:
    """Put those of some objects that are not there, a step after the one before; what was put.

    Raises:
        NotKeptError: One is not there afterwards.
    """
    sent = [blob for blobs in steps for blob in _send(blobs, store, to)]
    # Once more, all of them: what was there may have been collected meanwhile, and a reply is no proof.
    if lacking := [blob for blobs in steps for blob in _lacking(blobs, to)]:
        what = f"object {lacking[0].digest} is not there after it was put"
        raise NotKeptError(what, where=to.where, hint="`dem cache push` tries again")
    return sent


def _compared(ours: Record, theirs: Record) -> Pushed:
    return Pushed.KNOWN if ours.outputs == theirs.outputs else Pushed.DIFFERS


def _send(blobs: Sequence[Blob], store: Store, to: Namespace) -> list[Blob]:
    """Put those of some objects that are not there, the largest first; which these were."""
    todo = sorted(_lacking(blobs, to), key=lambda blob: -blob.size)
    with ThreadPoolExecutor(SENT_AT_ONCE) as pool:
        put = to.remote.bucket.put
        list(pool.map(lambda blob: put(to.object(blob.digest), store.objects.open(blob)), todo))
    return todo


def _lacking(blobs: Sequence[Blob], to: Namespace) -> list[Blob]:
    """Those of some objects that are not there at their sizes."""
    with ThreadPoolExecutor(2 * SENT_AT_ONCE) as pool:
        sizes = pool.map(lambda blob: to.remote.bucket.size(to.object(blob.digest)), blobs)
        return [blob for blob, size in zip(blobs, sizes, strict=True) if size != blob.size]


class Pusher:
    """Pushes records in threads of its own while their successors are made.

    Args:
        store: Where they are.
        namespaces: Where to; each gets all of them.
        say: Told of each record that another result is there for, and of what stands against pushing.
        after: Told the key of each record that is there now, ours or another one.

    Attributes:
        done: What became of those that were pushed.
        left: How many could not be.
        error: Why, of the first.
    """

    def __init__(
        self,
        store: Store,
        namespaces: Iterable[Namespace],
        say: Callable[[str], None] = lambda _: None,
        after: Callable[[Digest], None] = lambda _: None,
    ) -> None:
        self.done: list[Push] = []
        self.left = 0
        self.error: DemError | None = None
        self._store = store
        self._namespaces = tuple(namespaces)
        self._say = say
        self._after = after
        self._todo: queue.SimpleQueue[tuple[str, Record] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._added: set[Digest] = set()
        self._refused: dict[Connection, RemoteError] = {}
        self._unsent: dict[Digest, tuple[str, Record]] = {}

    def add(self, name: str, record: Record) -> None:
        """Push a record."""
        if not self._namespaces or record.key in self._added:
            self._after(record.key)
            return
        self._added.add(record.key)
        self._todo.put((name, record))
        if len(self._threads) < RECORDS_AT_ONCE:
            self._threads.append(threading.Thread(target=self._run, name="dem-push", daemon=True))
            self._threads[-1].start()

    def again(self) -> None:
        """Push once more what could not be pushed; after `close`, when nothing is busy."""
        unsent, self._unsent = self._unsent, {}
        self.left, self.error, self._threads = 0, None, []
        self._refused.clear()
        for namespace in self._namespaces:
            namespace.remote.forgive()
        self._added -= unsent.keys()
        for name, record in unsent.values():
            self.add(name, record)
        self.close()

    @property
    def busy(self) -> bool:
        """Whether something is yet to be pushed, as far as `close` was called."""
        return any(thread.is_alive() for thread in self._threads)

    def close(self) -> None:
        """Say that nothing more comes."""
        for _ in self._threads:
            self._todo.put(None)

    def wait(self, seconds: float) -> None:
        """Wait for the end for so long at most."""
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _run(self) -> None:
        while (todo := self._todo.get()) is not None:
            name, record = todo
            there = [self._push(name, record, namespace) for namespace in self._namespaces]
            if all(there):
                self._after(record.key)
            else:
                self._unsent[record.key] = (name, record)

    def _push(self, name: str, record: Record, to: Namespace) -> bool:
        """Push to one of them; whether it has it now."""
        try:
            if error := self._refused.get(to.remote) or to.remote.down:
                raise error
            found = push(record, self._store, to)
        except NotKeptError as error:
            self._failed(error)  # it answers, and the others may be kept
        except RemoteError as error:
            # Each of the others would wait as long. It may give all the same: who must not write still reads.
            self._refused[to.remote] = error
            self._failed(error)
        except StoreError as error:
            self._failed(error)
        else:
            self.done.append(found)
            if found.result is Pushed.DIFFERS:
                self._say(f"{name}: {to.where} has another result of this action; each keeps its own")
            return True
        return False

    def _failed(self, error: DemError) -> None:
        self.left += 1
        self.error = self.error or error
