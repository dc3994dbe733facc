"""Looks at all of a namespace: whether its records are whole, and what of it can go.

Sizes come with the listing, and nothing is read but records: whoever fetches an object hashes it.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dem_build.digest import DIGEST
from dem_build.errors import RemoteError
from dem_build.store.gc.garbage import WRITING_SECONDS
from dem_build.store.local import DIGESTS
from dem_build.store.records import NewerRecordError, parse_record
from dem_build.store.remote.bucket import Stored
from dem_build.store.remote.leases import Leased, leased
from dem_build.store.remote.namespace import key_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from dem_build.digest import Digest
    from dem_build.store import Record
    from dem_build.store.gc.garbage import Policy
    from dem_build.store.remote.namespace import Namespace

READ_AT_ONCE = 32
_ATTEMPTS = 2
_DELETED_AT_ONCE = 200
"""Between two looks at what has come meanwhile."""


@dataclass(frozen=True)
class HeldRecord:
    """A record as it was found.

    Attributes:
        record: What it says; None where it cannot be understood.
        newer: Whether that is because a newer dem wrote it.
        opaque: What looks like a digest in one that cannot be understood.
    """

    listed: Stored
    record: Record | None
    newer: bool = False
    opaque: frozenset[Digest] = frozenset()


@dataclass(frozen=True)
class Survey:
    """What a namespace holds.

    Attributes:
        objects: Digest → where it is listed.
        records: Name → the record.
    """

    objects: Mapping[Digest, Stored]
    records: Mapping[str, HeldRecord]
    leased: Leased = field(default_factory=Leased)

    def damage(self) -> Iterator[tuple[str, str]]:
        """Yield names of records, and what is wrong with each; what a newer dem wrote is not ours to judge."""
        for name, held in sorted(self.records.items()):
            if held.record is None:
                if not held.newer:
                    yield name, "is not a valid record"
                continue
            blobs = held.record.blobs()
            lost = [b for b in blobs if b.digest not in self.objects]
            short = [b for b in blobs if b not in lost and self.objects[b.digest].size != b.size]
            if lost or short:
                what = "is not there" if lost else f"is not {short[0].size} bytes"
                yield name, f"names object {(lost or short)[0].digest}, which {what}"

    def named(self) -> set[Digest]:
        """The objects that records name, logs among them, and whatever else they may name."""
        found: set[Digest] = set()
        for held in self.records.values():
            found |= held.opaque
            if held.record is not None:
                found |= {blob.digest for blob in held.record.named()}
        return found


def survey(of: Namespace) -> Survey:
    """Look at a namespace: records before objects, so that what is pushed meanwhile is not seen without its objects.

    Leases before and after: whose lease is given back meanwhile has pushed in the place of what was read as damage.

    What a survey calls damaged may be taken away, so a listing alone does not say that an object is not there.

    Raises:
        RemoteError: The remote does not answer, has no listings, or does not give a record as it lists it.
    """
    before = leased(of, time.time())
    records = _records(of, list(of.listed_records()))
    found = {listed.name.rpartition("/")[2]: listed for listed in of.remote.bucket.list(of.objects)}
    objects = {name: listed for name, listed in found.items() if DIGEST.fullmatch(name)}
    named = {blob for held in records.values() if held.record is not None for blob in held.record.blobs()}
    doubtful = [b for b in named if b.digest not in objects or objects[b.digest].size != b.size]
    names = [of.object(blob.digest) for blob in doubtful]
    with ThreadPoolExecutor(READ_AT_ONCE) as pool:
        for blob, name, size in zip(doubtful, names, pool.map(of.remote.bucket.size, names), strict=True):
            if size is not None:
                objects[blob.digest] = Stored(name, size, time.time())
    return Survey(objects, records, leased(of, time.time()).after(before))


def _records(of: Namespace, listed: Iterable[Stored]) -> dict[str, HeldRecord]:
    keys = [(each, key) for each in listed if (key := key_of(each.name)) is not None]
    with ThreadPoolExecutor(READ_AT_ONCE) as pool:
        read = pool.map(lambda pair: _read(of, *pair), keys)
        return {held.listed.name: held for held in read if held is not None}


def _read(of: Namespace, listed: Stored, key: Digest) -> HeldRecord | None:
    """A record that is listed; None where it is gone meanwhile.

    Read again where it is not what it should be: a proxy's page, a reply cut short or a moment's 404 says nothing of
    what is stored.

    Raises:
        RemoteError: What is read is not what is listed.
    """
    bucket = of.remote.bucket
    for _ in range(_ATTEMPTS):
        data = bucket.get(listed.name)
        if data is not None and len(data) == listed.size and (held := _understood(listed, data, key)).record:
            return held
        again = next((item for item in bucket.list(listed.name) if item.name == listed.name), None)
        if again is None:
            return None
        listed = again
    if data is None or len(data) != listed.size:
        read = "is not there" if data is None else f"reads as {len(data)} bytes"
        what = f"is listed with {listed.size} bytes and {read}: nothing was taken away"
        raise RemoteError(what, where=f"{of.remote.url}/{listed.name}", hint="try again later")
    return held


def _understood(listed: Stored, data: bytes, key: Digest) -> HeldRecord:
    try:
        return HeldRecord(listed, parse_record(data, key))
    except ValueError as error:
        opaque = frozenset(name.decode() for name in DIGESTS.findall(data))
        return HeldRecord(listed, None, isinstance(error, NewerRecordError), opaque)


@dataclass(frozen=True)
class Going:
    """What a collection takes of a namespace.

    Attributes:
        objects: Of objects that no record named when it began. Those of `records` stay until the next collection: who
            has planned with one of these has that time to fetch them.
    """

    records: tuple[Stored, ...]
    objects: tuple[Stored, ...]
    leases: tuple[Stored, ...] = ()

    @property
    def bytes(self) -> int:
        """How many bytes they have."""
        return sum(listed.size for listed in (*self.records, *self.objects))


def collect(found: Survey, policy: Policy, keep: Collection[Digest], now: float) -> Going:
    """What may go: nothing that was written within the grace period, and whole records only where an age is given.

    Nor goes what somebody with a lease takes, or may just have recorded; and while there is one, no object that is
    younger than an hour: its record may be on its way.

    Args:
        found: The namespace.
        policy: How much. A vector's record goes only where that is asked for.
        keep: Keys whose records stay.
        now: Seconds since 1970.
    """
    damaged = {name for name, _ in found.damage()}
    living = found.leased
    young = max(policy.grace, WRITING_SECONDS) if living.keys else policy.grace
    records = []
    for name, held in found.records.items():
        listed, record = held.listed, held.record
        if held.newer or key_of(name) in living.keys:
            continue
        if record is not None and any(output.digest in living.needs for output in record.outputs.values()):
            continue
        age = now - listed.modified
        dear = record is not None and "delta" in record.outputs and not policy.vectors
        old = policy.older_than is not None and age >= policy.older_than
        unused = old and not dear and key_of(name) not in keep
        if age >= policy.grace and (name in damaged or unused):
            records.append(listed)
    named = found.named()
    objects = [
        o
        for digest, o in found.objects.items()
        if digest not in named | living.needs and now - o.modified >= young
    ]
    return Going(tuple(records), tuple(objects), living.dead)


def take(of: Namespace, found: Survey, going: Going) -> list[str]:
    """Take away what goes: records first, then objects, but for those that a record names which came meanwhile.

    Who pushes such a record looks after its objects once it is there, and sends what was taken; whatever came before
    this looks for the last time, it finds. So one of both sees what the other did, and no record stays without objects.

    Returns:
        The records that came too late for what they name, and are taken away too.

    Raises:
        RemoteError: The remote does not answer.
    """
    bucket = of.remote.bucket
    bucket.delete([gone.name for gone in (*going.leases, *going.records)])
    # What went may have been pushed anew, under the same name and with other objects.
    stayed = found.records.keys() - {held.name for held in going.records}
    for at in range(0, len(going.objects), _DELETED_AT_ONCE):
        needed = _come(of, stayed).named()
        some = going.objects[at : at + _DELETED_AT_ONCE]
        bucket.delete([o.name for o in some if o.name.rpartition("/")[2] not in needed])
    if not going.objects:
        return []
    taken = {o.name.rpartition("/")[2] for o in going.objects}
    late = []
    for name, held in _come(of, stayed).records.items():
        blobs = held.record.named() if held.record is not None else ()
        if any(b.digest in taken and bucket.size(of.object(b.digest)) != b.size for b in blobs):
            late.append(name)
    bucket.delete(late)
    return late


def _come(of: Namespace, stayed: Collection[str]) -> Survey:
    """The records that are not of those that stayed: they have come since the survey."""
    return Survey({}, _records(of, [each for each in of.listed_records() if each.name not in stayed]))
