"""Where everything lies in the cache folder, and which format it has."""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from dem_build.errors import StoreError
from dem_build.json_text import parse_json
from dem_build.store import files

if TYPE_CHECKING:
    from dem_build.digest import JSON

__all__ = ["DIGEST", "DIGESTS", "DOCUMENT", "FORMAT", "NONCE", "Layout", "open_layout"]

FORMAT = 1

# The names that a store gives; what else lies in its folders is somebody's.
DIGEST = re.compile(r"[0-9a-f]{64}")
"""An object, a lease, a folder of work."""
DOCUMENT = re.compile(r"[0-9a-f]{64}\.json")
"""A record, a root."""
NONCE = re.compile(r"[0-9a-f]{16}")
"""A file in the making, a note of a process, the trash of one collection."""
DIGESTS = re.compile(rb"[0-9a-f]{64}")
"""What looks like a digest in a document that cannot be read."""


@dataclass(frozen=True)
class Layout:
    """The folders of a store; `docs/cache-format.md` says what each holds."""

    root: Path

    @cached_property
    def objects(self) -> Path:
        """Content-addressed files."""
        return self.root / "cas" / "sha256"

    @cached_property
    def actions(self) -> Path:
        """Action records."""
        return self.root / "actions"

    @property
    def work(self) -> Path:
        """Checkpoints and events of unfinished actions."""
        return self.root / "work"

    @property
    def leases(self) -> Path:
        """Who runs what now."""
        return self.root / "leases"

    @property
    def roots(self) -> Path:
        """The last build of each recipe."""
        return self.root / "roots"

    @property
    def quarantine(self) -> Path:
        """What was found damaged."""
        return self.root / "quarantine"

    @property
    def tmp(self) -> Path:
        """Files that are being written."""
        return self.root / "tmp"

    @property
    def running(self) -> Path:
        """What each running process uses; made by the first that builds."""
        return self.root / "running"

    @property
    def trash(self) -> Path:
        """What a collection has taken and not yet deleted; made by the first."""
        return self.root / "trash"

    @property
    def gc_lock(self) -> Path:
        """Held by a collection while it decides and moves, and shared by those who look up or store."""
        return self.root / "gc.lock"

    @property
    def folders(self) -> tuple[Path, ...]:
        """Every folder that is there from the beginning."""
        return (
            self.objects,
            self.actions,
            self.work,
            self.leases,
            self.roots,
            self.quarantine,
            self.tmp,
        )

    @property
    def lock(self) -> Path:
        """Held while an invalid record or a dead lease is replaced."""
        return self.root / "lock"

    def object(self, digest: str) -> Path:
        """Return where the object of a digest lies."""
        return self.objects / f"{digest[:2]}/{digest}"

    def action(self, key: str) -> Path:
        """Return where the record of a key lies."""
        return self.actions / f"{key[:2]}/{key}.json"

    def temporary(self) -> Path:
        """Return a new name in `tmp/`."""
        return self.tmp / files.nonce()

    def set_aside(self, path: Path, kind: str) -> Path | None:
        """Move a damaged file into quarantine; None where it cannot be moved, or somebody else has done it."""
        target = self.quarantine / f"{kind}-{path.name}-{files.nonce()}"
        try:
            path.rename(target)
        except OSError:
            return None
        return target


def open_layout(root: Path, *, make: bool = True) -> Layout:
    """Return the layout of the store at `root`; make it where there is none, if it is to be made.

    Raises:
        StoreError: A newer dem wrote it, its format file is damaged, or it cannot be made.
    """
    layout = Layout(Path(os.path.abspath(root)))  # noqa: PTH100 - resolve() would follow a link that a user may move
    if not _checked(layout):
        if make:
            with files.writing(layout.root):
                _make(layout)
            _checked(layout)
    elif not all(folder.is_dir() for folder in layout.folders):
        # Somebody tidied up. A store that is only read does without; one that is written says where it cannot be.
        with suppress(OSError):
            _make(layout)
    return layout


def _checked(layout: Layout) -> bool:
    """Return whether there is a store, and refuse one that this version does not understand."""
    path = layout.root / "format.json"
    try:
        document = parse_json(files.read_bytes(path))
        version = _version(document["dem-store"])
    except FileNotFoundError:
        return False
    except OSError as error:
        raise files.explained(error, path) from error
    except (ValueError, KeyError, TypeError) as error:
        hint = f'write {{"dem-store": {FORMAT}}} into it if the folder is a cache, or choose another with --cache'
        raise StoreError(
            "this file does not say which format the cache has", where=str(path), hint=hint
        ) from error
    if version > FORMAT:
        what = f"the cache has format {version}, and this dem knows {FORMAT}"
        raise StoreError(
            what, where=str(layout.root), hint="upgrade dem, or choose another folder with --cache"
        )
    return True


def _version(said: JSON) -> int:
    if type(said) is not int or said < 1:
        raise ValueError(f"no version: {said!r}")
    return said


def _make(layout: Layout) -> None:
    layout.root.mkdir(parents=True, exist_ok=True)
    for folder in layout.folders:
        folder.mkdir(parents=True, exist_ok=True)
    _write_once(layout, ".gitignore", b"*\n!README.md\n")
    # Last: its being there means that the folders are.
    _write_once(layout, "format.json", json.dumps({"dem-store": FORMAT}).encode() + b"\n")
    files.sync_folder(layout.objects.parent)
    files.sync_folder(layout.root)


def _write_once(layout: Layout, name: str, data: bytes) -> None:
    temporary = layout.temporary()
    files.write_new(temporary, data)
    try:
        os.link(temporary, layout.root / name)
    except FileExistsError:
        pass  # another process was faster
    finally:
        temporary.unlink()
