"""Machines that share a folder, and a bucket that does what the worst of servers do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from store_samples import make_record

from dem_build.digest import of_file
from dem_build.errors import RemoteError
from dem_build.store import Hints, Record, Store
from dem_build.store.local import open_layout
from dem_build.store.records import read_record
from dem_build.store.remote.folder import FolderBucket
from dem_build.store.remote.namespace import Connection, Namespace
from dem_build.store.remote.reader import Caller, RemoteReader


class Bucket(FolderBucket):
    """A folder whose calls are counted, and that breaks where it is told to.

    Attributes:
        calls: (what, name) of each call, in order.
        dead: Whether it answers nothing.
        stop_at: Which call, counted from 1, kills its caller.
        lost: Names of which it has nothing.
        wrong: Names of which it has other bytes.
        cut_at: After how many bytes a read is cut, once for each number.
        shown: Names → what is read in place of what is there; `shown_once`: but once.
        unlisted: Names that no listing has.
        meanwhile: Calls, counted from 1, → what happens before them.
        lossy: Whether the reply to a `create` that worked is lost, and the next try of the client refused.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.calls: list[tuple[str, str]] = []
        self.dead = False
        self.stop_at = 0
        self.lost: set[str] = set()
        self.wrong: set[str] = set()
        self.cut_at: list[int] = []
        self.lossy = False
        self.shown: dict[str, bytes | None] = {}
        self.shown_once = False
        self.unlisted: set[str] = set()
        self.meanwhile: dict[int, Callable[[], object]] = {}

    def named(self, what):
        return [name for call, name in self.calls if call == what]

    def _called(self, what, name):
        self.calls.append((what, name))
        self.meanwhile.get(len(self.calls), lambda: None)()
        if self.dead:
            raise RemoteError("cannot be reached", where=self.url)
        if len(self.calls) == self.stop_at:
            raise Killed

    def get(self, name):
        self._called("get", name)
        if name in self.shown:
            return self.shown.pop(name) if self.shown_once else self.shown[name]
        return None if name in self.lost else super().get(name)

    def read(self, name, start=0):
        self._called("read", f"{name}@{start}")
        if name in self.lost:
            raise FileNotFoundError(name)
        data = b"".join(super().read(name))
        data = (bytes(len(data)) if name in self.wrong else data)[start:]
        if self.cut_at and len(data) > self.cut_at[0]:
            yield data[: self.cut_at.pop(0)]
            raise RemoteError("was cut", where=self.url)
        yield data

    def size(self, name):
        self._called("size", name)
        return None if name in self.lost else super().size(name)

    def put(self, name, file):
        self._called("put", name)
        super().put(name, file)

    def create(self, name, data):
        self._called("create", name)
        return super().create(name, data) and not self.lossy

    def list(self, prefix):
        self._called("list", prefix)
        return (listed for listed in super().list(prefix) if listed.name not in self.unlisted)

    def delete(self, names):
        for name in names:
            self._called("delete", name)
            super().delete([name])


class Killed(BaseException):
    """The process is gone; nothing catches it."""


class Shared:
    """A folder that machines share, each of which has a cache, hints and a bucket of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.folder = home / "remote"
        self.folder.mkdir()
        self.mark("conditional")

    def mark(self, create: str, version: int = 1) -> None:
        """Write the file that says what the remote is."""
        document = {"dem-remote": version, "create": create, "probed": "by hand"}
        (self.folder / "dem-remote.json").write_text(json.dumps(document))

    def machine(self, name: str, read=("trusted",), write="trusted", *, required=False):
        return Machine(self, name, read, write, required=required)


class Machine:
    def __init__(self, shared: Shared, name: str, read, write, *, required) -> None:
        self.bucket = Bucket(shared.folder)
        self.said: list[str] = []
        at = Connection(self.bucket.url, lambda: self.bucket)
        self.reads = [Namespace(at, namespace) for namespace in read]
        self.write = Namespace(at, write)
        home = shared.home / name
        layout = open_layout(home / "cache")
        self.reader = RemoteReader(layout, self.reads, Caller(self.said.append), required=required)
        self.store = Store(layout, Hints(home / "hints"), elsewhere=self.reader)

    def make(self, data: bytes = b"delta", **keys) -> Record:
        return self.store.records.publish(make_record(self.store, data=data, **keys))

    def name(self, blob) -> str:
        return self.write.object(blob.digest)


def whole(folder: Path) -> list[str]:
    """The keys that are recorded in a remote, each of whose objects is there; read with no help of the reader."""
    found = []
    for path in folder.glob("*/actions/*/*.json"):
        record = read_record(path)
        assert record is not None
        objects = path.parents[2] / "cas" / "sha256"
        for blob in (*record.blobs(), *([record.log] if record.log else [])):
            assert of_file(objects / blob.digest[:2] / blob.digest) == blob.digest
        found.append(record.key)
    return found
