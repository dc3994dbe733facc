"""The cache as a folder of this host: where everything lies, which format it has, and how names are given in it.

A name is given by `rename`, to a file that was written under another one in `tmp/` and flushed, or by `link`, within
one folder: not every file system has links between folders.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from dem_build import digest
from dem_build.digest import DIGEST, Blob
from dem_build.errors import StoreError
from dem_build.json_text import parse_json
from dem_build.store import files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from dem_build.digest import Digest

FORMAT = 1

# The names that a store gives, beside digests; what else lies in its folders is somebody's.
DOCUMENT = re.compile(r"[0-9a-f]{64}\.json")
"""A record, a root."""
NONCE = re.compile(r"[0-9a-f]{16}")
"""A file in the making, a note of a process, the trash of one collection."""
PARTIAL = re.compile(r"\.[0-9a-f]{16}")
"""A record or a lease in the making: in its own folder, as not every file system has links between folders."""
DIGESTS = re.compile(rb"[0-9a-f]{64}")
"""What looks like a digest in a document that cannot be read."""


@dataclass(frozen=True)
class CacheLayout:
    """The folders of a store; `docs/cache-format.md` says what each holds.

    Attributes:
        scratch: A folder of this host for unfinished runs, of any store; None where they lie in the store's own.
    """

    root: Path
    scratch: Path | None = None

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
        if self.scratch is None:
            return self.root / "work"
        return self.scratch / digest.of_bytes(os.fsencode(self.root))[:16]  # another store's are none of ours

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
    def remote(self) -> Path:
        """What came of other stores, and is no object and no record of this one; made by the first that comes."""
        return self.root / "remote"

    @property
    def parts(self) -> Path:
        """Objects that are being fetched."""
        return self.remote / "parts"

    def pulled(self, store: str, key: str) -> Path:
        """Where it is noted that another store, which 16 hex digits name, has the record of a key."""
        return self.remote / store / f"{key[:2]}/{key}.json"

    @property
    def gc_lock(self) -> Path:
        """Held by a collection while it decides and moves, and shared by those who look up or store."""
        return self.root / "gc.lock"

    @property
    def roots_lock(self) -> Path:
        """Held while a root is read and what follows of it is written."""
        return self.root / "roots.lock"

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
        """Where the object of a digest lies."""
        return Path(self.object_name(digest))

    # As text for what a plan asks of each action: to make a `Path` takes longer than to look at the file.

    def object_name(self, digest: str) -> str:
        """The same as `object`, as text."""
        return f"{self.objects}/{digest[:2]}/{digest}"

    def action(self, key: str) -> Path:
        """Where the record of a key lies."""
        return Path(self.action_name(key))

    def action_name(self, key: str) -> str:
        """The same as `action`, as text."""
        return f"{self.actions}/{key[:2]}/{key}.json"

    def temporary(self) -> Path:
        """A new name in `tmp/`."""
        return self.tmp / files.nonce()

    def in_trash(self, path: Path, sort: str) -> list[Path]:
        """Where a file lies that had a name here, and that a collection has moved and not deleted yet."""
        try:
            folders = [f for f in self.trash.iterdir() if NONCE.fullmatch(f.name) and not f.is_symlink()]
        except OSError:
            return []  # nobody has collected here
        return [at for folder in folders if (at := folder / trash_name(sort, path)).is_file()]

    def take_back(self, at: Path, path: Path) -> None:
        """Give a file of the trash its name again.

        Who looks for something has noted that before, so the collection would put it back in a moment, or, if it was
        killed, the next one. Until then it would look lost: a record would be made again, an object end a build.
        """
        with suppress(OSError):  # it is back already, or deleted by now; this store cannot be written
            files.move_back(at, path)

    def set_aside(self, path: Path, kind: str) -> Path | None:
        """Move a damaged file into quarantine; None where it cannot be moved, or somebody else has done it."""
        target = self.quarantine / f"{kind}-{path.name}-{files.nonce()}"
        try:
            path.rename(target)
        except OSError:
            return None
        return target


def trash_name(sort: str, path: Path) -> str:
    """What a file or a folder is called in the trash.

    Args:
        sort: `object`, `record` or `work`, for those that are put back by what they are; "" for others.
        path: Where it lay.
    """
    return f"{sort}-{path.name}"


def open_layout(root: Path, *, make: bool = True, work: Path | None = None) -> CacheLayout:
    """The layout of the store at `root`, made where there is none, if it is to be.

    Args:
        root: Its folder.
        make: Whether it is to be made.
        work: A folder for unfinished runs that may lie on another file system. Default: one in the store.

    Raises:
        StoreError: A newer dem wrote it, its format file is damaged, or it cannot be made.
    """
    # resolve() would follow a link that a user may move
    folder, scratch = (None if p is None else Path(os.path.abspath(p)) for p in (root, work))  # noqa: PTH100
    assert folder is not None
    layout = CacheLayout(folder, scratch)
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


def _checked(layout: CacheLayout) -> bool:
    """Whether there is a store; refuse one that this version does not understand."""
    path = layout.root / "format.json"
    try:
        document = parse_json(files.read_bytes(path))
        version = document["dem-store"]
        if type(version) is not int or version < 1:
            raise ValueError(f"no version: {version!r}")  # noqa: TRY301  told below, as all that is no format
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


def _make(layout: CacheLayout) -> None:
    layout.root.mkdir(parents=True, exist_ok=True)
    for folder in layout.folders:
        folder.mkdir(parents=True, exist_ok=True)
    _write_once(layout, ".gitignore", b"*\n!README.md\n")
    # Last: its being there means that the folders are.
    _write_once(layout, "format.json", json.dumps({"dem-store": FORMAT}).encode() + b"\n")
    files.sync_folder(layout.objects.parent)
    files.sync_folder(layout.root)


def _write_once(layout: CacheLayout, name: str, data: bytes) -> None:
    temporary = files.beside(layout.root / name)
    files.write_new(temporary, data)
    try:
        os.link(temporary, layout.root / name)
    except FileExistsError:
        pass  # another process was faster
    finally:
        temporary.unlink()


class ObjectFiles:
    """Bytes by their digest, as files in folders named by its first two digits; `Objects` says whether they are sound.

    What is there was hashed by who placed it, and is replaced by nobody. Each method raises `OSError` where the disk
    does not let it.

    Attributes:
        where: What an error calls the place.
    """

    def __init__(self, layout: CacheLayout) -> None:
        self.where = str(layout.root)
        self._layout = layout

    def path(self, name: Digest) -> Path:
        """Where the bytes lie once they were opened or placed; nothing is touched."""
        return self._layout.object(name)

    def staged(self) -> Path:
        """A new path to write a file at, from which `place` takes it."""
        return self._layout.temporary()  # on the same file system

    def size(self, name: Digest) -> int | None:
        """How many bytes there are, none of which is read; None where there are none.

        Raises:
            NotAFileError: Something else is there.
        """
        path = self._layout.object_name(name)
        try:
            found = os.stat(path)  # noqa: PTH116  no `Path`, as said there
        except FileNotFoundError:
            try:
                found = self.open(name).stat()
            except FileNotFoundError:
                return None
        if not stat.S_ISREG(found.st_mode):
            raise files.NotAFileError(errno.EISDIR, "it is not a file", path)
        return found.st_size

    def open(self, name: Digest) -> Path:
        """The file at `path`, which may be gone; who reads it verifies it first."""
        path = self.path(name)
        if not path.exists():  # all bytes are here, if not under their name
            for at in self._layout.in_trash(path, "object"):
                self._layout.take_back(at, path)
        return path

    def place(self, file: Path, name: Digest) -> None:
        """Give a staged file, flushed and read-only, its digest for a name."""
        target = self.path(name)
        files.make_folder(target.parent)
        file.rename(target)  # at once: who looks sees all of it or nothing

    def flush(self, names: Iterable[Digest]) -> None:
        """Have the names that were given outlive a power cut, from when this returns."""
        files.in_parallel(files.sync_folder, {self.path(name).parent for name in names})

    def set_aside(self, name: Digest) -> bool:
        """Move damaged bytes to quarantine; whether that was done, and by us."""
        return self._layout.set_aside(self.path(name), "object") is not None

    def all(self) -> Iterator[Blob]:
        """Everything that is there, in the order of digests."""
        for path in sorted(self._layout.objects.glob("*/*")):
            with suppress(FileNotFoundError):  # a build set it aside meanwhile
                if _is_object(path):
                    yield Blob(path.name, path.lstat().st_size)


class Documents:
    """Small documents by key, as files in folders named by its first two digits. The first sound one of a key stays.

    What is sound the caller says, of a document's bytes: one that is not may be replaced, after it was set aside.
    Each method raises `StoreError` where the disk does not let it.
    """

    def __init__(self, layout: CacheLayout) -> None:
        self._layout = layout
        self._ahead = files.ReadAhead((), layout.action_name)

    def expect(self, keys: Iterable[Digest]) -> None:
        """Hear which documents are about to be read, in this order: who waits for one may begin the next ones."""
        self._ahead = files.ReadAhead(keys, self._layout.action_name)

    def read(self, key: Digest) -> bytes | None:
        """The document of a key; None where there is none.

        Raises:
            ValueError: Something else is there.
        """
        return self._ahead.read(key)

    def create(self, key: Digest, data: bytes, sound: Callable[[bytes], bool]) -> None:
        """Write a document, on the disk when this returns, unless a sound one is there: that one stays.

        Of any number of writers at once one succeeds. Which one it was says `read`.
        """
        target = self._layout.action(key)
        temporary = files.beside(target)
        with files.writing(self._layout.root):
            files.make_folder(target.parent)
            # Flushed before it has its name, and the name after: what a power cut leaves under a name is whole.
            files.write_new(temporary, data)
            try:
                self._link(temporary, target, sound)
            finally:
                temporary.unlink()
            files.sync_folder(target.parent)

    def _link(self, temporary: Path, target: Path, sound: Callable[[bytes], bool]) -> None:
        try:
            os.link(temporary, target)  # which never replaces: of many writers one is first
        except FileExistsError:
            with files.exclusively(self._layout.lock):
                # Asked again under the lock: another process may have replaced the unsound one just now.
                if not _holds(target, sound):
                    self._put_aside(target, sound)
                    with suppress(FileExistsError):
                        os.link(temporary, target)

    def take_back(self, key: Digest, sound: Callable[[bytes], bool]) -> None:
        """Give a sound document its place again that a collection has moved and not deleted.

        Only for who uses it from now on, and has said so: what it names is not kept for others.
        """
        target = self._layout.action(key)
        for at in self._layout.in_trash(target, "record"):
            if _holds(at, sound):
                self._layout.take_back(at, target)

    def update(self, key: Digest, change: Callable[[bytes], bytes | None]) -> bool:
        """Replace a document by what `change` makes of it, unless that is None; whether it was replaced."""
        target = self._layout.action(key)
        temporary = files.beside(target)
        with files.writing(target), files.exclusively(self._layout.lock):
            try:
                data = files.read_document(target)
            except ValueError:
                return False
            changed = None if data is None else change(data)
            if changed is None:
                return False
            try:
                files.write_new(temporary, changed)
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)
            files.sync_folder(target.parent)
        return True

    def set_aside(self, key: Digest, sound: Callable[[bytes], bool]) -> bool:
        """Move a document to quarantine unless it is sound by now; whether it was moved."""
        target = self._layout.action(key)
        with files.writing(self._layout.lock), files.exclusively(self._layout.lock):
            with suppress(StoreError):  # one that cannot be read goes
                if _holds(target, sound):
                    return False
            return self._put_aside(target, sound)

    def _put_aside(self, target: Path, sound: Callable[[bytes], bool]) -> bool:
        """Move an unsound document to quarantine; whether it is there now.

        Where locks do nothing, the file that is moved may be the sound one that another process has linked since we
        looked. It was the first: it goes back.
        """
        moved = self._layout.set_aside(target, "record")
        if moved is None:
            return False
        try:
            first = _holds(moved, sound)
        except StoreError:
            first = False
        if not first:
            return True
        with suppress(FileExistsError):
            files.move_back(moved, target)
        moved.unlink(missing_ok=True)
        return False

    def all(self) -> Iterator[Digest]:
        """The keys of all documents, in order."""
        return (path.stem for path in sorted(self._layout.actions.glob("*/*.json")))


def strays(layout: CacheLayout) -> list[Path]:
    """What lies among the objects, and is not named as one."""
    return [path for path in sorted(layout.objects.glob("*/*")) if not _is_object(path)]


def _is_object(path: Path) -> bool:
    return DIGEST.fullmatch(path.name) is not None and path.parent.name == path.name[:2]


def _holds(path: Path, sound: Callable[[bytes], bool]) -> bool:
    """Whether a file is there and holds a sound document.

    Raises:
        StoreError: It cannot be read.
    """
    try:
        data = files.read_document(path)
    except ValueError:
        return False
    return data is not None and sound(data)
