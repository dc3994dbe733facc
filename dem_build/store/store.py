"""The store: one object for all that the layers above do with the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.digest import Output
from dem_build.store.hints import Hints
from dem_build.store.layout import open_layout
from dem_build.store.leases import Leases
from dem_build.store.objects import Objects
from dem_build.store.records import Records
from dem_build.store.roots import Roots
from dem_build.store.uses import Uses
from dem_build.store.views import Views
from dem_build.store.work import WorkFolders

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from dem_build.digest import JSON, Blob, Digest
    from dem_build.store.gc.collect import Collection
    from dem_build.store.gc.unneeded import Policy
    from dem_build.store.gc.usage import Stats
    from dem_build.store.holders import Holder
    from dem_build.store.layout import Layout
    from dem_build.store.leases import Lease
    from dem_build.store.records import Record
    from dem_build.store.verify import Damage

__all__ = ["Store"]


class Store:
    """A cache folder: objects named by content, and the records that say which action made them.

    Any number of processes on any number of hosts may use one at a time. Every method that touches the disk raises
    `StoreError`, with what to do, where the disk does not let it.
    """

    def __init__(self, layout: Layout, hints: Hints) -> None:
        self.root = layout.root
        self.hints = hints
        self._uses = Uses(layout)
        self._objects = Objects(layout, hints, self._uses)
        self._records = Records(layout, self._objects)
        self._views = Views(self._objects, hints)
        self._leases = Leases(layout)
        self._work = WorkFolders(layout)
        self._roots = Roots(layout)
        self._layout = layout

    @classmethod
    def open(cls, root: Path, *, hints: Hints | None = None, make: bool = True) -> Store:
        """Open the store at `root`, and make it where there is none.

        Args:
            root: Its folder.
            make: False leaves it unmade, for those who only look: a store that is not there is empty.
            hints: What this host has hashed already. Default: the file of this user on this host.

        Raises:
            StoreError: A newer dem wrote it, or it is not there and cannot be made.
        """
        return cls(open_layout(root, make=make), hints or Hints())

    def make(self) -> None:
        """Make the folder where there is none."""
        open_layout(self.root)

    def in_use(self) -> AbstractContextManager[None]:
        """Keep what this process looks up or stores in the block from collection until the block ends."""
        return self._uses.noted()

    # Objects

    def object_path(self, digest: Digest) -> Path:
        """Return where the object of a digest lies, or would."""
        return self._objects.path(digest)

    def put(self, path: Path) -> Output:
        """Move an output, a file or a folder, into the store. Nothing is left at `path`.

        When this returns, the bytes are on the disk under their digests.
        """
        return self._objects.put_all({"": path}, {})[""]

    def put_all(self, paths: Mapping[str, Path], hashed: Mapping[Path, Digest]) -> dict[str, Output]:
        """Move outputs into the store, as `put` does, all at once.

        Args:
            paths: Name → a file or a folder.
            hashed: Files among them → their digest, where this process hashed what it wrote; all others are read.
        """
        return self._objects.put_all(paths, hashed)

    def put_bytes(self, data: bytes) -> Blob:
        """Store some bytes."""
        return self._objects.put_bytes(data)

    def check(self, output: Output) -> None:
        """Verify the digests of what this host has not verified; what it has is only looked at with `stat`.

        Raises:
            CorruptObjectError: An object is damaged, and in quarantine now, or gone. Its record is a miss now.
        """
        self._objects.check(output)

    def view(self, output: Output, folder: Path, name: str) -> Path:
        """Return a path for a step to read.

        Args:
            output: What to show; a file is its object itself.
            folder: Where a tree's links go, in a folder `name`.
            name: As above.
        """
        return self._views.view(output, folder, name)

    def read_bytes(self, source: Output | Blob) -> bytes:
        """Return the bytes of a small file, verified.

        Raises:
            CorruptObjectError: The object is damaged or gone.
            ValueError: The output is a folder.
        """
        if isinstance(source, Output):
            if source.files is not None:
                raise ValueError("a folder has no bytes of its own")
            [source] = source.blobs()
        return self._objects.read_bytes(source)

    def export(self, output: Output, target: Path) -> None:
        """Copy an output to a file or folder of the user's; blocks are shared where the file system can.

        Files that have the right bytes already are left alone, and so are others in the folder.

        Raises:
            CorruptObjectError: An object is damaged or gone.
        """
        self._views.export(output, target)

    # Records

    def lookup(self, key: Digest) -> Record | None:
        """Return the record of `key`; None where there is no valid one whose objects are all there at their sizes.

        Reads the record and no object.
        """
        with self._uses.using(key):
            return self._records.lookup(key)

    def peek(self, key: Digest) -> Record | None:
        """Return the record of `key` where it is valid, whatever became of its objects."""
        return self._records.peek(key)

    def publish(self, record: Record) -> Record:
        """Record a result whose objects are stored; return the record that holds, which may be an earlier one."""
        with self._uses.using(record.key):
            return self._records.publish(record)

    def records(self) -> Iterator[Record]:
        """Yield every valid record."""
        return self._records.all()

    # Work and leases

    def lease(self, key: Digest) -> Lease:
        """Take the lease of `key`, a context manager; a dead holder's is taken over.

        Raises:
            LeaseHeldError: A living process holds it.
        """
        return self._leases.take(key)

    def lease_holder(self, key: Digest) -> Holder | None:
        """Return who holds the lease of `key`; None where it is free or its holder is dead."""
        return self._leases.holder(key)

    def new_work(self, key: Digest) -> Path:
        """Return a new folder for a run of `key`, with `out/` and `checkpoints/` in it."""
        return self._work.new(key)

    def previous_work(self, key: Digest) -> list[Path]:
        """Return the folders of all runs of `key` that are there, newest first."""
        return self._work.previous(key)

    def drop_work(self, key: Digest) -> None:
        """Remove all work of `key`: its result is recorded."""
        self._work.drop(key)

    # Roots

    def read_root(self, recipe_id: str) -> JSON | None:
        """Return what the last build of a recipe wrote; None where there is none."""
        return self._roots.read(recipe_id)

    def root_is_damaged(self, recipe_id: str) -> bool:
        """Return whether there is a root of a recipe that is damaged: collection takes nothing until it is replaced."""
        return self._roots.damaged(recipe_id)

    def find_root(self, recipe: str) -> JSON | None:
        """Return the newest root whose `recipe` is this file, whichever host wrote it."""
        return self._roots.find(recipe)

    def roots(self) -> list[JSON]:
        """Return what the last build of each recipe wrote, the oldest first; damaged ones are left out."""
        whole = [root for root in self._roots.all() if root.document is not None]
        return [root.document for root in sorted(whole, key=lambda root: root.used)]

    def write_root(self, recipe_id: str, root: JSON) -> None:
        """Replace the root of a recipe. Every key in the document, but for `dropped`, is kept from collection."""
        self._roots.write(recipe_id, root)

    # The whole

    def stats(self) -> Stats:
        """Count what the store holds."""
        from dem_build.store.gc.usage import stats  # noqa: PLC0415  a build never asks

        return stats(self._layout)

    def verify(
        self, progress: Callable[[int, int], None] | None = None, *, repair: bool = False
    ) -> list[Damage]:
        """Read every object and record, and tell what is wrong.

        Args:
            progress: Called with the bytes read so far and the bytes in all.
            repair: Move what is damaged to quarantine; else nothing in the store changes.
        """
        from dem_build.store.verify import verify  # noqa: PLC0415  a build never asks

        return verify(self._layout, self._objects, self._records, repair=repair, progress=progress)

    def collect(self, policy: Policy, *, dry_run: bool = False) -> Collection:
        """Take away what nobody needs.

        Args:
            policy: How much.
            dry_run: Only say what would go.

        Raises:
            LeaseHeldError: Another collection is at work, or a process that stores something does not end.
        """
        from dem_build.store.gc.collect import collect  # noqa: PLC0415  a build never asks

        return collect(self._layout, policy, dry_run=dry_run)
