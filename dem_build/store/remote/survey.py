"""Looks at all of a namespace: whether its records are whole, and what of it can go.

Sizes come with the listing, and nothing is read but records: whoever fetches an object hashes it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dem_build.digest import DIGEST
from dem_build.store.remote.namespace import key_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from dem_build.digest import Digest
    from dem_build.store import Record
    from dem_build.store.gc.garbage import Policy
    from dem_build.store.remote.bucket import Listed
    from dem_build.store.remote.namespace import Namespace

__all__ = ["Going", "Survey", "collect", "survey", "take"]

READ_AT_ONCE = 32


@dataclass(frozen=True)
class Survey:
    """What a namespace holds.

    Attributes:
        objects: Digest → where it is listed.
        records: Name → where it is listed, and the record; None where it is none.
    """

    objects: Mapping[Digest, Listed]
    records: Mapping[str, tuple[Listed, Record | None]]

    def damage(self) -> Iterator[tuple[str, str]]:
        """Yield names of records, and what is wrong with each."""
        for name, (_, record) in sorted(self.records.items()):
            if record is None:
                yield name, "is not a valid record"
                continue
            lost = [b for b in record.blobs() if b.digest not in self.objects]
            short = [b for b in record.blobs() if b not in lost and self.objects[b.digest].size != b.size]
            if lost or short:
                what = "is not there" if lost else f"is not {short[0].size} bytes"
                yield name, f"names object {(lost or short)[0].digest}, which {what}"

    def named(self) -> set[Digest]:
        """The objects that valid records name, logs among them."""
        found = set()
        for _, record in self.records.values():
            if record is not None:
                found |= {blob.digest for blob in record.blobs()}
                found |= {record.log.digest} if record.log is not None else set()
        return found


def survey(of: Namespace) -> Survey:
    """Look at a namespace: records before objects, so that what is pushed meanwhile is not seen without its objects.

    Raises:
        RemoteError: The remote does not answer, or has no listings.
    """
    records = _records(of, list(of.listed_records()))
    found = {listed.name.rpartition("/")[2]: listed for listed in of.remote.bucket.list(of.objects)}
    objects = {name: listed for name, listed in found.items() if DIGEST.fullmatch(name)}
    return Survey(objects, records)


def _records(of: Namespace, listed: Sequence[Listed]) -> dict[str, tuple[Listed, Record | None]]:
    keys = [(each, key) for each in listed if (key := key_of(each.name)) is not None]
    with ThreadPoolExecutor(READ_AT_ONCE) as pool:
        read = pool.map(lambda pair: of.judged(of.remote.bucket.get(pair[0].name), pair[1]), keys)
        return {each.name: (each, record) for (each, _), record in zip(keys, read, strict=True)}


@dataclass(frozen=True)
class Going:
    """What a collection takes of a namespace.

    Attributes:
        records: Of records.
        objects: Of objects that no record named when it began. Those of `records` stay until the next collection: who
            has planned with one of these has that time to fetch them.
    """

    records: tuple[Listed, ...]
    objects: tuple[Listed, ...]

    @property
    def bytes(self) -> int:
        """How many bytes they have."""
        return sum(listed.size for listed in (*self.records, *self.objects))


def collect(found: Survey, policy: Policy, keep: Collection[Digest], now: float) -> Going:
    """What may go: nothing that was written within the grace period, and whole records only where an age is given.

    Args:
        found: The namespace.
        policy: How much. A vector's record goes only where that is asked for.
        keep: Keys whose records stay.
        now: Seconds since 1970.
    """
    damaged = {name for name, _ in found.damage()}
    records = []
    for name, (listed, record) in found.records.items():
        age = now - listed.modified
        dear = record is not None and "delta" in record.outputs and not policy.vectors
        old = policy.older_than is not None and age >= policy.older_than
        unused = old and not dear and key_of(name) not in keep
        if age >= policy.grace and (name in damaged or unused):
            records.append(listed)
    named = found.named()
    objects = [
        o for digest, o in found.objects.items() if digest not in named and now - o.modified >= policy.grace
    ]
    return Going(tuple(records), tuple(objects))


def take(of: Namespace, found: Survey, going: Going) -> None:
    """Take away what goes: records first, then objects, but for those that a record names which came meanwhile.

    Raises:
        RemoteError: The remote does not answer.
    """
    of.remote.bucket.delete([listed.name for listed in going.records])
    new = _records(of, [listed for listed in of.listed_records() if listed.name not in found.records])
    needed = Survey({}, new).named()
    of.remote.bucket.delete(o.name for o in going.objects if o.name.rpartition("/")[2] not in needed)
