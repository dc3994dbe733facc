"""What in a store nobody needs any more: decided from a census, and nothing is touched here.

Needed is what a running process uses and what the last build of a recipe names that is still there. The rest goes
once it was not used for a while, the longest unused first; what took GPU-hours goes only where that was asked for.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from dem_build.digest import Digest
    from dem_build.store.gc.census import Census, Entry, Recorded
    from dem_build.store.roots import Root

__all__ = ["DAY", "GRACE_SECONDS", "STALE_SECONDS", "Garbage", "Policy", "garbage", "is_gone", "needed"]

DAY = 86400.0
GRACE_SECONDS = DAY
STALE_SECONDS = 30 * DAY
"""After which a root counts whose recipe this host cannot see, unfinished work that no recipe wants, a damaged file."""


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
class Garbage:
    """What may go.

    Attributes:
        records: Records, in the order in which they go.
        objects: Digest → the kind of the first of these records that names it; "" where no record does.
        roots: Roots of recipes that are gone, of which nothing is left.
        vectors: Vectors that would go as well if that were asked for.
        bytes: Of the objects that stay.
    """

    records: tuple[Recorded, ...]
    objects: Mapping[Digest, str]
    roots: tuple[Root, ...]
    vectors: tuple[Recorded, ...]
    bytes: int


def needed(used: Iterable[Digest], roots: Iterable[Root], now: float) -> frozenset[Digest]:
    """Return the keys and objects that running processes use, or that recipes name which are still there."""
    return frozenset(used).union(*(root.names for root in roots if not is_gone(root, now)))


def is_gone(root: Root, now: float) -> bool:
    """Return whether a recipe is no longer there. One that cannot be read is; one of another host may be.

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


@dataclass
class _Count:
    """How many records that stay name each object."""

    census: Census
    keep: frozenset[Digest]
    grace: float
    counts: dict[Digest, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for recorded in self.census.records.values():
            for name in recorded.objects():
                self.counts[name] = self.counts.get(name, 0) + 1

    def drop(self, recorded: Recorded) -> Iterator[Digest]:
        """Count a record no more; yield the objects that may go with it."""
        for name in sorted(recorded.objects()):
            self.counts[name] -= 1
            if self.counts[name] == 0 and self.free(name):
                yield name

    def free(self, name: Digest) -> bool:
        """Return whether an object may go that no record names."""
        entry = self.census.objects.get(name)
        return entry is not None and name not in self.keep and self._old(entry)

    def _old(self, entry: Entry) -> bool:
        return self.census.now - entry.modified >= self.grace


def garbage(census: Census, policy: Policy, besides: int = 0) -> Garbage:
    """Return what may go.

    Args:
        census: What there is.
        policy: How much to take.
        besides: Bytes in the store that are no objects and stay; they count for `max_bytes`.
    """
    keep = needed(census.used, census.roots, census.now) | census.opaque
    count = _Count(census, keep, policy.grace)
    last = census.last_use()
    unused = [
        r for r in census.records.values() if r.key not in keep and census.now - last[r.key] >= policy.unused
    ]
    unused.sort(key=lambda recorded: (last[recorded.key], recorded.key))
    vectors = [r for r in unused if is_dear(r)]
    objects = {name: "" for name in census.objects if name not in count.counts and count.free(name)}
    size = sum(e.size for name, e in census.objects.items() if name not in objects)
    going: list[Recorded] = []
    for recorded in unused if policy.vectors else [r for r in unused if not is_dear(r)]:
        if policy.max_bytes is not None and size + besides <= policy.max_bytes:
            break
        going.append(recorded)
        for name in count.drop(recorded):
            objects[name] = recorded.record.kind
            size -= census.objects[name].size
    left = census.records.keys() - {r.key for r in going}
    stale = [r for r in census.roots if is_gone(r, census.now) and census.now - r.used >= policy.unused]
    roots = tuple(root for root in stale if not root.names & left)
    kept = () if policy.vectors else tuple(vectors)
    return Garbage(tuple(going), objects, roots, kept, size)


def is_dear(recorded: Recorded) -> bool:
    """Return whether a record holds a vector, which took GPU-hours."""
    return "delta" in recorded.record.outputs
