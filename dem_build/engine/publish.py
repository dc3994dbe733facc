"""Puts a built model into `out/<name>/`, where people and other programs find it.

The folder is a copy of what the store holds: deleting it loses nothing, and the next build publishes it again
without running anything. A new model is written beside the old one and swapped in, so a reader never sees a mixture.

No link is followed: a project may come from anybody, with a link in it that would lead what is written anywhere.
"""

from __future__ import annotations

import contextlib
import fcntl
import filecmp
import itertools
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dem_build.checkpoint.filenames import CONFIG, GENERATION_CONFIG
from dem_build.errors import StoreError
from dem_build.json_text import parse_json
from dem_build.store.files import FULL, read_bytes, swap_in, sync_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from dem_build.digest import JSON, Digest, Output
    from dem_build.store import Record, Store

STAMP = ".dem.json"
PARTS = ("weights", "tokenizer", "config", "generation_config")
"""The outputs that make up a model."""
KEPT = "model.kept"
"""Where is moved, beside a model that is replaced, what lay in its folder and was not written by dem."""
COMPARED = 1 << 20  # bytes from which a file of dem's that has another time is taken to be as it was written
PARTIAL = ".model-"
PARTIAL_TEXT = ".text-"


@dataclass(frozen=True)
class Destination:
    """The folder that a recipe publishes to.

    Attributes:
        folder: `out/<name>`, or `out/<name>-<id>` where another recipe of the same name has that.
        recipe: The recipe that owns it.
    """

    folder: Path
    recipe: Path

    @property
    def model(self) -> Path:
        """The folder of the model, as `from_pretrained` takes it."""
        return self.folder / "model"


def destination(out: Path, name: str, recipe: Path, recipe_id: str) -> Destination:
    """Where a recipe publishes: two recipes may have one name, and neither overwrites the other.

    Raises:
        StoreError: A link lies there.
    """
    plain = out / name
    _refuse_links(out, plain)
    # Relative, so that a project that is moved or copied with its `out/` still owns it.
    owner = _stamp(plain).get("recipe")
    taken = isinstance(owner, str) and _is_of_another(plain / owner, recipe)
    folder = out / f"{name}-{recipe_id[:6]}" if taken else plain
    _refuse_links(folder)
    return Destination(folder, recipe)


def _refuse_links(*folders: Path) -> None:
    for folder in folders:
        if folder.is_symlink():
            what = "is a link, and models are published into folders of the project only"
            raise StoreError(what, where=str(folder), hint="remove the link; the next build makes the folder")


def _is_of_another(owner: Path, recipe: Path) -> bool:
    """Whether a folder belongs to another recipe that is still there; a path that cannot be is of nobody."""
    try:
        held = owner.resolve()
        return held not in (recipe.resolve(), recipe) and held.exists()
    except (OSError, ValueError, RuntimeError):
        return False


def publish(
    to: Destination, record: Record, wanted: Digest, store: Store, texts: Callable[[], Mapping[str, str]]
) -> Path | None:
    """Publish a model and the texts that go with it; what is there already is left as it is.

    Args:
        to: The folder.
        record: The record of the composition.
        wanted: The model's digest, by which a published copy is known to be current.
        store: Where the model's objects are.
        texts: Returns path in the folder → content, such as `model/README.md` or `results.json`. It is called while
            the model is copied.

    Returns:
        The folder that what others had put among the files of an earlier model was moved to; None where there was
        nothing.

    Raises:
        StoreError: The folder cannot be written.
    """
    try:
        to.folder.mkdir(parents=True, exist_ok=True)
        with _alone(to.folder):
            current = is_published(to, wanted)
            made, kept = (
                (texts(), None) if current else _replace_model_beside(texts, to, record, store, wanted)
            )
            for name, text in made.items():
                _write_text(to, name, text)
            return kept
    except OSError as error:
        raise _unwritten(to, error) from error
    except StoreError as error:
        if isinstance(reason := error.__cause__, OSError) and reason.errno in FULL:
            raise _unwritten(to, reason) from error  # what is full is this folder's disk, not the store's
        raise


def publish_text(to: Destination, name: str, text: str) -> Path:
    """Write one text beside what is published, and return where it is.

    Raises:
        StoreError: The folder cannot be written.
    """
    try:
        to.folder.mkdir(parents=True, exist_ok=True)
        with _alone(to.folder):
            _write_text(to, name, text)
    except OSError as error:
        raise _unwritten(to, error) from error
    return to.folder / name


def _unwritten(to: Destination, error: OSError) -> StoreError:
    why = "the disk is full" if error.errno in FULL else error.strerror
    hint = (
        "free some space, or mend what is in the way; the model is in the cache, so nothing has to run again"
    )
    return StoreError(f"cannot be written: {why}", where=str(to.folder), hint=hint)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Publish while no other process does so here; what a killed one left half-made, as large as a model, goes."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if left := [*folder.glob(f"{PARTIAL}*")]:
                os.fsync(descriptor)  # before an old model goes, the new one's name is on the disk
            for path in left:
                shutil.rmtree(path, ignore_errors=True)
            for text in folder.glob(f"{PARTIAL_TEXT}*"):
                text.unlink(missing_ok=True)
        yield
    finally:
        os.close(descriptor)


def _replace_model_beside(
    texts: Callable[[], Mapping[str, str]], to: Destination, record: Record, store: Store, wanted: Digest
) -> tuple[Mapping[str, str], Path | None]:
    """Replace the model, which waits for the disk, and return the texts, which take the CPU in a thread meanwhile.

    Returns:
        The texts; and as `publish`.

    The model is copied here, so that Ctrl-C ends a long copy at once.
    """
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - a build with nothing to do needs no threads

    with ThreadPoolExecutor(1, thread_name_prefix="publish") as pool:
        made = pool.submit(texts)
        kept = _replace_model(to, record, store, wanted)
        return made.result(), kept


def _replace_model(to: Destination, record: Record, store: Store, wanted: Digest) -> Path | None:
    new = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=to.folder))
    try:
        export_model(record.outputs, store, new)
        new.chmod(0o755)
        kept = _set_apart(to, new)
        old = new.with_name(new.name + ".old")
        if to.model.is_symlink():
            to.model.unlink()
        elif to.model.exists():
            to.model.rename(old)
        new.rename(to.model)
        # First: a power cut that undid the renames would leave what is left of the old model under the model's name.
        sync_folder(to.folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    owner = os.path.relpath(to.recipe.resolve(), to.folder.resolve())
    stamp = {"recipe": owner, "model_digest": wanted, "files": _signatures(to.model)}
    _write_text(to, STAMP, json.dumps(stamp))
    return kept


def _set_apart(to: Destination, new: Path) -> Path | None:
    """Move what is not dem's out of the folder of a model that goes; where it is now, None where there is nothing.

    What dem wrote there the stamp says: in a folder without one, nothing.
    """
    if to.model.is_symlink() or not to.model.is_dir():
        return None
    said = _stamp(to.folder).get("files")
    written = said if isinstance(said, dict) else {}
    files = [path for path in sorted(to.model.rglob("*")) if path.is_symlink() or not path.is_dir()]
    others = [path for path in files if not _is_ours(path.relative_to(to.model), to.model, new, written)]
    if not others:
        return None
    names = (KEPT if number == 1 else f"{KEPT}-{number}" for number in itertools.count(1))
    kept = next(path for name in names if not os.path.lexists(path := to.folder / name))
    for path in others:
        target = kept / path.relative_to(to.model)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    sync_folder(kept)
    return kept


def _is_ours(name: Path, model: Path, new: Path, written: Mapping[str, JSON]) -> bool:
    """Whether a file of a published model is as dem wrote it, or is there again in the one that takes its place."""
    path, file = model / name, name.as_posix()
    if file == "README.md" and written:
        return True  # the card, which each build may write anew
    match written.get(file):
        case [int(size), int(time)] if not path.is_symlink() and (found := path.stat()).st_size == size:
            # Of a project that was copied all times are other ones.
            if found.st_mtime_ns == time or size > COMPARED:
                return True
    # A publisher that was stopped, or met a full disk, may have left the new model with the old one's stamp, or none.
    alike = not path.is_symlink() and (new / name).is_file()
    return alike and filecmp.cmp(path, new / name, shallow=False)


def export_model(outputs: Mapping[str, Output], store: Store, folder: Path) -> None:
    """Copy what makes up a model into a folder, as `from_pretrained` takes it.

    Args:
        outputs: `weights`, `tokenizer`, `config` and `generation_config`, or some of them.
        store: Where they are.
        folder: Where to.

    Raises:
        CorruptObjectError: One of them is damaged or gone.
        StoreError: The copy cannot be written.
    """
    for output in outputs.values():
        store.objects.check(output)
    for output, place in _placed(outputs, store):
        store.views.export(output, folder / place)


def link_model(outputs: Mapping[str, Output], store: Store, folder: Path) -> None:
    """Make a folder of links to what makes up a model, as `from_pretrained` takes it; arguments as of `export_model`.

    Raises:
        CorruptObjectError: One of them is damaged or gone.
        StoreError: A link cannot be written.
    """
    for output, place in _placed(outputs, store):
        if place:
            (folder / place).symlink_to(store.objects.open(output))
        else:
            store.views.view(output, folder, place)


def _placed(outputs: Mapping[str, Output], store: Store) -> Iterator[tuple[Output, str]]:
    """Each part of a model and its file in the model's folder, "" of the parts that are folders themselves."""
    for name, output in outputs.items():
        if name in ("weights", "tokenizer"):
            yield output, ""
        elif name == "config":
            yield output, CONFIG
        elif store.objects.read_bytes(output).strip() != b"{}":
            yield output, GENERATION_CONFIG


def is_published(to: Destination, wanted: Digest) -> bool:
    """Whether a folder holds the model of a digest, and nobody has touched it."""
    stamp = _stamp(to.folder)
    alike = stamp.get("model_digest") == wanted and stamp.get("files") == _signatures(to.model)
    return alike and to.model.is_dir() and not to.model.is_symlink()


def _signatures(model: Path) -> dict[str, list[int]]:
    """Size and time of each file of the model, by which a touched copy is known; the card is ours to change."""
    if not model.is_dir():
        return {}
    files = (p for p in sorted(model.rglob("*")) if p.is_file() and p != model / "README.md")
    return {p.relative_to(model).as_posix(): [(s := p.stat()).st_size, s.st_mtime_ns] for p in files}


def _stamp(folder: Path) -> dict[str, JSON]:
    try:
        stamp = parse_json(read_bytes(folder / STAMP))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def _write_text(to: Destination, name: str, text: str) -> None:
    """Replace a file in one step, unless it says the same already."""
    path = to.folder / name
    if path.is_file() and path.read_text(encoding="utf-8", errors="replace") == text:
        return
    swap_in(path, text.encode(), to.folder / f"{PARTIAL_TEXT}{os.getpid()}")
