"""Collection: takes away what nobody needs, while others build.

Records go first, then their objects, so a kill leaves no record that looks whole and is not. Everything is moved to the
trash; then what running processes use and recipes name is read again, and what somebody has come to need meanwhile is
put back, objects before records. Only then is anything deleted.

Where the file system has locks this never shows: who looks up, stores or publishes shares a lock that a collection has
to itself while it decides and moves. Where locks do nothing, or a collection is stopped in the middle and goes on an
hour later, the second look is what protects: a process says what it uses before it looks for it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dem_build.errors import LeaseHeldError, StoreError
from dem_build.store import files
from dem_build.store.gc.census import digests_named_by, record_entries, take_census
from dem_build.store.gc.leftovers import delete_files, find_rubbish, take_work
from dem_build.store.gc.trash import Item, Trash, put_back_all
from dem_build.store.gc.unneeded import garbage, is_gone, needed
from dem_build.store.gc.usage import Usage
from dem_build.store.leases import Leases
from dem_build.store.roots import Roots
from dem_build.store.uses import read_uses

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from dem_build.digest import Digest
    from dem_build.store.gc.census import Census
    from dem_build.store.gc.leftovers import Rubbish
    from dem_build.store.gc.unneeded import Garbage, Policy
    from dem_build.store.layout import Layout

__all__ = ["Collection", "collect"]

WAIT_SECONDS = 60.0
UNNAMED = "objects of no record"
GONE = "roots of recipes that are gone"


@dataclass(frozen=True)
class Collection:
    """What was taken, or would be.

    Attributes:
        freed: Kind of action, or of rubbish → how many records or files, and the bytes that were freed with them.
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
    rubbish: Rubbish

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
        yield from (*self.rubbish.files, *self.rubbish.leases)
        for runs in self.rubbish.work.values():
            yield from runs

    def told(self, freed: Iterable[Item]) -> Collection:
        counts, sizes = Counter[str](), Counter[str]()
        for item in freed:
            counts[item.kind] += item.count
            sizes[item.kind] += item.bytes
        held = sum(entry.size for entry in self.census.objects.values()) + self.rubbish.bytes
        held -= sum(sizes[kind] for kind in sizes if kind in self._kinds())
        kept = [o.size for r in self.garbage.vectors for o in r.record.outputs.values()]
        gone = [str(r.recipe) for r in self.census.roots if r.recipe and is_gone(r, self.census.now)]
        return Collection(
            {kind: Usage(counts[kind], sizes[kind]) for kind in sorted(counts)},
            held,
            Usage(len(self.garbage.vectors), sum(kept)),
            tuple(gone),
        )

    def _kinds(self) -> set[str]:
        return {UNNAMED, *(r.record.kind for r in self.garbage.records)}


def collect(layout: Layout, policy: Policy, *, dry_run: bool = False, now: float | None = None) -> Collection:
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
            for item in take_work(decided.rubbish, leases):
                trash.take(item)
            return decided.told([*trash.empty(), *delete_files(layout, decided.rubbish, leases)])


def _refuse_links(layout: Layout) -> None:
    for folder in (layout.objects.parent, *layout.folders, layout.running, layout.trash):
        if folder.is_symlink():
            hint = "move the whole cache, and say where it is with --cache"
            raise StoreError("is a link, and what it leads to may be others'", where=str(folder), hint=hint)


def _refuse_damaged(census: Census) -> None:
    """Refuse to decide where a root is damaged: what its recipe needs may have any name."""
    for root in census.roots:
        if root.document is None and not is_gone(root, census.now):
            what = "this root is damaged, so what its recipe needs is not known, and nothing was taken"
            hint = f"build {root.seems or 'the recipe'} again, which writes it anew; or delete it if that is gone"
            raise StoreError(what, where=str(root.path), hint=hint)


def _decide(layout: Layout, leases: Leases, policy: Policy, now: float | None) -> _Decided:
    census = take_census(layout, now)
    _refuse_damaged(census)
    keep = needed(census.used, census.roots, census.now)
    rubbish = find_rubbish(layout, census, keep, leases, policy)
    return _Decided(census, garbage(census, policy, rubbish.bytes), rubbish)


def _move(decided: _Decided, layout: Layout, trash: Trash) -> None:
    """Move records, then objects; after each, put back what has come to be needed."""
    records = {item.path.stem: item for item in decided.records if trash.take(item)}
    _put_back(records, _needed_now(layout, decided.census), trash)
    spared = {n for r in decided.garbage.records if r.key not in records for n in r.objects()}
    spared |= _needed_now(layout, decided.census)
    objects = {n: item for n, item in decided.objects.items() if n not in spared and trash.take(item)}
    keep = _needed_now(layout, decided.census) | _named_since(layout, decided.census)
    keep |= {n for r in decided.garbage.records if r.key in records and r.key in keep for n in r.objects()}
    _put_back(objects, keep, trash)
    _put_back(records, keep, trash)
    for item in decided.roots:
        trash.take(item)


def _put_back(items: dict[Digest, Item], keep: frozenset[Digest] | set[Digest], trash: Trash) -> None:
    for name in items.keys() & keep:
        trash.put_back(items.pop(name))


def _needed_now(layout: Layout, census: Census) -> frozenset[Digest]:
    return needed(read_uses(layout)[0], Roots(layout).all(), census.now)


def _named_since(layout: Layout, census: Census) -> frozenset[Digest]:
    """Return what is named by records that were published or replaced since the census."""
    found: set[Digest] = set()
    for entry in record_entries(layout):
        known = census.records.get(entry.path.stem)
        if known is None or known.entry.inode != entry.inode:
            found |= digests_named_by(entry.path)
    return frozenset(found)
