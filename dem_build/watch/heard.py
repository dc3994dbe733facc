"""A remote whose questions and answers a watch hears: libraries that ask object stores tell Python nothing.

What lies in a folder is heard as other files are, and a hub's client opens its sockets in Python.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.store.remote.address import open_bucket
from dem_build.store.remote.folder import FolderBucket
from dem_build.watch.asked import GET, LIST, question, spelled
from dem_build.watch.watch import asked, disavow
from dem_build.watch.witness import told

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from dem_build.store.remote.bucket import Bucket, Stored


def open_heard(url: str, endpoint: str | None = None) -> Bucket:
    """As `open_bucket`, for a call that may be watched."""
    bucket = open_bucket(url, endpoint)
    return bucket if isinstance(bucket, FolderBucket) else _Heard(bucket, url, endpoint)


class _Heard:
    """A bucket that tells what its records are asked for; whatever else is done leaves no witness. See `Bucket`."""

    def __init__(self, bucket: Bucket, url: str, endpoint: str | None) -> None:
        self.url = bucket.url
        self.conditional = bucket.conditional
        self.writable = bucket.writable
        self.listed = bucket.listed
        self.lively = bucket.lively
        self._bucket = bucket
        self._place = url, endpoint

    def get(self, name: str) -> bytes | None:
        try:
            data = self._bucket.get(name)
        except BaseException:
            disavow("a remote does not answer")
            raise
        asked(question(*self._place, GET, name), told(spelled(data)))
        return data

    def list(self, prefix: str) -> Iterator[Stored]:
        try:
            found = sorted(self._bucket.list(prefix))
        except BaseException:
            disavow("a remote does not answer")
            raise
        asked(question(*self._place, LIST, prefix), told(spelled(found)))
        return iter(found)

    def read(self, name: str, start: int = 0) -> Iterator[bytes]:
        disavow("an object is fetched")
        return self._bucket.read(name, start)

    def size(self, name: str) -> int | None:
        disavow("an object is asked for, to be put")
        return self._bucket.size(name)

    def put(self, name: str, file: Path) -> None:
        disavow("an object is put")
        self._bucket.put(name, file)

    def create(self, name: str, data: bytes) -> bool:
        disavow("a record is put")
        return self._bucket.create(name, data)

    def delete(self, names: Iterable[str]) -> None:
        disavow("something is deleted")
        self._bucket.delete(names)
