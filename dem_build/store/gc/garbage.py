"""What in a store nobody needs any more: decided from a census, and nothing is touched here.

Needed is what a running process uses and what the last build of a recipe names that is still there. The rest goes
once it was not used for a while, the longest unused first; what took GPU-hours goes only where that was asked for.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dem_build.digest import DIGEST
from dem_build.store.gc.census import DAY, digests_named_by, entries, size_of
from dem_build.store.local import NONCE, PARTIAL, trash_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from dem_build.digest import Digest
    from dem_build.store.gc.census import Census, Entry, RecordFile
    from dem_build.store.leases import Leases
    from dem_build.store.local import CacheLayout
    from dem_build.store.roots import Root

GRACE_SECONDS = DAY
STALE_SECONDS = 30 * DAY
"""After which a root counts whose recipe this host cannot see, unfinished work that no recipe wants, a damaged file."""
WRITING_SECONDS = 3600.0
"""How long a file in `tmp/` may be in the making, whatever the grace period is."""
_SHARD = re.compile(r"[0-9a-f]{2}")
_PART = re.compile(r"[0-9a-f]{64}-[0-9a-f]{16}")
_RUN = re.compile(r"\d{19}-[0-9a-f]{16}")
_SET_ASIDE = re.compile(r"(object|record)-.+-[0-9a-f]{16}")


@dataclass(frozen=True)
class Policy:
    """How much is taken.

    Attributes:
        grace: Nothing that was made or used within so many seconds is taken.
        older_than: Nothing that was used within so many seconds is taken; None where the grace period says it all.
        max_bytes: Take only until the store is as small; None takes all that nobody needs.
        vectors: Take vectors too, and checkpoints: what took GPU-hours.
    """

    grace: float = GRACE_SECONDS
    older_than: float | None = None
    max_bytes: int | None = None
    vectors: bool = False

    @property
    def unused(self) -> float:
        """For how many seconds a record must not have been used."""
        return max(self.grace, self.older_than or 0.0)

    @property
    def stale(self) -> float:
        """For how many seconds unfinished work, or a damaged file, must not have been touched."""
        return max(self.grace, STALE_SECONDS if self.older_than is None else self.older_than)


@dataclass(frozen=True)
class Item:
    """Something to take.

    Attributes:
        path: Where it lies.
        kind: As what it counts in the report.
        sort: `object`, `record` or `work`: what it is called in the trash.
        count: How many entries it counts for.
        bytes: How many bytes.
        inode: Which file it was when it was looked at; 0 for any.
    """

    path: Path
    kind: str
    sort: str
    count: int = 1
    bytes: int = 0
    inode: int = 0

    @property
    def name(self) -> str:
        """Its name in the trash."""
        return trash_name(self.sort, self.path)


@dataclass(frozen=True)
class Garbage:
    """What may go.

    Attributes:
        records: Records, in the order in which they go.
        objects: Digest → the kind of the first of these records that names it; "" where no record does.
        roots: Roots of recipes that are gone, of which nothing is left.
        vectors: Vectors that would go as well if that were asked for.
        bytes: Of the objects that stay.
    """

    records: tuple[RecordFile, ...]
    objects: Mapping[Digest, str]
    roots: tuple[Root, ...]
    vectors: tuple[RecordFile, ...]
    bytes: int


def needed(used: Iterable[Digest], roots: Iterable[Root], now: float) -> frozenset[Digest]:
    """The keys and objects that running processes use, or that recipes name which are still there."""
    return frozenset(used).union(*(root.names for root in roots if not is_gone(root, now)))


def is_gone(root: Root, now: float) -> bool:
    """Whether a recipe is no longer there. One that cannot be read is there; one of another host may be.

    A file that this host cannot see, and another one built, counts until nobody has built it for thirty days.
    """
    if root.recipe is not None and _exists(root.recipe):
        return False
    if root.recipe is not None and root.host == os.uname().nodename:
        return True
    return now - root.used > STALE_SECONDS


def _exists(path: str) -> bool:
    try:
        os.stat(path)  # noqa: PTH116  Path.exists() takes a folder that may not be read for an empty one
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError:
        return True
    return True


def find_garbage(census: Census, policy: Policy, besides: int = 0) -> Garbage:
    """What may go; `besides` are bytes of no object that stay, and count for `max_bytes`."""
    keep = needed(census.used, census.roots, census.now) | census.opaque
    # Of a result of another store, what has come is kept while a recipe needs that: the rest may never be asked for.
    keep |= {name for note in census.notes if note.path.stem in keep for name in digests_named_by(note.path)}
    naming = Counter(
        name for r in census.records.values() for name in r.objects()
    )  # how many that stay name it

    def free(name: Digest) -> bool:
        entry = census.objects.get(name)
        return entry is not None and name not in keep and census.now - entry.modified >= policy.grace

    last = census.last_use()
    unused = [
        r for r in census.records.values() if r.key not in keep and census.now - last[r.key] >= policy.unused
    ]
    unused.sort(key=lambda recorded: (last[recorded.key], recorded.key))
    dear = {r.key for r in unused if "delta" in r.record.outputs}  # vectors took GPU-hours
    objects = {name: "" for name in census.objects if name not in naming and free(name)}
    size = sum(e.size for name, e in census.objects.items() if name not in objects)
    going: list[RecordFile] = []
    for recorded in (r for r in unused if policy.vectors or r.key not in dear):
        if policy.max_bytes is not None and size + besides <= policy.max_bytes:
            break
        going.append(recorded)
        for name in sorted(recorded.objects()):
            naming[name] -= 1
            if naming[name] == 0 and free(name):
                objects[name] = recorded.record.kind
                size -= census.objects[name].size
    left = census.records.keys() - {r.key for r in going}
    stale = [r for r in census.roots if is_gone(r, census.now) and census.now - r.used >= policy.unused]
    roots = tuple(root for root in stale if not root.names & left)
    kept = () if policy.vectors else tuple(r for r in unused if r.key in dear)
    return Garbage(tuple(going), objects, roots, kept, size)


@dataclass
class Leftovers:
    """What killed processes leave in a store, and what was set aside: no object and no record.

    Attributes:
        files: Files to delete one by one: they are nobody's.
        leases: Leases of the dead.
        work: Key → runs of it that nobody will go on with.
        bytes: Of all that is neither an object nor leftovers: unfinished work, quarantine, what is being written.
    """

    files: list[Item] = field(default_factory=list)
    leases: list[Item] = field(default_factory=list)
    work: dict[Digest, list[Item]] = field(default_factory=dict)
    bytes: int = 0


def find_leftovers(
    layout: CacheLayout, census: Census, keep: frozenset[Digest], leases: Leases, policy: Policy
) -> Leftovers:
    """The leftovers that may go, unless they are of one of the keys in `keep`."""
    return _Search(census, keep, leases, policy).run(layout)


@dataclass(frozen=True)
class _Search:
    census: Census
    keep: frozenset[Digest]
    leases: Leases
    policy: Policy
    found: Leftovers = field(default_factory=Leftovers)

    def run(self, layout: CacheLayout) -> Leftovers:
        now = self.census.now
        for entry in self._in_the_making(layout):
            old = now - entry.time >= max(self.policy.grace, WRITING_SECONDS)
            self._file(entry, "temporary files", old=old)
        for entry in self.census.notes:
            unused = entry.path.stem not in self.keep and now - entry.time >= self.policy.unused
            self._file(entry, "notes of remotes", old=unused)
        for entry in entries(layout.quarantine, _SET_ASIDE):
            self._file(entry, "quarantine", old=now - entry.time >= self.policy.stale)
        for path in self.census.dead:
            self.found.files.append(Item(path, "notes of dead processes", "file", bytes=size_of(path)[0]))
        for entry in entries(layout.leases, DIGEST):
            if self.leases.holder(entry.path.name) is None:
                self.found.leases.append(Item(entry.path, "leases of the dead", "file", bytes=entry.size))
        for folder in entries(layout.work, DIGEST):
            self._work(folder.path)
        return self.found

    @staticmethod
    def _in_the_making(layout: CacheLayout) -> Iterator[Entry]:
        """What is being written, or was when its process died."""
        yield from entries(layout.tmp, NONCE)
        yield from entries(layout.parts, _PART)
        for folder in (layout.root, layout.leases, *(e.path for e in entries(layout.actions, _SHARD))):
            yield from entries(folder, PARTIAL)

    def _file(self, entry: Entry, kind: str, *, old: bool) -> None:
        if old and entry.path.is_file():
            self.found.files.append(Item(entry.path, kind, "file", bytes=entry.size))
        else:
            self.found.bytes += entry.size

    def _work(self, folder: Path) -> None:
        key = folder.name
        busy = key in self.census.used or self.leases.holder(key) is not None
        for run in entries(folder, _RUN):
            size, newest = size_of(run.path)
            if busy or self.census.now - newest < self._patience(run.path, key):
                self.found.bytes += size
            else:
                item = Item(run.path, "unfinished work", "work", bytes=size)
                self.found.work.setdefault(key, []).append(item)

    def _patience(self, run: Path, key: Digest) -> float:
        """For how many seconds nobody may have touched a run before it goes."""
        if key in self.census.records:
            return self.policy.grace  # it is done; a kill came between the record and the end of its work
        if key in self.keep:
            return float("inf")  # a recipe wants it
        dear = any(run.glob("checkpoints/*/complete.json")) and not self.policy.vectors
        return self.policy.stale if dear else self.policy.unused
