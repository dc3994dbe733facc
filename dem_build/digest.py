"""Canonical bytes and SHA-256: the only place that decides what a digest is.

A digest is 64 lower-case hex digits. A file's digest is the SHA-256 of its bytes, so `sha256sum` checks the
cache. A folder's digest is that of its tree: canonical JSON that names each file's digest and size.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import rfc8785

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["JSON", "Blob", "Digest", "canonical", "of_bytes", "of_file", "of_json", "tree_bytes"]

Digest: TypeAlias = str
JSON: TypeAlias = Any


@dataclass(frozen=True, order=True)
class Blob:
    """The digest of some bytes and how many they are."""

    digest: Digest
    size: int


def canonical(value: JSON) -> bytes:
    """Return the canonical JSON of `value` (RFC 8785: sorted keys, no spaces, one way to write a number).

    Raises:
        ValueError: A value that JSON cannot hold exactly (NaN, an integer beyond 2**53), or nested too deeply.
    """
    try:
        return rfc8785.dumps(value)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def of_bytes(data: bytes) -> Digest:
    """Return the digest of `data`."""
    return hashlib.sha256(data).hexdigest()


def of_json(value: JSON) -> Digest:
    """Return the digest of the canonical JSON of `value`."""
    return of_bytes(canonical(value))


def of_file(path: Path) -> Digest:
    """Return the digest of the bytes of the file at `path`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_bytes(files: Mapping[str, Blob]) -> bytes:
    """Return the canonical description of a folder: relative POSIX path → digest and size."""
    return canonical({"tree": {name: {"sha256": b.digest, "size": b.size} for name, b in files.items()}})
