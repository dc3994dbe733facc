"""Canonical bytes and SHA-256: the only place that decides what a digest is.

A digest is 64 lower-case hex digits. A file's digest is the SHA-256 of its bytes, so `sha256sum` checks the
cache. A folder's digest is that of its tree: canonical JSON that names each file's digest and size.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from json.encoder import encode_basestring as _quoted
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, TypeAlias

import rfc8785

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Digest: TypeAlias = str
JSON: TypeAlias = Any

DIGEST = re.compile(r"[0-9a-f]{64}")
_WORDS = {None: "null", True: "true", False: "false"}
_EXACT = 2**53  # from which on a double does not tell a whole number from the next one


@dataclass(frozen=True, order=True)
class Blob:
    """The digest of some bytes and how many they are."""

    digest: Digest
    size: int

    def document(self) -> dict[str, JSON]:
        """Itself as JSON."""
        return {"sha256": self.digest, "size": self.size}

    @classmethod
    def parse(cls, document: JSON) -> Blob:
        """The blob that a document of anybody's describes.

        Raises:
            ValueError: It describes none; also `KeyError` and `TypeError`, of a document of another shape.
        """
        name, size = document["sha256"], document["size"]
        if not isinstance(size, int) or size < 0 or not DIGEST.fullmatch(name):
            raise ValueError(f"not a digest and a size: {document}")
        return cls(name, size)


@dataclass(frozen=True)
class Output:
    """One output of an action.

    Attributes:
        digest: Of the file's bytes, or of the tree's description (`tree_bytes`), itself an object.
        size: Bytes of the file, or the sum over the tree's files.
        files: None for a single file; else relative POSIX path → file.
        repeats: Whether it is rows of which several have one prompt, as far as its record tells.
    """

    digest: Digest
    size: int
    files: Mapping[str, Blob] | None = None
    repeats: bool = field(default=False, compare=False)

    def blobs(self) -> tuple[Blob, ...]:
        """Every object that the output consists of, a tree's description last."""
        if self.files is None:
            return (Blob(self.digest, self.size),)
        tree = Blob(self.digest, len(tree_bytes(self.files)))
        return (*self.files.values(), tree)

    def document(self) -> dict[str, JSON]:
        """Itself as JSON, as records have it and as workers are told."""
        document = Blob(self.digest, self.size).document()
        if self.files is None:
            return document
        return document | {"files": {name: blob.document() for name, blob in sorted(self.files.items())}}

    @classmethod
    def parse(cls, document: JSON) -> Output:
        """The output that a document of anybody's describes.

        Raises:
            ValueError: It describes none, or its files are not those of its digest, or lead out of a folder; also
                `KeyError`, `TypeError` and `AttributeError`, of a document of another shape.
        """
        whole = Blob.parse(document)
        if "files" not in document:
            return cls(whole.digest, whole.size)
        found = {_relative(name): Blob.parse(entry) for name, entry in document["files"].items()}
        if of_bytes(tree_bytes(found)) != whole.digest or sum(b.size for b in found.values()) != whole.size:
            raise ValueError("the files are not those of the tree")
        return cls(whole.digest, whole.size, found)


def _relative(name: str) -> str:
    """A file's name in a tree, refused where it could lead out of a folder: a record may come from elsewhere."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or name != "/".join(parts):
        raise ValueError(f"not a relative path: {name!r}")
    return name


def canonical(value: JSON) -> bytes:
    """The canonical JSON of `value` (RFC 8785: sorted keys, no spaces, one way to write a number).

    Raises:
        ValueError: A value that JSON cannot hold exactly (NaN, an integer beyond 2**53), or nested too deeply.
    """
    try:
        return _text(value).encode()
    except (RecursionError, TypeError):
        pass  # what is too deep for this may not be for the library, and names that are no text it refuses itself
    try:
        return rfc8785.dumps(value)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _text(value: JSON) -> str:
    """The same as `rfc8785.dumps`, which a plan of ten thousand actions would spend a third of its time in."""
    # What most of a preimage is made of has one way to be written that is Python's own, too: text, names whose order is
    # the same in UTF-16 as in code points, whole numbers. All else is left to the library, other numbers above all.
    kind = type(value)
    if kind is str:
        return _quoted(value)
    if kind is dict and "".join(value).isascii():
        members = [
            f"{_quoted(name)}:{_quoted(part) if type(part := value[name]) is str else _text(part)}"
            for name in sorted(value)
        ]
        return "{" + ",".join(members) + "}"
    if kind is list:
        return "[" + ",".join([_text(part) for part in value]) + "]"
    if kind is int and -_EXACT < value < _EXACT:
        return str(value)
    if value is None or kind is bool:
        return _WORDS[value]
    return rfc8785.dumps(value).decode()


def of_bytes(data: bytes) -> Digest:
    """The digest of `data`."""
    return hashlib.sha256(data).hexdigest()


def of_json(value: JSON) -> Digest:
    """The digest of the canonical JSON of `value`."""
    return of_bytes(canonical(value))


def of_file(path: Path) -> Digest:
    """The digest of the bytes of the file at `path`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_bytes(files: Mapping[str, Blob]) -> bytes:
    """The canonical description of a folder: relative POSIX path → digest and size."""
    return canonical({"tree": {name: {"sha256": b.digest, "size": b.size} for name, b in files.items()}})
