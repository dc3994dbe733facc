"""The trash: where a collection puts what it takes, to look once more before it deletes.

A file keeps its name there, after its sort, so that the next collection can put back what a killed one left. To put
back never replaces: what was published meanwhile stays.
"""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dem_build.store import files
from dem_build.store.layout import NONCE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dem_build.store.layout import Layout

__all__ = ["Item", "Trash", "put_back_all"]

_OBJECT = re.compile(r"object-([0-9a-f]{64})")
_RECORD = re.compile(r"record-([0-9a-f]{64})\.json")


@dataclass(frozen=True)
class Item:
    """Something to take.

    Attributes:
        path: Where it lies.
        kind: As what it counts in the report.
        sort: `object`, `record` or `work`: what it is called in the trash.
        count: How many entries it counts for.
        bytes: How many bytes.
        inode: Which file it was when it was looked at; 0 for any.
    """

    path: Path
    kind: str
    sort: str
    count: int = 1
    bytes: int = 0
    inode: int = 0

    @property
    def name(self) -> str:
        """Its name in the trash."""
        return f"{self.sort}-{self.path.name}"


class Trash:
    """The trash of one collection."""

    def __init__(self, layout: Layout) -> None:
        self._folder = layout.trash / files.nonce()
        self._items: list[Item] = []
        files.make_folder(layout.trash)
        self._folder.mkdir()

    def take(self, item: Item) -> bool:
        """Move something here; False where it is gone, or another file lies there now, which stays."""
        target = self._folder / item.name
        try:
            item.path.rename(target)
        except (FileNotFoundError, PermissionError):
            return False
        self._items.append(item)
        if item.inode and target.lstat().st_ino != item.inode:
            self.put_back(item)
            return False
        return True

    def put_back(self, item: Item) -> None:
        """Move something back to where it lay."""
        _put_back(self._folder / item.name, item.path)
        self._items.remove(item)

    def empty(self) -> Iterator[Item]:
        """Delete everything; yield what was deleted."""
        for item in self._items:
            path = self._folder / item.name
            with suppress(FileNotFoundError):  # another collection has taken this one for dead
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
                yield item
        self._items.clear()
        shutil.rmtree(self._folder, ignore_errors=True)


def put_back_all(layout: Layout) -> None:
    """Undo what killed collections have begun: objects first, then the records that name them.

    Raises:
        OSError: The store cannot be written.
    """
    if not layout.trash.is_dir():
        return
    left = [p for p in layout.trash.iterdir() if NONCE.fullmatch(p.name) and not p.is_symlink()]
    found = [path for folder in left for path in sorted(folder.iterdir())]
    for path in found:
        if name := _OBJECT.fullmatch(path.name):
            _put_back(path, layout.object(name[1]))
    for path in found:
        if name := _RECORD.fullmatch(path.name):
            _put_back(path, layout.action(name[1]))
    for folder in left:
        shutil.rmtree(folder, ignore_errors=True)


def _put_back(path: Path, target: Path) -> None:
    """Give a file its old name unless another has it; a folder, which has no other name, is renamed."""
    with suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            path.rename(target)
            return
        with suppress(FileExistsError):
            os.link(path, target)
        path.unlink()
