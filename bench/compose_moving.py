"""What composing moves and no sum: the floor that bench/compose.py sets `dem build` beside.

python bench/compose_moving.py BASE FOLDER DELTA...

One thread reads every input; another writes the base's bytes anew, hashes and flushes them, and writes and flushes them
a second time, past memory, in the place of an earlier copy, as `out/` gets them.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from pathlib import Path

import numpy as np

from dem_build.store.files import copy

PIECE = 1 << 20


def read(path: Path) -> None:
    """Read a file, a piece at a time."""
    piece = np.empty(PIECE, np.uint8)
    with path.open("rb", buffering=0) as file:
        while file.readinto(piece.data):
            pass


def write(source: Path, target: Path) -> None:
    """Write a file's bytes to a new one, hashed and flushed; another thread has begun to flush it before."""
    found = hashlib.sha256()
    target.unlink(missing_ok=True)
    with source.open("rb", buffering=0) as given, target.open("xb", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, source.stat().st_size)
        done = threading.Event()

        def flush() -> None:
            while not done.wait(0.1):
                os.fdatasync(file.fileno())

        flushing = threading.Thread(target=flush)
        flushing.start()
        while data := given.read(PIECE):
            found.update(data)
            file.write(data)
        done.set()
        flushing.join()
        os.fsync(file.fileno())


def main() -> None:
    """Move the bytes."""
    base, folder, *deltas = map(Path, sys.argv[1:])
    weights, stored, published = base / "model.safetensors", folder / "moved", folder / "moved-out"

    def read_all() -> None:
        for path in deltas:
            read(path)

    reading = threading.Thread(target=read_all)
    reading.start()
    write(weights, stored)
    reading.join()
    new = folder / "moved-new"
    copy(stored, new)
    new.replace(published)


if __name__ == "__main__":
    main()
