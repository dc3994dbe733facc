"""Disks that are small, read-only or elsewhere: mounted where that is allowed, else made with what everybody may do."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["NOBODY", "SmallDisk", "can_mount", "other_disk", "quick_folder", "read_only", "small_disk"]

NOBODY = 65534


def can_mount() -> bool:
    """Return whether this process may mount."""
    with tempfile.TemporaryDirectory() as folder:
        if not _mounted("-t", "tmpfs", "-o", "size=4k", "tmpfs", folder):
            return False
        subprocess.run(["umount", folder], check=True)
    return True


class SmallDisk:
    """A tmpfs of a size that can be changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def resize(self, size: int) -> None:
        """Give it so many bytes, rounded up to pages."""
        _mount("-o", f"remount,size={max(size, 4096)}", str(self._folder))

    def used(self) -> int:
        """Return how many bytes are taken."""
        found = os.statvfs(self._folder)
        return (found.f_blocks - found.f_bfree) * found.f_bsize


@contextmanager
def small_disk(folder: Path) -> Iterator[SmallDisk]:
    """Mount a disk at a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    _mount("-t", "tmpfs", "-o", "size=64m,mode=755", "tmpfs", str(folder))
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Let nobody write below a folder: a mount where that is allowed, else modes, which bind all but root."""
    if can_mount():
        _mount("--bind", str(folder), str(folder))
        try:
            _mount("-o", "remount,ro,bind", str(folder))
            yield
        finally:
            subprocess.run(["umount", "-l", folder], check=True)
        return
    with without_modes(folder):
        yield


@contextmanager
def without_modes(folder: Path) -> Iterator[None]:
    """Take the right to write from every folder and file below one."""
    paths = [folder, *folder.rglob("*")]
    modes = {path: path.stat().st_mode for path in paths}
    for path in reversed(paths):
        path.chmod(modes[path] & ~0o222)
    try:
        yield
    finally:
        for path in paths:
            path.chmod(modes[path])


def other_disk(folder: Path) -> Path:
    """Return a new folder on another file system than `folder`; where there is none, beside it."""
    for place in ("/dev/shm", "/tmp", "/run", "/var/tmp"):
        if os.access(place, os.W_OK) and Path(place).stat().st_dev != folder.stat().st_dev:
            return Path(tempfile.mkdtemp(prefix="dem-torture-", dir=place))
    return Path(tempfile.mkdtemp(dir=folder))


def quick_folder(folder: Path) -> Path:
    """Return a folder in memory where there is one: thousands of flushes wait for a disk, and no power is cut here."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        return folder
    made = Path(tempfile.mkdtemp(prefix="dem-torture-", dir=memory))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    made.chmod(0o755)  # other users read below it
    return made


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def _mounted(*arguments: str) -> bool:
    try:
        return subprocess.run(["mount", *arguments], check=False, capture_output=True).returncode == 0
    except OSError:
        return False
