"""Collection: takes away what nobody needs, while others build.

Records go first, then their objects, so a kill leaves no record that looks whole and is not. Everything is moved to the
trash; then what running processes use and recipes name is read again, and what somebody has come to need meanwhile is
put back, objects before records. Only then is anything deleted. A file keeps its name in the trash, after its sort, so
that the next collection can put back what a killed one left.

Where the file system has locks this never shows: who looks up, stores or publishes shares a lock that a collection has
to itself while it decides and moves. Where locks do nothing, or a collection is stopped in the middle and goes on an
hour later, the second look is what protects: a process says what it uses before it looks for it.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dem_build.errors import LeaseHeldError, StoreError
from dem_build.store import files
from dem_build.store.gc.census import Usage, digests_named_by, entries, record_entries, take_census
from dem_build.store.gc.garbage import Item, find_garbage, find_leftovers, is_gone, needed
from dem_build.store.leases import Leases
from dem_build.store.local import NONCE, PARTIAL
from dem_build.store.roots import Roots
from dem_build.store.uses import read_uses

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from dem_build.digest import Digest
    from dem_build.store.gc.census import Census
    from dem_build.store.gc.garbage import Garbage, Leftovers, Policy
    from dem_build.store.local import CacheLayout

WAIT_SECONDS = 60.0
UNNAMED = "objects of no record"
GONE = "roots of recipes that are gone"
_OBJECT = re.compile(r"object-([0-9a-f]{64})")
_RECORD = re.compile(r"record-([0-9a-f]{64})\.json")


@dataclass(frozen=True)
class Collection:
    """What was taken, or would be.

    Attributes:
        freed: Kind of action, or of leftovers → how many records or files, and the bytes that were freed with them.
        left: Bytes that the store still holds.
        vectors: Vectors that nobody needs and that stay, as they are taken only where that is asked for.
        gone: Recipes that are not there any more.
    """

    freed: Mapping[str, Usage]
    left: int
    vectors: Usage
    gone: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """All that was freed."""
        return sum(usage.bytes for usage in self.freed.values())


@dataclass(frozen=True)
class _Decided:
    """One decision: the census that it was made from, and what goes."""

    census: Census
    garbage: Garbage
    leftovers: Leftovers

    @property
    def records(self) -> list[Item]:
        return [
            Item(r.entry.path, r.record.kind, "record", inode=r.entry.inode) for r in self.garbage.records
        ]

    @property
    def objects(self) -> dict[Digest, Item]:
        there = self.census.objects
        return {
            n: Item(there[n].path, kind or UNNAMED, "object", int(not kind), there[n].size, there[n].inode)
            for n, kind in self.garbage.objects.items()
        }

    @property
    def roots(self) -> list[Item]:
        return [Item(root.path, GONE, "root", inode=root.inode) for root in self.garbage.roots]

    def all(self) -> Iterator[Item]:
        yield from (*self.records, *self.objects.values(), *self.roots)
        yield from (*self.leftovers.files, *self.leftovers.leases)
        for runs in self.leftovers.work.values():
            yield from runs

    def told(self, freed: Iterable[Item]) -> Collection:
        counts, sizes = Counter[str](), Counter[str]()
        for item in freed:
            counts[item.kind] += item.count
            sizes[item.kind] += item.bytes
        held = sum(entry.size for entry in self.census.objects.values()) + self.leftovers.bytes
        recorded = {UNNAMED, *(r.record.kind for r in self.garbage.records)}  # as what objects count
        held -= sum(sizes[kind] for kind in sizes if kind in recorded)
        kept = [o.size for r in self.garbage.vectors for o in r.record.outputs.values()]
        gone = [str(r.recipe) for r in self.census.roots if r.recipe and is_gone(r, self.census.now)]
        return Collection(
            {kind: Usage(counts[kind], sizes[kind]) for kind in sorted(counts)},
            held,
            Usage(len(self.garbage.vectors), sum(kept)),
            tuple(gone),
        )


def collect(
    layout: CacheLayout, policy: Policy, *, dry_run: bool = False, now: float | None = None
) -> Collection:
    """Take away what nobody needs.

    Args:
        layout: The store.
        policy: How much.
        dry_run: Only say what would go.
        now: What counts as the present; by default the time of the store's file system.

    Raises:
        LeaseHeldError: Another collection is at work, or a process that stores something does not come to an end.
        StoreError: The store cannot be read or written, or a folder of it is a link.
    """
    leases = Leases(layout)
    with files.writing(layout.root):
        _refuse_links(layout)
        if dry_run:
            decided = _decide(layout, leases, policy, now)
            return decided.told(decided.all())
        with leases.take("gc"):
            with files.exclusively(layout.gc_lock, WAIT_SECONDS) as alone:
                if not alone:
                    what = "a process has been storing something for a minute, so nothing was taken"
                    raise LeaseHeldError(
                        what, where=str(layout.root), hint="stop it if it hangs, or try later"
                    )
                put_back_all(layout)
                decided = _decide(layout, leases, policy, now)
                trash = Trash(layout)
                _move(decided, layout, trash)
            for item in take_work(decided.leftovers, leases):
                trash.take(item)
            return decided.told([*trash.empty(), *delete_files(layout, decided.leftovers, leases)])


def _refuse_links(layout: CacheLayout) -> None:
    for folder in (layout.objects.parent, *layout.folders, layout.running, layout.trash):
        if folder.is_symlink():
            hint = "move the whole cache, and say where it is with --cache"
            raise StoreError("is a link, and what it leads to may be others'", where=str(folder), hint=hint)


def _decide(layout: CacheLayout, leases: Leases, policy: Policy, now: float | None) -> _Decided:
    census = take_census(layout, now)
    for root in census.roots:
        if root.document is None and not is_gone(root, census.now):  # what its recipe needs may have any name
            what = "this root is damaged, so what its recipe needs is not known, and nothing was taken"
            hint = f"build {root.seems or 'the recipe'} again, which writes it anew; or delete it if that is gone"
            raise StoreError(what, where=str(root.path), hint=hint)
    keep = needed(census.used, census.roots, census.now)
    leftovers = find_leftovers(layout, census, keep, leases, policy)
    return _Decided(census, find_garbage(census, policy, leftovers.bytes), leftovers)


def _move(decided: _Decided, layout: CacheLayout, trash: Trash) -> None:
    """Move records, then objects; after each, put back what has come to be needed."""
    # Records first: a kill from here on leaves objects that no record names, never a record whose objects are gone.
    records = {item.path.stem: item for item in decided.records if trash.take(item)}
    # Who looked one up noted its key before. So after the move either its note is there to be read, or it saw a miss.
    _put_back(records, _needed_now(layout, decided.census), trash)
    # A record that could not be taken, or came back, keeps its objects.
    spared = {n for r in decided.garbage.records if r.key not in records for n in r.objects()}
    spared |= _needed_now(layout, decided.census)
    objects = {n: item for n, item in decided.objects.items() if n not in spared and trash.take(item)}
    # Once more for the objects: one may have been stored again, or a record that names it been published, meanwhile.
    keep = _needed_now(layout, decided.census) | _named_since(layout, decided.census)
    keep |= {n for r in decided.garbage.records if r.key in records and r.key in keep for n in r.objects()}
    _put_back(objects, keep, trash)  # before the records that name them
    _put_back(records, keep, trash)
    for item in decided.roots:
        trash.take(item)


def _put_back(items: dict[Digest, Item], keep: frozenset[Digest] | set[Digest], trash: Trash) -> None:
    for name in items.keys() & keep:
        trash.put_back(items.pop(name))


def _needed_now(layout: CacheLayout, census: Census) -> frozenset[Digest]:
    return needed(read_uses(layout)[0], Roots(layout).all(), census.now)


def _named_since(layout: CacheLayout, census: Census) -> frozenset[Digest]:
    """What records name that were published or replaced since the census."""
    found: set[Digest] = set()
    for entry in record_entries(layout):
        known = census.records.get(entry.path.stem)
        if known is None or known.entry.inode != entry.inode:
            found |= digests_named_by(entry.path)
    return frozenset(found)


def delete_files(layout: CacheLayout, leftovers: Leftovers, leases: Leases) -> Iterator[Item]:
    """Delete the files and the leases; yield what was deleted."""
    for item in leftovers.files:
        with suppress(FileNotFoundError, PermissionError):
            item.path.unlink()
            yield item
    for item in leftovers.leases:
        with files.exclusively(layout.lock), suppress(FileNotFoundError, PermissionError):
            if leases.holder(item.path.name) is None:  # nobody has taken it over since
                item.path.unlink()
                yield item


def take_work(leftovers: Leftovers, leases: Leases) -> Iterator[Item]:
    """The runs that may be taken now; the lease is ours meanwhile, so nobody starts to go on with them."""
    for key, runs in leftovers.work.items():
        with suppress(LeaseHeldError), leases.take(key):
            yield from runs
            with suppress(OSError):  # other runs stay, or others have been faster
                runs[0].path.parent.rmdir()


class Trash:
    """Where one collection puts what it takes, to look once more before it deletes."""

    def __init__(self, layout: CacheLayout) -> None:
        self._folder = layout.trash / files.nonce()
        self._work = layout.work
        self._at: dict[Item, Path] = {}
        files.make_folder(layout.trash)
        self._folder.mkdir()

    def take(self, item: Item) -> bool:
        """Move something here; False where it is gone, or another file lies there now, which stays."""
        target = self._folder / item.name
        try:
            if item.sort == "work":  # which may lie on another file system, and is never put back
                target = self._work / f".{files.nonce()}"
            item.path.rename(target)
        except (FileNotFoundError, PermissionError):
            return False
        self._at[item] = target
        # Replaced since the census looked at it: nobody has judged what lies there now.
        if item.inode and target.lstat().st_ino != item.inode:
            self.put_back(item)
            return False
        return True

    def put_back(self, item: Item) -> None:
        """Move something back to where it lay."""
        _restore(self._at.pop(item), item.path)

    def empty(self) -> Iterator[Item]:
        """Delete everything; yield what was deleted."""
        for item, path in self._at.items():
            with suppress(FileNotFoundError):  # another collection has taken this one for dead
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
                yield item
        self._at.clear()
        shutil.rmtree(self._folder, ignore_errors=True)


def put_back_all(layout: CacheLayout) -> None:
    """Undo what killed collections have begun: objects first, then the records that name them.

    Raises:
        OSError: The store cannot be written.
    """
    for run in entries(layout.work, PARTIAL):  # on its way to be deleted
        shutil.rmtree(run.path, ignore_errors=True)
    if not layout.trash.is_dir():
        return
    left = [p for p in layout.trash.iterdir() if NONCE.fullmatch(p.name) and not p.is_symlink()]
    found = [path for folder in left for path in sorted(folder.iterdir())]
    for path in found:
        if name := _OBJECT.fullmatch(path.name):
            _restore(path, layout.object(name[1]))
    for path in found:
        if name := _RECORD.fullmatch(path.name):
            _restore(path, layout.action(name[1]))
    for folder in left:
        shutil.rmtree(folder, ignore_errors=True)


def _restore(path: Path, target: Path) -> None:
    """Give a file its old name unless another has it: what was published meanwhile stays. A folder is renamed."""
    with suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            path.rename(target)
            return
        with suppress(FileExistsError):
            files.move_back(path, target)
        path.unlink(missing_ok=True)
