"""The store: one object for all that the layers above do with the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.store.folders import Views, WorkFolders
from dem_build.store.hints import Hints
from dem_build.store.leases import Leases
from dem_build.store.local import Documents, ObjectFiles, open_layout
from dem_build.store.objects import Objects
from dem_build.store.records import Records
from dem_build.store.roots import Roots
from dem_build.store.uses import Uses

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from dem_build.store.gc.census import Stats
    from dem_build.store.gc.collect import Collection
    from dem_build.store.gc.garbage import Policy
    from dem_build.store.local import CacheLayout
    from dem_build.store.remote.reader import RemoteReader
    from dem_build.store.verify import Damage


class Store:
    """A cache folder: objects named by content, and the records that say which action made them.

    Any number of processes on any number of hosts may use one at a time. Whatever touches the disk raises `StoreError`,
    with what to do, where the disk does not let it.

    Attributes:
        root: The folder.
        scratch: Where unfinished runs lie, if not there.
        hints: What this host has hashed already.
        objects: Files by the SHA-256 of their bytes.
        records: Key → what the action made.
        views: Outputs under names: links to read, copies to keep.
        leases: Who runs what now.
        work: Folders of unfinished runs.
        roots: The last build of each recipe.
        uses: What running processes use, and whether one still runs.

    Args:
        layout: The folder.
        hints: What this host has hashed already.
        elsewhere: Stores of others, whose records and objects count. Default: none.
    """

    def __init__(self, layout: CacheLayout, hints: Hints, elsewhere: RemoteReader | None = None) -> None:
        self.root = layout.root
        self.scratch = layout.scratch
        self.hints = hints
        self.uses = Uses(layout)
        self.objects = Objects(ObjectFiles(layout), hints, self.uses, elsewhere)
        self.records = Records(Documents(layout), self.objects, self.uses, elsewhere)
        self.views = Views(self.objects, hints)
        self.leases = Leases(layout)
        self.work = WorkFolders(layout)
        self.roots = Roots(layout)
        self._layout = layout

    @property
    def places(self) -> list[Path]:
        """What another process opens it by: its folder, and where unfinished runs lie if not there."""
        return [self.root] if self.scratch is None else [self.root, self.scratch]

    @classmethod
    def open(
        cls, root: Path, *, hints: Hints | None = None, make: bool = True, work: Path | None = None
    ) -> Store:
        """Open the store at `root`, and make it where there is none.

        Args:
            root: Its folder.
            make: False leaves it unmade, for those who only look: a store that is not there is empty.
            hints: What this host has hashed already. Default: the file of this user on this host.
            work: A folder for unfinished runs, on any file system. Default: one in the store.

        Raises:
            StoreError: A newer dem wrote it, or it is not there and cannot be made.
        """
        return cls(open_layout(root, make=make, work=work), hints or Hints())

    def make(self) -> None:
        """Make the folder where there is none."""
        open_layout(self.root, work=self.scratch)

    def in_use(self) -> AbstractContextManager[None]:
        """Keep what this process looks up or stores in the block from collection until the block ends."""
        return self.uses.noted()

    def stats(self) -> Stats:
        """Count what the store holds."""
        from dem_build.store.gc.census import stats  # noqa: PLC0415  a build never asks

        return stats(self._layout)

    def verify(
        self, progress: Callable[[int, int], None] | None = None, *, repair: bool = False
    ) -> list[Damage]:
        """Read every object and record, and tell what is wrong (`verify.verify`)."""
        from dem_build.store.verify import verify  # noqa: PLC0415  a build never asks

        return verify(self._layout, self.objects, self.records, repair=repair, progress=progress)

    def collect(self, policy: Policy, *, dry_run: bool = False) -> Collection:
        """Take away what nobody needs (`gc.collect.collect`)."""
        from dem_build.store.gc.collect import collect  # noqa: PLC0415  a build never asks

        return collect(self._layout, policy, dry_run=dry_run)
