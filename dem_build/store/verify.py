"""Whether what the store holds is sound: the only reader of everything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dem_build.errors import StoreError
from dem_build.store import files
from dem_build.store.local import PARTIAL, strays
from dem_build.store.objects import ObjectFault
from dem_build.store.records import NewerRecordError, read_record
from dem_build.store.roots import Roots
from dem_build.wording import first_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from dem_build.digest import Blob
    from dem_build.store.local import CacheLayout
    from dem_build.store.objects import Objects
    from dem_build.store.records import Record, Records

_BATCH_BYTES = 1 << 30
_QUARANTINED = "now in quarantine"
_LEFT = "it could not be moved to quarantine"
_ROOT = "is a damaged root: a build of its recipe writes it anew"
_NO_LOG = "it names no log now"


@dataclass(frozen=True)
class Damage:
    """Something that is wrong in the store.

    Attributes:
        path: Where it lies, or lay before it was repaired.
        what: What is wrong, as the end of a sentence that starts with the path.
        key: The action whose record is wrong; None for an object.
        repaired: What became of it; None where nothing was to be changed.
    """

    path: Path
    what: str
    key: str | None = None
    repaired: str | None = None

    def __str__(self) -> str:
        return f"{self.path} {self.what}" + (f"; {self.repaired}" if self.repaired else "")


def verify(
    layout: CacheLayout,
    objects: Objects,
    records: Records,
    *,
    repair: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Damage]:
    """Read every object, record and root, and tell what is wrong.

    Args:
        layout: The store.
        objects: Its objects.
        records: Its records.
        repair: Move what is damaged to quarantine, so that the next build makes it again; else the store is left as
            it is.
        progress: Called with the bytes read so far and the bytes in all.

    Raises:
        StoreError: The store cannot be read, or not be written where it is to be repaired.
    """
    with files.writing(layout.root):
        check = _Check(layout, objects, records, repair=repair)
        found = list(check.objects(progress or (lambda _done, _total: None)))
        found += [
            d
            for path in sorted(layout.actions.glob("*/*"))
            if not PARTIAL.fullmatch(path.name)
            for d in check.record(path)
        ]
        # Left where it is: without it a collection would take what the recipe needs.
        damaged = [root.path for root in Roots(layout).all() if root.document is None]
        return found + [Damage(path, _ROOT) for path in damaged]


class _Check:
    """One pass over a store: objects first, so that a record knows which of its objects are damaged."""

    def __init__(self, layout: CacheLayout, objects: Objects, records: Records, *, repair: bool) -> None:
        self._layout = layout
        self._objects = objects
        self._records = records
        self._repair = repair
        self._damaged: set[str] = set()

    def objects(self, progress: Callable[[int, int], None]) -> Iterator[Damage]:
        blobs = list(self._objects.all())
        yield from (self._damage(path, "is not named as an object") for path in strays(self._layout))
        done, total = 0, sum(b.size for b in blobs)
        progress(done, total)
        for batch in _batches(blobs):
            found = files.in_parallel(self._object, batch)
            yield from (damage for damage in found if damage is not None)
            done += sum(b.size for b in batch)
            progress(done, total)

    def _object(self, blob: Blob) -> Damage | None:
        """Examine an object and move it at once: a build that finds the damage too may soon have mended it."""
        try:
            fault = self._objects.examine(blob, reread=True)
        except StoreError as error:  # one that cannot be read must not hide the others
            fault = ObjectFault(blob, error.what)
        if fault is None or fault.missing:
            return None
        self._damaged.add(blob.digest)
        return self._damage(self._objects.path(blob.digest), fault.what)

    def record(self, path: Path) -> Iterator[Damage]:
        try:
            record = read_record(path)
        except NewerRecordError:
            return
        except ValueError as error:
            yield self._damage(path, f"is not a valid record: {error}", path.stem)
            return
        except StoreError as error:
            yield self._damage(path, error.what, path.stem)
            return
        if record is not None:
            yield from self._incomplete(path, record)

    def _incomplete(self, path: Path, record: Record) -> Iterator[Damage]:
        """Tell which objects of a record are gone; without outputs it is no record, without its log it is one."""
        if lost := [what for blob in record.blobs() if (what := self._lost(blob))]:
            yield self._damage(path, f"names {first_of(lost, 1)}", record.key)
        elif record.log is not None and (what := self._lost(record.log)):
            dropped = self._repair and self._records.drop_log(record.key)
            yield Damage(path, f"names as its log {what}", record.key, _NO_LOG if dropped else None)

    def _lost(self, blob: Blob) -> str:
        """What is wrong with an object of a record, or nothing."""
        if not self._objects.present(blob):
            return f"object {blob.digest}, which is not there at its size"
        return f"object {blob.digest}, which is damaged" if blob.digest in self._damaged else ""

    def _damage(self, path: Path, what: str, key: str | None = None) -> Damage:
        """What is wrong with a file, which is moved to quarantine in a repair."""
        if not self._repair:
            return Damage(path, what, key)
        if key is not None and path == self._layout.action(key):
            moved = self._records.set_aside(key)  # unless a build has mended it
        else:
            moved = self._layout.set_aside(path, "object" if key is None else "record") is not None
        return Damage(path, what, key, _QUARANTINED if moved else _LEFT)


def _batches(blobs: list[Blob]) -> Iterator[list[Blob]]:
    batch: list[Blob] = []
    size = 0
    for blob in blobs:
        batch.append(blob)
        size += blob.size
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
