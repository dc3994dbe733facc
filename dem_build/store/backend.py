"""What a store keeps its objects and records in: bytes by digest, documents by key.

Neither knows what it holds. `Objects` says whether bytes are sound and `Records` which document is a record; both hold
of whatever is behind these protocols. A folder of this host is the one that is there (`local`).
`Store.verify`, `stats` and `collect` look at that folder alone: another backend needs ways of its own to say them.

What other stores hold is no part of it: `Elsewhere` brings their bytes into it, and tells their records.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from dem_build.digest import Blob, Digest
    from dem_build.store.records import Record

__all__ = ["Backend", "Bytes", "Documents", "Elsewhere"]


class Bytes(Protocol):
    """Bytes by their digest. What is there was hashed by who placed it, and is replaced by nobody.

    Each method raises `OSError` where what is behind it cannot be reached, or not be written.

    Attributes:
        where: What an error calls the place.
    """

    where: str

    def path(self, name: Digest) -> Path:
        """Where a file of this host has the bytes once they were opened or placed; nothing is touched."""
        ...

    def size(self, name: Digest) -> int | None:
        """How many bytes there are, none of which is read; None where there are none.

        Raises:
            NotAFileError: Something else is there.
        """
        ...

    def open(self, name: Digest) -> Path:
        """The file at `path`, brought there if the bytes are elsewhere. Who reads it verifies it first.

        Raises:
            FileNotFoundError: They are nowhere.
        """
        ...

    def staged(self) -> Path:
        """A new path to write a file at, from which `place` takes it."""
        ...

    def place(self, file: Path, name: Digest) -> None:
        """Give a staged file, flushed and read-only, its digest for a name: at once, and whole."""
        ...

    def flush(self, names: Iterable[Digest]) -> None:
        """Have the names that were given outlive a power cut, from when this returns."""
        ...

    def set_aside(self, name: Digest) -> bool:
        """Move damaged bytes to where a person may look at them; whether that was done, and by us."""
        ...

    def all(self) -> Iterator[Blob]:
        """Everything that is there, in the order of digests."""
        ...


class Documents(Protocol):
    """Small documents by key, each written whole. The first sound one of a key stays.

    What is sound the caller says, of a document's bytes: one that is not may be replaced, after it was set aside.
    Each method raises `StoreError` where what is behind it cannot be reached, or not be written.
    """

    def expect(self, keys: Iterable[Digest]) -> None:
        """Hear which documents are about to be read, in this order: who has to wait for one may begin the next ones."""
        ...

    def read(self, key: Digest) -> bytes | None:
        """The document of a key; None where there is none.

        Raises:
            ValueError: Something else is there.
        """
        ...

    def create(self, key: Digest, data: bytes, sound: Callable[[bytes], bool]) -> None:
        """Write a document, on the disk when this returns, unless a sound one is there: that one stays.

        Of any number of writers at once one succeeds. Which one it was says `read`.
        """
        ...

    def take_back(self, key: Digest, sound: Callable[[bytes], bool]) -> None:
        """Give a sound document its place again that a collection has moved and not deleted.

        Only for who uses it from now on, and has said so: what it names is not kept for others.
        """
        ...

    def update(self, key: Digest, change: Callable[[bytes], bytes | None]) -> bool:
        """Replace a document by what `change` makes of it; whether it was, which None from `change` prevents."""
        ...

    def set_aside(self, key: Digest, sound: Callable[[bytes], bool]) -> bool:
        """Move a document to where a person may look at it unless it is sound by now; whether it was moved."""
        ...

    def all(self) -> Iterator[Digest]:
        """The keys of all documents, in order."""
        ...


class Backend(NamedTuple):
    """What one store is kept in."""

    bytes: Bytes
    documents: Documents


class Elsewhere(Protocol):
    """Stores that others share: their records count here, and their bytes come when something opens them.

    Methods may be called from several threads at once. A store that does not answer is one that holds nothing, unless
    the user said that it must answer: then each raises `RemoteError`.
    """

    def expect(self, keys: Iterable[Digest]) -> None:
        """Ask for the records of some keys at once, so that whoever looks them up waits for nobody."""
        ...

    def ask_again(self, keys: Iterable[Digest]) -> None:
        """Ask for the records of keys that had none: somebody may have made them since."""
        ...

    def records(self, key: Digest) -> Iterator[Record]:
        """The valid records of a key, those of the stores that are asked first before others."""
        ...

    def lacks(self, blob: Blob) -> bool:
        """Whether an object was asked for in vain: no store has its bytes, whatever their records say."""
        ...

    def fetch(
        self,
        blobs: Iterable[Blob],
        place: Callable[[Path, Blob], None],
        came: Callable[[int], None] | None = None,
    ) -> None:
        """Bring objects here, several at a time; what no store has is lacking from now on.

        Args:
            blobs: The objects; those that are here by now are passed over.
            place: Takes a file, read-only, flushed and hashed, for an object.
            came: Told how many more bytes have come. What it raises ends all of them; what came is kept, and is not
                asked for again.

        Raises:
            StoreError: They cannot be written here.
        """
        ...
