"""Roots: the last build of each recipe. `why` compares with them, and they keep what they name from collection.

A root is a JSON document of the caller's. Every key that occurs anywhere in it counts as needed, but for those under
`dropped`, which say when earlier builds used what this one does not.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dem_build import digest
from dem_build.json_text import parse_json
from dem_build.store import files

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from dem_build.digest import JSON, Digest
    from dem_build.store.layout import Layout

__all__ = ["DROPPED", "Root", "Roots"]

DROPPED = "dropped"
_HEX = re.compile(r"[0-9a-f]{64}")
_HEX_BYTES = re.compile(rb"[0-9a-f]{64}")


@dataclass(frozen=True)
class Root:
    """The root of one recipe.

    Attributes:
        path: Its file.
        inode: Which file that was when it was read.
        recipe_id: Of which recipe.
        document: What was written; None where that cannot be read.
        names: Every digest that it needs.
        used: When it was written, which each build does that comes an hour later, in seconds since 1970.
        dropped: Keys that earlier builds needed → when they were used last.
    """

    path: Path
    inode: int
    recipe_id: str
    document: JSON | None
    names: frozenset[Digest]
    used: float
    dropped: Mapping[Digest, float] = field(default_factory=dict)

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

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def read(self, recipe_id: str) -> JSON | None:
        """Return what the last build of a recipe wrote; None where there is none, or it is damaged."""
        document = _read(self._path(recipe_id))
        return None if document is None else document["root"]

    def write(self, recipe_id: str, root: JSON) -> None:
        """Replace the root of a recipe.

        Raises:
            StoreError: It cannot be written.
        """
        path, temporary = self._path(recipe_id), self._layout.temporary()
        # Escaped: a path need not be text.
        data = json.dumps({"dem-root": 1, "recipe_id": recipe_id, "root": root}, indent=1)
        with files.writing(path):
            files.write_new(temporary, data.encode())
            if path.is_dir():
                self._layout.set_aside(path, "root")
            temporary.rename(path)
            files.sync_folder(path.parent)

    def find(self, recipe: str) -> JSON | None:
        """Return the newest root of a recipe's file, whichever host built it."""
        found = [root for root in self.all() if root.recipe == recipe]
        return max(found, key=lambda root: root.used).document if found else None

    def all(self) -> Iterator[Root]:
        """Yield every root, those that cannot be read as well.

        Raises:
            StoreError: The folder cannot be read.
        """
        for path in sorted(self._layout.roots.glob("*.json")):
            with files.writing(path), suppress(FileNotFoundError, IsADirectoryError):
                stat = path.stat()  # before the bytes: what replaces them later has another inode
                yield _root(path, path.read_bytes(), stat)

    def _path(self, recipe_id: str) -> Path:
        """Return where a root lies: a recipe id may be any text, so its hash names the file."""
        return self._layout.roots / f"{digest.of_bytes(recipe_id.encode())}.json"


def _read(path: Path) -> dict[str, JSON] | None:
    try:
        document = parse_json(path.read_bytes())
    except (FileNotFoundError, IsADirectoryError, ValueError):
        return None
    except OSError as error:
        raise files.explained(error, path) from error
    if not isinstance(document, dict) or not document.keys() >= {"recipe_id", "root"}:
        return None
    return document


def _root(path: Path, data: bytes, stat: os.stat_result) -> Root:
    """Return what a file says; of one that cannot be read, every digest in it counts as needed."""
    try:
        document = parse_json(data)
        recipe_id, root = document["recipe_id"], document["root"]
    except (ValueError, TypeError, KeyError):
        names = (name.decode() for name in _HEX_BYTES.findall(data))
        return Root(path, stat.st_ino, path.stem, None, frozenset(names), stat.st_mtime)
    dropped = root.get(DROPPED) if isinstance(root, dict) else None
    needed = {n: v for n, v in root.items() if n != DROPPED} if isinstance(root, dict) else root
    times = {
        key: float(when)
        for key, when in (dropped.items() if isinstance(dropped, dict) else ())
        if isinstance(when, int | float)
    }
    return Root(path, stat.st_ino, str(recipe_id), root, frozenset(_digests(needed)), stat.st_mtime, times)


def _digests(value: JSON) -> Iterator[Digest]:
    if isinstance(value, str) and _HEX.fullmatch(value):
        yield value
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from _digests(key)
            yield from _digests(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _digests(entry)
