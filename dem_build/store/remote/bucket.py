"""What a remote is reached through: bytes under names, on an object store, a hub, a web server or a folder.

A bucket knows nothing of objects or records. Whatever it says is not believed: bytes are hashed by who asked for them,
a refused `create` means "read it and look", and an absence is an absence now.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

PIECE = 8 << 20
"""The most bytes of a name that are held at once while it is read."""


def scheme_of(url: str) -> str:
    """The scheme of a remote's address, empty of a path; a call with nothing to do does without `urllib`."""
    scheme, found, _ = url.partition("://")
    return scheme.lower() if found else ""


class Stored(NamedTuple):
    """One name in a listing.

    Attributes:
        name: Relative to the bucket's root, parts separated by `/`.
        size: In bytes.
        modified: When it was written, in seconds since 1970, by the server's clock.
    """

    name: str
    size: int
    modified: float


class Bucket(Protocol):
    """Bytes under names such as `trusted/cas/sha256/ab/ab12…`, relative to a root.

    Methods may be called from several threads at once. Each raises `RemoteError` where the server cannot be reached in
    time, forbids it or fails; it says which, and never holds a credential.

    Attributes:
        url: The root, without credentials, for people.
        conditional: Whether `create` is said to be atomic there. A probe shows whether it is.
        writable: Whether there is a way to write at all.
        listed: Whether `list` is there; a web server has none.
        lively: Whether a name may be written each minute, as leases are; on a hub each write is a commit.
    """

    url: str
    conditional: bool
    writable: bool
    listed: bool
    lively: bool

    def get(self, name: str) -> bytes | None:
        """Everything under a name, which is small; None where there is nothing."""
        ...

    def read(self, name: str, start: int = 0) -> Iterator[bytes]:
        """The bytes under a name from a position on, in pieces of at most 8 MiB, held one at a time.

        Raises:
            FileNotFoundError: There is nothing.
        """
        ...

    def size(self, name: str) -> int | None:
        """How many bytes are under a name, which the server is asked for anew; None where there is nothing."""
        ...

    def put(self, name: str, file: Path) -> None:
        """Put a file's bytes under a name: in parts, if they are many, and visible whole or not at all."""
        ...

    def create(self, name: str, data: bytes) -> bool:
        """Put bytes under a name that has none; whether this call put them, as far as the server says.

        False means that something may be there: a reply to a write that worked can be lost, and the next try refused.
        """
        ...

    def list(self, prefix: str) -> Iterator[Stored]:
        """What is under names that begin with `prefix`, in no order, asked for anew; an error where not `listed`."""
        ...

    def delete(self, names: Iterable[str]) -> None:
        """Take away what is under names; what is not there is no error."""
        ...
