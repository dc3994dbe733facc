"""One namespace of a remote: under which names objects and records lie there, and which record of a key holds.

    <namespace>/cas/sha256/ab/<digest>
    <namespace>/actions/ab/<key>.json                     where `create` is atomic
    <namespace>/candidates/<key>/<record's digest>.json   where it is not

A record is there byte for byte as a local store has it, and is judged in the same way. Who may write to a namespace
the store's access rules say; so objects lie in it as records do, and are looked for where the reader lists it alone.
"""

from __future__ import annotations

import re
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from dem_build import digest
from dem_build.errors import RemoteError
from dem_build.store.records import Away, parse_record
from dem_build.store.remote.probe import MARKER, read_marker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dem_build.digest import Digest
    from dem_build.store.records import Record
    from dem_build.store.remote.bucket import Bucket, Stored

_RECORD = re.compile(
    r"/actions/[0-9a-f]{2}/(?P<key>[0-9a-f]{64})\.json$|/candidates/(?P<chosen>[0-9a-f]{64})/[0-9a-f]{64}\.json$"
)


class Connection:
    """A bucket, which is opened when it is first asked, and what one process has learned of it.

    Args:
        url: Its address, without credentials, for people and for notes.
        opened: Opens it, in the process that asks.
        endpoint: Its server, where the address does not say it.
        hurried: Opens it for calls of a few bytes that have another way; as `opened` where None.

    Attributes:
        identity: What no other remote has: one address may be of a bucket on each of two servers.
        down: Why it is asked no more; None while it answers.
    """

    def __init__(
        self,
        url: str,
        opened: Callable[[], Bucket],
        endpoint: str | None = None,
        hurried: Callable[[], Bucket] | None = None,
    ) -> None:
        self.url = url
        self.identity = url if endpoint is None else f"{url} at {endpoint}"
        self.down: RemoteError | None = None
        self._opened = opened
        self._hurrying = hurried
        self._lock = threading.RLock()
        self._bucket: Bucket | None = None
        self._hurried: Bucket | None = None
        self._candidates: bool | None = None
        self._unmarked: RemoteError | None = None

    @property
    def bucket(self) -> Bucket:
        """Where the bytes are.

        Raises:
            RemoteError: There is no way to it.
        """
        with self._lock:
            if self._bucket is None:
                self._bucket = self._opened()
            return self._bucket

    @property
    def hurried(self) -> Bucket:
        """The same bytes, for calls that rather fail than wait.

        Raises:
            RemoteError: There is no way to it.
        """
        if self._hurrying is None:
            return self.bucket
        with self._lock:
            if self._hurried is None:
                self._hurried = self._hurrying()
            return self._hurried

    @property
    def candidates(self) -> bool:
        """Whether its records are candidates, as `create` is not atomic there; its own file says so, read once.

        Raises:
            RemoteError: It cannot be read, or nobody has made a remote of it.
        """
        with self._lock:
            if self._unmarked is not None:
                raise self._unmarked  # whoever waited for this answer would wait as long for the same one
            if self._candidates is None:
                try:
                    self._candidates = self._marked()
                except RemoteError as error:
                    self._unmarked = error
                    raise
            return self._candidates

    def forgive(self) -> None:
        """Ask it again: that it did not answer was a while ago."""
        with self._lock:
            self.down = self._unmarked = None

    def _marked(self) -> bool:
        marker = read_marker(self.bucket)
        if marker is None:
            what = f"is no remote: it has no {MARKER}"
            hint = "mend its address in [[remotes]], or make it one: `dem cache remote init`"
            raise RemoteError(what, where=self.url, hint=hint)
        return marker.create == "candidates"


class Namespace:
    """Objects and records under one prefix.

    Attributes:
        where: The remote and the prefix, for people.
    """

    def __init__(self, remote: Connection, name: str) -> None:
        self.remote = remote
        self.name = name
        self.where = f"{remote.url} ({name})"

    @property
    def objects(self) -> str:
        """What the names of its objects begin with."""
        return f"{self.name}/cas/sha256/"

    def object(self, name: Digest) -> str:
        """Where an object lies."""
        return f"{self.objects}{name[:2]}/{name}"

    def record(self, key: Digest) -> str:
        """Where the record of a key lies, if records are created."""
        return f"{self.name}/actions/{key[:2]}/{key}.json"

    def candidates(self, key: Digest) -> str:
        """What the names of the records of a key begin with, if they are candidates."""
        return f"{self.name}/candidates/{key}/"

    def holding(self, key: Digest) -> Record | None:
        """The record that holds for a key; None where there is no valid one.

        Of candidates it is the one that was finished first, for every reader alike; of two, that of the lesser digest.

        Raises:
            RemoteError: The remote does not answer.
        """
        bucket = self.remote.bucket
        if not self.remote.candidates:
            return self.judged(bucket.get(self.record(key)), key)
        found = [self.judged(bucket.get(listed.name), key) for listed in bucket.list(self.candidates(key))]
        return min(filter(None, found), key=_order, default=None)

    def publish(self, record: Record, data: bytes) -> Record | None:
        """Put a record, whose objects are all there, unless there is one; return the one that holds.

        What the server says of the write is not believed: a refusal may be of a write of ours that worked, whose reply
        was lost.

        Raises:
            RemoteError: The remote does not answer.
        """
        if self.remote.candidates:
            name = f"{self.candidates(record.key)}{digest.of_bytes(data)}.json"
        else:
            name = self.record(record.key)
        self.remote.bucket.create(name, data)
        return self.holding(record.key)

    def recorded(self) -> Iterator[Digest]:
        """The keys that have a record, each once.

        Raises:
            RemoteError: The remote does not answer, or has no listings.
        """
        found = {key_of(listed.name) for listed in self.listed_records()}
        return iter(sorted(key for key in found if key))

    def listed_records(self) -> Iterator[Stored]:
        """What is listed where records lie, candidates too."""
        for prefix in (f"{self.name}/actions/", f"{self.name}/candidates/"):
            yield from self.remote.bucket.list(prefix)

    def judged(self, data: bytes | None, key: Digest) -> Record | None:
        """The record of a key that some bytes of this namespace are; None where they are none."""
        try:
            found = parse_record(data, key)
        except ValueError:
            return None
        return None if found is None or data is None else replace(found, away=Away(self.where, data))


def key_of(name: str) -> Digest | None:
    """The key whose record has this name; None where it is no record's name."""
    found = _RECORD.search(name)
    return found and (found["key"] or found["chosen"])


def _order(record: Record) -> tuple[str, Digest]:
    assert record.away is not None
    return str(record.noted("finished") or ""), digest.of_bytes(record.away.data)
