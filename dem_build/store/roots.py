"""Roots: the last build of each recipe. `why` compares with them, and they keep what they name from collection.

A root is a JSON document of the caller's. Every key that occurs anywhere in it counts as named by it.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from dem_build import digest
from dem_build.store import files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dem_build.digest import JSON, Digest
    from dem_build.store.layout import Layout

__all__ = ["Roots"]

_HEX = re.compile(r"[0-9a-f]{64}")


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
        data = json.dumps({"dem-root": 1, "recipe_id": recipe_id, "root": root}, ensure_ascii=False, indent=1)
        with files.writing(path):
            files.write_new(temporary, data.encode())
            temporary.rename(path)
            files.sync_folder(path.parent)

    def all(self) -> Iterator[tuple[str, frozenset[Digest]]]:
        """Yield each recipe id and the digests that its root names."""
        for path in sorted(self._layout.roots.glob("*.json")):
            document = _read(path)
            if document is not None:
                yield document["recipe_id"], frozenset(_digests(document["root"]))

    def _path(self, recipe_id: str) -> Path:
        """Return where a root lies: a recipe id may be any text, so its hash names the file."""
        return self._layout.roots / f"{digest.of_bytes(recipe_id.encode())}.json"


def _read(path: Path) -> dict[str, JSON] | None:
    try:
        document = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    except OSError as error:
        raise files.explained(error, path) from error
    if not isinstance(document, dict) or not document.keys() >= {"recipe_id", "root"}:
        return None
    return document


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
