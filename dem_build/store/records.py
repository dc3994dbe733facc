"""Action records: key → outputs. The first valid record of a key wins for good.

Training does not reproduce across machines, so two hosts may make different vectors for one key. What follows is
keyed by what was recorded; a later result for the same key is thrown away.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from dem_build import digest
from dem_build.actions import KINDS
from dem_build.digest import Blob, Output
from dem_build.errors import StoreError
from dem_build.json_text import quantity
from dem_build.store import files
from dem_build.store.sealed import read_sealed, sealed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from dem_build.digest import JSON, Digest
    from dem_build.store.local import Documents
    from dem_build.store.objects import Objects
    from dem_build.store.remote.reader import RemoteReader
    from dem_build.store.uses import Uses

RECORD_VERSION = 2
UNSEALED_VERSION = 1  # what versions of dem before the seal wrote; such records count as long as they parse
MOST_COUNTED = 2**53  # larger ones a float does not count one by one
_ATTEMPTS = 5
_PAUSE_SECONDS = 0.1


class NewerRecordError(ValueError):
    """A sound record that a newer dem wrote: no hit for this one, and no damage."""


@dataclass(frozen=True)
class Away:
    """That a record is of another store.

    Attributes:
        where: Of which, for people.
        data: Its bytes, as they are there.
        blobs: Its objects that were not here when it was looked up.
    """

    where: str
    data: bytes
    blobs: frozenset[Blob] = frozenset()

    @property
    def bytes(self) -> int:
        """The bytes of these objects."""
        return sum(blob.size for blob in self.blobs)


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
        away: Of which other store it is; None where it is this one's.
    """

    key: Digest
    kind: str
    preimage: JSON
    outputs: Mapping[str, Output]
    provenance: JSON
    log: Blob | None = None
    away: Away | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Say of outputs that are rows what a key asks of them."""
        if self.noted("splits") is not None:
            told = {name: replace(o, repeats=self._repeats(name)) for name, o in self.outputs.items()}
            object.__setattr__(self, "outputs", told)

    def _repeats(self, split: str) -> bool:
        prompts, rows = (self.count("splits", split, what) for what in ("prompts", "rows"))
        return prompts is not None and rows is not None and prompts < rows

    def blobs(self) -> tuple[Blob, ...]:
        """Every object that the outputs consist of; the log is not one of them."""
        return tuple(dict.fromkeys(b for o in self.outputs.values() for b in o.blobs()))

    def noted(self, *place: str) -> JSON:
        """What the provenance has at a place; None where it has nothing there."""
        found = self.provenance
        for name in place:
            found = found.get(name) if isinstance(found, dict) else None
        return found

    def amount(self, *place: str) -> float | None:
        """A count or a time of the provenance; None where there is none."""
        found = quantity(self.noted(*place))
        return found if found is not None and found >= 0 else None

    def count(self, *place: str) -> int | None:
        """A whole number of things that the provenance has; None where there is none."""
        found = self.amount(*place)
        return int(found) if found is not None and found.is_integer() and found <= MOST_COUNTED else None

    def named(self) -> tuple[Blob, ...]:
        """Every object that it names: those of its outputs, and its log."""
        return self.blobs() if self.log is None else (*self.blobs(), self.log)

    def to_json(self) -> dict[str, JSON]:
        """The document that is stored."""
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
        """The record of a stored document.

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
    """The action records of one store: what a valid record is, on top of documents that know nothing of it.

    A record of another store counts where this one has none, and becomes this one's when all of its objects are here.
    """

    def __init__(
        self, documents: Documents, objects: Objects, uses: Uses, elsewhere: RemoteReader | None = None
    ) -> None:
        self._documents = documents
        self._objects = objects
        self._uses = uses
        self._elsewhere = elsewhere
        self._pulled: dict[Digest, Record] = {}

    def lookup(self, key: Digest) -> Record | None:
        """The record of `key`; None where there is no valid one whose objects are all there at their sizes.

        Reads the record and no object, and keeps both from collection while this process is at work. Where there is
        none here, one of another store counts, unless its objects were asked for in vain; it is `away`.
        """
        with self._uses.using(key) as noted:
            record = self._whole(self.peek(key))
            if record is None and noted:
                # A collection may be about to put it back, as it is noted; or has done so between the two looks.
                self._documents.take_back(key, self._sound(key, logged=True))
                record = self._whole(self.peek(key))
        return self._found_elsewhere(key) if record is None else record

    def _found_elsewhere(self, key: Digest) -> Record | None:
        for record in self._elsewhere.records(key) if self._elsewhere is not None else ():
            away = frozenset(blob for blob in record.blobs() if not self._objects.present(blob))
            if record.away is not None and not any(map(self._objects.lacking, away)):
                found = replace(record, away=replace(record.away, blobs=away))
                self._pulled[key] = found
                return found
        return None

    def expect(self, keys: Iterable[Digest]) -> None:
        """Say which keys are about to be looked up, in this order: what has to be waited for is begun meanwhile.

        Other stores are asked at once for those that are not here.
        """
        expected = [*keys]
        self._documents.expect(expected)
        if self._elsewhere is not None:
            self._elsewhere.expect([key for key in expected if not self._noted(key)])

    def ask_again(self, keys: Iterable[Digest]) -> None:
        """As `expect`, for keys that had no record: whoever runs for hours beside others asks now and then."""
        if self._elsewhere is not None:
            self._elsewhere.ask_again([key for key in keys if not self._noted(key)])

    def _noted(self, key: Digest) -> bool:
        """Whether a document of a key is here, sound or not: what is wrong with it shows when it is looked up."""
        try:
            return self._documents.read(key) is not None
        except ValueError:
            return True

    def adopt(self) -> None:
        """Write down, as this store's, the records of others whose objects have all come here.

        A store that cannot be written goes on without.
        """
        come = [r for r in self._pulled.values() if all(map(self._objects.present, r.blobs()))]
        self._objects.bring([record.log for record in come if record.log is not None])
        for record in come:
            del self._pulled[record.key]
            with suppress(StoreError):
                self._adopt(record)

    def _adopt(self, record: Record) -> None:
        assert record.away is not None
        with self._uses.using(record.key):
            if all(map(self._objects.present, record.blobs())):
                logged = record.log is None or self._objects.present(record.log)
                data = record.away.data if logged else sealed(replace(record, log=None).to_json())
                self._documents.create(record.key, data, self._sound(record.key))

    def _whole(self, record: Record | None) -> Record | None:
        """A record, if its objects are all there."""
        if record is None or not all(self._objects.present(blob) for blob in record.blobs()):
            return None
        return record

    def peek(self, key: Digest) -> Record | None:
        """The record of `key` whatever became of its objects; None where there is no valid one."""
        try:
            return parse_record(self._documents.read(key), key)
        except ValueError:
            return None

    def all(self, known: Iterable[Record] = ()) -> Iterator[Record]:
        """Every record that can be read.

        Args:
            known: Those that the caller has read: they are not read again.
        """
        read = {record.key: record for record in known if record.away is None}
        keys = [*self._documents.all()]
        self._documents.expect(key for key in keys if key not in read)
        for key in keys:
            record = read.get(key) or self.peek(key)
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
                self._documents.create(record.key, data, self._sound(record.key))
                holding = self._whole(self.peek(record.key))
                if holding is not None:
                    return holding
                time.sleep(_PAUSE_SECONDS)  # another process put ours aside by mistake, and puts it back
        raise StoreError(
            "an object vanished while its record was written", where=record.key, hint="build again"
        )

    def document(self, record: Record) -> tuple[bytes, Blob | None]:
        """The bytes of a record as another store is to have them, and its log; without the log where that is lost.

        Raises:
            StoreError: The record is not here any more.
        """
        if record.log is None or self._objects.present(record.log):
            data = self._documents.read(record.key)
            if data is None:
                raise StoreError("its record is not in the cache any more", where=record.key)
            return data, record.log
        return sealed(replace(record, log=None).to_json()), None

    def drop_log(self, key: Digest) -> bool:
        """Write a record again without its log, which is gone; whether the record was there.

        Raises:
            StoreError: It cannot be written.
        """

        def without(data: bytes) -> bytes | None:
            with suppress(ValueError):
                if (record := parse_record(data, key)) is not None:
                    return sealed(replace(record, log=None).to_json())
            return None

        return self._documents.update(key, without)

    def set_aside(self, key: Digest) -> bool:
        """Move the record of a key to quarantine unless it is a hit by now; whether it was moved.

        Raises:
            StoreError: The store cannot be written.
        """
        return self._documents.set_aside(key, self._sound(key))

    def _sound(self, key: Digest, *, logged: bool = False) -> Callable[[bytes], bool]:
        """Whether a document is a record of `key` whose objects are all there, its log too if that is asked for."""

        def sound(data: bytes) -> bool:
            try:
                record = self._whole(parse_record(data, key))
            except ValueError:
                return False
            return record is not None and (not logged or all(map(self._objects.present, record.named())))

        return sound

    def _encoded(self, record: Record) -> bytes:
        try:
            data = sealed(record.to_json())
            parse_record(data, record.key)
        except (ValueError, TypeError) as error:
            raise StoreError(
                f"the record of {record.kind} is not valid: {error}", where=record.key
            ) from error
        missing = [blob.digest for blob in record.named() if not self._objects.present(blob)]
        if missing:
            raise StoreError(
                f"its object {missing[0]} is not in the cache", where=f"record of {record.kind} {record.key}"
            )
        return data


def read_record(path: Path) -> Record | None:
    """The record in a file named for its key; None where there is no file.

    Raises:
        ValueError: It is not a valid record of that key.
        StoreError: The file cannot be read.
    """
    return parse_record(files.read_document(path), path.stem)


def parse_record(data: bytes | None, key: Digest) -> Record | None:
    """The record of `key` that a document is, whatever its file is called; None of none.

    Raises:
        ValueError: It is none.
    """
    if data is None:
        return None
    record = Record.from_json(read_sealed(data, "dem-record", unsealed=UNSEALED_VERSION))
    if record.key != key:
        raise ValueError(f"the record of {record.key} under another name")
    return record
