"""Rubbish: what killed processes leave in a store, and what was set aside: no object and no record."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dem_build.errors import LeaseHeldError
from dem_build.store import files
from dem_build.store.gc.census import Entry, entries, size_of
from dem_build.store.gc.trash import Item
from dem_build.store.layout import DIGEST, NONCE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dem_build.digest import Digest
    from dem_build.store.gc.census import Census
    from dem_build.store.gc.unneeded import Policy
    from dem_build.store.layout import Layout
    from dem_build.store.leases import Leases

__all__ = ["Rubbish", "delete_files", "find_rubbish", "take_work"]

_RUN = re.compile(r"\d{19}-[0-9a-f]{16}")
_SET_ASIDE = re.compile(r"(object|record)-.+-[0-9a-f]{16}")
WRITING_SECONDS = 3600.0
"""How long a file in `tmp/` may be in the making, whatever the grace period is."""


@dataclass
class Rubbish:
    """What there is.

    Attributes:
        files: Files to delete one by one: they are nobody's.
        leases: Leases of the dead.
        work: Key → runs of it that nobody will go on with.
        bytes: Of all that is neither an object nor rubbish: unfinished work, quarantine, what is being written.
    """

    files: list[Item] = field(default_factory=list)
    leases: list[Item] = field(default_factory=list)
    work: dict[Digest, list[Item]] = field(default_factory=dict)
    bytes: int = 0


def find_rubbish(
    layout: Layout, census: Census, keep: frozenset[Digest], leases: Leases, policy: Policy
) -> Rubbish:
    """Return what may go at once.

    Args:
        layout: The store.
        census: What is recorded in it.
        keep: Keys that are needed.
        leases: Its leases.
        policy: How much to take.
    """
    return _Search(census, keep, leases, policy).run(layout)


@dataclass(frozen=True)
class _Search:
    census: Census
    keep: frozenset[Digest]
    leases: Leases
    policy: Policy
    found: Rubbish = field(default_factory=Rubbish)

    def run(self, layout: Layout) -> Rubbish:
        now = self.census.now
        for entry in entries(layout.tmp, NONCE):
            old = now - entry.time >= max(self.policy.grace, WRITING_SECONDS)
            self._file(entry, "temporary files", old=old)
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
        """Return for how many seconds nobody may have touched a run before it goes."""
        if key in self.census.records:
            return self.policy.grace  # it is done; a kill came between the record and the end of its work
        if key in self.keep:
            return float("inf")  # a recipe wants it
        dear = any(run.glob("checkpoints/*/complete.json")) and not self.policy.vectors
        return self.policy.stale if dear else self.policy.unused


def delete_files(layout: Layout, rubbish: Rubbish, leases: Leases) -> Iterator[Item]:
    """Delete the files and the leases; yield what was deleted."""
    for item in rubbish.files:
        with suppress(FileNotFoundError, PermissionError):
            item.path.unlink()
            yield item
    for item in rubbish.leases:
        with files.exclusively(layout.lock), suppress(FileNotFoundError, PermissionError):
            if leases.holder(item.path.name) is None:  # nobody has taken it over since
                item.path.unlink()
                yield item


def take_work(rubbish: Rubbish, leases: Leases) -> Iterator[Item]:
    """Yield the runs that may be taken now; the lease is ours meanwhile, so nobody starts to go on with them."""
    for key, runs in rubbish.work.items():
        with suppress(LeaseHeldError), leases.take(key):
            yield from runs
            with suppress(OSError):  # other runs stay, or others have been faster
                runs[0].path.parent.rmdir()
