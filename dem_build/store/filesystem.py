"""What the file system of a folder can, found out by doing it; nothing stays there."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

from dem_build.store import files


class Abilities(NamedTuple):
    """What a file system was seen to do.

    Attributes:
        links: A second name for a file, which exactly one of several processes gets: how records are created.
        locks: `flock`, which a second process is refused while another has it: what keeps work from being done twice.
        shares: Copies that share their blocks until they are written (reflinks): what makes copies free.
    """

    links: bool
    locks: bool
    shares: bool


def abilities(folder: Path) -> Abilities:
    """Try a folder's file system.

    Raises:
        OSError: No file can be made in it.
    """
    with tempfile.TemporaryDirectory(prefix=".dem-doctor-", dir=folder) as name:
        there = Path(name)
        first = there / "first"
        first.write_bytes(b"dem")
        return Abilities(_links(first, there / "second"), _locks(first), _shares(first, there / "third"))


def _links(first: Path, second: Path) -> bool:
    try:
        os.link(first, second)
    except OSError:
        return False
    try:
        os.link(first, second)
    except FileExistsError:
        return second.stat().st_ino == first.stat().st_ino
    except OSError:
        return False
    return False  # the second one took the first one's place


def _locks(path: Path) -> bool:
    with path.open("rb+") as one, path.open("rb+") as other:
        try:
            fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno in {errno.EWOULDBLOCK, errno.EAGAIN}
    return False  # both have it


def _shares(path: Path, target: Path) -> bool:
    with path.open("rb") as read, target.open("xb") as write:
        return files.share(read, write) and target.stat().st_size == path.stat().st_size
