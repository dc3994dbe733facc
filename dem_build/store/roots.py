"""Roots: the last build of each recipe. `why` compares with them, and they keep what they name from collection.

A root is a JSON document of the caller's. Every key that occurs anywhere in it counts as needed, but for those under
`dropped`, which say when earlier builds used what this one does not. A root is sealed: where a bit of it has changed
nobody knows what its recipe needs, and a collection must not guess.
"""

from __future__ import annotations

import re
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dem_build import digest
from dem_build.digest import DIGEST
from dem_build.json_text import MALFORMED
from dem_build.store import files
from dem_build.store.local import DIGESTS, DOCUMENT
from dem_build.store.sealed import read_sealed, sealed

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from dem_build.digest import JSON, Digest
    from dem_build.store.local import CacheLayout

DROPPED = "dropped"
END_OF_TIME = 1e12
"""Seconds since 1970 that no root was used at: what is not below is no time."""
ROOT_VERSION = 2
UNSEALED_VERSION = 1  # what versions of dem before the seal wrote; such roots count as long as they parse
_RECIPE = re.compile(rb'^ *"recipe": "([^\n]+)",$', re.MULTILINE)


@dataclass(frozen=True)
class Root:
    """The root of one recipe.

    Attributes:
        path: Its file.
        inode: Which file that was when it was read.
        recipe_id: Of which recipe.
        document: What was written; None where the root is damaged.
        names: Every digest that it needs.
        used: When it was written, which each build does that comes an hour later, in seconds since 1970.
        dropped: Keys that earlier builds needed → when they were used last.
        seems: The recipe's file as a damaged root has it, to be shown to people alone.
    """

    path: Path
    inode: int
    recipe_id: str
    document: JSON | None
    names: frozenset[Digest]
    used: float
    dropped: Mapping[Digest, float] = field(default_factory=dict)
    seems: str | None = None

    @property
    def recipe(self) -> str | None:
        """The recipe's file, where it says one."""
        return self._text("recipe")

    @property
    def host(self) -> str | None:
        """The host that built it, where it says one."""
        return self._text("host")

    def _text(self, name: str) -> str | None:
        value = self.document.get(name) if isinstance(self.document, dict) else None
        return value if isinstance(value, str) else None


class Roots:
    """The roots of one store."""

    def __init__(self, layout: CacheLayout) -> None:
        self._layout = layout

    def read(self, recipe_id: str) -> JSON | None:
        """What the last build of a recipe wrote; None where there is none, or it is damaged."""
        document = self._document(recipe_id)
        return None if document is None else document["root"]

    def damaged(self, recipe_id: str) -> bool:
        """Whether the root of a recipe is there and damaged, so that nobody knows what it named."""
        return self._document(recipe_id) is None and self._path(recipe_id).exists()

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Run the block, which reads a root and writes what follows of it, while no other process does so.

        What one wrote between would be lost, and a collection might take what it named.
        """
        with ExitStack() as held:
            with suppress(OSError):  # a store that is only read: what the block writes is not written
                held.enter_context(files.exclusively(self._layout.roots_lock))
            yield

    def write(self, recipe_id: str, root: JSON) -> None:
        """Replace the root of a recipe.

        Raises:
            StoreError: It cannot be written.
        """
        path, temporary = self._path(recipe_id), self._layout.temporary()
        document = {"dem-root": ROOT_VERSION, "recipe_id": recipe_id, "root": root}
        with files.writing(path):
            files.write_new(temporary, sealed(document, escaped=True))
            if path.is_dir():  # which `rename` does not replace
                self._layout.set_aside(path, "root")
            temporary.rename(path)
            files.sync_folder(path.parent)

    def find(self, recipe: str) -> JSON | None:
        """The newest root of a recipe's file, whichever host built it."""
        found = [root for root in self.all() if root.recipe == recipe]
        return max(found, key=lambda root: root.used).document if found else None

    def documents(self) -> list[JSON]:
        """What the last build of each recipe wrote, the oldest first; damaged ones are left out."""
        whole = [root for root in self.all() if root.document is not None]
        return [root.document for root in sorted(whole, key=lambda root: root.used)]

    def all(self) -> Iterator[Root]:
        """Every root, damaged ones as well.

        Raises:
            StoreError: The folder cannot be read.
        """
        for path in sorted(p for p in self._layout.roots.glob("*.json") if DOCUMENT.fullmatch(p.name)):
            with files.writing(path), suppress(FileNotFoundError):
                stat = path.stat()  # before the bytes: what replaces them later has another inode
                yield _root(path, _bytes(path), stat)

    def _document(self, recipe_id: str) -> dict[str, JSON] | None:
        path = self._path(recipe_id)
        with files.writing(path), suppress(FileNotFoundError):
            return _document(_bytes(path))
        return None

    def _path(self, recipe_id: str) -> Path:
        """Where a root lies: a recipe id may be any text, so its hash names the file."""
        return self._layout.roots / f"{digest.of_bytes(recipe_id.encode())}.json"


def _bytes(path: Path) -> bytes:
    """What a root's file holds; what is no file is damaged, and holds nothing."""
    try:
        return files.read_bytes(path)
    except files.NotAFileError:
        return b""


def _document(data: bytes) -> dict[str, JSON] | None:
    """The document of a root; None where it was changed since it was written."""
    try:
        document: dict[str, JSON] = read_sealed(data, "dem-root", unsealed=UNSEALED_VERSION)
        return document if document.keys() >= {"recipe_id", "root"} else None
    except MALFORMED:
        return None


def _root(path: Path, data: bytes, stat: os.stat_result) -> Root:
    """What a file says; of a damaged one, every digest in it counts as needed."""
    document = _document(data)
    if document is None:
        names = frozenset(name.decode() for name in DIGESTS.findall(data))
        said = _RECIPE.search(data)
        seems = said[1].decode("utf-8", "replace") if said else None
        return Root(path, stat.st_ino, path.stem, None, names, stat.st_mtime, seems=seems)
    recipe_id, root = document["recipe_id"], document["root"]
    dropped = root.get(DROPPED) if isinstance(root, dict) else None
    needed = {n: v for n, v in root.items() if n != DROPPED} if isinstance(root, dict) else root
    times = {
        key: float(when)
        for key, when in (dropped.items() if isinstance(dropped, dict) else ())
        if isinstance(when, int | float) and 0 <= when < END_OF_TIME
    }
    return Root(path, stat.st_ino, str(recipe_id), root, frozenset(_digests(needed)), stat.st_mtime, times)


def _digests(value: JSON) -> Iterator[Digest]:
    if isinstance(value, str) and DIGEST.fullmatch(value):
        yield value
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from _digests(key)
            yield from _digests(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _digests(entry)
