"""A census: one look at all that is in a store, from which statistics are counted and a collection decides.

No symbolic link is followed, and only what has a name that the store gives counts: what else lies in its folders is
somebody's, and nobody here touches it.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from dem_build.digest import DIGEST
from dem_build.store import files
from dem_build.store.leases import clock
from dem_build.store.local import DIGESTS, DOCUMENT, NONCE
from dem_build.store.records import parse_record
from dem_build.store.roots import Roots
from dem_build.store.uses import read_uses

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from dem_build.digest import Digest
    from dem_build.store.local import CacheLayout
    from dem_build.store.records import Record
    from dem_build.store.roots import Root

DAY = 86400.0
AGES: Mapping[str, float] = {"day": DAY, "week": 7 * DAY, "month": 30 * DAY, "older": float("inf")}
"""Spans since the last use → how long each reaches back, in seconds; the youngest first."""


@dataclass(frozen=True)
class Entry:
    """A file or a folder as `lstat` shows it; the time is the later of its two, in seconds since 1970."""

    path: Path
    size: int
    modified: float
    time: float
    inode: int


@dataclass(frozen=True)
class RecordFile:
    """A record and its file."""

    record: Record
    entry: Entry

    @property
    def key(self) -> Digest:
        """The record's key."""
        return self.record.key

    def objects(self) -> frozenset[Digest]:
        """The objects that it names, its log among them."""
        return frozenset(blob.digest for blob in self.record.named())


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
        notes: Files that tell of records of other stores, each named for its key.
    """

    now: float
    used: frozenset[Digest]
    dead: tuple[Path, ...]
    roots: tuple[Root, ...]
    records: Mapping[Digest, RecordFile]
    opaque: frozenset[Digest]
    objects: Mapping[Digest, Entry]
    notes: tuple[Entry, ...] = ()

    def last_use(self) -> dict[Digest, float]:
        """When each record was published or used by a build, whichever is later."""
        times = {key: recorded.entry.modified for key, recorded in self.records.items()}
        for root in self.roots:
            for key, when in {**root.dropped, **dict.fromkeys(root.names, root.used)}.items():
                if key in times:
                    times[key] = max(times[key], when)
        return times


def take_census(layout: CacheLayout, now: float | None = None) -> Census:
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
    records: dict[Digest, RecordFile] = {}
    opaque: set[Digest] = set()
    found = {entry.path.stem: entry for entry in record_entries(layout)}
    ahead = files.ReadAhead(found, lambda key: found[key].path)
    for key, entry in found.items():
        try:
            record = parse_record(ahead.read(key), key)
        except ValueError:
            opaque |= digests_named_by(entry.path)
        else:
            if record is not None:
                records[record.key] = RecordFile(record, entry)
    objects = {e.path.name: e for e in entries(layout.objects, DIGEST, str)}
    moment = clock(layout) if now is None else now
    return Census(moment, used, dead, roots, records, frozenset(opaque), objects, tuple(_notes(layout)))


def record_entries(layout: CacheLayout) -> Iterator[Entry]:
    """The files of records."""
    return entries(layout.actions, DOCUMENT, lambda name: name.removesuffix(".json"))


def _notes(layout: CacheLayout) -> Iterator[Entry]:
    for store in entries(layout.remote, NONCE):
        yield from entries(store.path, DOCUMENT, lambda name: name.removesuffix(".json"))


def digests_named_by(path: Path) -> set[Digest]:
    """Whatever looks like a digest in a file that cannot be understood; none where it is gone."""
    try:
        return {name.decode() for name in DIGESTS.findall(files.read_bytes(path))}
    except (FileNotFoundError, files.NotAFileError):
        return set()


def entries(
    folder: Path, pattern: re.Pattern[str], stem: Callable[[str], str] | None = None
) -> Iterator[Entry]:
    """What lies in a folder under names that match; links, and what goes meanwhile, are passed over.

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
    """The bytes of a file or of all files in a folder, and when the newest was changed; links count as files.

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
        ages: How long ago a build used it last → the records and the bytes of their objects; an object of several
            ages counts for the youngest.
        unnamed: Objects that no record names.
        recipes: Recipe id → the records that its last builds name, and the bytes of their objects.
        exclusive: Recipe id → those of them that no other recipe names, and the bytes of objects that no other record
            names: what would be free without it.
        work: Folders of unfinished runs.
        quarantine: Damaged files that were set aside.
    """

    objects: Usage
    kinds: Mapping[str, Usage]
    ages: Mapping[str, Usage]
    unnamed: Usage
    recipes: Mapping[str, Usage]
    exclusive: Mapping[str, Usage]
    work: Usage
    quarantine: Usage


def stats(layout: CacheLayout) -> Stats:
    """Count what the store holds; of objects nothing is read.

    Raises:
        StoreError: The store cannot be read.
    """
    with files.writing(layout.root):
        census = take_census(layout)
        sizes = {name: entry.size for name, entry in census.objects.items()}
        whole = [root for root in census.roots if root.document is not None]
        named = {root.recipe_id: {*root.names} & {*census.records} for root in whole}
        last = census.last_use()

        def age(found: RecordFile) -> str:
            return next(name for name, reach in AGES.items() if census.now - last[found.key] < reach)

        aged = _grouped(census, age)
        rest = sizes.keys() - {n for found in census.records.values() for n in found.objects()}
        return Stats(
            objects=_sum(sizes, sizes),
            kinds=_once(_grouped(census, lambda found: found.record.kind), sizes),
            ages=_once({name: aged[name] for name in AGES if name in aged}, sizes),
            unnamed=_sum(rest, sizes),
            recipes={r: _usage([census.records[k] for k in keys], sizes) for r, keys in named.items()},
            exclusive=_exclusive(named, census, sizes),
            work=Usage(sum(1 for _ in layout.work.glob("*/*")), size_of(layout.work)[0]),
            quarantine=Usage(sum(1 for _ in layout.quarantine.iterdir()), size_of(layout.quarantine)[0]),
        )


def _grouped(census: Census, group: Callable[[RecordFile], str]) -> dict[str, list[RecordFile]]:
    """The records by what `group` says of each, the groups in the order of their names."""
    found: dict[str, list[RecordFile]] = {}
    for recorded in census.records.values():
        found.setdefault(group(recorded), []).append(recorded)
    return dict(sorted(found.items()))


def _once(groups: Mapping[str, list[RecordFile]], sizes: Mapping[str, int]) -> dict[str, Usage]:
    """The usage of each group; an object counts for the first that names it."""
    rest, usages = dict(sizes), {}
    for name, group in groups.items():
        usages[name] = _usage(group, rest)
        for digest in {n for recorded in group for n in recorded.objects()}:
            rest.pop(digest, None)
    return usages


def _exclusive(
    named: Mapping[str, set[Digest]], census: Census, sizes: Mapping[str, int]
) -> dict[str, Usage]:
    """Of each recipe the records that no other one names, and the objects that no record beside them names."""
    recipes = Counter(key for keys in named.values() for key in keys)
    naming = Counter(name for found in census.records.values() for name in found.objects())
    usages = {}
    for recipe, keys in named.items():
        alone = [key for key in keys if recipes[key] == 1]
        own = Counter(name for key in alone for name in census.records[key].objects())
        objects = [name for name, count in own.items() if count == naming[name]]
        usages[recipe] = Usage(len(alone), _sum(objects, sizes).bytes)
    return usages


def _usage(group: list[RecordFile], sizes: Mapping[str, int]) -> Usage:
    return Usage(len(group), _sum({n for recorded in group for n in recorded.objects()}, sizes).bytes)


def _sum(names: Iterable[Digest], sizes: Mapping[str, int]) -> Usage:
    found = [sizes.get(name, 0) for name in names]
    return Usage(len(found), sum(found))
