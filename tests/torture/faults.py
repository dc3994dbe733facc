"""The ways in which a file is damaged."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

__all__ = ["FAULTS", "flip"]


def flip(path: Path, bit: int) -> None:
    """Flip a bit, counted around the file's end, and put the times back; an empty file gets a byte."""
    stat, data = path.stat(), bytearray(path.read_bytes()) or bytearray(1)
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(stat.st_mode)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def truncate(path: Path, _bit: int) -> None:
    """Cut off the last byte; an empty file becomes longer."""
    data = path.read_bytes()
    _write(path, data[:-1] if data else b"\0")


def empty(path: Path, _bit: int) -> None:
    """Leave nothing; an empty file becomes longer."""
    _write(path, b"" if path.stat().st_size else b"\0")


def delete(path: Path, _bit: int) -> None:
    path.unlink()


def replace(path: Path, _bit: int) -> None:
    """Give it the bytes of another file of its kind."""
    data = path.read_bytes()
    others = sorted(p for p in path.parents[1].glob("*/*") if p.is_file() and p.read_bytes() != data)
    _write(path, others[0].read_bytes() if others else b"another file")


def become_folder(path: Path, _bit: int) -> None:
    path.unlink()
    path.mkdir()


def _write(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


FAULTS: Mapping[str, Callable[[Path, int], None]] = {
    "a bit flipped": flip,
    "truncated": truncate,
    "emptied": empty,
    "deleted": delete,
    "replaced by another file's bytes": replace,
    "a folder in its place": become_folder,
}
"""Name → what does it to a path; the number says which bit, where a bit is meant."""
