"""A census: one look at all that is in a store, from which statistics are counted and a collection decides.

No symbolic link is followed, and only what has a name that the store gives counts: what else lies in its folders is
somebody's, and nobody here touches it.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from dem_build.store import files
from dem_build.store.holders import clock
from dem_build.store.layout import DIGEST, DIGESTS, DOCUMENT
from dem_build.store.records import read_record
from dem_build.store.roots import Roots
from dem_build.store.uses import read_uses

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterator, Mapping

    from dem_build.digest import Digest
    from dem_build.store.layout import Layout
    from dem_build.store.records import Record
    from dem_build.store.roots import Root

__all__ = [
    "Census",
    "Entry",
    "Recorded",
    "digests_named_by",
    "entries",
    "record_entries",
    "size_of",
    "take_census",
]


@dataclass(frozen=True)
class Entry:
    """A file or a folder as `lstat` shows it; the time is the later of its two, in seconds since 1970."""

    path: Path
    size: int
    modified: float
    time: float
    inode: int


@dataclass(frozen=True)
class Recorded:
    """A record and its file."""

    record: Record
    entry: Entry

    @property
    def key(self) -> Digest:
        """The record's key."""
        return self.record.key

    def objects(self) -> frozenset[Digest]:
        """Return the objects that it names, its log among them."""
        found = {blob.digest for blob in self.record.blobs()}
        return frozenset(found | ({self.record.log.digest} if self.record.log else set()))


@dataclass(frozen=True)
class Census:
    """What a store holds.

    Attributes:
        now: When it was looked at, by the clock that stamps its files.
        used: Keys and objects that running processes use.
        dead: Files of processes that ended without removing them.
        roots: The last build of each recipe.
        records: Key → record.
        opaque: Digests in records that this dem cannot read; a newer one may need what they name.
        objects: Digest → file.
    """

    now: float
    used: frozenset[Digest]
    dead: tuple[Path, ...]
    roots: tuple[Root, ...]
    records: Mapping[Digest, Recorded]
    opaque: frozenset[Digest]
    objects: Mapping[Digest, Entry]

    def last_use(self) -> dict[Digest, float]:
        """Return when each record was published or used by a build, whichever is later."""
        times = {key: recorded.entry.modified for key, recorded in self.records.items()}
        for root in self.roots:
            for key, when in {**root.dropped, **dict.fromkeys(root.names, root.used)}.items():
                if key in times:
                    times[key] = max(times[key], when)
        return times


def take_census(layout: Layout, now: float | None = None) -> Census:
    """Look at everything but the bytes of objects.

    What protects is read before what it protects, so that nothing is found that came with a protection we missed.

    Args:
        layout: The store.
        now: What counts as the present; by default the time of the store's file system.

    Raises:
        OSError: The store cannot be read.
        StoreError: Likewise.
    """
    used, dead = read_uses(layout)
    roots = tuple(Roots(layout).all())
    records: dict[Digest, Recorded] = {}
    opaque: set[Digest] = set()
    for entry in record_entries(layout):
        try:
            record = read_record(entry.path)
        except ValueError:
            opaque |= digests_named_by(entry.path)
        else:
            if record is not None:
                records[record.key] = Recorded(record, entry)
    objects = {e.path.name: e for e in entries(layout.objects, DIGEST, str)}
    moment = clock(layout) if now is None else now
    return Census(moment, used, dead, roots, records, frozenset(opaque), objects)


def record_entries(layout: Layout) -> Iterator[Entry]:
    """Yield the files of records."""
    return entries(layout.actions, DOCUMENT, lambda name: name.removesuffix(".json"))


def digests_named_by(path: Path) -> set[Digest]:
    """Return whatever looks like a digest in a file that cannot be understood; none where it is gone."""
    try:
        return {name.decode() for name in DIGESTS.findall(files.read_bytes(path))}
    except (FileNotFoundError, files.NotAFileError):
        return set()


def entries(
    folder: Path, pattern: re.Pattern[str], stem: Callable[[str], str] | None = None
) -> Iterator[Entry]:
    """Yield what lies in a folder under names that match; links, and what goes meanwhile, are passed over.

    Args:
        folder: The folder; nothing where there is none.
        pattern: What the whole name must match.
        stem: Where given, files lie in folders named by the first two characters of a name's stem.
    """
    for found in _scan(folder):
        if stem is None:
            if pattern.fullmatch(found.name) and not found.is_symlink():
                yield from _entry(found)
        elif len(found.name) == 2 and found.is_dir(follow_symlinks=False):
            for file in _scan(Path(found.path)):
                right = pattern.fullmatch(file.name) and stem(file.name)[:2] == found.name
                if right and file.is_file(follow_symlinks=False):
                    yield from _entry(file)


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except FileNotFoundError:
        return []


def _entry(found: os.DirEntry[str]) -> Iterator[Entry]:
    with suppress(FileNotFoundError):  # a lease was given back, a file in `tmp/` got its name
        seen = found.stat(follow_symlinks=False)
        changed = max(seen.st_mtime, seen.st_ctime)
        yield Entry(Path(found.path), seen.st_size, seen.st_mtime, changed, seen.st_ino)


def size_of(path: Path) -> tuple[int, float]:
    """Return the bytes of a file or of all files in a folder, and when the newest was changed; links count as files.

    What is gone has no bytes and was changed never (0).
    """
    total, newest = 0, 0.0
    below = (os.path.join(p, name) for p, folders, names in os.walk(path) for name in (*folders, *names))  # noqa: PTH118
    for found in chain([str(path)], below):
        with suppress(FileNotFoundError):  # it is being written
            seen = os.lstat(found)
            newest = max(newest, seen.st_mtime)
            total += 0 if stat.S_ISDIR(seen.st_mode) else seen.st_size
    return total, newest
