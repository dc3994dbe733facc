"""Action records: key → outputs. The first valid record of a key wins for good.

Training does not reproduce across machines, so two hosts may make different vectors for one key. What follows is
keyed by what was recorded; a later result for the same key is thrown away.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dem_build import digest
from dem_build.actions import KINDS
from dem_build.digest import Blob, Output
from dem_build.errors import StoreError
from dem_build.json_text import quantity
from dem_build.store import files
from dem_build.store.sealed import read_sealed, sealed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from dem_build.digest import JSON, Digest
    from dem_build.store.layout import Layout
    from dem_build.store.objects import Objects
    from dem_build.store.uses import Uses

__all__ = ["NewerRecordError", "Record", "Records", "read_record"]

RECORD_VERSION = 2
UNSEALED_VERSION = 1  # what versions of dem before the seal wrote; such records count as long as they parse
MOST_COUNTED = 2**53  # larger ones a float does not count one by one
_ATTEMPTS = 5
_PAUSE_SECONDS = 0.1


class NewerRecordError(ValueError):
    """A sound record that a newer dem wrote: no hit for this one, and no damage."""


@dataclass(frozen=True)
class Record:
    """What one run of an action took and made.

    Attributes:
        key: SHA-256 of the canonical preimage.
        kind: The kind of action.
        preimage: Everything that the key was computed from.
        outputs: Name → output.
        provenance: What is worth knowing and in no key: curve, tokens, seconds, versions, machine. Nothing vouches for
            it: `noted`, `amount` and `count` take what is of another shape than it should be as absent.
        log: The run's events, where they were kept.
    """

    key: Digest
    kind: str
    preimage: JSON
    outputs: Mapping[str, Output]
    provenance: JSON
    log: Blob | None = None

    def blobs(self) -> tuple[Blob, ...]:
        """Return every object that the outputs consist of; the log is not one of them."""
        return tuple(dict.fromkeys(b for o in self.outputs.values() for b in o.blobs()))

    def noted(self, *place: str) -> JSON:
        """Return what the provenance has at a place; None where it has nothing there."""
        found = self.provenance
        for name in place:
            found = found.get(name) if isinstance(found, dict) else None
        return found

    def amount(self, *place: str) -> float | None:
        """Return a count or a time of the provenance; None where there is none."""
        found = quantity(self.noted(*place))
        return found if found is not None and found >= 0 else None

    def count(self, *place: str) -> int | None:
        """Return a whole number of things that the provenance has; None where there is none."""
        found = self.amount(*place)
        return int(found) if found is not None and found.is_integer() and found <= MOST_COUNTED else None

    def to_json(self) -> dict[str, JSON]:
        """Return the document that is stored."""
        document: dict[str, JSON] = {
            "dem-record": RECORD_VERSION,
            "key": self.key,
            "kind": self.kind,
            "outputs": {name: output.document() for name, output in sorted(self.outputs.items())},
            "preimage": self.preimage,
            "provenance": self.provenance,
        }
        return document if self.log is None else document | {"log": self.log.document()}

    @classmethod
    def from_json(cls, document: JSON) -> Record:
        """Return the record of a stored document.

        Raises:
            ValueError: It is no record, or its parts contradict each other.
        """
        try:
            _refuse_version(document["dem-record"])
            record = cls(
                key=document["key"],
                kind=str(document["kind"]),
                preimage=document["preimage"],
                outputs={name: Output.parse(entry) for name, entry in document["outputs"].items()},
                provenance=document["provenance"],
                log=Blob.parse(document["log"]) if "log" in document else None,
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a record: {error}") from error
        _refuse_strange(record)
        if digest.of_json(record.preimage) != record.key:
            raise ValueError("the key is not the hash of the preimage")
        return record


def _refuse_strange(record: Record) -> None:
    """Refuse what no dem records: a cache may come from anybody, and what reads a record relies on its shape.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(record.preimage, dict) or not isinstance(record.provenance, dict):
        raise ValueError("not a record: its preimage or provenance is no table")  # noqa: TRY004  as all of a damaged record
    # The preimage says what was asked for, and its hash is the key; the rest anybody may have changed. What another
    # version of the kind made is not ours to judge.
    spec = KINDS.get(str(record.preimage.get("kind")))
    if spec is None or record.preimage.get("version") != spec.version:
        return
    if record.kind != record.preimage["kind"] or not record.outputs.keys() >= {*spec.outputs}:
        raise ValueError(
            f"not a record of {record.preimage['kind']}: it is of another kind, or lacks an output"
        )


def _refuse_version(version: JSON) -> None:
    if version in (UNSEALED_VERSION, RECORD_VERSION):
        return
    if isinstance(version, int) and version > RECORD_VERSION:
        raise NewerRecordError(f"record version {version}: a newer dem wrote it")
    raise ValueError(f"record version {version!r}")


class Records:
    """The action records of one store."""

    def __init__(self, layout: Layout, objects: Objects, uses: Uses) -> None:
        self._layout = layout
        self._objects = objects
        self._uses = uses

    def lookup(self, key: Digest) -> Record | None:
        """The record of `key`; None where there is no valid one whose objects are all there at their sizes.

        Reads the record and no object, and keeps both from collection while this process is at work.
        """
        with self._uses.using(key):
            return self._whole(key)

    def _whole(self, key: Digest) -> Record | None:
        record = self.peek(key)
        if record is None or not all(self._objects.present(blob) for blob in record.blobs()):
            return None
        return record

    def peek(self, key: Digest) -> Record | None:
        """Return the record of `key` whatever became of its objects, or None where there is no valid one."""
        try:
            return read_record(self._layout.action(key))
        except ValueError:
            return None

    def all(self) -> Iterator[Record]:
        """Yield every record that can be read."""
        for path in sorted(self._layout.actions.glob("*/*.json")):
            record = self.peek(path.stem)
            if record is not None:
                yield record

    def publish(self, record: Record) -> Record:
        """Record a result, after its objects, unless a valid record of the key is there; return the one that holds.

        Raises:
            StoreError: An object of it is not in the store, or the record cannot be written.
        """
        data = self._encoded(record)
        with self._uses.using(record.key):
            for _ in range(_ATTEMPTS):
                self._write(data, record.key)
                holding = self._whole(record.key)
                if holding is not None:
                    return holding
                time.sleep(_PAUSE_SECONDS)  # another process put ours aside by mistake, and puts it back
        raise StoreError(
            "an object vanished while its record was written", where=record.key, hint="build again"
        )

    def _write(self, data: bytes, key: Digest) -> None:
        temporary, target = self._layout.temporary(), self._layout.action(key)
        with files.writing(self._layout.root):
            files.make_folder(target.parent)
            files.write_new(temporary, data)
            try:
                self._link(temporary, target)
            finally:
                temporary.unlink()
            files.sync_folder(target.parent)

    def drop_log(self, key: Digest) -> bool:
        """Write a record again without its log, which is gone; return whether the record was there.

        Raises:
            StoreError: It cannot be written.
        """
        target, temporary = self._layout.action(key), self._layout.temporary()
        with files.writing(target), files.exclusively(self._layout.lock):
            record = self.peek(key)
            if record is None:
                return False
            try:
                files.write_new(temporary, sealed(replace(record, log=None).to_json()))
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)
            files.sync_folder(target.parent)
        return True

    def set_aside(self, key: Digest) -> bool:
        """Move the record of a key to quarantine unless it is a hit by now; return whether it was moved.

        Raises:
            StoreError: The store cannot be written.
        """
        with files.writing(self._layout.lock), files.exclusively(self._layout.lock):
            with suppress(StoreError):  # one that cannot be read goes
                if self._whole(key) is not None:
                    return False
            return self._put_aside(self._layout.action(key))

    def _encoded(self, record: Record) -> bytes:
        try:
            data = sealed(record.to_json())
            _parse(data)
        except (ValueError, TypeError) as error:
            raise StoreError(
                f"the record of {record.kind} is not valid: {error}", where=record.key
            ) from error
        missing = [
            b.digest
            for b in (*record.blobs(), *([record.log] if record.log else []))
            if not self._objects.present(b)
        ]
        if missing:
            raise StoreError(
                f"its object {missing[0]} is not in the cache", where=f"record of {record.kind} {record.key}"
            )
        return data

    def _link(self, temporary: Path, target: Path) -> None:
        """Give the record its name, unless a valid one has it."""
        try:
            os.link(temporary, target)
        except FileExistsError:
            with files.exclusively(self._layout.lock):
                # Asked again under the lock: another process may have replaced the invalid record just now.
                if self._whole(target.stem) is None:
                    self._put_aside(target)
                    with suppress(FileExistsError):
                        os.link(temporary, target)

    def _put_aside(self, target: Path) -> bool:
        """Move an invalid record to quarantine; return whether it is there now.

        Where locks do nothing, the file that is moved may be the valid one that another process has linked since we
        looked. It was the first: it goes back.
        """
        moved = self._layout.set_aside(target, "record")
        if moved is None or not self._holds(moved, target.stem):
            return moved is not None
        with suppress(FileExistsError):
            os.link(moved, target)
        moved.unlink()
        return False

    def _holds(self, path: Path, key: Digest) -> bool:
        """Return whether a file is a record of `key` whose objects are all there."""
        try:
            record = _read(path, key)
        except (ValueError, StoreError):
            return False
        return record is not None and all(self._objects.present(blob) for blob in record.blobs())


def _parse(data: bytes) -> Record:
    return Record.from_json(read_sealed(data, "dem-record", unsealed=UNSEALED_VERSION))


def read_record(path: Path) -> Record | None:
    """Return the record in a file named for its key; None where there is no file.

    Raises:
        ValueError: It is not a valid record of that key.
        StoreError: The file cannot be read.
    """
    return _read(path, path.stem)


def _read(path: Path, key: Digest) -> Record | None:
    """Return the record of `key` in a file, whatever that is called."""
    try:
        data = files.read_bytes(path)
    except FileNotFoundError:
        return None
    except files.NotAFileError as error:
        raise ValueError("it is not a file") from error
    except OSError as error:
        raise files.explained(error, path) from error
    record = _parse(data)
    if record.key != key:
        raise ValueError(f"the record of {record.key} under another name")
    return record
