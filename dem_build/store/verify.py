"""What the store holds, and whether it is sound: the only readers of everything."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dem_build.digest import Blob
from dem_build.store import files
from dem_build.store.records import read_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from dem_build.store.layout import Layout
    from dem_build.store.objects import Objects
    from dem_build.store.records import Record, Records
    from dem_build.store.roots import Roots

__all__ = ["Damage", "Stats", "Usage", "stats", "verify"]

_HEX = re.compile(r"[0-9a-f]{64}")
_BATCH_BYTES = 1 << 30


@dataclass(frozen=True)
class Damage:
    """Something that is wrong in the store.

    Attributes:
        path: Where it lies, or lay before it went to quarantine.
        what: What is wrong, as the end of a sentence that starts with the path.
        key: The action whose record is wrong; None for an object.
    """

    path: Path
    what: str
    key: str | None = None

    def __str__(self) -> str:
        return f"{self.path} {self.what}"


@dataclass(frozen=True)
class Usage:
    """How many entries, and how many bytes on disk."""

    count: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Stats:
    """What the store holds.

    Attributes:
        objects: All objects.
        kinds: Kind → its records and the bytes of their objects; an object of several kinds counts for the first
            by name, so the sums and `unnamed` add up to `objects`.
        unnamed: Objects that no record names.
        recipes: Recipe id → the records that its last builds name, and the bytes of their objects.
        work: Folders of unfinished runs.
        quarantine: Damaged files that were set aside.
    """

    objects: Usage
    kinds: Mapping[str, Usage]
    unnamed: Usage
    recipes: Mapping[str, Usage]
    work: Usage
    quarantine: Usage


def stats(layout: Layout, records: Records, roots: Roots) -> Stats:
    """Count what the store holds; nothing but records and roots is read.

    Raises:
        StoreError: The store cannot be read.
    """
    with files.writing(layout.root):
        sizes = {path.name: path.stat().st_size for path in layout.objects.glob("*/*")}
        known = {record.key: record for record in records.all()}
        kinds, rest = _by_kind(known.values(), sizes)
        return Stats(
            objects=Usage(len(sizes), sum(sizes.values())),
            kinds=kinds,
            unnamed=Usage(len(rest), sum(rest.values())),
            recipes={
                name: _usage([known[k] for k in keys & known.keys()], sizes) for name, keys in roots.all()
            },
            work=Usage(sum(1 for _ in layout.work.glob("*/*")), _size(layout.work)),
            quarantine=Usage(sum(1 for _ in layout.quarantine.iterdir()), _size(layout.quarantine)),
        )


def _by_kind(records: Iterable[Record], sizes: Mapping[str, int]) -> tuple[dict[str, Usage], dict[str, int]]:
    """Return the usage of each kind, and the objects that are left."""
    rest, kinds = dict(sizes), {}
    grouped: dict[str, list[Record]] = {}
    for record in records:
        grouped.setdefault(record.kind, []).append(record)
    for kind in sorted(grouped):
        kinds[kind] = _usage(grouped[kind], rest)
        for name in _names(grouped[kind]):
            rest.pop(name, None)
    return kinds, rest


def _usage(records: list[Record], sizes: Mapping[str, int]) -> Usage:
    return Usage(len(records), sum(sizes.get(name, 0) for name in _names(records)))


def _names(records: Iterable[Record]) -> set[str]:
    found = {blob.digest for record in records for blob in record.blobs()}
    return found | {record.log.digest for record in records if record.log is not None}


def _size(folder: Path) -> int:
    return sum(os.lstat(os.path.join(p, n)).st_size for p, _, names in os.walk(folder) for n in names)  # noqa: PTH118


def verify(
    layout: Layout, objects: Objects, progress: Callable[[int, int], None] | None = None
) -> list[Damage]:
    """Read everything; put damaged objects into quarantine and tell what is wrong.

    Args:
        layout: The store.
        objects: Its objects.
        progress: Called with the bytes read so far and the bytes in all.

    Raises:
        StoreError: The store cannot be read.
    """
    with files.writing(layout.root):
        found = list(_objects(layout, objects, progress or (lambda _done, _total: None)))
        found += [d for path in sorted(layout.actions.glob("*/*")) for d in _record(path, objects)]
    return found


def _objects(layout: Layout, objects: Objects, progress: Callable[[int, int], None]) -> Iterator[Damage]:
    paths = sorted(layout.objects.glob("*/*"))
    strays = [p for p in paths if not _HEX.fullmatch(p.name) or p.parent.name != p.name[:2]]
    yield from (Damage(p, "is not named as an object") for p in strays)
    blobs = [Blob(p.name, p.stat().st_size) for p in paths if p not in set(strays)]
    done, total = 0, sum(b.size for b in blobs)
    progress(done, total)
    for batch in _batches(blobs):
        for fault in files.in_parallel(lambda blob: objects.examine(blob, reread=True), batch):
            if fault is not None and not fault.missing:
                yield Damage(fault.path, fault.what + objects.set_aside(fault))
        done += sum(b.size for b in batch)
        progress(done, total)


def _batches(blobs: list[Blob]) -> Iterator[list[Blob]]:
    batch: list[Blob] = []
    for blob in blobs:
        batch.append(blob)
        if sum(b.size for b in batch) >= _BATCH_BYTES:
            yield batch
            batch = []
    if batch:
        yield batch


def _record(path: Path, objects: Objects) -> Iterator[Damage]:
    try:
        record = read_record(path)
    except ValueError as error:
        yield Damage(path, f"is not a valid record: {error}", path.stem)
        return
    if record is None:
        return
    for blob in (*record.blobs(), *([record.log] if record.log else [])):
        if not objects.present(blob):
            yield Damage(path, f"names object {blob.digest}, which is not there at its size", record.key)
